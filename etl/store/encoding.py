"""Encode one series into the keys of its Zarr group, in memory.

Only codecs of the Zarr v3 registry are used, so that zarr-python, tensorstore, zarrs and zarrita.js read them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from etl.digests import json_digest
from etl.stack import MAX_UID_CHARACTERS
from etl.store.layout import ARRAYS, HISTOGRAM, METADATA, SOURCE, VALIDITY, VOLUME, publishing_rank
from etl.volume.patient_space import Geometry

CHUNK_SIDE = 64
"""A cube of 64 float32 is 1 MB."""
BYTE_CHUNK_SIDE = 101
"""And so is one of 101 uint8."""
# Smaller by 5 %, packed in 3/4 and unpacked in half the time of blosc's own choice (a whole chunk of 1 MB).
BLOSC_BLOCK_BYTES = 1 << 18


def encode_series(
    *,
    volume: NDArray[np.float32],
    histogram: NDArray[np.uint32],
    validity: NDArray[np.uint8] | None,
    source: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
    chunk: tuple[int, int, int] | None = None,
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
    chunk : (z, y, x), optional
        Inner chunk; about 1 MB where not given.

    Returns
    -------
    dict of Buffer
        By key relative to the group, in the order in which they must be published: chunks, then `source`, then
        the metadata, the group's own ``zarr.json`` last.
    """
    keys: dict[str, Buffer] = {}
    # A chunk beyond the volume would be filled up and packed all the same.
    asked = chunk and tuple(min(c, n) for c, n in zip(chunk, volume.shape, strict=True))
    inner = asked or _even_chunk(volume.shape, CHUNK_SIDE)
    with _one_codec_thread():
        group = zarr.create_group(MemoryStore(keys), zarr_format=3)
        # bitshuffle gathers the low mantissa bits, which rounding made zero.
        packing = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=4, blocksize=BLOSC_BLOCK_BYTES)
        _put_grid(group, VOLUME.path, volume, inner, packing, fill_value=float("nan"))
        if validity is not None:
            # A map of a few codes packs well at any level: 48 kB in 40 % of the time that 24 kB take.
            packing = BloscCodec(cname="zstd", clevel=3, shuffle="noshuffle", typesize=1)
            inner = asked or _even_chunk(validity.shape, BYTE_CHUNK_SIDE)
            _put_grid(group, VALIDITY.path, validity, inner, packing, fill_value=0)
        _put(group, HISTOGRAM.path, histogram)
        slices = group.create_group(SOURCE)
        for name, values in source.items():
            _put(slices, name, values)
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


def ome_attributes(geometry: Geometry) -> dict[str, Any]:
    """Give OME-Zarr 0.5 multiscales of one level; a translation only where the grid is axis-aligned."""
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": list(geometry.spacing_mm)}]
    directions = geometry.affine_lps[:3, :3] / geometry.spacing_mm
    if np.allclose(directions, np.eye(3)[:, ::-1], atol=1e-6):
        transformations.append({"type": "translation", "translation": geometry.affine_lps[:3, 3][::-1].tolist()})
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    datasets = [{"path": VOLUME.path, "coordinateTransformations": transformations}]
    return {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def _put_grid(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    inner: tuple[int, ...],
    packing: BloscCodec,
    *,
    fill_value: float,
) -> None:
    """Write an array on the volume's grid: one shard, so that one task writes all of it."""
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=inner,
        shards=tuple(-(-n // c) * c for n, c in zip(values.shape, inner, strict=True)),
        compressors=packing,
        fill_value=fill_value,
        dimension_names=("z", "y", "x"),
    )
    array[...] = values


def _put(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=values.dtype.itemsize),
    )
    array[...] = values


def _even_chunk(shape: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Cut each axis into equal parts of at most `side`: less padding than 64, 64 and a remainder."""
    return tuple(-(-n // -(-n // side)) for n in shape)


@contextmanager
def _one_codec_thread() -> Iterator[None]:
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
