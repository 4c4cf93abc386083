"""What `scan`, `run` and `info` print: one block a patient, reasons summed up, and what to do next.

Nothing is wider than the terminal, or than 80 columns where there is none; identifiers are never cut.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.entry import Entry, LedgerLines
from etl.run.ledger import LEDGER_NAME

if TYPE_CHECKING:
    from etl.labels.label_entry import LabelEntry
    from etl.labels.tables import TableJoin

MIN_COLUMNS, PLAIN_COLUMNS = 40, 80
BAR_CHARACTERS = 40
# A screen or two; --all lists everything.
MAX_PATIENTS, MAX_SERIES = 25, 60
OUTCOMES = ("written", "unchanged", "excluded", "failed")
_WORST_FIRST = {"failed": 0}

Row = Mapping[str, Any]


def print_scan(summary: Mapping[str, Any], *, show_all: bool = False) -> None:
    """Print what is there and what a run would do with it, and the histogram of slice counts."""
    rows = summary["series"]
    _print_series(rows, _scanned, show_all=show_all)
    _print_reasons(rows)
    _line(f"{summary['files']} files, {summary['ignored_files']} of them not DICOM; * is the default series")
    counts: Mapping[str, int] = summary["slice_counts"]
    if counts:
        _line("")
        _line("series by slice count")
        widest = max(counts.values())
        bar = min(BAR_CHARACTERS, _columns() - 16)
        for slices, number in counts.items():
            _line(f"{slices:>6} {'█' * max(1, round(bar * number / widest))} {number}")
        _line(f"most common slice count: {summary['most_common_slice_count']}")


def print_run(
    entries: Sequence[Entry], totals: Mapping[str, Any], *, dry_run: bool, show_all: bool = False
) -> None:
    """Print what became of the series, the totals, where store and report are, and what to do next."""
    rows = LedgerLines([entry for entry in entries if entry.is_reached])
    _print_series(rows, _ran, show_all=show_all)
    if len(rows) < len(entries):
        _line(f"{len(entries) - len(rows)} not reached; the same command again goes on with them")
    _print_reasons(rows)
    outcomes = ", ".join(f"{totals[name]} {name}" for name in OUTCOMES)
    would = " (nothing was written: --dry-run)" if dry_run else ""
    _line(f"{totals['scanned']} series: {outcomes}; {totals['ignored_files']} files are not DICOM{would}")
    if not dry_run:
        _whole("store:  ", totals["store"])
        if totals["report"]:
            _whole("report: ", totals["report"])
    failed = sorted({row["reason"] for row in rows if row["outcome"] == "failed"})
    if failed:
        _line(f"why:    ct-etl explain {' '.join(failed)}", indent=8)
        if totals.get("run_dir"):
            _whole("detail: ", f"{totals['run_dir']}/{LEDGER_NAME}")
        _line("next:   mend the input and give the same command again: only what is not done is done", indent=8)


def print_info(summary: Mapping[str, Any], *, show_all: bool = False) -> None:
    """Print the volumes, the cohort's fingerprint and the configuration of a store."""
    rows = [{**volume, "outcome": "written", "reason": None} for volume in summary["volumes"]]
    _print_series(rows, _stored, show_all=show_all)
    _print_reasons(rows)
    for title in ("fingerprint", "config"):
        values = summary[title] or {}
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        _line(f"{title}: {shown}", indent=2)


def print_labels(entries: Sequence[LabelEntry], ledger: Path, *, ignored_files: int = 0) -> None:
    """Print what became of every mask, with the volume of its segments before and after, and the totals."""
    for entry in entries[:MAX_SERIES]:
        facts = [entry.outcome, _printable(Path(entry.source).name), entry.node, ", ".join(entry.labels)]
        _line("  ".join(fact for fact in facts if fact), indent=6)
        for one in entry.segments:
            _line(
                f"      {_printable(one.name) or one.value}: {one.ml_before:.3g} to {one.ml_after:.3g} ml",
                indent=8,
            )
        why = _why(entry.to_json(), show_all=False)
        if why:
            _line(f"      {why}", indent=6)
    if len(entries) > MAX_SERIES:
        _line(f"... {len(entries) - MAX_SERIES} more")
    outcomes = Counter(entry.outcome for entry in entries)
    counted = ", ".join(f"{outcomes[name]} {name}" for name in ("written", "unchanged", "failed"))
    ignored = f"; {ignored_files} files hold no mask" if ignored_files else ""
    _line(f"{len(entries)} masks: {counted}{ignored}")
    _whole("ledger: ", ledger)


def print_join(join: TableJoin) -> None:
    """Print what became of a table, and what found no counterpart."""
    _line(f"{join.matched} rows joined by {join.level}: {', '.join(map(_printable, join.columns))}", indent=2)
    pairs = [f"{row} is {target}" for row, target in join.alike]
    for title, names in (
        ("taken for the same but for case and punctuation", pairs),
        ("rows without a counterpart in the store", join.unmatched_rows),
        (f"in the store, and not in the table ({join.level})", join.unmatched_patients),
        ("columns of text, left out of a de-identified store", join.left_out),
    ):
        if names:
            _line(f"{len(names)} {title}: {', '.join(map(_printable, names[:MAX_SERIES]))}", indent=2)


