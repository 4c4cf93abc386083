"""The files of one volume: what a worker does in an export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.digests import json_digest
from etl.errors import EtlError
from etl.export.image_files import NRRD, image_bytes, mark_of
from etl.read.patients import Volume
from etl.store.durable import write_durably

VERSION = 1
"""Of what is written for the same volume; another one makes the files anew."""


@dataclass(frozen=True)
class VolumeFiles:
    """Which files are to be made of a volume.

    Parameters
    ----------
    store_path, node, patient_id : str
    image : str
        Path of the image.
    labels : dict
        Path by the name of each label that is wanted.
    values : dict
        By name of a label, what its values become; as they are where nothing is said.
    ending : {".nii.gz", ".nrrd"}
    hu : bool
        Hounsfield units, or normalized values.
    right_angles : bool
        Refuse a grid without them, also where the format could hold it.
    """

    store_path: str
    node: str
    patient_id: str
    image: str
    labels: dict[str, str]
    ending: str
    hu: bool
    right_angles: bool = False
    values: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """What became of a volume.

    Parameters
    ----------
    node : str
    written, kept : int
        Files.
    bytes_out : int
        Of those written.
    problem : str
        Why it failed; empty where it did not.
    """

    node: str
    written: int = 0
    kept: int = 0
    bytes_out: int = 0
    problem: str = ""


def export_volume(files: VolumeFiles) -> Exported:
    """Make the files of a volume that are not there yet; a failure is told, not raised."""
    try:
        volume = Volume(files.store_path, files.node, files.patient_id)
        if files.right_angles or files.ending == NRRD:
            volume.rectangular("the format asked for")
        sizes = [_put_image(volume, files), *(_put_label(volume, files, name) for name in files.labels)]
    except EtlError as error:
        return Exported(files.node, problem=str(error))
    written = [size for size in sizes if size]
    return Exported(files.node, len(written), len(sizes) - len(written), sum(written))


def _put_image(volume: Volume, files: VolumeFiles) -> int:
    about = volume.attributes
    mark = json_digest(
        {
            "version": VERSION,
            "volume_digest": about.get("provenance", {}).get("volume_digest"),
            "geometry": about["geometry"],
            "normalization": about["normalization"],
            "hu": files.hu,
        }
    )
    path = Path(files.image)
    if mark_of(path) == mark:
        return 0
    return _put(path, image_bytes(volume, volume.to_hu() if files.hu else volume[...], files.ending, mark))


def _put_label(volume: Volume, files: VolumeFiles, name: str) -> int:
    values = volume.label_values(name)
    becomes = files.values.get(name)
    if becomes is not None:
        values = _replaced(values, becomes, f"{files.node}/labels/{name}")
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    about = {
        "version": VERSION,
        "values": digest,
        "dtype": str(values.dtype),
        "geometry": volume.attributes["geometry"],
    }
    mark = json_digest(about)
    path = Path(files.labels[name])
    return 0 if mark_of(path) == mark else _put(path, image_bytes(volume, values, files.ending, mark))


def _replaced(values: NDArray[Any], becomes: Mapping[int, int], where: str) -> NDArray[np.unsignedinteger]:
    lookup = np.zeros(int(np.iinfo(values.dtype).max) + 1, np.uint16)
    unknown = sorted(set(np.unique(values).tolist()) - set(becomes) - {0})
    if unknown:
        raise EtlError(f"{where} has value {unknown[0]}, of which its table says nothing")
    for value, new in becomes.items():
        lookup[value] = new
    found: NDArray[np.uint16] = lookup[values]
    return found.astype(np.uint8) if max(becomes.values(), default=0) < 256 else found


def _put(path: Path, content: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content)
    return len(content)
