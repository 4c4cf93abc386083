"""URLs of buckets, told without loading anything: local paths never cost more than one look at them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from etl.errors import UsageError

SCHEMES = ("s3", "gs", "az")
_STARTS = tuple(f"{scheme}://" for scheme in SCHEMES)


class Place(NamedTuple):
    """Where a URL leads: ``<scheme>://<bucket>/<path>``."""

    scheme: str
    bucket: str
    path: str


def is_bucket_url(path: str) -> bool:
    """Whether a path is the URL of something in a bucket."""
    return path.startswith(_STARTS)


def parse_url(url: str) -> Place:
    """Take a URL apart; slashes that say nothing are dropped.

    Raises
    ------
    UsageError
        It names no bucket.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme not in SCHEMES or not bucket:
        raise UsageError(f"{url!r} names no bucket; allowed are s3://, gs:// and az:// with bucket and path")
    return Place(scheme, bucket, "/".join(part for part in path.split("/") if part))


def join_url(place: Place) -> str:
    """Give the one spelling of a URL."""
    return f"{place.scheme}://{place.bucket}/{place.path}".rstrip("/")


def local_stand_in(store_path: str) -> Path:
    """Give the local path beside which lies what may not lie in a bucket: run directories hold paths.

    Parameters
    ----------
    store_path : str
        As `etl.store.keys.resolve_store` gives it.

    Returns
    -------
    Path
        A folder's is its own. A bucket's is below ``$XDG_STATE_HOME/ct-etl``, or ``~/.local/state/ct-etl`` (XDG
        Base Directory Specification 0.8): the next run finds the record there, from whatever folder it is started.
    """
    if not is_bucket_url(store_path):
        return Path(store_path)
    place = parse_url(store_path)
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "ct-etl", place.scheme, place.bucket, place.path)
