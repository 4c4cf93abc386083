"""The bytes of a Zarr v3 shard and of a blosc frame: what the writer puts together and the reader takes apart.

A shard is the inner chunks in C order and then their index: offset and length of each, little-endian uint64, and
a crc32c. A chunk that was compressed ends with a crc32c of its own.

References
----------
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html,
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import google_crc32c
import numpy as np
from numpy.typing import NDArray

MISSING = 2**64 - 1
"""Offset and length of a chunk that was left out: it holds the fill value."""
CHECKSUM_BYTES = 4
BLOSC_HEADER_BYTES = 16
_ENTRY_BYTES = 16
_IS_PLAIN_COPY = 0x2


def index_bytes(chunks: int) -> int:
    """Give the length of the index of so many chunks, checksum included."""
    return _ENTRY_BYTES * chunks + CHECKSUM_BYTES


def with_checksum(content: bytes) -> bytes:
    """Append the crc32c of some bytes."""
    return content + struct.pack("<I", google_crc32c.value(content))


def without_checksum(content: bytes) -> bytes:
    """Take the crc32c off some bytes.

    Raises
    ------
    ValueError
        It is not theirs.
    """
    inner = content[:-CHECKSUM_BYTES]
    if content[-CHECKSUM_BYTES:] != struct.pack("<I", google_crc32c.value(inner)):
        raise ValueError("a checksum is wrong")
    return inner


def join_chunks(chunks: Iterable[bytes]) -> bytes:
    """Put the inner chunks of a shard and their index together.

    Parameters
    ----------
    chunks : iterable of bytes
        In C order; none left out.
    """
    parts = list(chunks)
    lengths = np.array([len(part) for part in parts], "<u8")
    index = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    return b"".join([*parts, with_checksum(index.astype("<u8").tobytes())])


def parse_index(content: bytes, shard_bytes: int) -> NDArray[np.uint64]:
    """Read the index of a shard.

    Parameters
    ----------
    content : bytes
        The index with its checksum.
    shard_bytes : int
        Length of the whole shard.

    Returns
    -------
    (chunks, 2) uint64 array
        Offset and length, both `MISSING` where a chunk was left out.

    Raises
    ------
    ValueError
        The checksum is wrong, or a chunk lies outside the shard.
    """
    index = np.frombuffer(without_checksum(content), "<u8").reshape(-1, 2)
    is_there = (index != MISSING).any(axis=1)
    offset, length = index[is_there].T
    limit = np.uint64(shard_bytes)
    if (offset > limit).any() or (length > limit - offset).any():
        raise ValueError("its index points outside the shard")
    return index.astype(np.uint64)


class BloscFrame:
    """A compressed chunk, of which single blocks can be taken.

    Parameters
    ----------
    content : bytes
    expected_bytes : int
        Length of the chunk, decompressed.

    Raises
    ------
    ValueError
        The frame's header says something else than its place.
    """

    def __init__(self, content: bytes, expected_bytes: int) -> None:
        if len(content) < BLOSC_HEADER_BYTES:
            raise ValueError(f"a chunk of {len(content)} bytes is no blosc frame")
        self.content = content
        self.bytes, self.block_bytes, packed_bytes = struct.unpack_from("<3I", content, 4)
        if self.bytes != expected_bytes or packed_bytes != len(content):
            raise ValueError(
                f"a blosc frame of {len(content)} bytes says {packed_bytes} and {self.bytes} decompressed; "
                f"{expected_bytes} are expected"
            )
        self._flags = content[2]

    def blocks(self, first_byte: int, stop_byte: int) -> tuple[bytes, int, int]:
        """Give a frame of only those blocks that hold a range of the decompressed bytes.

        Parameters
        ----------
        first_byte, stop_byte : int

        Returns
        -------
        bytes
            A blosc frame: the header, the offsets and the blocks that are needed; all of it where that is
            simpler.
        int, int
            Range of the decompressed bytes that it holds.
        """
        whole = (self.content, 0, self.bytes)
        if not 0 < self.block_bytes < self.bytes or self._flags & _IS_PLAIN_COPY:
            return whole
        count = -(-self.bytes // self.block_bytes)
        first, stop = first_byte // self.block_bytes, -(-stop_byte // self.block_bytes)
        if stop == count and self.bytes % self.block_bytes:
            # A short last block is packed in another way, and known by what comes before it.
            first = min(first, count - 2)
        if stop - first == count or len(self.content) < BLOSC_HEADER_BYTES + 4 * count:
            return whole
        starts = np.frombuffer(self.content, "<u4", count, BLOSC_HEADER_BYTES).astype(np.int64)
        in_order = (np.diff(starts) > 0).all() and starts[-1] < len(self.content)
        if not in_order or starts[0] < BLOSC_HEADER_BYTES + 4 * count:
            # Several threads pack blocks in any order.
            return whole
        begin, end = int(starts[first]), int(starts[stop]) if stop < count else len(self.content)
        low, high = first * self.block_bytes, min(stop * self.block_bytes, self.bytes)
        head = BLOSC_HEADER_BYTES + 4 * (stop - first)
        header = self.content[:4] + struct.pack("<3I", high - low, self.block_bytes, head + end - begin)
        offsets = (starts[first:stop] - (begin - head)).astype("<u4").tobytes()
        return header + offsets + self.content[begin:end], low, high
