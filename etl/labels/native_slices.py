"""The DICOM slices that a volume was made of, found again, and a mask as it lies on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from etl.dicom.containers import Opener
from etl.errors import UsageError
from etl.read.patients import Volume
from etl.scan.deidentify import Pseudonyms, deidentify_scan
from etl.scan.inputs import scan_inputs
from etl.scan.scan import Limits
from etl.stack import Location
from etl.volume.geometry import are_equal
from etl.workers.pool import SerialPool


@dataclass(frozen=True, eq=False)
class NativeSlices:
    """The source of one volume.

    Parameters
    ----------
    datasets : tuple of Dataset
        The files without their pixels: one a slice, or one with several frames.
    to_lps : (n, 4, 4) float64 array
        For each slice from (0, row, column, 1) to LPS mm. Of a file with several frames: of each of its frames.
    shape : tuple of int
        (rows, columns).
    used : (n,) bool array
        Which of them the volume was made of.
    """

    datasets: tuple[Dataset, ...]
    to_lps: NDArray[np.float64]
    shape: tuple[int, int]
    used: NDArray[np.bool_]

    @cached_property
    def spacing_mm(self) -> float | None:
        """Distance between the volume's slices along their normal; None for a single one, or where it varies."""
        to_lps = self.to_lps[self.used][:, :3]
        normal = np.cross(to_lps[0, :, 2], to_lps[0, :, 1])
        gaps_mm = np.diff(np.sort(to_lps[:, :, 3] @ (normal / np.linalg.norm(normal))))
        return float(gaps_mm.mean()) if len(gaps_mm) and are_equal(gaps_mm) else None


def find_slices(volume: Volume, inputs: Sequence[Path], pseudonyms: Pseudonyms | None) -> NativeSlices:
    """Find the slices of a volume in the DICOM that it was made from.

    Parameters
    ----------
    volume : Volume
    inputs : sequence of Path
        Folders, zips, files; more than the volume's series may be in them.
    pseudonyms : Pseudonyms, optional
        Of the key that a de-identified store was written with.

    Raises
    ------
    UsageError
        An input does not exist, slices of the volume are not in it, or they come from several files with several
        frames each.
    """
    wanted = {source.sop_instance_uid: None for source in volume.source_slices}
    scan = scan_inputs([str(path) for path in inputs], SerialPool(), limits=Limits(), quiet=True)
    if pseudonyms is not None:
        scan = deidentify_scan(scan, pseudonyms)
    found: dict[str, Location] = {}
    for stack in scan.stacks:
        for uid, location in zip(stack.slices.sop_instance_uid.tolist(), stack.slices.locations, strict=True):
            if (name := uid.decode("ascii", "replace")) in wanted:
                found.setdefault(name, location)
    if len(found) < len(wanted):
        raise UsageError(
            f"{volume.node}: {len(wanted) - len(found)} of its {len(wanted)} files are not in the DICOM given, by "
            "SOP Instance UID"
        )
    with Opener() as opener:
        datasets = tuple(_header(opener, found[uid]) for uid in wanted)
    several = [one for one in datasets if int(one.get("NumberOfFrames") or 1) > 1]
    if several and len(datasets) > 1:
        raise UsageError(
            f"{volume.node}: {len(several)} of its {len(datasets)} files have several frames (0028,0008); a "
            "DICOM SEG refers to one such file, or to single slices"
        )
    frames = {(source.sop_instance_uid, source.frame_number) for source in volume.source_slices}
    if several:
        [file] = datasets
        count, uid = int(file.NumberOfFrames), next(iter(wanted))
        places = [_frame_to_lps(file, frame) for frame in range(count)]
        used = [(uid, frame + 1) in frames for frame in range(count)]
    else:
        places, used = [_slice_to_lps(one) for one in datasets], [True] * len(datasets)
    shape = (int(datasets[0].Rows), int(datasets[0].Columns))
    return NativeSlices(datasets, np.array(places), shape, np.array(used))


def mask_on_slices(
    mask: NDArray[np.uint16], affine_lps: NDArray[np.float64], slices: NativeSlices
) -> NDArray[np.uint16]:
    """Sample a mask at the pixels of slices, which may lie anywhere: the nearest voxel of each.

    Parameters
    ----------
    mask : (z, y, x) uint16 array
    affine_lps : (4, 4) float64 array
        From (k, j, i, 1) of the mask to LPS mm.
    slices : NativeSlices

    Returns
    -------
    (n, rows, columns) uint16 array
        0 outside the mask, and on frames that the volume was not made of.
    """
    rows, columns = slices.shape
    found = np.zeros((len(slices.to_lps), rows, columns), np.uint16)
    to_mask = np.linalg.inv(affine_lps)
    row, column = np.arange(rows)[:, None], np.arange(columns)[None, :]
    for number in np.flatnonzero(slices.used):
        # Affine, so that each index is a sum of a row's part and a column's.
        step = to_mask @ slices.to_lps[number]
        index = [np.rint(step[a, 1] * row + step[a, 2] * column + step[a, 3]).astype(np.int64) for a in range(3)]
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, mask.shape, strict=True)])
        k, j, i = (one[inside] for one in index)
        found[number][inside] = mask[k, j, i]
    return found


def _header(opener: Opener, location: Location) -> Dataset:
    with opener.open(location) as stream:
        found: Dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        return found


def _slice_to_lps(dataset: Dataset) -> NDArray[np.float64]:
    return _plane_to_lps(dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing)


def _frame_to_lps(dataset: Dataset, frame: int) -> NDArray[np.float64]:
    """Look for each macro in the frame's own functional groups, then in those of all (DICOM PS3.3 C.7.6.16)."""
    groups = (dataset.PerFrameFunctionalGroupsSequence[frame], dataset.SharedFunctionalGroupsSequence[0])

    def macro(sequence: str) -> Dataset:
        item: Dataset = next(group[sequence].value[0] for group in groups if sequence in group)
        return item

    return _plane_to_lps(
        macro("PlanePositionSequence").ImagePositionPatient,
        macro("PlaneOrientationSequence").ImageOrientationPatient,
        macro("PixelMeasuresSequence").PixelSpacing,
    )


def _plane_to_lps(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]
) -> NDArray[np.float64]:
    """From (0, row, column, 1) to LPS mm (DICOM PS3.3 C.7.6.2.1.1)."""
    along_row, along_column = np.array(orientation, np.float64).reshape(2, 3)
    to_lps = np.zeros((4, 4))
    to_lps[:3, 1] = along_column * float(spacing[0])
    to_lps[:3, 2] = along_row * float(spacing[1])
    to_lps[:3, 3] = np.array(position, np.float64)
    to_lps[3, 3] = 1.0
    return to_lps
