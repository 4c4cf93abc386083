"""Read arrays of a store in a folder without zarr: only the bytes and the blosc blocks that are needed.

zarr-python spends as long on each chunk as on its decoding, and decodes the whole of it. Here a shard is mapped
into memory, its index checked, and of each chunk only the blocks that hold wanted planes are decoded, with the
GIL released. What is not known here (other codecs, several shards, URLs) is left to zarr.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from etl.read.selection import Indices, parts_of
from etl.shards.layout import CHECKSUM_BYTES, MISSING, index_bytes, needed_blocks, parse_index, verify_checksum

# As zarr does: blosc's own threads would fight for cores, and calls from several threads wait for each other.
numcodecs.blosc.use_threads = False
MAX_OPEN_SHARDS = 64
"""Each holds a file descriptor, of which a process has 256 or 1024."""
KNOWN_TYPES = frozenset(
    {"float32", "float64", *(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64))}
)
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CHECKED = {"name": "crc32c"}
_USUAL_KEYS = {"name": "default", "configuration": {"separator": "/"}}


@dataclass(frozen=True)
class ShardLayout:
    """What the metadata of an array of one shard, or of one chunk, say about its bytes.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    chunk : tuple of int
        Shape of an inner chunk; that of the array where there is no index.
    dtype : numpy dtype
        Little endian.
    fill_value : number
        What a chunk holds that was left out.
    scale_factor : float
        What a stored number is multiplied with (CF).
    is_blosc, is_checked, has_index : bool
        Chunks are compressed; each ends with a crc32c; an index stands at the end.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    is_blosc: bool
    is_checked: bool
    has_index: bool
    scale_factor: float

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-n // side) for n, side in zip(self.shape, self.chunk, strict=True))

    @cached_property
    def chunk_bytes(self) -> int:
        """Length of a chunk, decoded."""
        return math.prod(self.chunk) * self.dtype.itemsize


def known_layout(metadata: Mapping[str, Any]) -> ShardLayout | None:
    """Read the metadata of an array; None where something in it is not known here.

    Parameters
    ----------
    metadata : mapping
        Content of its ``zarr.json``.
    """
    if not _is_one_chunk(metadata):
        return None
    chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = _plain(metadata["codecs"])
    has_index = codecs[0]["name"] == "sharding_indexed"
    if has_index:
        sharding = codecs[0]["configuration"]
        index_codecs, at = _plain(sharding["index_codecs"]), sharding.get("index_location", "end")
        if (len(codecs), index_codecs, at) != (1, [_LITTLE, _CHECKED], "end"):
            return None
        chunk, codecs = tuple(sharding["chunk_shape"]), _plain(sharding["codecs"])
    names = [codec["name"] for codec in codecs]
    is_blosc, is_checked = "blosc" in names, "crc32c" in names
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    fill_value = _fill_value(metadata["fill_value"], dtype)
    is_little = codecs[0] == _LITTLE or dtype.itemsize == 1
    if not is_little or fill_value is None or names != ["bytes", *["blosc"] * is_blosc, *["crc32c"] * is_checked]:
        return None
    scale = float(metadata.get("attributes", {}).get("scale_factor", 1.0))
    return ShardLayout(tuple(metadata["shape"]), chunk, dtype, fill_value, is_blosc, is_checked, has_index, scale)


def _is_one_chunk(metadata: Mapping[str, Any]) -> bool:
    """Whether an array of a known type is one chunk, or one shard, under the usual key."""
    shape, grid = metadata["shape"], metadata["chunk_grid"]
    return (
        not metadata.get("storage_transformers")
        and metadata["data_type"] in KNOWN_TYPES
        and metadata["chunk_key_encoding"] == _USUAL_KEYS
        and grid["name"] == "regular"
        and len(shape) > 0
        and all(0 < n <= side for n, side in zip(shape, grid["configuration"]["chunk_shape"], strict=True))
    )


