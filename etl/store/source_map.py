"""The map of a published series: which DICOM slices it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.stack import MAX_UID_CHARACTERS
from etl.store.keys import Keys
from etl.store.layout import FRAME_NUMBER, PIXEL_CRC32, POSITION_MM, SOP_INSTANCE_UID, ArrayLayout

SliceIdentity = tuple[bytes, int]
"""SOP Instance UID (0008,0018), and the frame in it, from 1 on."""


@dataclass(frozen=True, eq=False)
class SourceMap:
    """One row a slice, by increasing position.

    Parameters
    ----------
    identities : tuple of (bytes, int)
    position_mm : (n,) float64 array
        Along the volume's slice axis.
    pixel_crc32 : (n,) uint32 array
        CRC-32 of the slice's pixels as they lie in the file.
    """

    identities: tuple[SliceIdentity, ...]
    position_mm: NDArray[np.float64]
    pixel_crc32: NDArray[np.uint32]


def read_source_map(keys: Keys, node: str) -> SourceMap:
    """Read the source map of a series.

    Decoded here: zarr's event loop takes longer for a key than all of this.

    Raises
    ------
    StoreError
        A chunk is missing or damaged.
    """
    uids = _values(keys, node, SOP_INSTANCE_UID, "u1").reshape(-1, MAX_UID_CHARACTERS)
    frames = np.ones(len(uids), np.int32)
    if keys.get(f"{node}/{FRAME_NUMBER.metadata_key}") is not None:
        frames = _values(keys, node, FRAME_NUMBER, "<i4")
    position_mm, crc32 = _values(keys, node, POSITION_MM, "<f8"), _values(keys, node, PIXEL_CRC32, "<u4")
    if not len(uids) == len(frames) == len(position_mm) == len(crc32):
        raise StoreError(f"{node}: the arrays of its source map differ in length")
    identities = tuple((uid.tobytes().rstrip(b"\0"), int(n)) for uid, n in zip(uids, frames, strict=True))
    return SourceMap(identities, position_mm, crc32)


def _values(keys: Keys, node: str, array: ArrayLayout, dtype: str) -> NDArray[Any]:
    content = keys.get(f"{node}/{array.chunk_key}")
    if content is None:
        raise StoreError(f"{node}/{array.path} has no chunk")
    try:
        return np.frombuffer(numcodecs.blosc.decompress(content), dtype)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{node}/{array.path} cannot be decoded") from error
