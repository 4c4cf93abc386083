"""Write the inputs of the benchmark; run as a process of its own, so that its memory is not the measurer's.

``inputs.py phantom TARGET --series N --slices N --rows N`` - patients with one thin series each, noise on
``inputs.py long TARGET --slices N`` - one series of slices 1 mm apart, as of a trunk
``inputs.py zip SOURCE TARGET`` - each patient's folder as a deflated zip
``inputs.py encode SOURCE TARGET --syntax UID`` - the same slices in a compressed transfer syntax
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import imagecodecs
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from etl.phantom.acquisition import Acquisition
from etl.phantom.cohort import write_benchmark
from etl.phantom.files import write_series
from etl.phantom.head import HeadPhantom

PIXEL_MM = 250 / 512


def write_long(target: Path, slices: int) -> None:
    """Write one series as long as a trunk: 1 mm from slice to slice, so that its volume is large too."""
    acquisition = Acquisition.regular(
        count=slices,
        spacing_mm=1.0,
        thickness_mm=1.0,
        pixel_spacing_mm=(PIXEL_MM, PIXEL_MM),
        padding=-2000,
        noise_hu=6.0,
    )
    write_series(target / "PHANTOM-0001" / "long", HeadPhantom.for_patient(0), acquisition)


def write_native(target: Path, slices: int) -> None:
    """Write one series of 12 bits, as most scanners send it to be compressed."""
    spacing_mm = 150 / slices
    acquisition = Acquisition.regular(
        count=slices,
        spacing_mm=spacing_mm,
        thickness_mm=spacing_mm,
        pixel_spacing_mm=(PIXEL_MM, PIXEL_MM),
        bits_stored=12,
        pixel_representation=0,
        noise_hu=6.0,
    )
    write_series(target / "PHANTOM-0001" / "native", HeadPhantom.for_patient(0), acquisition)


def write_zips(source: Path, target: Path) -> None:
    """Zip each patient's folder."""
    target.mkdir(parents=True)
    for patient in sorted(source.iterdir()):
        with zipfile.ZipFile(target / f"{patient.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(patient.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(patient))


def write_encoded(source: Path, target: Path, syntax: str) -> None:
    """Write every slice of a folder anew in a compressed transfer syntax."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        dataset = dcmread(path)
        if syntax == JPEGLosslessSV1:
            # pydicom has no encoder for it.
            stream = imagecodecs.jpeg8_encode(
                dataset.pixel_array, lossless=True, predictor=1, bitspersample=dataset.BitsStored
            )
            dataset.PixelData = encapsulate([bytes(stream)])
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(copy)


def main() -> None:
    """Write one input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["phantom", "long", "native", "zip", "encode"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--series", type=int, default=1)
    parser.add_argument("--slices", type=int, default=256)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--syntax", default="")
    options = parser.parse_args()
    *source, target = options.paths
    match options.kind:
        case "phantom":
            write_benchmark(target, options.series, options.slices, rows=options.rows)
        case "long":
            write_long(target, options.slices)
        case "native":
            write_native(target, options.slices)
        case "zip":
            write_zips(source[0], target)
        case "encode":
            write_encoded(source[0], target, options.syntax)


if __name__ == "__main__":
    main()
