"""Stores written with plain zarr, to the letter of the format: the oracle of the reading side."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

DESCRIBED = {
    "series_instance_uid": "1.2.3",
    "geometry": {
        "shape": [3, 4, 5],
        "spacing_mm": [1.0, 1.0, 1.0],
        "source_shape": [3, 4, 5],
        "slice_axis": 0,
        "affine_lps": np.eye(4).tolist(),
    },
    "normalization": {"window_hu": [-1000, 2000], "center": 0.25, "precision_bits": 13},
    "qc": {"warnings": []},
}
"""What makes a group a volume: without it, it is left out as damaged."""


@dataclass
class Series:
    """One series to be stored; `hu` is (z, y, x) before windowing."""

    hu: NDArray[np.float32]
    patient_id: str = "P1"
    key: str = "0002-0a1b2c3d"
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 0.5)
    origin_lps_mm: tuple[float, float, float] = (-10.0, 20.0, 5.0)
    window: tuple[int, int] = (-1000, 2000)
    center: float = 0.25
    slice_axis: int = 0
    positions_mm: Sequence[float] | None = None
    warnings: Sequence[str] = ()
    tilt_deg: float = 0.0
    dicom: dict[str, Any] = field(default_factory=dict)
    validity: NDArray[np.uint8] | None = None
    chunk: tuple[int, int, int] = (4, 4, 4)
    is_default: bool = True

    @property
    def patient_key(self) -> str:
        if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.patient_id):
            return self.patient_id
        digest = hashlib.sha256(self.patient_id.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', self.patient_id)[:48]}-{digest}"

    @property
    def node(self) -> str:
        return f"{self.patient_key}/{self.key}"

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        dz, dy, dx = self.spacing_mm
        x, y, z = self.origin_lps_mm
        return np.array([[0, 0, dx, x], [0, dy, 0, y], [dz, 0, 0, z], [0, 0, 0, 1]], np.float64)

    @property
    def normalized(self) -> NDArray[np.float32]:
        low, high = self.window
        values = np.clip((self.hu.astype(np.float64) - low) / (high - low), 0, 1) - self.center
        return (np.round(values * 2**13) / 2**13).astype(np.float32)

    @property
    def histogram(self) -> NDArray[np.uint32]:
        low, high = self.window
        rounded = np.rint(np.clip(self.hu, low, high)).astype(int)
        return np.bincount(rounded.ravel() - low, minlength=high - low + 1).astype(np.uint32)

    @property
    def slice_positions_mm(self) -> NDArray[np.float64]:
        if self.positions_mm is not None:
            return np.asarray(self.positions_mm, np.float64)
        origin = self.origin_lps_mm[2 - self.slice_axis]
        return origin + self.spacing_mm[self.slice_axis] * np.arange(self.hu.shape[self.slice_axis])

    @property
    def uids(self) -> list[str]:
        return [f"1.2.826.0.{i + 1}" for i in range(len(self.slice_positions_mm))]


def head(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """A head of ellipsoids with skin, skull, brain, ventricles and noise; (z, y, x), HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")

    def inside(rz: float, ry: float, rx: float, cz: float = 0, cy: float = 0, cx: float = 0) -> NDArray[np.bool_]:
        return ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1

    hu = np.full(shape, -1000, np.float32)
    hu[inside(0.86, 0.88, 0.70)] = -90
    hu[inside(0.84, 0.85, 0.67)] = 1100
    brain = inside(0.78, 0.78, 0.60)
    hu[brain] = 38
    hu[inside(0.60, 0.60, 0.44)] = 27
    hu[inside(0.25, 0.30, 0.06, 0.05, -0.1, 0.12) | inside(0.25, 0.30, 0.06, 0.05, -0.1, -0.12)] = 6
    hu[inside(0.20, 0.18, 0.16, 0.1, 0.25, -0.32)] = 68
    hu[inside(0.16, 0.12, 0.3, -0.62, -0.8, 0)] = -980
    hu[inside(0.06, 0.05, 0.05, 0.1, 0.42, 0.0)] = 280
    return hu + rng.normal(0, 4, shape).astype(np.float32)


