"""What a volume is, written for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etl.read.patients import Volume

_DICOM_LABELS = {
    "ConvolutionKernel": "kernel",
    "SliceThickness": "slice thickness, mm",
    "KVP": "tube voltage, kV",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "scanner",
    "BodyPartExamined": "body part",
    "PatientAge": "age",
    "PatientSex": "sex",
}

Facts = list[tuple[str, str]]


def facts_of(volume: Volume) -> Facts:
    """Give what a volume is, as label and value: grid, source, window and scanner."""
    geometry, (low, high) = volume.geometry, volume.window_hu
    extent_mm = [n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)]
    dicom = volume.dicom
    return [
        ("size (z, y, x)", times(volume.shape)),
        ("spacing, mm", times(volume.spacing_mm)),
        ("extent, mm", times([round(mm) for mm in extent_mm])),
        ("source size", times(geometry.source_shape)),
        ("source spacing, mm", times(geometry.source_spacing_mm)),
        ("gantry tilt", f"{plain(geometry.gantry_tilt_deg)}°"),
        ("window, HU", f"{low} to {high}"),
        ("center", plain(volume.normalization.center)),
        *((label, plain(dicom[name])) for name, label in _DICOM_LABELS.items() if name in dicom),
    ]


def plain(value: Any) -> str:
    """Write a value of JSON for people.

    Examples
    --------
    >>> plain(True), plain(0.123456), plain([1, 2])
    ('yes', '0.1235', '1, 2')
    """
    if value is None:
        return "–"  # noqa: RUF001 - nothing there
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return str(value)


def times(values: Sequence[float]) -> str:
    """Join the sides of a grid, or its spacings."""
    return " × ".join(plain(value) for value in values)  # noqa: RUF001 - the sign that people write
