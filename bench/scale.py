"""Sections on many series: worker processes, constancy, scan, a second run, zips, the driver, the start-up."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import ROOT, Command, Usage, measure, median_ratio, take_turns
from session import Session
from table import Row, Section

FEW_ROUNDS = 3
MAX_PHANTOMS = 9999
ZIPPED_SERIES = 8
# On the scanner's own grid (--native): a volume of 1 mm is large, however few voxels it is made of.
SMALL = {"slices": 64, "rows": 128}
TINY = {"slices": 8, "rows": 16}


def workers(session: Session) -> Section:
    """Compare one worker process with two: the slope between few and many series, so that start-up drops out."""
    few, many = session.scaled(8, 2), session.scaled(40, 8)
    commands = {
        f"{count} workers, {series} series": session.run_etl(session.phantom(series), "head-ct", count)
        for series in (few, many)
        for count in (1, 2)
    }
    taken = take_turns(commands, session.rounds, session.clear)
    slopes = {
        count: _differences(taken, f"{count} workers, {few} series", f"{count} workers, {many} series")
        for count in (1, 2)
    }
    section = Section(
        [
            Row(
                f"wall time, 1 worker / 2 workers, {many} series, start-up excluded",
                median_ratio(slopes[1], slopes[2]),
                "x",
                1.85,
                at_least=True,
                note=f"(t({many}) - t({few})) of each",
            )
        ]
    )
    section.keep(taken)
    return section


def constant(session: Session) -> Section:
    """Compare the time per series of a long run with that of a short one."""
    counts = session.scaled(20, 5), session.scaled(100, 20), session.scaled(400, 60)
    commands = {
        f"{n} series": session.run_etl(session.phantom(n, **SMALL), "head-ct", 2, "--native") for n in counts
    }
    taken = take_turns(commands, session.rounds, session.clear)
    names = list(commands)
    short = [s / (counts[1] - counts[0]) for s in _differences(taken, names[0], names[1])]
    long = [s / (counts[2] - counts[1]) for s in _differences(taken, names[1], names[2])]
    note = f"{SMALL['slices']} slices of {SMALL['rows']}x{SMALL['rows']}, 2 workers, start-up excluded"
    what = f"wall time per series, {counts[1]} to {counts[2]} series / {counts[0]} to {counts[1]}"
    section = Section(
        [
            Row(what, statistics.median(long) / statistics.median(short), "x", 1.1, note=note),
            Row("    wall time per small series", 1000 * statistics.median(long), "ms"),
        ]
    )
    section.keep(taken)
    return section


def scan(session: Session) -> Section:
    """Measure what a header costs: the slope between few and many series."""
    many = session.series
    few = min(4, many // 2)
    commands = {
        f"{n} series": [sys.executable, "-m", "etl", "scan", str(session.phantom(n)), "--json"]
        for n in (few, many)
    }
    taken = take_turns(commands, session.rounds)
    first, second = taken.values()
    files = (many - few) * session.slices
    each = [1000 * (b.cpu_s - a.cpu_s) / files for a, b in zip(first, second, strict=True)]
    section = Section([Row("scan, headers only, CPU a file", statistics.median(each), "ms", 0.6)])
    section.keep(taken)
    return section


def second_run(session: Session) -> Section:
    """Compare a second run over finished work with the first."""
    section = Section()
    small = session.scaled(100, 20)
    large_name = f"{session.series} series of {session.slices} slices"
    cases = {
        large_name: session.run_etl(session.phantom(session.series)),
        f"{small} small series": session.run_etl(session.phantom(small, **SMALL), "head-ct", 0, "--native"),
    }
    for name, command in cases.items():
        pairs = []
        for _ in range(session.rounds):
            session.clear()
            pairs.append([measure(command) for _ in range(2)])
        first, second = ([pair[i] for pair in pairs] for i in (0, 1))
        section.keep({f"{name}, first": first, f"{name}, second": second})
        is_target = name == large_name
        ratio = median_ratio([u.cpu_s for u in second], [u.cpu_s for u in first])
        note = "start-up included" if is_target else "start-up included, which outweighs work as small as this"
        section.rows.append(
            Row(f"second run, CPU / first, {name}", 100 * ratio, "%", 5.0 if is_target else None, note=note)
        )
    return section


def zipped(session: Session) -> Section:
    """Compare zips with the same files unzipped."""
    count = min(session.scaled(ZIPPED_SERIES, 2), session.series)
    source = session.phantom(count)
    zips = session.made(f"zips-{count}", "zip", source)
    commands = {"unzipped": session.run_etl(source), "zipped": session.run_etl(zips)}
    taken = take_turns(commands, session.rounds, session.clear)
    ratio = median_ratio([u.cpu_s for u in taken["zipped"]], [u.cpu_s for u in taken["unzipped"]])
    note = f"{count} series in one process, deflate level 6"
    section = Section([Row("zip input, CPU / the same files unzipped", ratio, "x", 1.5, note=note)])
    section.keep(taken)
    return section


def driver(session: Session) -> Section:
    """Measure the driver's own process, which Dask's scheduler is part of, over many tiny series."""
    many = min(session.planned_series, MAX_PHANTOMS)
    counts = max(1, many // 10), many
    taken: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    for _ in range(min(session.rounds, FEW_ROUNDS)):
        for count in counts:
            taken[count].append(_driver(session, session.phantom(count, **TINY)))
    few_cpu, many_cpu = ([one["cpu_s"] for one in taken[count]] for count in counts)
    each = [1000 * (b - a) / (counts[1] - counts[0]) for a, b in zip(few_cpu, many_cpu, strict=True)]
    peaks = [statistics.median(one["peak_mb"] for one in taken[count]) for count in counts]
    growth = 1000 * (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    section = Section(
        [
            Row(f"driver and scheduler, CPU a series, {many} planned", statistics.median(each), "ms", 2.0),
            Row(f"    peak memory of the driver, {counts[0]} planned", peaks[0], "MB"),
            Row(
                f"    peak memory of the driver, {many} planned",
                peaks[1],
                "MB",
                note=f"{growth:.1f} kB more a series of {TINY['slices']} slices",
            ),
        ]
    )
    section.measurements = {f"{count} series": figures for count, figures in taken.items()}
    return section


def start_up(session: Session) -> Section:
    """Measure `make etl` on the phantom, the second time."""
    what = "make etl on the phantom, second time, wall time"
    environments = [path for path in (Path(sys.prefix), ROOT / ".venv") if (path / ".identity").exists()]
    if not environments:
        # make would remove an environment that it does not know.
        return Section([Row(what, None, "s", 15.0, note="no environment of make's")])
    folder = session.scratch / "demo"
    # `make bench ARGS=...` hands its variables down to this one.
    unset = [f"{name}=" for name in ("ARGS", "INPUT", "STORE", "PRESET", "SCHEDULER")]
    make = ["make", "-C", str(ROOT), "etl", f"DEMO={folder}", f"VENV={_relative(environments[0])}", *unset]
    first, *later = (measure(make) for _ in range(1 + session.rounds))
    section = Section([Row(what, statistics.median(usage.wall_s for usage in later), "s", 15.0)])
    section.keep({"first": [first], "second": later})
    return section


def _driver(session: Session, source: Path) -> dict[str, Any]:
    session.clear()
    result = session.target / "driver.json"
    arguments = session.run_etl(source, "head-ct", 2, "--native")[3:]
    command: Command = session.script("driver.py", result, *arguments)
    measure(command)
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures


def _differences(taken: dict[str, list[Usage]], few: str, many: str) -> list[float]:
    """Give, for each round, the wall seconds that the further series took."""
    return [b.wall_s - a.wall_s for a, b in zip(taken[few], taken[many], strict=True)]


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


SECTIONS = {
    "workers": workers,
    "constant": constant,
    "scan": scan,
    "second": second_run,
    "zip": zipped,
    "driver": driver,
    "startup": start_up,
}
