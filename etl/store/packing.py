"""Pack an array into one shard: which chunks, which codec, and the bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from etl.shards.layout import join_chunks, with_checksum

# Sized for crops by measurement (docs/performance.md). A crop decodes whole chunks across (y, x), so they are
# small there; of a chunk's planes it decodes blocks of BLOCK_PLANES.
CROP_CHUNK = (64, 24, 24)
BLOCK_PLANES = 4
SIDE_STEP = 8
"""blosc shuffles bits of eight values at a time and leaves a remainder as it is, which packs worse."""
PLAIN_CHUNK = (64, 64, 64)
"""What is not packed is read voxel by voxel from the page cache: fewer chunks, less to do."""
# Packs as fast as zstd 1, 2 % larger, and unpacks three times as fast.
LEVELS = {"lz4hc": 1, "lz4": 9, "zstd": 1}

Shuffle = Literal["noshuffle", "shuffle", "bitshuffle"]
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True)
class Packing:
    """A setting of blosc; each chunk ends with a crc32c.

    Parameters
    ----------
    compressor : str
    level : int
    shuffle : str
    """

    compressor: str
    level: int
    shuffle: Shuffle

    @staticmethod
    def named(codec: str, shuffle: Shuffle) -> Packing | None:
        """Give the setting for a value of ``--codec``; None for "none"."""
        return None if codec == "none" else Packing(codec, LEVELS[codec], shuffle)

    def codecs(self, item_bytes: int, chunk: Sequence[int]) -> list[Any]:
        """Give the codecs that say the same in Zarr's metadata."""
        blosc = BloscCodec(
            cname=self.compressor,  # type: ignore[arg-type]
            clevel=self.level,
            shuffle=self.shuffle,
            typesize=item_bytes,
            blocksize=self._block_bytes(item_bytes, chunk),
        )
        return [blosc, Crc32cCodec()]

    def pack(self, chunk: NDArray[Any]) -> bytes:
        """Compress one chunk in C order and append its checksum."""
        frame: bytes = numcodecs.blosc.compress(
            chunk,
            self.compressor.encode("ascii"),
            self.level,
            _SHUFFLES[self.shuffle],
            self._block_bytes(chunk.dtype.itemsize, chunk.shape),
        )
        return with_checksum(frame)

    def _block_bytes(self, item_bytes: int, chunk: Sequence[int]) -> int:
        # A plain map of codes packs best whole.
        return 0 if self.shuffle == "noshuffle" else BLOCK_PLANES * math.prod(chunk[1:]) * item_bytes


def crop_chunk(shape: Sequence[int], *, is_packed: bool) -> tuple[int, ...]:
    """Choose inner chunks for crops: even parts of each axis, so that little is padding.

    Examples
    --------
    >>> crop_chunk((150, 250, 250), is_packed=True)
    (56, 24, 24)
    >>> crop_chunk((150, 250, 250), is_packed=False)
    (50, 63, 63)
    """
    if not is_packed:
        return even_chunk(shape, PLAIN_CHUNK)
    sides = even_chunk(shape, CROP_CHUNK)
    return tuple(
        side if side == n else -(-side // SIDE_STEP) * SIDE_STEP for side, n in zip(sides, shape, strict=True)
    )


def even_chunk(shape: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """Cut each axis into equal parts of at most a side: less padding than 64, 64 and a remainder."""
    return tuple(-(-n // -(-n // side)) for n, side in zip(shape, sides, strict=True))


def pack_shard(values: NDArray[Any], chunk: tuple[int, ...], packing: Packing | None, fill_value: float) -> bytes:
    """Give the bytes of a shard that holds a whole array, no chunk left out.

    An omitted chunk could be air or lost; verify must be able to tell.

    Parameters
    ----------
    values : array
    chunk : tuple of int
        Shape of its inner chunks.
    packing : Packing or None
        None: as they are.
    fill_value : number
        What stands beyond the array's end.
    """
    little = values.dtype.newbyteorder("<")
    parts = []
    for corner in product(*(range(0, n, side) for n, side in zip(values.shape, chunk, strict=True))):
        inside = values[tuple(slice(first, first + side) for first, side in zip(corner, chunk, strict=True))]
        block = np.ascontiguousarray(inside, little)
        if block.shape != chunk:
            block = np.full(chunk, fill_value, little)
            block[tuple(slice(n) for n in inside.shape)] = inside
        parts.append(block.tobytes() if packing is None else packing.pack(block))
    return join_chunks(parts)


@contextmanager
def one_codec_thread() -> Iterator[None]:
    """Encode in this thread: parallelism comes from processes, and blosc's own threads would fight for cores."""
    before = numcodecs.blosc.use_threads
    numcodecs.blosc.use_threads = False
    try:
        with zarr.config.set(
            # An omitted chunk could be air or lost; verify must be able to tell.
            {"array.write_empty_chunks": True, "threading.max_workers": 1, "async.concurrency": 1}
        ):
            yield
    finally:
        numcodecs.blosc.use_threads = before
