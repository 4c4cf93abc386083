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

from drawn import Plane, Shape, image_planes, slices_of, structures
from pydicom import Dataset

import etl
from etl.phantom.files import Acquisition, HeadPhantom, write_series

if TYPE_CHECKING:
    from conftest import Finished

SCANS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "straight": ({"count": 25, "spacing_mm": 2.5}, ("--spacing-mm", "1")),
    "tilted": ({"count": 41, "spacing_mm": 1.5, "gantry_tilt_deg": 13.0}, ("--spacing-mm", "1")),
    "irregular": (
        {"gaps_mm": [2.0] * 16 + [5.0] * 7, "pixel_spacing_mm": (0.8, 0.8)},
        ("--spacing-mm", "1.5,1,1"),
    ),
    "anisotropic": ({"count": 15, "spacing_mm": 5.0, "pixel_spacing_mm": (0.8, 0.8)}, ("--spacing-mm", "1")),
    "tilted the other way": (
        {"count": 15, "spacing_mm": 5.0, "gantry_tilt_deg": -20.0, "pixel_spacing_mm": (0.8, 0.8)},
        ("--spacing-mm", "1"),
    ),
    "native": ({"count": 25, "spacing_mm": 2.5, "gantry_tilt_deg": 17.0}, ("--native",)),
}
"""Slices, and the grid that they are brought to.

No tilt whose tangent is a simple fraction: rows of slices would lie over each other, and a flat side would have
many voxels on it at once, or none.
"""


@dataclass(frozen=True)
class Scan:
    slices: list[Dataset]
    store: Path
    ends: tuple[float, float]
    """Half way between two slices, about 18 mm off the middle along the normal."""
    frame: Plane

    @property
    def volume(self) -> etl.Volume:
        return etl.open_store(self.store)["P"].default

    @property
    def z_mm(self) -> list[float]:
        return [float(one.ImagePositionPatient[2]) for one in self.slices]

    @property
    def edge_mm(self) -> float:
        """Where a flat side lies, known from pixels that lie elsewhere on each slice: three standard deviations.

        On a slice it is known to one pixel, evenly distributed; on n of them to pixel / sqrt(12 n).
        """
        row_mm = float(self.slices[0].PixelSpacing[0])
        position = np.array([plane.origin @ self.frame.normal for plane in image_planes(self.slices)])
        count = int(((position > self.ends[0]) & (position < self.ends[1])).sum())
        return float(3 * row_mm / np.sqrt(12 * count))

    def shapes(self, edge: tuple[float, float] = (0.0, 0.0)) -> list[Shape]:
        height, width = (float(v) for v in self.slices[0].PixelSpacing)
        return structures(self.ends, edge, self.frame, (width, height))


@pytest.fixture(scope="session")
def scan_named(ct_etl: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scan]:
    made: dict[str, Scan] = {}

    def make(name: str) -> Scan:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            how, grid = SCANS[name]
            pixel_mm = how.get("pixel_spacing_mm", (1.0, 1.0))
            rows = round(96 / pixel_mm[0])
            acquisition = Acquisition.regular(**{"pixel_spacing_mm": pixel_mm, **how}, rows=rows, columns=rows)
            write_series(folder / "dicom", HeadPhantom(), acquisition, patient_id="P")
            done = ct_etl("run", folder / "dicom", folder / "s.zarr", *grid, "--workers", "0", "-q")
            assert done.status == 0, done.why
            along, down = np.array(acquisition.orientation).reshape(2, 3)
            frame = Plane(np.zeros(3), along, down)
            centers = acquisition.positions_lps_mm + (rows - 1) / 2 * pixel_mm[0] * (along + down)
            position = np.sort(centers @ frame.normal)
            middle = (position[1:] + position[:-1]) / 2
            ends = [float(middle[np.argmin(np.abs(middle - end))]) for end in (-18, 18)]
            made[name] = Scan(slices_of(folder / "dicom"), folder / "s.zarr", (ends[0], ends[1]), frame)
        return made[name]

    return make


def copied(one: Scan, folder: Path) -> Scan:
    """The same scan, in a store of the test's own."""
    shutil.copytree(one.store, folder / "s.zarr")
    return Scan(one.slices, folder / "s.zarr", one.ends, one.frame)


@pytest.fixture
def scan(scan_named: Callable[[str], Scan], tmp_path: Path) -> Scan:
    return copied(scan_named("straight"), tmp_path)


@pytest.fixture
def own_scan(scan_named: Callable[[str], Scan], tmp_path: Path) -> Callable[[str], Scan]:
    return lambda name: copied(scan_named(name), tmp_path)
