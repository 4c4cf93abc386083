"""Folders as they arrive from a hospital, made of phantoms: the demo's input and the benchmarks'."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from etl.errors import UsageError
from etl.phantom.acquisition import Acquisition
from etl.phantom.files import WrittenSlice, synthetic_uid, write_localizer, write_series
from etl.phantom.head import HeadPhantom

COVERAGE_MM = 150.0
FIELD_OF_VIEW_MM = 250.0
THICK_MM = 5.0
TILT_DEG = 14.0
ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Put = Callable[[str, bytes], object]


@dataclass(frozen=True)
class WrittenSeries:
    """One series of a cohort, as ground truth for what a scan must find.

    Parameters
    ----------
    patient_id : str
        Patient ID (0010,0020).
    kind : str
        ``thin``, ``thick``, ``localizer`` or ``benchmark``.
    container : Path
        The patient's folder or zip.
    study_instance_uid, series_instance_uid : str
        Identity.
    series_number : int
        Series Number (0020,0011).
    gantry_tilt_deg : float
        Tilt of the slices, degrees.
    phantom : HeadPhantom
        The head that was scanned.
    slices : tuple of WrittenSlice
        In spatial order; paths are relative to the container.
    """

    patient_id: str
    kind: str
    container: Path
    study_instance_uid: str
    series_instance_uid: str
    series_number: int
    gantry_tilt_deg: float
    phantom: HeadPhantom
    slices: tuple[WrittenSlice, ...]


def write_cohort(
    folder: Path,
    *,
    patients: int = 3,
    seed: int = 0,
    rows: int = 512,
    thin_slices: int = 60,
    noise_hu: float = 6.0,
    series_per_patient: int = 3,
) -> list[WrittenSeries]:
    """Write patients as folders and zips by turns, with the clutter that real folders hold.

    Each patient has a thin axial series, a 5 mm axial series and a localizer. Of every three patients the
    first one's 5 mm series has a tilted gantry and the third one's has two slice distances. Files come in
    no order; some have no extension. Beside them lie text files and an interrupted download. Equal
    arguments give equal bytes.

    Parameters
    ----------
    folder : Path
        Made if missing.
    patients : int
        At least 1.
    seed : int
        Of heads, identifiers, noise and file names.
    rows : int
        Rows and columns of a slice; at least 16.
    thin_slices : int
        Slices of the thin series, which covers 150 mm; at least 2.
    noise_hu : float
        Standard deviation of the noise, HU.
    series_per_patient : int
        1 to 3, in the order named above.

    Returns
    -------
    list of WrittenSeries
        What a scan must find.

    Raises
    ------
    UsageError
        A number is out of range.
    """
    _check("patients", patients, 1, 9999)
    _check("seed", seed, 0, 2**32)
    _check("rows", rows, 16, 4096)
    _check("thin_slices", thin_slices, 2, 9999)
    _check("series_per_patient", series_per_patient, 1, 3)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_bytes(b"Synthetic head phantoms. No file here is about a person.\n")
    written: list[WrittenSeries] = []
    for number in range(patients):
        with _container(folder, number, zipped=number % 2 == 1) as (container, put):
            patient = _Patient(number, seed, container, put)
            scans = _scans(number, rows, thin_slices, noise_hu)[:series_per_patient]
            written += [patient.scan(kind, acquisition) for kind, acquisition in scans]
            if series_per_patient == 3:
                written.append(patient.localizer(rows))
            put("desktop.ini", b"[.ShellClassInfo]\r\nIconIndex=0\r\n")
            if number == 0:
                put(f"thin/I{thin_slices + 1}", _interrupted_download(seed, rows))
    return written


def write_benchmark(
    folder: Path, series: int, slices: int, seed: int = 0, *, rows: int = 512, noise_hu: float = 6.0
) -> list[WrittenSeries]:
    """Write patients with one thin series each, as folders without clutter.

    Parameters
    ----------
    folder : Path
        Made if missing.
    series : int
        Patients.
    slices : int
        Slices of each series, which covers 150 mm; at least 2.
    seed, rows, noise_hu
        As for `write_cohort`.

    Returns
    -------
    list of WrittenSeries
        One a patient.

    Raises
    ------
    UsageError
        A number is out of range.
    """
    _check("series", series, 1, 9999)
    _check("slices", slices, 2, 9999)
    _check("seed", seed, 0, 2**32)
    _check("rows", rows, 16, 4096)
    written = []
    for number in range(series):
        with _container(folder, number, zipped=False) as (container, put):
            [(_, thin), _] = _scans(0, rows, slices, noise_hu)
            written.append(_Patient(number, seed, container, put).scan("benchmark", thin))
    return written


@dataclass(frozen=True)
class _Patient:
    """One patient, the study and the place where files go."""

    number: int
    seed: int
    container: Path
    put: Put

    @property
    def patient_id(self) -> str:
        return f"PHANTOM-{self.number + 1:04d}"

    @property
    def phantom(self) -> HeadPhantom:
        return HeadPhantom.for_patient(self.seed * 10_000 + self.number)

    def scan(self, kind: str, acquisition: Acquisition) -> WrittenSeries:
        """Write a series into the sub-folder `kind`."""
        options = self._options(kind, acquisition.series_number)
        if kind == "thick":
            # Some archives name files by a hash; the order is lost but an extension is there.
            options["file_names"] = lambda index: f"{synthetic_uid(options['series_uid'], index)[-12:]}.dcm"
        slices = write_series(self._sink(kind), self.phantom, acquisition, **options)
        return self._written(kind, acquisition.series_number, acquisition.gantry_tilt_deg, slices)

    def localizer(self, rows: int) -> WrittenSeries:
        """Write the scout view."""
        options = self._options("localizer", 1)
        slices = write_localizer(self._sink("localizer"), self.phantom, rows=rows, series_number=1, **options)
        return self._written("localizer", 1, 0.0, slices)

    def _sink(self, kind: str) -> Put:
        return lambda name, content: self.put(f"{kind}/{name}", content)

    def _options(self, kind: str, series_number: int) -> dict[str, Any]:
        study = synthetic_uid(self.patient_id, self.seed, "study")
        return {
            "patient_id": self.patient_id,
            "study_uid": study,
            "series_uid": synthetic_uid(study, kind, series_number),
            "seed": self.seed,
        }

    def _written(
        self, kind: str, series_number: int, tilt_deg: float, slices: list[WrittenSlice]
    ) -> WrittenSeries:
        options = self._options(kind, series_number)
        return WrittenSeries(
            patient_id=self.patient_id,
            kind=kind,
            container=self.container,
            study_instance_uid=options["study_uid"],
            series_instance_uid=options["series_uid"],
            series_number=series_number,
            gantry_tilt_deg=tilt_deg,
            phantom=self.phantom,
            slices=tuple(one._replace(path=f"{kind}/{one.path}") for one in slices),
        )


def _scans(number: int, rows: int, thin_slices: int, noise_hu: float) -> list[tuple[str, Acquisition]]:
    """Give a patient's thin and thick series; patients differ as scanners of different vendors do."""
    pixel_mm = FIELD_OF_VIEW_MM / rows
    grid: dict[str, Any] = {
        "rows": rows,
        "columns": rows,
        "pixel_spacing_mm": (pixel_mm, pixel_mm),
        "noise_hu": noise_hu,
    }
    spacing_mm = COVERAGE_MM / thin_slices
    thin = Acquisition.regular(
        count=thin_slices,
        spacing_mm=spacing_mm,
        thickness_mm=spacing_mm,
        series_number=2,
        series_description="THIN SOFT",
        padding=-2000,
        pixel_representation=0 if number % 2 else 1,
        **grid,
    )
    count = int(COVERAGE_MM / THICK_MM)
    # Scanners step by less at the base of the skull, where bone hides more.
    base_and_vertex = [4.0] * (count // 2) + [6.0] * (count // 2 - 1)
    thick = Acquisition.regular(
        gaps_mm=base_and_vertex if number % 3 == 2 else [THICK_MM] * (count - 1),
        thickness_mm=THICK_MM,
        gantry_tilt_deg=TILT_DEG if number % 3 == 0 else 0.0,
        series_number=3,
        series_description="HEAD 5.0",
        bits_stored=12,
        pixel_representation=0,
        **grid,
    )
    return [("thin", thin), ("thick", thick)]


@contextmanager
def _container(folder: Path, number: int, *, zipped: bool) -> Iterator[tuple[Path, Put]]:
    """Open a patient's folder or zip, and give what puts a file there."""
    path = folder / f"PHANTOM-{number + 1:04d}{'.zip' if zipped else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    if not zipped:
        yield path, partial(_put_in_folder, path)
        return
    with zipfile.ZipFile(path, "w") as archive:
        yield path, partial(_put_in_zip, archive)


def _put_in_folder(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _put_in_zip(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A ZipInfo of our own has a fixed time stamp: equal content, equal bytes.
    entry = zipfile.ZipInfo(name, ZIP_TIME)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=1)


def _interrupted_download(seed: int, rows: int) -> bytes:
    """Give what a broken transfer leaves: blocks never written, then data, and no DICM at byte 128."""
    return bytes(4096) + np.random.default_rng([0xBAD, seed]).bytes(rows * rows // 2)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} {value}: allowed is {low} to {high}")
