"""How keys of a store are read and written. Another kind of place is another class here.

A key is a path relative to the store, as Zarr has it. Whatever the place, a key is put atomically, and what was
put is still there after a power cut once `Keys.settle` has returned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from etl.buckets.urls import is_bucket_url, join_url, parse_url
from etl.errors import UsageError
from etl.store.inventory import Inventory
from etl.store.local_keys import LocalKeys

Content = bytes | bytearray | memoryview


class Keys(Protocol):
    """A place for the keys of one store."""

    @property
    def path(self) -> str:
        """Where it is, as a person writes it."""

    def check_place(self) -> None:
        """Refuse a place that cannot hold a store.

        Raises
        ------
        UsageError
        """

    def get(self, key: str) -> bytes | None:
        """Read a key; None where it is absent."""

    def put(self, key: str, content: Content) -> None:
        """Write a key; readers see all of it or what was there before.

        Raises
        ------
        DiskFullError
        OSError
        """

    def put_parts(self, key: str, parts: Callable[[], Iterator[bytes]]) -> None:
        """Write a key as `put` does, of content that need not fit into memory.

        Parameters
        ----------
        key : str
        parts : callable
            Gives the content in order; called anew for every try.
        """

    def size(self, key: str) -> int | None:
        """Give the bytes of a key; None where it is absent."""

    def digest(self, key: str) -> str | None:
        """Give the SHA-256 of a key, in hexadecimal digits; None where it is absent."""

    def part(self, key: str, start: int, stop: int) -> bytes | None:
        """Read the bytes of a key from `start` on, before `stop`; None where it is absent."""

    def settle(self, keys: Iterable[str], below: str) -> None:
        """Return once the names of keys that were put below a group would survive a power cut.

        Parameters
        ----------
        keys : iterable of str
        below : str
            The group, itself included; empty: the store.
        """

    def names(self, group: str) -> list[str]:
        """List what stands directly below a group, sorted; nothing where the group is absent."""

    def groups(self, group: str) -> list[str]:
        """List the groups directly below a group, sorted."""

    def sizes(self, group: str, among: Iterable[str] | None = None) -> dict[str, int]:
        """Give the bytes of every key below a group, by its name relative to it.

        Parameters
        ----------
        group : str
        among : iterable of str, optional
            Names that are asked for; others may be left out.
        """

    def replace(self, groups: Mapping[str, Mapping[str, Content]], check: Callable[[], None]) -> None:
        """Put the keys of groups, each a series or a label, in the place of those that are there.

        Whatever ends it, the old groups are there or the new ones, at the latest after `clear_leftovers`. What
        others left in them stays.

        Parameters
        ----------
        groups : mapping of mappings of bytes-like
            By group, by key relative to it, its metadata among them. A group without keys is to go.
        check : callable
            Called before each key; where it raises, the old groups stay.

        Raises
        ------
        DiskFullError, OSError
            The old groups stay.
        """

    def take_back(self, group: str) -> None:
        """Remove the keys of a series or a label, its metadata first; what others left in it stays."""

    def inventory(self) -> Inventory:
        """Tell apart everything that lies in the store."""

    def remove(self, path: str) -> None:
        """Remove what the inventory names: the keys of a series or a label, or one key."""

    def start_anew(self, root: bytes) -> str | None:
        """Put a store with nothing but a root in the place of the one that is there.

        Returns
        -------
        str or None
            Where things of the old store lie that this package did not write.
        """

    def clear_leftovers(self) -> None:
        """Finish the replacements that killed runs had ready; remove what they left above the series."""


def resolve_store(path: str) -> str:
    """Give the real place of a store as a person names it; taken once, so that a run has one.

    Raises
    ------
    UsageError
        It is a URL that nothing can be written to, or names a whole bucket.
    """
    if is_bucket_url(path):
        place = parse_url(path)
        if not place.path:
            raise UsageError(
                f"store {path!r} is a whole bucket; a store needs a name in it: {path.rstrip('/')}/NAME"
            )
        return join_url(place)
    # One letter before the colon is a drive; one slash after it is what a shell script makes of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise UsageError(f"store {path!r} is a URL; allowed are folders of this machine, s3://, gs:// and az://")
    return os.path.realpath(os.path.expanduser(path))


def open_keys(path: str) -> Keys:
    """Give the keys of the store at a path, as `resolve_store` gives it."""
    if is_bucket_url(path):
        from etl.store.bucket_keys import BucketKeys  # noqa: PLC0415 - a folder needs none of it

        return BucketKeys(path)
    return LocalKeys(path)
