"""Encode one series into the keys of its Zarr group, in memory.

Only codecs of the Zarr v3 registry are used, so that zarr-python, tensorstore, zarrs and zarrita.js read them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import cpu
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from etl.digests import json_digest
from etl.stack import MAX_UID_CHARACTERS
from etl.store.layout import (
    ARRAYS,
    BODY,
    COORDINATES,
    HISTOGRAM,
    METADATA,
    OME_VERSION,
    SOURCE,
    VALIDITY,
    VOLUME,
    ArrayLayout,
    publishing_rank,
)
from etl.store.packing import Packing, crop_chunk, even_chunk, one_codec_thread, pack_shard
from etl.volume.normalize import Normalization
from etl.volume.patient_space import Geometry

BYTE_CHUNK_SIDE = 101
"""A cube of 101 uint8 is 1 MB."""
DISPLAY_HU = (-160, 240)
"""Soft tissue: what a viewer shows first."""


def encode_series(
    *,
    volume: NDArray[np.float32],
    histogram: NDArray[np.uint32],
    validity: NDArray[np.uint8] | None,
    source: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    body: NDArray[np.uint8] | None = None,
    coordinates_mm: tuple[NDArray[np.float64], ...] | None = None,
    chunk: tuple[int, int, int] | None = None,
    codec: str = "lz4hc",
    step: float | None = None,
) -> dict[str, Buffer]:
    """Encode everything of one series.

    Parameters
    ----------
    volume : (z, y, x) float32 array
    histogram : uint32 array
    validity : (z, y, x) uint8 array or None
        Left out where it is None.
    source : mapping of arrays
        Per source slice, by name.
    attributes : mapping
        ``ct_etl``, ``dicom`` and ``ome``, plain JSON values.
    body : (z, y, x) uint8 array, optional
        Share of body in each cell, as `etl.volume.body.body_shares` gives it.
    coordinates_mm : three float64 arrays, optional
        Centers of the voxels along (z, y, x); left out where the grid is not axis-aligned.
    chunk : (z, y, x), optional
        Inner chunk; sized for crops where not given.
    codec : str
        A compressor of blosc, or "none".
    step : float, optional
        Store int16 multiples of it; float32 values where not given.

    Returns
    -------
    dict of Buffer
        By key relative to the group, in the order in which they must be published: chunks, then `source`, then
        the metadata, the group's own ``zarr.json`` last.
    """
    keys: dict[str, Buffer] = {}
    # A chunk beyond the volume would be filled up and packed all the same.
    asked = None if chunk is None else tuple(min(c, n) for c, n in zip(chunk, volume.shape, strict=True))
    with one_codec_thread():
        group = zarr.create_group(MemoryStore(keys), zarr_format=3)
        _put_volume(group, keys, volume, asked, codec, step)
        if validity is not None:
            # A map of a few codes packs well at any level: 48 kB in 40 % of the time that 24 kB take.
            packing = Packing("zstd", 3, "noshuffle")
            inner = asked or even_chunk(validity.shape, (BYTE_CHUNK_SIDE,) * 3)
            put_grid(group, keys, VALIDITY, validity, inner, packing)
        _put(group, keys, HISTOGRAM, histogram)
        if body is not None:
            _put(group, keys, BODY, body)
        for array, centers_mm in zip(COORDINATES, coordinates_mm or (), strict=False):
            _put(group, keys, array, centers_mm, {"units": "mm", "long_name": array.long_name})
        group.create_group(SOURCE)
        for name, values in source.items():
            _put(group, keys, ArrayLayout(f"{SOURCE}/{name}", ("slice", "character")[: values.ndim]), values)
        sealed = copy.deepcopy(dict(attributes))
        about = sealed.setdefault("ct_etl", {})
        about["arrays"] = [array.path for array in ARRAYS if array.metadata_key in keys]
        described = {key: buffer.as_buffer_like() for key, buffer in keys.items() if key != METADATA}
        provenance = about.setdefault("provenance", {})
        provenance["entry_digest"] = entry_digest(described, sealed)
        group.update_attributes(sealed)
    return dict(sorted(keys.items(), key=lambda entry: publishing_rank(entry[0])))


def entry_digest(keys: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """Give the SHA-256 of all that a series' group holds: every key's bytes, and the attributes.

    Parameters
    ----------
    keys : mapping of bytes-like
        By key relative to the group, without the group's own metadata.
    attributes : mapping
        Of the group, without this digest.
    """
    digests = {key: hashlib.sha256(keys[key]).hexdigest() for key in sorted(keys)}
    return json_digest({"keys": digests, "attributes": attributes})


def uid_array(uids: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    """Turn ``S64`` identifiers into the (n, 64) uint8 array that every Zarr reader knows."""
    return np.frombuffer(uids.astype(f"S{MAX_UID_CHARACTERS}").tobytes(), np.uint8).reshape(
        len(uids), MAX_UID_CHARACTERS
    )


def ome_attributes(
    geometry: Geometry, normalization: Normalization, *, name: str, is_steps: bool = False
) -> dict[str, Any]:
    """Give OME-Zarr 0.5 multiscales of one level.

    Parameters
    ----------
    geometry : Geometry
        A translation stands only where it is right to half a voxel.
    normalization : Normalization
    name : str
        Of the image.
    is_steps : bool
        Numbers are whole steps: OME-Zarr knows no scale factor, so the display window is said in steps.
    """
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": list(geometry.spacing_mm)}]
    if geometry.is_axis_aligned:
        transformations.append({"type": "translation", "translation": geometry.affine_lps[:3, 3][::-1].tolist()})
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    low, high = normalization.window_hu
    unit = (normalization.step or 1.0) if is_steps else 1.0
    limits = dict(zip(("min", "max", "start", "end"), (low, high, *DISPLAY_HU), strict=True))
    window = {key: normalization.value_of(hu) / unit for key, hu in limits.items()}
    return {
        "version": OME_VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": axes,
                "datasets": [{"path": VOLUME.path, "coordinateTransformations": transformations}],
                "type": "single",
                "metadata": {
                    "description": "CT, normalized: HU = (value + center) * (high - low) + low",
                    "kwargs": {"low": low, "high": high, "center": normalization.center, "value_of_one": unit},
                },
            }
        ],
        "omero": {"channels": [{"label": "CT", "color": "FFFFFF", "active": True, "window": window}]},
    }


def _put_volume(
    group: zarr.Group,
    keys: dict[str, Buffer],
    volume: NDArray[np.float32],
    chunk: tuple[int, ...] | None,
    codec: str,
    step: float | None,
) -> None:
    if step is None:
        # bitshuffle gathers the low mantissa bits, which rounding made zero.
        packing, fill_value, attributes = Packing.named(codec, "bitshuffle"), float("nan"), {}
    else:
        volume = np.rint(volume * np.float32(1 / step)).astype(np.int16)
        packing, fill_value, attributes = Packing.named(codec, "shuffle"), 0.0, {"scale_factor": step}
    inner = chunk or crop_chunk(volume.shape, is_packed=packing is not None)
    put_grid(group, keys, VOLUME, volume, inner, packing, fill_value=fill_value, attributes=attributes)


def put_grid(
    group: zarr.Group,
    keys: dict[str, Buffer],
    array: ArrayLayout,
    values: NDArray[Any],
    inner: tuple[int, ...],
    packing: Packing | None,
    *,
    fill_value: float = 0,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an array on the volume's grid into a group in memory: one shard, so that one task writes all of it."""
    group.create_array(
        array.path,
        shape=values.shape,
        dtype=values.dtype.newbyteorder("<"),
        chunks=inner,
        shards=tuple(-(-n // c) * c for n, c in zip(values.shape, inner, strict=True)),
        compressors=None if packing is None else packing.codecs(values.dtype.itemsize, inner),
        fill_value=fill_value,
        dimension_names=array.dimensions,
        attributes=dict(attributes or {}),
    )
    # By hand: zarr takes 0.2 ms for each of some hundred chunks.
    shard = pack_shard(values, inner, packing, fill_value)
    keys[array.chunk_key] = cpu.Buffer.from_bytes(shard)


def _put(
    group: zarr.Group,
    keys: dict[str, Buffer],
    array: ArrayLayout,
    values: NDArray[Any],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    group.create_array(
        array.path,
        shape=little.shape,
        dtype=little.dtype,
        chunks=little.shape,
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=little.dtype.itemsize),
        dimension_names=array.dimensions,
        attributes=dict(attributes or {}),
    )
    # By hand as well: zarr's event loop takes 0.5 ms for what blosc does in 0.02.
    packed = numcodecs.blosc.compress(little, b"zstd", 5, numcodecs.blosc.SHUFFLE, 0)
    keys[array.chunk_key] = cpu.Buffer.from_bytes(packed)
