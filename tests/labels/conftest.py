"""Scans of 96 mm whose structures are known, in a store each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="pip install 'ct-etl[labels]'")
pytest.importorskip("nibabel", reason="pip install 'ct-etl[labels]'")
pytest.importorskip("nrrd", reason="pip install 'ct-etl[labels]'")

from drawn import Shape, slices_of, structures
from pydicom import Dataset

import etl
from etl.phantom.files import Acquisition, HeadPhantom, write_series

if TYPE_CHECKING:
    from conftest import Finished

SCANS: dict[str, tuple[dict[str, Any], str]] = {
    "straight": ({"count": 25, "spacing_mm": 2.5}, "1"),
    "tilted": ({"count": 41, "spacing_mm": 1.5, "gantry_tilt_deg": 14.0}, "1"),
    "irregular": ({"gaps_mm": [2.0] * 10 + [3.0] * 14}, "1.5,0.8,0.8"),
    "anisotropic": ({"count": 19, "spacing_mm": 3.0}, "1"),
}
"""Slices, and the grid that they are brought to."""


@dataclass(frozen=True)
class Scan:
    slices: list[Dataset]
    store: Path
    ends: tuple[float, float]
    """z half way between two slices, about 18 mm off the middle."""

    @property
    def volume(self) -> etl.Volume:
        return etl.open_store(self.store)["P"].default

    @property
    def z_mm(self) -> list[float]:
        return [float(one.ImagePositionPatient[2]) for one in self.slices]

    def shapes(self, edge: float = 0.0) -> list[Shape]:
        return structures(self.ends, edge)


@pytest.fixture(scope="session")
def scan_named(ct_etl: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scan]:
    made: dict[str, Scan] = {}

    def make(name: str) -> Scan:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            how, spacing = SCANS[name]
            acquisition = Acquisition.regular(rows=96, columns=96, pixel_spacing_mm=(1.0, 1.0), **how)
            write_series(folder / "dicom", HeadPhantom(), acquisition, patient_id="P")
            done = ct_etl(
                "run", folder / "dicom", folder / "s.zarr", "--spacing-mm", spacing, "--workers", "0", "-q"
            )
            assert done.status == 0, done.why
            z = np.sort(acquisition.positions_lps_mm[:, 2])
            middle = (z[1:] + z[:-1]) / 2
            # Of a tilted stack the first pixel is not where the middle of the slice is.
            middle -= z.mean() if name == "tilted" else 0
            ends = [float(middle[np.argmin(np.abs(middle - end))]) for end in (-18, 18)]
            made[name] = Scan(slices_of(folder / "dicom"), folder / "s.zarr", (ends[0], ends[1]))
        return made[name]

    return make


def copied(one: Scan, folder: Path) -> Scan:
    """The same scan, in a store of the test's own."""
    shutil.copytree(one.store, folder / "s.zarr")
    return Scan(one.slices, folder / "s.zarr", one.ends)


@pytest.fixture
def scan(scan_named: Callable[[str], Scan], tmp_path: Path) -> Scan:
    return copied(scan_named("straight"), tmp_path)


@pytest.fixture
def own_scan(scan_named: Callable[[str], Scan], tmp_path: Path) -> Callable[[str], Scan]:
    return lambda name: copied(scan_named(name), tmp_path)
