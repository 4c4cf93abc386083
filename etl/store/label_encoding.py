"""Encode one label into the keys of its Zarr groups, in memory: OME-Zarr 0.5 image-label."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from etl.store.encoding import BYTE_CHUNK_SIDE, entry_digest, put_grid
from etl.store.layout import LABEL_ARRAY, METADATA, OME_VERSION, publishing_rank
from etl.store.packing import Packing, even_chunk, one_codec_thread

MAX_BYTE = 255
MAX_VALUE = 65535
# As a segment without a color has it: told apart on gray, by value (Okabe and Ito's, without black).
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True)
class Segment:
    """What a value of a label stands for.

    Parameters
    ----------
    value : int
        1 to 65535: Segment Number (0062,0004), ROI Number (3006,0022) or the voxel's value.
    name : str
        Segment Label (0062,0005) or ROI Name (3006,0026); empty where the source has none.
    code : tuple of str, optional
        Coding Scheme Designator (0008,0102), Code Value (0008,0100), Code Meaning (0008,0104).
    color : (red, green, blue), optional
        0 to 255.
    """

    value: int
    name: str
    code: tuple[str, str, str] | None = None
    color: tuple[int, int, int] | None = None


def encode_label(
    values: NDArray[np.unsignedinteger[Any]],
    segments: Sequence[Segment],
    *,
    name: str,
    volume: Mapping[str, Any],
    chunk: tuple[int, ...] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Buffer]:
    """Encode a label that lies on a volume's grid.

    Parameters
    ----------
    values : (z, y, x) uint8 or uint16 array
        0 is background; stored as uint8 where it suffices for `segments`.
    segments : sequence of Segment
        By increasing value.
    name : str
    volume : mapping
        Attributes of the series' group: what `ome` says of the axes holds for the label too.
    chunk : tuple of int or None
        Shape of the volume's inner chunks.
    provenance : mapping
        Plain JSON values; the digests of the label are added.

    Returns
    -------
    dict of Buffer
        By key relative to the label's group, in the order of publication: the chunk, the array's metadata, the
        group's own.
    """
    widest = max((segment.value for segment in segments), default=0)
    stored = np.ascontiguousarray(values, np.dtype("u1" if widest <= MAX_BYTE else "<u2"))
    keys: dict[str, Buffer] = {}
    with one_codec_thread():
        group = zarr.create_group(MemoryStore(keys), zarr_format=3)
        inner = tuple(min(c, n) for c, n in zip(chunk, stored.shape, strict=True)) if chunk else None
        put_grid(
            group,
            keys,
            LABEL_ARRAY,
            stored,
            inner or even_chunk(stored.shape, (BYTE_CHUNK_SIDE,) * 3),
            Packing("zstd", 3, "noshuffle"),
        )
        about = {**provenance, "label_digest": label_digest(stored)}
        attributes = {"ct_etl": {"provenance": about}, "ome": _ome(name, segments, volume)}
        described = {key: buffer.as_buffer_like() for key, buffer in keys.items() if key != METADATA}
        about["entry_digest"] = entry_digest(described, attributes)
        group.update_attributes(attributes)
    return dict(sorted(keys.items(), key=lambda entry: publishing_rank(entry[0])))


def label_digest(values: NDArray[Any]) -> str:
    """Give the SHA-256 of a label's values as uint16, little endian, in C order of (z, y, x)."""
    digest = hashlib.sha256()
    for plane in values:
        digest.update(np.ascontiguousarray(plane, "<u2").data)
    return digest.hexdigest()


def _ome(name: str, segments: Sequence[Segment], volume: Mapping[str, Any]) -> dict[str, Any]:
    (image,) = copy.deepcopy(volume["ome"]["multiscales"])
    transformations = image["datasets"][0]["coordinateTransformations"]
    colors = [
        {"label-value": one.value, "rgba": [*(one.color or PALETTE[(one.value - 1) % len(PALETTE)]), 255]}
        for one in segments
    ]
    properties = [
        {
            "label-value": one.value,
            "name": one.name,
            **({"code": dict(zip(("scheme", "value", "meaning"), one.code, strict=True))} if one.code else {}),
        }
        for one in segments
    ]
    return {
        "version": OME_VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": image["axes"],
                "datasets": [{"path": LABEL_ARRAY.path, "coordinateTransformations": transformations}],
                "type": "single",
            }
        ],
        "image-label": {
            "version": OME_VERSION,
            "colors": colors,
            "properties": properties,
            "source": {"image": "../../"},
        },
    }
