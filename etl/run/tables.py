"""What `scan`, `run` and `info` print: summaries as plain values, and the same as tables."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from etl.codes import ExclusionCode
from etl.entry import Entry

if TYPE_CHECKING:
    from etl.plan.plan import Plan
    from etl.read.patients import Store
    from etl.scan.scan import ScanResult

NOT_A_TERMINAL_COLUMNS = 160
BAR_CHARACTERS = 40
# Nobody reads more, and a row takes the driver a millisecond.
MAX_ROWS = 500


def scan_summary(scan: ScanResult, plan: Plan) -> dict[str, Any]:
    """Describe what a scan found and what a run would do with it, as plain JSON values."""
    from etl.plan.plan import describe  # noqa: PLC0415 - not to load scipy for a table of results

    described = {_identity(entry): describe(stack) for entry, stack in plan.stacks}
    series = []
    for entry in sorted(
        [*plan.settled, *(task.entry for task in plan.tasks)],
        key=lambda e: (e.patient_key, e.series_number, e.series_key),
    ):
        action = "write" if entry.outcome == "written" else entry.outcome
        facts = described.get(_identity(entry), {})
        is_default = plan.default_series.get(entry.patient_id) == entry.series_key and action == "write"
        series.append({**entry.to_json(), **facts, "outcome": action, "is_default": is_default})
    counts = Counter(row["slices"] for row in series if row["reason"] not in _NOT_VOLUMES and row["slices"] > 1)
    most = max(counts, key=lambda n: (counts[n], n)) if counts else None
    return {
        "series": series,
        "slice_counts": {str(n): counts[n] for n in sorted(counts)},
        "most_common_slice_count": most,
        "files": scan.files,
        "ignored_files": scan.ignored_files,
    }


_NOT_VOLUMES = {
    ExclusionCode.NOT_CT,
    ExclusionCode.LOCALIZER,
    ExclusionCode.SECONDARY_CAPTURE,
    ExclusionCode.NO_PIXELS,
}


def print_scan(summary: Mapping[str, Any]) -> None:
    """Print the series, the histogram of slice counts and the most common count."""
    columns = ("patient", "series", "slices", "size", "spacing mm", "tilt", "kernel", "run would", "why")
    rows = [
        (
            row["patient_id"],
            row["series_key"],
            row["slices"],
            "x".join(str(n) for n in row.get("size", ())),
            " x ".join(f"{s:.3g}" for s in row.get("spacing_mm") or ()),
            f"{row['gantry_tilt_deg']:.1f}" if row.get("gantry_tilt_deg") else "",
            row.get("convolution_kernel", ""),
            ("write *" if row["is_default"] else row["outcome"]),
            _why(row),
        )
        for row in summary["series"]
    ]
    console = _console()
    console.print(_table(columns, rows))
    console.print(
        f"{summary['files']} files, {summary['ignored_files']} of them not DICOM; * is the default series"
    )
    counts: Mapping[str, int] = summary["slice_counts"]
    if counts:
        console.print("\nseries by slice count")
        widest = max(counts.values())
        for slices, number in counts.items():
            console.print(f"{slices:>6} {'█' * max(1, round(BAR_CHARACTERS * number / widest))} {number}")
        console.print(f"most common slice count: {summary['most_common_slice_count']}")


def print_run(entries: Sequence[Entry], totals: Mapping[str, Any], *, dry_run: bool) -> None:
    """Print what became of every series, the totals, and where store and report are."""
    columns = ("patient", "series", "slices", "would be" if dry_run else "outcome", "why", "s", "MB in", "MB out")
    rows = [
        (
            entry.patient_id,
            entry.series_key,
            entry.slices,
            entry.outcome,
            _why(entry.to_json()),
            f"{entry.seconds:.2f}" if entry.seconds else "",
            f"{entry.bytes_in / 1e6:.1f}",
            f"{entry.bytes_out / 1e6:.1f}" if entry.bytes_out else "",
        )
        for entry in _shown(entries)
    ]
    console = _console()
    console.print(_table(columns, rows))
    reached = sum(entry.is_reached for entry in entries)
    if len(rows) < reached:
        console.print(f"{reached - len(rows)} more that need no look; --json prints all")
    if reached < len(entries):
        console.print(f"{len(entries) - reached} not reached; the same command again goes on with them")
    outcomes = ", ".join(f"{totals[name]} {name}" for name in ("written", "unchanged", "excluded", "failed"))
    console.print(f"{totals['scanned']} series: {outcomes}; {totals['ignored_files']} files are not DICOM")
    if not dry_run:
        console.print(f"store:  {escape(totals['store'])}", soft_wrap=True)
        if totals["report"]:
            console.print(f"report: {escape(totals['report'])}", soft_wrap=True)


def _shown(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Give all entries that were reached, or of many those first that did not come as wanted."""
    entries = [entry for entry in entries if entry.is_reached]
    if len(entries) <= MAX_ROWS:
        return entries
    ranks = {"failed": 0, "excluded": 1}
    return sorted((e for e in entries if e.outcome in ranks), key=lambda e: ranks[e.outcome])[:MAX_ROWS]


def store_summary(store: Store) -> dict[str, Any]:
    """Describe what is in a store, as plain JSON values."""
    volumes = [
        {
            "patient_id": patient_id,
            "series_key": key,
            "is_default": patient.default.key == volume.key,
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "warnings": list(volume.warnings),
        }
        for patient_id, patient in store.items()
        for key, volume in patient.items()
    ]
    return {"config": store.config, "fingerprint": store.fingerprint, "volumes": volumes}


def print_info(summary: Mapping[str, Any]) -> None:
    """Print the volumes, the cohort's fingerprint and the configuration of a store."""
    columns = ("patient", "series", "default", "shape z,y,x", "spacing mm", "warnings")
    rows = [
        (
            volume["patient_id"],
            volume["series_key"],
            "*" if volume["is_default"] else "",
            " x ".join(str(n) for n in volume["shape"]),
            " x ".join(f"{s:.4g}" for s in volume["spacing_mm"]),
            ", ".join(volume["warnings"]),
        )
        for volume in summary["volumes"]
    ]
    console = _console()
    console.print(_table(columns, rows))
    for title in ("fingerprint", "config"):
        values = summary[title] or {}
        console.print(f"{title}: " + ", ".join(f"{name} {_short(value)}" for name, value in values.items()))


def _identity(entry: Entry) -> tuple[str, str]:
    return entry.patient_key, entry.series_key


def _why(row: Mapping[str, Any]) -> str:
    reason = f"{row['reason']}: {row['detail']}" if row["reason"] else row["detail"]
    return "; ".join(part for part in (reason, ", ".join(row["warnings"])) if part)


def _printable(text: str) -> str:
    """Show control characters instead of obeying them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        is_number = column in {"slices", "s", "MB in", "MB out", "tilt"}
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        # Identifiers come from files; rich must not read them as markup.
        table.add_row(*(escape(_printable(str(cell))) for cell in row))
    return table


class _Console(Console):
    """Leaves it to the caller what a reader who has gone means; rich would end the process with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    return _Console(highlight=False, width=None if sys.stdout.isatty() else NOT_A_TERMINAL_COLUMNS)
