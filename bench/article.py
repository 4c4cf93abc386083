"""The recipe this project was conceived from, with slices sorted by position: the reference of the benchmark.

Read with pydicom, stack, mask padding, rescale, `scipy.ndimage.zoom` by (1, .5, .5), window, center, save with
zarr's defaults. One process, one series after the other; ``--series N``: the first N patients only.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    """Convert the patients of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("store")
    parser.add_argument("--series", type=int)
    options = parser.parse_args()
    root = zarr.open_group(options.store, mode="w")
    for patient in sorted(options.source.iterdir())[: options.series]:
        convert_series(patient, root)


if __name__ == "__main__":
    main()
