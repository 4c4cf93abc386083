"""Write the HTML report: what a store holds, with pictures, and what a run left out.

One file without scripts or links to elsewhere. It holds no paths, names or birth dates: of the ledger and the
totals only the fields named here are shown. Every value came from a file and is escaped by the template.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from etl.codes import words_of
from etl.errors import StoreError
from etl.read.patients import Store, Volume, open_store
from etl.report.histogram import draw_histogram
from etl.volume.hounsfield import BRAIN_LEVEL_HU, BRAIN_WIDTH_HU

if TYPE_CHECKING:
    # A report without pictures, of a run that found all as it was, need not load what draws them.
    from etl.report.montage import Montage

_OUTCOMES = ("written", "unchanged", "failed", "excluded")
_FINGERPRINT_LABELS = {
    "volumes": "volumes",
    "voxels": "voxels",
    "body_voxels": "body voxels (above -500 HU)",
    "mean_hu": "mean of body voxels, HU",
    "std_hu": "standard deviation, HU",
    "percentile_00_5_hu": "0.5th percentile, HU",
    "percentile_50_0_hu": "median, HU",
    "percentile_99_5_hu": "99.5th percentile, HU",
}
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


@dataclass(frozen=True)
class Card:
    """One volume as the page shows it."""

    anchor: str
    patient_id: str
    series_key: str
    is_default: bool
    facts: Facts
    warnings: Sequence[str]
    montage: Montage | None
    histogram_uri: str | None
    problem: str = ""


def write_report(
    store_path: str,
    html_path: Path,
    *,
    ledger: Sequence[Mapping[str, Any]] = (),
    run: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Path | None] | None = None,
) -> Path:
    """Write the report of a store, one volume after the other.

    Parameters
    ----------
    store_path : str
        Folder or URL of the store.
    html_path : Path
        Its folder is created where needed; a file that is there is replaced in one step.
    ledger : sequence of mappings
        Lines of ``ledger.jsonl``.
    run : mapping
        Totals of ``run.json``.
    pictures : mapping, optional
        ``<patient key>/<series key>`` of the volumes to show, all where not given; and the file in which their
        picture may lie already (`etl.report.montage.Montage.save`).

    Returns
    -------
    Path
        `html_path`.

    Raises
    ------
    StoreError
        There is no store at `store_path`. A volume that cannot be read is shown as such.
    """
    store = open_store(store_path)
    volumes = [volume for patient in store.values() for volume in patient.values()]
    nodes = {volume.node for volume in volumes}
    drawn = nodes if pictures is None else nodes & set(pictures)
    environment = Environment(
        loader=PackageLoader("etl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words_of"] = words_of
    page = environment.get_template("report.html.jinja").generate(
        totals=_totals(store, volumes, ledger, run or {}),
        fingerprint=_fingerprint(store),
        config=[(key.replace("_", " "), _plain(value)) for key, value in store.config.items()],
        volumes=_rows(volumes, ledger, drawn),
        cards=_cards(store, drawn, pictures or {}),
        undrawn=len(volumes) - len(drawn),
        left_out=_left_out(ledger),
        reasons=_reasons(ledger),
        has_ledger=bool(ledger),
        window=f"W {BRAIN_WIDTH_HU} L {BRAIN_LEVEL_HU}",
    )
    html_path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = html_path.with_name(f".{html_path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(page)
        unfinished.replace(html_path)
    finally:
        unfinished.unlink(missing_ok=True)
    return html_path


def _totals(
    store: Store, volumes: Sequence[Volume], ledger: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> Facts:
    totals = [("patients", len(store)), ("volumes", len(volumes))]
    if ledger:
        outcomes = Counter(str(line.get("outcome")) for line in ledger)
        totals += [("stacks scanned", len(ledger)), *((outcome, outcomes[outcome]) for outcome in _OUTCOMES)]
    ignored = run.get("ignored_files")
    if isinstance(ignored, Mapping):
        ignored = ignored.get("count")
    if isinstance(ignored, int):
        totals.append(("files that are not DICOM", ignored))
    return [(label, _plain(value)) for label, value in totals]


def _fingerprint(store: Store) -> Facts:
    found = store.fingerprint
    return [(label, _plain(found[name])) for name, label in _FINGERPRINT_LABELS.items() if name in found]


def _rows(
    volumes: Sequence[Volume], ledger: Sequence[Mapping[str, Any]], drawn: Container[str]
) -> list[dict[str, Any]]:
    lines = {(str(line.get("patient_id")), line.get("series_key")): line for line in ledger}
    rows = []
    for number, volume in enumerate(volumes):
        line = lines.get((volume.patient_id, volume.key), {})
        rows.append(
            {
                "anchor": _anchor(number) if volume.node in drawn else "",
                "patient_id": volume.patient_id,
                "series_key": volume.key,
                "size": _times(volume.shape),
                "spacing": _times(volume.spacing_mm),
                "slices": line.get("slices", volume.geometry.source_shape[volume.slice_axis]),
                "outcome": line.get("outcome", "earlier run" if ledger else "in the store"),
                "warnings": volume.warnings,
            }
        )
    return rows


def _cards(store: Store, drawn: Container[str], pictures: Mapping[str, Path | None]) -> Iterator[Card]:
    number = 0
    for patient in store.values():
        for volume in patient.values():
            if volume.node in drawn:
                is_default = volume.key == patient.default_key
                yield _card(volume, _anchor(number), pictures.get(volume.node), is_default=is_default)
            number += 1


def _card(volume: Volume, anchor: str, picture: Path | None, *, is_default: bool) -> Card:
    montage, histogram, problem = None, None, ""
    try:
        montage = _drawn_before(picture) or montage_of(volume)
        histogram = draw_histogram(volume.hu_histogram(), volume.window_hu)
    except StoreError:
        # The error names the store's path, which has no place on the page.
        problem = "This volume cannot be read: part of it is missing or damaged. ct-etl verify says more."
    facts = _facts(volume)
    return Card(
        anchor, volume.patient_id, volume.key, is_default, facts, volume.warnings, montage, histogram, problem
    )


def montage_of(volume: Volume) -> Montage:
    """Draw a volume of a store; only the chunks that hold a candidate plane are decoded.

    Raises
    ------
    StoreError
        A chunk cannot be read.
    """
    from etl.report.montage import candidate_planes, draw_montage  # noqa: PLC0415

    planes = candidate_planes(volume.shape[0])
    origin_mm, step_mm = volume.affine_lps[2, 3], volume.affine_lps[2, 0]
    return draw_montage(
        list(volume.planes(0, planes)),
        volume.normalization,
        z_mm=[origin_mm + k * step_mm for k in planes],
        spacing_mm=volume.spacing_mm[1:],
    )


def _drawn_before(picture: Path | None) -> Montage | None:
    from etl.report.montage import Montage  # noqa: PLC0415

    # A worker on another host may not have reached the folder.
    with suppress(OSError):
        return None if picture is None else Montage.load(picture)
    return None


def _facts(volume: Volume) -> Facts:
    geometry, low_high = volume.geometry, volume.window_hu
    extent_mm = [n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)]
    facts = [
        ("size (z, y, x)", _times(volume.shape)),
        ("spacing, mm", _times(volume.spacing_mm)),
        ("extent, mm", _times([round(mm) for mm in extent_mm])),
        ("source size", _times(geometry.source_shape)),
        ("source spacing, mm", _times(geometry.source_spacing_mm)),
        ("gantry tilt", f"{_plain(geometry.gantry_tilt_deg)}°"),
        ("window, HU", f"{low_high[0]} to {low_high[1]}"),
        ("center", _plain(volume.normalization.center)),
    ]
    dicom = volume.dicom
    return facts + [(label, _plain(dicom[name])) for name, label in _DICOM_LABELS.items() if name in dicom]


def _left_out(ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Lines of what is not in the store, failures first."""
    names = ("outcome", "reason", "detail", "patient_id", "series_number", "slices")
    lines = [line for outcome in ("failed", "excluded") for line in ledger if line.get("outcome") == outcome]
    return [{name: _plain(line.get(name)) for name in names} for line in lines]


def _reasons(ledger: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Outcome, reason and count, failures first, then by count."""
    counts = Counter(
        (str(line["outcome"]), str(line.get("reason")))
        for line in ledger
        if line.get("outcome") in {"failed", "excluded"}
    )
    ordered = sorted(counts.items(), key=lambda found: (found[0][0] != "failed", -found[1], found[0][1]))
    return [(outcome, reason, count) for (outcome, reason), count in ordered]


def _anchor(number: int) -> str:
    return f"volume-{number + 1}"


def _times(values: Sequence[float]) -> str:
    return " × ".join(_plain(value) for value in values)  # noqa: RUF001 - the sign that people write


def _plain(value: Any) -> str:
    """Write a value of JSON for people."""
    if value is None:
        return "–"  # noqa: RUF001 - nothing there
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    return str(value)