def write_store(
    path: Path, series: Sequence[Series], *, consolidated: bool = True, format_version: str = "1.0"
) -> Path:
    """Write a whole store; with `consolidated=False`, one that a run has not finished."""
    hist = sum(int(one.histogram.sum()) for one in series)
    fingerprint = {"volumes": len(series), "voxels": hist, "mean_hu": 40.25} if consolidated else None
    config = {"spacing_mm": [1.0, 1.0, 1.0], "window": [-1000, 2000], "center": 0.25, "native": False}
    about = {"format_version": format_version, "config": config, "config_digest": "c0ffee", "software": {}}
    root = zarr.open_group(
        path, mode="w", zarr_format=3, attributes={"ct_etl": about | {"fingerprint": fingerprint}}
    )
    defaults = {one.patient_key: one.key for one in series if one.is_default}
    patients = {}
    for one in series:
        if one.patient_key not in patients:
            attributes = {
                "patient_id": one.patient_id,
                "default_series": defaults.get(one.patient_key, "0009-dead"),
            }
            patients[one.patient_key] = root.create_group(one.patient_key, attributes={"ct_etl": attributes})
        _write_series(patients[one.patient_key], one)
    if consolidated:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(path)
    return path


def _write_series(patient: zarr.Group, one: Series) -> None:
    attributes = {"ct_etl": _attributes(one), "dicom": one.dicom, "ome": {}}
    group = patient.create_group(one.key, attributes=attributes)
    shards = tuple(-(-n // c) * c for n, c in zip(one.hu.shape, one.chunk, strict=True))
    compressors = [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]
    layout = {"chunks": one.chunk, "shards": shards, "dimension_names": ["z", "y", "x"]}
    group.create_array(
        "volume", data=one.normalized, compressors=compressors, config={"write_empty_chunks": True}, **layout
    )
    if one.validity is not None:
        group.create_array("validity", data=one.validity, **layout)
    group.create_array("hu_histogram", data=one.histogram)
    uids = np.array([list(uid.encode().ljust(64, b"\0")) for uid in one.uids], np.uint8)
    source = group.create_group("source")
    source.create_array("sop_instance_uid", data=uids)
    source.create_array("position_mm", data=one.slice_positions_mm)
    source.create_array("instance_number", data=np.arange(len(uids), 0, -1).astype(np.int32))


def _attributes(one: Series) -> dict[str, Any]:
    return {
        "patient_id": one.patient_id,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "stack": 1,
        "geometry": {
            "affine_lps": one.affine_lps.tolist(),
            "spacing_mm": list(one.spacing_mm),
            "shape": list(one.hu.shape),
            "source_shape": [len(one.slice_positions_mm), 512, 512],
            "source_spacing_mm": [5.0, 0.488281, 0.488281],
            "slice_axis": one.slice_axis,
            "gantry_tilt_deg": one.tilt_deg,
        },
        "normalization": {"window_hu": list(one.window), "center": one.center, "precision_bits": 13},
        "resampling": {},
        "qc": {"warnings": list(one.warnings)},
        "provenance": {"config_digest": "c0ffee", "source_digest": "5", "volume_digest": "7", "software": {}},
    }


def chunk_of_shard(path: Path, number: int) -> tuple[int, int]:
    """Byte range of an inner chunk in a shard whose index stands at its end."""
    content = path.read_bytes()
    chunks = 3 * 3 * 3
    index = struct.unpack(f"<{2 * chunks}Q", content[-(16 * chunks + 4) : -4])
    return index[2 * number], index[2 * number + 1]


def damage_all_but_first_chunk(store_path: Path, series: Series) -> None:
    shard = store_path / series.node / "volume" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    for number in range(1, 27):
        offset, length = chunk_of_shard(shard, number)
        content[offset : offset + length] = bytes(b ^ 0x5A for b in content[offset : offset + length])
    shard.write_bytes(content)
