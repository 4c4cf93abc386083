"""Tiny CT series as DICOM, and the scan of them: what tests of every package start from."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset

from etl.dicom.sources import find_sources
from etl.phantom.acquisition import Acquisition
from etl.phantom.files import FileNames, WrittenSlice, write_series
from etl.phantom.head import HeadPhantom
from etl.scan.scan import ScanResult, merge_scans, scan_source
from etl.stack import Stack

Edit = Callable[[int, Dataset], Any]
"""Called with the number of a slice and its dataset before it is written."""
FIELD_MM = 200.0
"""Edge of the field of view: a head fits into it."""


def small_acquisition(
    *, count: int = 9, rows: int = 24, columns: int | None = None, noise_hu: float = 5.0, **options: Any
) -> Acquisition:
    """Stack a few coarse slices whose field of view holds the head.

    Parameters
    ----------
    count, rows : int
    columns : int, optional
        As many as rows unless given.
    noise_hu : float
        Standard deviation, HU.
    **options
        Of `Acquisition.regular`; `pixel_spacing_mm` follows from the field of view unless given.
    """
    columns = columns or rows
    given = {"pixel_spacing_mm": (FIELD_MM / rows, FIELD_MM / columns), **options}
    return Acquisition.regular(count=count, rows=rows, columns=columns, noise_hu=noise_hu, **given)


def small_series(
    target: Path | Callable[[str, bytes], Any],
    patient_id: str = "P1",
    *,
    seed: int = 0,
    edit: Edit | None = None,
    phantom: HeadPhantom | None = None,
    file_names: FileNames = "shuffled",
    study_uid: str | None = None,
    series_uid: str | None = None,
    **options: Any,
) -> list[WrittenSlice]:
    """Write a series of a few kilobytes, one file a slice.

    Parameters
    ----------
    target : Path or callable
        A folder, made if missing, or what takes the name and the bytes of each file.
    patient_id : str
    seed : int
        Of identifiers, noise and names.
    edit : callable, optional
        Makes slices as odd as wanted.
    phantom : HeadPhantom, optional
        The head unless given.
    file_names, study_uid, series_uid
        Of `write_series`.
    **options
        Of `small_acquisition`.

    Returns
    -------
    list of WrittenSlice
        In spatial order.
    """
    return write_series(
        target,
        phantom or HeadPhantom(),
        small_acquisition(**options),
        patient_id=patient_id,
        seed=seed,
        edit=edit,
        file_names=file_names,
        study_uid=study_uid,
        series_uid=series_uid,
    )


def small_zip(path: Path, patient_id: str = "P1", *, within: str = "", **options: Any) -> list[WrittenSlice]:
    """Write a series as `small_series` does, into a new zip, below the folder `within` of it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        return small_series(lambda name, content: archive.writestr(within + name, content), patient_id, **options)


def scan(*inputs: Path) -> ScanResult:
    """Scan folders and zips in this process."""
    return merge_scans(scan_source(source) for source in find_sources([str(one) for one in inputs]))


def one_stack(*inputs: Path) -> Stack:
    """Give the one stack that the inputs hold, all of whose files are readable."""
    found = scan(*inputs)
    assert not found.unreadable
    [stack] = found.stacks
    return stack
