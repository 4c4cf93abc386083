"""Write the HTML report: what a store holds, with pictures, and what a run left out.

Pages without scripts or links to elsewhere. It holds no paths, names or birth dates: of the ledger and the
totals only the fields named here are shown. Every value came from a file and is escaped by the template.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from etl.codes import words_of
from etl.errors import StoreError
from etl.read.catalog import count_patients
from etl.read.facts import Facts, facts_of, plain, times
from etl.read.patients import Store, Volume, open_some, open_store
from etl.report.histogram import draw_histogram
from etl.report.left_out import reasons_of
from etl.volume.hounsfield import BRAIN_LEVEL_HU, BRAIN_WIDTH_HU

if TYPE_CHECKING:
    # A report without pictures, of a run that found all as it was, need not load what draws them.
    from etl.report.montage import Montage

# A page stays below 3 MB: a card takes 100 kB, a row half of one.
CARDS_A_PAGE, MAX_ROWS = 20, 500
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
    """Write the report of a store: one page below 3 MB, and further pages ``<name>-2.html`` … with more pictures.

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
    store, patient_count, volume_count = _opened(store_path, ledger, run or {}, pictures)
    volumes = [volume for patient in store.values() for volume in patient.values()]
    defaults = {f"{patient.key}/{patient.default_key}" for patient in store.values()}
    drawn = [volume for volume in volumes if pictures is None or volume.node in pictures]
    pages = [drawn[n : n + CARDS_A_PAGE] for n in range(0, len(drawn), CARDS_A_PAGE)] or [[]]
    names = [html_path.name, *(f"{html_path.stem}-{n}{html_path.suffix}" for n in range(2, len(pages) + 1))]
    anchors = {
        volume.node: f"{'' if number == 0 else names[number]}#{_anchor(volume)}"
        for number, page in enumerate(pages)
        for volume in page
    }
    template = _environment().get_template("report.html.jinja")
    html_path.parent.mkdir(parents=True, exist_ok=True)
    for number, (name, page) in enumerate(zip(names, pages, strict=True)):
        _replace(
            html_path.with_name(name),
            template.generate(
                totals=_totals(patient_count, volume_count, ledger, run or {}),
                fingerprint=_fingerprint(store),
                config=[(key.replace("_", " "), plain(value)) for key, value in store.config.items()],
                volumes=_rows(_listed(volumes, anchors), ledger, anchors),
                unlisted=max(0, volume_count - MAX_ROWS),
                cards=(_card(v, (pictures or {}).get(v.node), is_default=v.node in defaults) for v in page),
                undrawn=volume_count - len(drawn),
                reasons=reasons_of(ledger),
                has_ledger=bool(ledger),
                window=f"W {BRAIN_WIDTH_HU} L {BRAIN_LEVEL_HU}",
                pages=names,
                number=number,
            ),
        )
    _remove_others(html_path, set(names))
    return html_path


def _opened(
    store_path: str,
    ledger: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    pictures: Mapping[str, Path | None] | None,
) -> tuple[Store, int, int]:
    """Open what the page shows of a store, and count its patients and volumes.

    Of a large store a run has opened a part: whole, a hundred thousand volumes take a gigabyte.
    """
    volume_count = (run.get("fingerprint") or {}).get("volumes", 0)
    if pictures is None or volume_count <= MAX_ROWS:
        store = open_store(store_path)
        return store, len(store), sum(map(len, store.values()))
    stored = (
        f"{line['patient_key']}/{line['series_key']}"
        for line in ledger
        if line["outcome"] in ("written", "unchanged")
    )
    shown = [*pictures, *islice((node for node in stored if node not in pictures), MAX_ROWS - len(pictures))]
    return open_some(store_path, shown), count_patients(store_path), volume_count


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("etl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["words_of"] = words_of
    return environment


def _replace(path: Path, content: Iterable[str]) -> None:
    """Write a file in the place of another one, in one step."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_others(html_path: Path, names: Container[str]) -> None:
    """Remove further pages that an earlier report of more volumes left."""
    for path in html_path.parent.glob(f"{glob.escape(html_path.stem)}-*{html_path.suffix}"):
        ending = path.stem.removeprefix(f"{html_path.stem}-")
        if ending.isdigit() and path.name not in names:
            path.unlink()


def _listed(volumes: Sequence[Volume], anchors: Container[str]) -> list[Volume]:
    """Choose the volumes of the table: of many those with pictures first, in their order."""
    if len(volumes) <= MAX_ROWS:
        return list(volumes)
    ranked = sorted(range(len(volumes)), key=lambda n: volumes[n].node not in anchors)
    return [volumes[n] for n in sorted(ranked[:MAX_ROWS])]


def _totals(
    patient_count: int, volume_count: int, ledger: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> Facts:
    totals = [("patients", patient_count), ("volumes", volume_count)]
    if ledger:
        outcomes = Counter(str(line.get("outcome")) for line in ledger)
        totals += [("stacks scanned", len(ledger)), *((outcome, outcomes[outcome]) for outcome in _OUTCOMES)]
    ignored = run.get("ignored_files")
    if isinstance(ignored, Mapping):
        ignored = ignored.get("count")
    if isinstance(ignored, int):
        totals.append(("files that are not DICOM", ignored))
    return [(label, plain(value)) for label, value in totals]


def _fingerprint(store: Store) -> Facts:
    found = store.fingerprint
    return [(label, plain(found[name])) for name, label in _FINGERPRINT_LABELS.items() if name in found]


def _rows(
    volumes: Sequence[Volume], ledger: Sequence[Mapping[str, Any]], anchors: Mapping[str, str]
) -> list[dict[str, Any]]:
    wanted = {(volume.patient_id, volume.key) for volume in volumes}
    found = ((str(line.get("patient_id")), line.get("series_key"), line) for line in ledger)
    lines = {(patient_id, key): line for patient_id, key, line in found if (patient_id, key) in wanted}
    rows = []
    for volume in volumes:
        line = lines.get((volume.patient_id, volume.key), {})
        rows.append(
            {
                "link": anchors.get(volume.node, ""),
                "patient_id": volume.patient_id,
                "series_key": volume.key,
                "size": times(volume.shape),
                "spacing": times(volume.spacing_mm),
                "slices": line.get("slices", volume.geometry.source_shape[volume.slice_axis]),
                "outcome": line.get("outcome", "earlier run" if ledger else "in the store"),
                "warnings": volume.warnings,
            }
        )
    return rows


def _card(volume: Volume, picture: Path | None, *, is_default: bool) -> Card:
    montage, histogram, problem = None, None, ""
    try:
        montage = _drawn_before(picture) or montage_of(volume)
        histogram = draw_histogram(volume.hu_histogram(), volume.window_hu)
    except StoreError:
        # The error names the store's path, which has no place on the page.
        problem = "This volume cannot be read: part of it is missing or damaged. ct-etl verify says more."
    facts = facts_of(volume)
    return Card(
        _anchor(volume),
        volume.patient_id,
        volume.key,
        is_default,
        facts,
        volume.warnings,
        montage,
        histogram,
        problem,
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


def _anchor(volume: Volume) -> str:
    return f"volume-{volume.node.replace('/', '-')}"