class ShardReader:
    """One array, mapped into memory; threads may share it.

    Parameters
    ----------
    layout : ShardLayout
    shard : str
        Path of the one shard or chunk.

    Raises
    ------
    ValueError
        The shard is shorter than its index, or the index is damaged.
    OSError
    """

    def __init__(self, layout: ShardLayout, shard: str) -> None:
        self.layout = layout
        self.shape, self.chunk = layout.shape, layout.chunk
        self.dtype, self.scale_factor = layout.dtype, layout.scale_factor
        with open(shard, "rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if length else b""
        self._ranges = [(0, length)]
        if layout.has_index:
            size = index_bytes(math.prod(layout.grid))
            if length < size:
                raise ValueError(f"a shard of {length} bytes is shorter than its index of {size}")
            index = parse_index(self._map[length - size :], length)
            self._ranges = [(offset, count) for offset, count in index.tolist()]

    def read(self, wanted: Indices, out: NDArray[Any]) -> None:
        """Read into an array.

        Parameters
        ----------
        wanted : sequence of range or int array
            Increasing indices along each axis.
        out : array
            As many entries along each axis; of the stored dtype.

        Raises
        ------
        ValueError, RuntimeError
            A chunk is damaged.
        """
        layout = self.layout
        axes = [parts_of(one, side) for one, side in zip(wanted, layout.chunk, strict=True)]
        scratch = np.empty(layout.chunk_bytes if layout.is_blosc else 0, np.uint8)
        # Of a chunk in C order only what lies between the first and the last wanted plane is needed.
        plane_bytes = layout.chunk_bytes // layout.chunk[0]
        steps = [math.prod(layout.grid[axis + 1 :]) for axis in range(len(axes))]
        places = [
            [(part.chunk * step, part.inside, part.target) for part in parts]
            for parts, step in zip(axes[1:], steps[1:], strict=True)
        ]
        for part in axes[0]:
            first, stop = part.low * plane_bytes, part.high * plane_bytes
            for rest in product(*places):
                number = part.chunk * steps[0] + sum([place[0] for place in rest])
                chunk = self._chunk(number, first, stop, scratch)
                target = (part.target, *[place[2] for place in rest])
                if chunk is None:
                    out[target] = layout.fill_value
                else:
                    out[target] = chunk[(part.inside, *[place[1] for place in rest])]

    def _chunk(self, number: int, first: int, stop: int, scratch: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Give a chunk of which at least some bytes are decoded; None where it was left out."""
        layout = self.layout
        offset, length = self._ranges[number]
        if offset == length == MISSING:
            return None
        if not (layout.is_blosc or layout.is_checked):
            # Straight from the page cache: no byte is copied that is not wanted.
            return self._plain_chunk(self._map, offset, length)
        end = offset + length - CHECKSUM_BYTES * layout.is_checked
        content = self._map[offset:end]
        if layout.is_checked:
            verify_checksum(content, self._map[end : offset + length])
        if not layout.is_blosc:
            return self._plain_chunk(content, 0, len(content))
        packed, low, high = needed_blocks(content, layout.chunk_bytes, first, stop)
        numcodecs.blosc.decompress(packed, scratch[low:high])
        return scratch.view(layout.dtype).reshape(layout.chunk)

    def _plain_chunk(self, buffer: bytes | mmap.mmap, offset: int, length: int) -> NDArray[Any]:
        layout = self.layout
        if length != layout.chunk_bytes:
            raise ValueError(f"a chunk of {length} bytes; {layout.chunk_bytes} are expected")
        return np.ndarray(layout.chunk, layout.dtype, buffer, offset)


def open_shard(folder: str) -> ShardReader | None:
    """Open an array in a folder.

    Parameters
    ----------
    folder : str
        Of the array, with its ``zarr.json``.

    Returns
    -------
    ShardReader or None
        None where zarr must read it.

    Raises
    ------
    FileNotFoundError
        There is no such array.
    ValueError, KeyError, TypeError
        Its metadata or its index are damaged, or its shard is lost.
    """
    # A series that is written anew has other files, so what is kept open is never stale.
    layout = _read_layout(folder, *_identity(f"{folder}/zarr.json"))
    if layout is None:
        return None
    shard = "/".join((folder, "c", *("0" * len(layout.shape))))
    try:
        return _open_reader(folder, shard, *_identity(f"{folder}/zarr.json"), *_identity(shard))
    except FileNotFoundError as error:
        # To zarr it would be full of fill values; no store of ours leaves a chunk out.
        raise ValueError("its shard is lost") from error


def _identity(path: str) -> tuple[int, int, int]:
    about = os.stat(path)
    return about.st_ino, about.st_mtime_ns, about.st_size


@lru_cache(maxsize=MAX_OPEN_SHARDS)
def _read_layout(folder: str, *_: int) -> ShardLayout | None:
    with open(f"{folder}/zarr.json", "rb") as stream:
        return known_layout(json.load(stream))


@lru_cache(maxsize=MAX_OPEN_SHARDS)
def _open_reader(folder: str, shard: str, *identity: int) -> ShardReader:
    layout = _read_layout(folder, *identity[:3])
    if layout is None:
        raise ValueError("its metadata have just changed")
    return ShardReader(layout, shard)


def _plain(codecs: list[Any]) -> list[dict[str, Any]]:
    """Write codecs in one way: a name alone may be a string, and a configuration may be empty."""
    named = [{"name": codec} if isinstance(codec, str) else codec for codec in codecs]
    return [{key: value for key, value in codec.items() if value != {}} for codec in named]


def _fill_value(value: Any, dtype: np.dtype[Any]) -> Any:
    special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    number = special.get(value, value) if isinstance(value, str) else value
    return dtype.type(number) if isinstance(number, int | float) and not isinstance(number, bool) else None
