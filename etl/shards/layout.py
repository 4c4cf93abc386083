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
from operator import lt

import google_crc32c
import numpy as np
from numpy.typing import NDArray

MISSING = 2**64 - 1
"""Offset and length of a chunk that was left out: it holds the fill value."""
CHECKSUM_BYTES = 4
BLOSC_HEADER_BYTES = 16
_ENTRY_BYTES = 16
_HEADER = struct.Struct("<2xBx3I")
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
    verify_checksum(inner, content[-CHECKSUM_BYTES:])
    return inner


def verify_checksum(content: bytes, checksum: bytes) -> None:
    """Hold some bytes against the crc32c that stands behind them.

    Raises
    ------
    ValueError
        It is not theirs.
    """
    if checksum != google_crc32c.value(content).to_bytes(CHECKSUM_BYTES, "little"):
        raise ValueError("a checksum is wrong")


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


def needed_blocks(frame: bytes, expected_bytes: int, first_byte: int, stop_byte: int) -> tuple[bytes, int, int]:
    """Give a blosc frame of only those blocks that hold a range of the decompressed bytes.

    Parameters
    ----------
    frame : bytes
        A compressed chunk.
    expected_bytes : int
        Length of the chunk, decompressed.
    first_byte, stop_byte : int

    Returns
    -------
    bytes
        A blosc frame: the header, the offsets and the blocks that are needed; all of it where that is simpler.
    int, int
        Range of the decompressed bytes that it holds.

    Raises
    ------
    ValueError
        The frame's header says something else than its place.
    """
    if len(frame) < BLOSC_HEADER_BYTES:
        raise ValueError(f"a chunk of {len(frame)} bytes is no blosc frame")
    flags, size, block_bytes, packed_bytes = _HEADER.unpack_from(frame)
    if size != expected_bytes or packed_bytes != len(frame):
        raise ValueError(
            f"a blosc frame of {len(frame)} bytes says {packed_bytes} and {size} decompressed; "
            f"{expected_bytes} are expected"
        )
    if not 0 < block_bytes < size or flags & _IS_PLAIN_COPY:
        return frame, 0, size
    count = -(-size // block_bytes)
    first, stop = first_byte // block_bytes, -(-stop_byte // block_bytes)
    if stop == count and size % block_bytes:
        # A short last block is packed in another way, and known by what comes before it.
        first = min(first, count - 2)
    table_end = BLOSC_HEADER_BYTES + 4 * count
    if stop - first == count or len(frame) < table_end:
        return frame, 0, size
    starts = struct.unpack_from(f"<{count}I", frame, BLOSC_HEADER_BYTES)
    bounds = (table_end - 1, *starts, len(frame))
    if not all(map(lt, bounds, bounds[1:])):
        # Several threads pack blocks in any order.
        return frame, 0, size
    begin, end = starts[first], bounds[stop + 1]
    low, high = first * block_bytes, min(stop * block_bytes, size)
    head = BLOSC_HEADER_BYTES + 4 * (stop - first)
    numbers = (high - low, block_bytes, head + end - begin, *(at - begin + head for at in starts[first:stop]))
    return b"".join((frame[:4], struct.pack(f"<{len(numbers)}I", *numbers), frame[begin:end])), low, high
