"""A prefix of a bucket as a container: headers by range, several at once, pixels by whole objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

from etl.buckets.bucket import Bucket, Stored
from etl.dicom.ranged_stream import ranged_stream
from etl.dicom.zip_archive import starts_as_zip
from etl.stack import FileState

THREADS = 16
AHEAD = 32
"""Headers that are asked for before they are wanted: a request takes 20 to 100 ms, parsing its answer 0.1 ms."""
START_BYTES = 1 << 14
"""Of a header; most end within it."""
SMALL_BYTES = 1 << 16
"""What is no larger is read whole at once: a second request would take longer than the bytes."""
HELD_BYTES = 16 << 20
"""What is no larger is held while its frames are read; more is read by range."""
PIXELS_AHEAD = 4
"""Objects that are fetched while one is decoded: half a megabyte each, of a common slice."""
PIECE_BYTES = 4 << 20


class BucketFolder:
    """Everything below a prefix: see `etl.dicom.containers.Container`.

    Parameters
    ----------
    url : str
        Ends with a slash.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._bucket = Bucket(url)
        self._listed: dict[str, Stored] = {}
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        self._starts: dict[str, Future[bytes]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._held: tuple[Stored, bytes | None] | None = None
        self._expected: list[str] = []
        self._coming: dict[str, Future[tuple[Stored, bytes | None]]] = {}

    def members(self, problems: list[tuple[str, str]], only: tuple[str, ...] | None) -> Iterator[str]:
        """See `Container.members`."""
        try:
            found = self._bucket.walk() if only is None else self._bucket.level()[1]
        except OSError as error:
            problems.append(("", f"{type(error).__name__} while listing"))
            return
        if not found and only is None:
            # A prefix is there as long as something is: a manifest names one that is not.
            problems.append(("", "FileNotFoundError while listing"))
        self._listed = {one.name: one for one in found if only is None or one.name in only}
        self._names = [name for name in self._listed if not name.lower().endswith(".zip")]
        self._places = {name: n for n, name in enumerate(self._names)}
        problems += ((name, "FileNotFoundError while listing") for name in only or () if name not in self._listed)
        yield from self._listed

    @contextmanager
    def open(self, member: str, *, whole: bool) -> Iterator[BinaryIO]:
        """See `Container.open`."""
        if whole:
            found, content = self._whole(member)
            stream = (
                ranged_stream(self._bucket, found, piece_bytes=PIECE_BYTES)
                if content is None
                else BytesIO(content)
            )
        else:
            found = self._found(member)
            stream = ranged_stream(self._bucket, found, start=self._start(member))
        with stream:
            yield stream

    def state(self, member: str) -> FileState:
        """See `Container.state`; of what was not listed, the bytes come with the answer and are held."""
        return self._found(member).state

    def crc32(self, member: str) -> int:
        """Give -1: an ETag need not be a checksum; the state stands for it."""
        return -1

    def inner_path(self, member: str) -> str | None:
        """Give the URL of a zip below the prefix."""
        if not member.lower().endswith(".zip"):
            return None
        return f"{self._url}{member}" if starts_as_zip(self._bucket.get_range(self._found(member), 0, 4)) else None

    def states(self, members: Iterable[str]) -> Iterator[tuple[str, FileState]]:
        """See `Container.states`."""
        return ((member, self._found(member).state) for member in members)

    def expect(self, members: Sequence[str]) -> None:
        """See `Container.expect`."""
        self._expected = list(dict.fromkeys(members))

    def close(self) -> None:
        """Let go of what was asked for ahead."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        self._starts.clear()
        self._coming.clear()
        self._held = None

    def _found(self, member: str) -> Stored:
        return self._listed[member] if member in self._listed else self._whole(member)[0]

    def _whole(self, member: str) -> tuple[Stored, bytes | None]:
        """Give an object, which stays until another is asked for: a file of many frames is opened for each."""
        if self._held is None or self._held[0].name != member:
            self._held = None
            self._held = self._fetched(member)
        return self._held

    def _fetched(self, member: str) -> tuple[Stored, bytes | None]:
        """Fetch an object, and some of those that are expected after it meanwhile."""
        if member not in self._expected:
            return self._bucket.get_small(member, HELD_BYTES)
        at = self._expected.index(member)
        self._expected = self._expected[at:]
        for name in self._expected[: PIXELS_AHEAD + 1]:
            if name not in self._coming:
                self._coming[name] = self._pool().submit(self._bucket.get_small, name, HELD_BYTES)
        return self._coming.pop(member).result()

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        return self._threads

    def _start(self, member: str) -> bytes:
        """Give the first bytes of an object, and ask for those of the next ones in the listing."""
        at = self._places.get(member)
        if at is None:
            return b""
        for name in self._names[at : at + AHEAD]:
            if name not in self._starts:
                self._starts[name] = self._pool().submit(self._read_start, self._listed[name])
        for name in self._names[max(0, at - AHEAD) : at]:
            self._starts.pop(name, None)
        return self._starts[member].result()

    def _read_start(self, found: Stored) -> bytes:
        length = found.size_bytes if found.size_bytes <= SMALL_BYTES else START_BYTES
        return self._bucket.get_range(found, 0, length)
