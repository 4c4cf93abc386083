"""One place in a bucket, by obstore: what is asked is asked again until it is answered, for two minutes.

obstore (bindings of Rust's object_store) was chosen by measurement: on one machine with SeaweedFS it read 1,620
headers a second where s3fs read 589, at a sixth of the CPU, and it has conditional puts. Its threads do not
survive a fork, so a forked child is refused rather than left hanging.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from etl.buckets.answers import is_final, is_no_access, one_line
from etl.buckets.connecting import client_options, is_anonymous
from etl.buckets.urls import Place, join_url, parse_url
from etl.errors import UsageError
from etl.stack import FileState

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Result = TypeVar("Result")
Content = bytes | bytearray | memoryview
OUTLAST_S = 120.0
"""A server that restarts, or answers 503 for a minute, costs time only."""
LONGEST_WAIT_S = 5.0
# obstore's own tries, each of which Ctrl-C must wait for; ours follow.
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
_forked = False


class Stored(NamedTuple):
    """An object as a listing or an answer describes it."""

    name: str
    size_bytes: int
    modified_s: int
    e_tag: str

    @property
    def state(self) -> FileState:
        """What it looks like from outside.

        Listings tell thousandths of a second, answers do not, so whole seconds count. In the place of the second
        time stands what no clock decides: a share of the second before, taken from the ETag.
        """
        mark = int.from_bytes(sha256(self.e_tag.encode()).digest()[:8], "big")
        modified_ns = self.modified_s * 10**9
        return FileState(self.size_bytes, modified_ns, modified_ns - 1 - mark % 10**9, mark >> 1)


class Bucket:
    """The objects below a URL; names are relative to it.

    Whatever a server answers is an `OSError` here, and `FileNotFoundError` what it does not have.

    Parameters
    ----------
    url : str
        ``s3://``, ``gs://`` or ``az://``, a bucket and a path.

    Raises
    ------
    UsageError
        obstore is not installed, or cannot use the URL or the environment.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_url(url)
        self.url = join_url(self._place)
        self._store = _connected(self._place.scheme, self._place.bucket)
        self._prefix = f"{self._place.path}/" if self._place.path else ""

    def get(self, name: str) -> tuple[Stored, bytes]:
        """Read an object, and what it looked like then."""
        import obstore  # noqa: PLC0415 - see `_connected`

        def read() -> tuple[Stored, bytes]:
            answer = obstore.get(self._store, self._key(name))
            return self._described(answer.meta), bytes(answer.bytes())

        return self._ask(read)

    def get_small(self, name: str, limit_bytes: int) -> tuple[Stored, bytes | None]:
        """Read an object with one request; None for the bytes where they are more than a limit."""
        import obstore  # noqa: PLC0415

        def read() -> tuple[Stored, bytes | None]:
            answer = obstore.get(self._store, self._key(name))
            found = self._described(answer.meta)
            return found, bytes(answer.bytes()) if found.size_bytes <= limit_bytes else None

        return self._ask(read)

    def get_range(self, found: Stored, start: int, length: int) -> bytes:
        """Read some bytes of an object, `start` within it; an `OSError` where it is another one by now."""
        import obstore  # noqa: PLC0415

        end = min(start + length, found.size_bytes)
        if start >= end:
            return b""

        def read() -> bytes:
            options: Any = {"range": (start, end), "if_match": found.e_tag}
            return bytes(obstore.get(self._store, self._key(found.name), options=options).bytes())

        return self._ask(read)

    def head(self, name: str) -> Stored:
        """Look at an object."""
        import obstore  # noqa: PLC0415

        return self._ask(lambda: self._described(obstore.head(self._store, self._key(name))))

    def put(self, name: str, content: Content | Callable[[], Iterator[bytes]]) -> None:
        """Write an object; readers see all of it or what was there before.

        Parameters
        ----------
        name : str
        content : bytes-like or callable
            What gives it in order, called anew for every try: it need not fit into memory.
        """
        import obstore  # noqa: PLC0415

        def write() -> None:
            obstore.put(self._store, self._key(name), content() if callable(content) else content)

        self._ask(write)

    def create(self, name: str, content: bytes) -> str | None:
        """Write an object where there is none; give its ETag, or None where there is one already."""
        return self._put_if(name, content, "create")

    def update(self, name: str, content: bytes, e_tag: str) -> str | None:
        """Write an object that still has an ETag; give the new one, or None where it has not."""
        return self._put_if(name, content, {"e_tag": e_tag})

    def copy(self, name: str, target: Bucket, target_name: str) -> None:
        """Copy an object within the bucket; its bytes stay at the server."""
        import obstore  # noqa: PLC0415

        self._ask(lambda: obstore.copy(self._store, self._key(name), target._key(target_name)))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, many with one request; what is not there is no error."""
        import obstore  # noqa: PLC0415

        keys = [self._key(name) for name in names]
        if keys:
            with suppress(FileNotFoundError):
                self._ask(lambda: obstore.delete(self._store, keys))

    def walk(self, group: str = "") -> list[Stored]:
        """List every object below a group, sorted by name; names are relative to this place."""
        import obstore  # noqa: PLC0415

        def read() -> list[Stored]:
            found = obstore.list(self._store, self._key(group) or None, chunk_size=1000)
            return [self._described(one) for batch in found for one in batch]

        return sorted(self._ask(read))

    def level(self, group: str = "") -> tuple[list[str], list[Stored]]:
        """List the groups and the objects directly below a group, by their own names, sorted."""
        import obstore  # noqa: PLC0415

        key = self._key(group)
        answer = self._ask(lambda: obstore.list_with_delimiter(self._store, key or None))
        start = len(key) + 1 if key else 0
        groups = sorted(str(one)[start:].rstrip("/") for one in answer["common_prefixes"])
        found = (self._described(one) for one in answer["objects"])
        return groups, sorted(one._replace(name=one.name.rpartition("/")[2]) for one in found)

    def _put_if(self, name: str, content: bytes, mode: Any) -> str | None:
        import obstore  # noqa: PLC0415
        from obstore.exceptions import AlreadyExistsError, PreconditionError  # noqa: PLC0415

        def write() -> str | None:
            try:
                return str(obstore.put(self._store, self._key(name), content, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None

        e_tag = self._ask(write)
        if e_tag is not None:
            return e_tag
        # An earlier try may have been done and its answer lost; then what is there is ours.
        try:
            found, there = self.get(name)
        except FileNotFoundError:
            return None
        return found.e_tag if there == content else None

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}".rstrip("/")

    def _described(self, meta: Any) -> Stored:
        name = str(meta["path"])[len(self._prefix) :]
        return Stored(name, int(meta["size"]), int(meta["last_modified"].timestamp()), str(meta["e_tag"]))

    def _ask(self, call: Callable[[], Result]) -> Result:
        """Ask until there is an answer, and translate what is not one."""
        from obstore.exceptions import BaseError  # noqa: PLC0415

        _refuse_forked()
        end, wait_s = time.monotonic() + OUTLAST_S, 0.2
        while True:
            try:
                return call()
            except FileNotFoundError:
                raise
            except (BaseError, OSError) as error:
                if is_final(error) or time.monotonic() + wait_s > end:
                    raise OSError(f"{self.url}: {self._told(error)}") from error
            # Workers that failed together would all come back together.
            time.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)

    def _told(self, error: BaseException) -> str:
        unsigned = is_no_access(error) and is_anonymous(self._place.scheme)
        return one_line(error) + (
            "; the environment names no credentials, so nothing is signed" if unsigned else ""
        )


def _mark_forked() -> None:
    global _forked  # noqa: PLW0603 - the process has one state
    _forked = _connected.cache_info().currsize > 0


os.register_at_fork(after_in_child=_mark_forked)


def _refuse_forked() -> None:
    if _forked:
        raise UsageError(
            "this process was forked from one that had used a bucket, whose connections do not survive that; "
            "start it by spawn"
        )


@lru_cache(maxsize=16)
def _connected(scheme: str, bucket: str) -> ObjectStore:
    _refuse_forked()
    try:
        # Nothing of this is loaded where all paths are local.
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"{scheme}:// needs obstore: pip install 'ct-etl[bucket]'") from error
    try:
        options = {"skip_signature": True} if is_anonymous(scheme) else {}
        # Of one kind or another by the URL, which types cannot say.
        connect: Callable[..., ObjectStore] = from_url
        return connect(
            f"{scheme}://{bucket}",
            client_options=client_options(),
            retry_config=_RETRIES,
            **options,
        )
    except (BaseError, ValueError) as error:
        raise UsageError(f"{join_url(Place(scheme, bucket, ''))}: {one_line(error)}") from error
