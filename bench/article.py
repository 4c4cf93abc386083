"""The recipe this project was conceived from, with slices sorted by position: the reference of the benchmark.

Read with pydicom, stack, mask padding, rescale, `scipy.ndimage.zoom` by (1, .5, .5), window, centre, save with
zarr's defaults. One process, one series after the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import zarr
from pydicom import dcmread
from scipy import ndimage


def convert_series(folder: Path, group: zarr.Group) -> None:
    """Convert the one series of a folder the article's way."""
    slices = [dcmread(path) for path in folder.rglob("*") if path.is_file()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    stack = np.stack([s.pixel_array for s in slices]).astype(np.int16)
    stack[stack == -2000] = 0
    hu = np.stack(
        [
            plane.astype(np.float64) * float(s.RescaleSlope) + float(s.RescaleIntercept)
            for plane, s in zip(stack, slices, strict=True)
        ]
    )
    hu = ndimage.zoom(hu, (1, 0.5, 0.5), mode="nearest")
    volume = np.clip((hu + 1000) / 3000, 0, 1)
    volume -= volume.mean()
    group[str(slices[0].PatientID)] = volume.astype(np.float32)


if __name__ == "__main__":
    source, store = sys.argv[1:]
    root = zarr.open_group(store, mode="w")
    for patient in sorted(Path(source).iterdir()):
        convert_series(patient, root)
