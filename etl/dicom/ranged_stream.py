"""An object of a bucket as a file that is read by ranges."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

from etl.buckets.bucket import Bucket, Stored


def ranged_stream(bucket: Bucket, found: Stored, *, start: bytes = b"", piece_bytes: int = 1 << 18) -> BinaryIO:
    """Open an object for reading; seekable.

    Parameters
    ----------
    bucket : Bucket
    found : Stored
        The object; one that took its place meanwhile is not read (If-Match, RFC 9110 13.1.1).
    start : bytes
        Its first bytes, where they are known.
    piece_bytes : int
        How much is asked for at once, at least.
    """
    raw = _Ranges(bucket, found, start, piece_bytes)
    return cast(BinaryIO, io.BufferedReader(raw, 1 << 14))


class _Ranges(io.RawIOBase):
    """Keeps the piece that was read last, and asks for the next where something else is wanted."""

    def __init__(self, bucket: Bucket, found: Stored, start: bytes, piece_bytes: int) -> None:
        super().__init__()
        self._bucket, self._found, self._piece_bytes = bucket, found, piece_bytes
        self._piece, self._piece_at, self._at = start, 0, 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it has positions: yes."""
        return True

    def tell(self) -> int:
        """Give the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; nothing is asked for."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Read what there is at the position, at most so much."""
        view = memoryview(buffer).cast("B")
        if not len(view) or self._at >= self._found.size_bytes:
            return 0
        if not self._piece_at <= self._at < self._piece_at + len(self._piece):
            self._piece = self._bucket.get_range(self._found, self._at, max(len(view), self._piece_bytes))
            self._piece_at = self._at
        start = self._at - self._piece_at
        content = self._piece[start : start + len(view)]
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
