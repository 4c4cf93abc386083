"""Volumes and labels of a store as files, several at a time; what is there already is left alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from etl.codes import VerdictCode
from etl.errors import UsageError
from etl.export import nnunet
from etl.export.image_files import INSTALL, NIFTI, NRRD
from etl.export.volume_files import Exported, VolumeFiles, export_volume
from etl.read.optional_library import optional_library
from etl.read.patients import Store, Volume, open_store
from etl.read.verdicts import read_verdicts
from etl.store.durable import write_durably
from etl.workers.pool import open_pool
from etl.workers.progress import metered
from etl.workers.stop_signals import stop_signals

Format = Literal["nifti", "nnunet", "nrrd"]
Series = Literal["default", "all"]
BYTES_PER_VOXEL = 24
"""Values as stored, as float32, in the file's order, and packed."""


@dataclass(frozen=True)
class ExportResult:
    """What became of an export.

    Parameters
    ----------
    volumes : int
    rejected : int
        Left out, since somebody rejected them.
    files_written, files_kept : int
    bytes_out : int
    failed : dict
        Why, by ``<patient key>/<series key>``.
    """

    volumes: int
    rejected: int
    files_written: int
    files_kept: int
    bytes_out: int
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values."""
        return asdict(self)


def export(
    store_path: str,
    out: Path,
    *,
    form: Format,
    hu: bool = True,
    labels: Sequence[str] = (),
    patients: Collection[str] = (),
    series: Series = "default",
    with_rejected: bool = False,
    workers: int | Literal["auto"] = "auto",
    quiet: bool = False,
) -> ExportResult:
    """Write volumes as files.

    Parameters
    ----------
    store_path : str
    out : Path
        Folder: ``<patient key>/<series key>.nii.gz`` (``.nrrd``) with ``<series key>_<label>`` beside it; for
        ``"nnunet"`` the data set's own folder, ``DatasetNNN_NAME``.
    form : {"nifti", "nnunet", "nrrd"}
    hu : bool
        Hounsfield units (float32), or normalized values.
    labels : sequence of str
        Labels that are wanted too; a volume has those that it has. nnU-Net takes one: volumes that have it are
        cases for training, the others for inference.
    patients : collection of str
        Only these Patient IDs; all where empty.
    series : {"default", "all"}
        The default series of every patient, or everything.
    with_rejected : bool
        Also volumes that somebody rejected (`etl.read.verdicts`).
    workers : int or "auto"
        Local processes; 0 works in this one.
    quiet : bool
        Show no progress.

    Raises
    ------
    UsageError
        A library is missing, an argument is out of its range, no volume is chosen, or `out` cannot be the folder.
    StoreError
        The store cannot be read.
    """
    _check(store_path, out, form, labels)
    volumes = _volumes(open_store(store_path), patients, series)
    verdicts = {} if with_rejected else read_verdicts(os.path.realpath(store_path))
    rejected = {node for node, one in verdicts.items() if one.verdict == VerdictCode.REJECT}
    left_out = sum(volume.node in rejected for volume in volumes)
    volumes = [volume for volume in volumes if volume.node not in rejected]
    if not volumes:
        raise UsageError(f"all {left_out} volumes were rejected; --rejected exports them too")
    missing = [name for name in labels if not any(name in volume.labels for volume in volumes)]
    if missing:
        raise UsageError(f"labels: no volume has {missing[0]!r}")
    tasks = (
        _nnunet_tasks(volumes, out, labels, hu=hu)
        if form == "nnunet"
        else _tasks(volumes, out, labels, form, hu=hu)
    )
    done: list[Exported] = []
    sizes = {volume.node: BYTES_PER_VOXEL * _voxels(volume) for volume in volumes}
    with stop_signals(), open_pool(workers, None) as pool, metered("volumes", len(tasks), quiet=quiet) as meter:
        exported = pool.map(export_volume, tasks, share=_share, memory_bytes=lambda task: sizes[task.node])
        for task, result in exported:
            one = result or Exported(task.node, problem="the worker process died twice while at this volume")
            meter.advance(byte_count=one.bytes_out, failed=bool(one.problem))
            done.append(one)
    return ExportResult(
        volumes=len(done),
        rejected=left_out,
        files_written=sum(one.written for one in done),
        files_kept=sum(one.kept for one in done),
        bytes_out=sum(one.bytes_out for one in done),
        failed={one.node: one.problem for one in sorted(done, key=lambda one: one.node) if one.problem},
    )


def _check(store_path: str, out: Path, form: str, labels: Sequence[str]) -> None:
    if form not in get_args(Format):
        raise UsageError(f"format {form!r}: allowed is {', '.join(get_args(Format))}")
    if form == "nnunet":
        nnunet.check_folder(out)
        if len(labels) > 1:
            raise UsageError(
                f"labels {', '.join(labels)}: nnU-Net takes one label, whose structures do not overlap"
            )
    optional_library(
        "nrrd" if form == "nrrd" else "nibabel", wanted_for=f"export --format {form}", install=INSTALL
    )
    if out.exists() and not out.is_dir():
        raise UsageError(f"out {str(out)!r} is a file; a folder is needed")
    store = Path(os.path.realpath(store_path))
    if store in (real := Path(os.path.realpath(out))).parents or store == real:
        raise UsageError(f"out {str(out)!r} lies in the store")


def _volumes(store: Store, patients: Collection[str], series: Series) -> list[Volume]:
    unknown = sorted(set(patients) - set(store))
    if unknown:
        raise UsageError(f"patients: {len(unknown)} are not in the store, {unknown[0]!r} among them")
    chosen = [store[name] for name in store if not patients or name in patients]
    found = [v for patient in chosen for v in ([patient.default] if series == "default" else patient.values())]
    if not found:
        raise UsageError(f"{store.path} has no volume")
    return found


def _tasks(
    volumes: Sequence[Volume], out: Path, labels: Sequence[str], form: str, *, hu: bool
) -> list[VolumeFiles]:
    ending = NIFTI if form == "nifti" else NRRD
    tasks = []
    for volume in volumes:
        stem = str(out / volume.node)
        there = {name: f"{stem}_{name}{ending}" for name in labels if name in volume.labels}
        tasks.append(_files(volume, f"{stem}{ending}", there, ending, hu))
    return tasks


def _nnunet_tasks(volumes: Sequence[Volume], out: Path, labels: Sequence[str], *, hu: bool) -> list[VolumeFiles]:
    """Give the tasks, and write what is said of all cases."""
    training = [volume for volume in volumes if labels and labels[0] in volume.labels]
    values: dict[str, dict[int, int]] = {}
    if training:
        numbers, values = nnunet.consecutive_labels(training, labels[0])
        out.mkdir(parents=True, exist_ok=True)
        write_durably(out / "dataset.json", nnunet.dataset_json(numbers, len(training)).encode())
        write_durably(out / "ct_etl_values.json", nnunet.mapping_json(labels[0], values).encode())
    tasks = []
    for volume in volumes:
        case, is_case = nnunet.case_of(volume), volume.node in values
        image = out / ("imagesTr" if is_case else "imagesTs") / f"{case}_0000{NIFTI}"
        masks = {labels[0]: str(out / "labelsTr" / f"{case}{NIFTI}")} if is_case else {}
        becomes = {labels[0]: values[volume.node]} if is_case else {}
        tasks.append(_files(volume, str(image), masks, NIFTI, hu, right_angles=True, values=becomes))
    return tasks


def _files(volume: Volume, image: str, labels: dict[str, str], ending: str, hu: bool, **more: Any) -> VolumeFiles:
    return VolumeFiles(volume.store_path, volume.node, volume.patient_id, image, labels, ending, hu, **more)


def _voxels(volume: Volume) -> int:
    z, y, x = volume.shape
    return z * y * x


def _share(_: VolumeFiles) -> float:
    """Send one task a message: each takes a second."""
    return 1.0