def _print_series(rows: Sequence[Row], describe: Callable[[Row], str], *, show_all: bool) -> None:
    """Print a block for each patient: what is wanted line by line, the rest in numbers."""
    blocks = _blocks(rows)
    shown = blocks if show_all else _chosen(rows, blocks)
    for patient, numbers in shown:
        members = [rows[n] for n in numbers]
        _line(_printable(patient), indent=2)
        for row in members:
            if not show_all and row["outcome"] == "excluded":
                continue
            _line(f"  {describe(row)}", indent=6)
            why = _why(row, show_all=show_all)
            if why:
                _line(f"      {why}", indent=6)
        excluded = Counter(row["reason"] for row in members if row["outcome"] == "excluded")
        if excluded and not show_all:
            _line(f"  left out: {_counted(excluded)}", indent=4)
    hidden = len(blocks) - len(shown)
    if hidden:
        _line(f"... {hidden} more patients; --all lists every series")
    elif not show_all and any(row["outcome"] == "excluded" for row in rows):
        _line("--all lists what was left out, too")


def _blocks(rows: Sequence[Row]) -> list[tuple[str, range]]:
    """Give the numbers of the rows of each patient, who follow each other."""
    blocks, start = [], 0
    for patient, group in groupby(rows, key=lambda row: row["patient_id"]):
        blocks.append((patient, range(start, start := start + sum(1 for _ in group))))
    return blocks


def _chosen(rows: Sequence[Row], blocks: list[tuple[str, range]]) -> list[tuple[str, range]]:
    """Choose blocks for a screen or two, those with failures before others, in the order that they have."""
    ranked = sorted(
        range(len(blocks)),
        key=lambda n: min(_WORST_FIRST.get(rows[i]["outcome"], 1) for i in blocks[n][1]),
    )
    chosen, lines = set[int](), 0
    for n in ranked[:MAX_PATIENTS]:
        lines += sum(rows[i]["outcome"] != "excluded" for i in blocks[n][1])
        if chosen and lines > MAX_SERIES:
            break
        chosen.add(n)
    return [blocks[n] for n in sorted(chosen)]


def _scanned(row: Row) -> str:
    action = "write *" if row["is_default"] else str(row["outcome"])
    size = "x".join(str(n) for n in row.get("size", ())) or f"{row['slices']} slices"
    spacing = "x".join(f"{s:.3g}" for s in row.get("spacing_mm") or ())
    tilt = f"tilt {row['gantry_tilt_deg']:.1f}" if row.get("gantry_tilt_deg") else ""
    facts = (size, spacing and f"{spacing} mm", tilt, row.get("convolution_kernel", ""))
    return f"{action:<9} {row['series_key']}  {'  '.join(_printable(fact) for fact in facts if fact)}"


def _ran(row: Row) -> str:
    facts = [f"{row['slices']} slices"]
    if row["seconds"]:
        facts.append(f"{row['seconds']:.2f} s")
    if row["bytes_out"]:
        facts.append(f"{row['bytes_in'] / 1e6:.1f} to {row['bytes_out'] / 1e6:.1f} MB")
    return f"{row['outcome']:<9} {row['series_key']}  {', '.join(facts)}"


def _stored(row: Row) -> str:
    shape, spacing = "x".join(map(str, row["shape"])), "x".join(f"{s:.4g}" for s in row["spacing_mm"])
    return f"{'*' if row['is_default'] else ' '} {row['series_key']}  {shape}  {spacing} mm"


def _why(row: Row, *, show_all: bool) -> str:
    detail = row.get("detail") or ""
    if row["reason"]:
        detail = f"{row['reason']}: {detail}"
    elif not show_all:
        # How the default series was chosen is for those who ask.
        detail = ""
    return _printable("; ".join(part for part in (detail, ", ".join(row["warnings"])) if part))


def _print_reasons(rows: Iterable[Row]) -> None:
    """Sum up why series were left out or failed, and what is unusual about the others."""
    counted: dict[str, Counter[str]] = {"failed": Counter(), "left out": Counter(), "warnings": Counter()}
    for row in rows:
        if row["outcome"] in ("failed", "excluded"):
            counted["failed" if row["outcome"] == "failed" else "left out"][row["reason"]] += 1
        else:
            counted["warnings"].update(row["warnings"])
    for title, counts in counted.items():
        if counts:
            _line(f"{title}: {_counted(counts)}", indent=2)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {code}" for code, number in sorted(counts.items(), key=lambda c: (-c[1], c[0])))


def _printable(text: str) -> str:
    """Show control characters instead of obeying them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _columns() -> int:
    return max(MIN_COLUMNS, shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_COLUMNS)


def _line(text: str, *, indent: int = 0) -> None:
    """Print a text, in several lines where the terminal is narrower; words that are too long are broken there."""
    for line in _wrapped(text, indent):
        print(line)


def _wrapped(text: str, indent: int) -> Iterator[str]:
    columns = _columns()
    if len(text) <= columns:
        yield text
        return
    lead = len(text) - len(text.lstrip())
    yield from textwrap.wrap(
        text.lstrip(),
        columns,
        initial_indent=" " * lead,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _whole(title: str, place: object) -> None:
    """Print a path on one line, however long: to be copied."""
    print(f"{title}{_printable(str(place))}")
