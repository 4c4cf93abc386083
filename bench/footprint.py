"""Sections on memory and disk."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from measure import environment, take_turns
from session import Session
from table import Row, Section

PRESETS = ("head-ct", "article")
SHORT_SLICES = 256
LONG_SLICES = 1500
MEMORY_TARGETS_MB = {SHORT_SLICES: 350.0, LONG_SLICES: 900.0}
MAX_ROUNDS = 3
SIZE_SERIES = 4


def memory(session: Session) -> Section:
    """Measure the peak memory of a worker process: the largest process of a run with one worker."""
    section = Section()
    for slices, target_mb in MEMORY_TARGETS_MB.items():
        count = session.scaled(slices, slices // 4)
        if slices == SHORT_SLICES:
            source = session.phantom(1, count)
        else:
            source = session.made(f"long-{count}", "long", slices=count)
        commands = {preset: session.run_etl(source, preset, 1) for preset in PRESETS}
        taken = take_turns(commands, min(session.rounds, MAX_ROUNDS), session.clear)
        section.keep(taken, f"{count} slices, ")
        section.rows += [
            Row(
                f"peak memory of a worker, {count} slices 512x512, {preset}",
                max(usage.peak_mb for usage in taken[preset]),
                "MB",
                target_mb,
                note="" if slices == SHORT_SLICES else "slices 1 mm apart; largest of the rounds",
            )
            for preset in PRESETS
        ]
    return section


def size(session: Session) -> Section:
    """Compare a store with the same volumes, unrounded, in zarr's default float32 arrays."""
    series = min(SIZE_SERIES, session.series)
    source = session.phantom(series)
    section = Section()
    for preset in PRESETS:
        session.clear()
        subprocess.run(session.run_etl(source, preset), check=True, env=environment(), stdout=subprocess.DEVNULL)
        own = _folder_bytes(session.target / "store.zarr")
        session.clear()
        full = session.run_etl(source, preset, 0, "--precision-bits", "full")
        subprocess.run(full, check=True, env=environment(), stdout=subprocess.DEVNULL)
        rewrite = session.script("size.py", session.target / "store.zarr", session.target / "defaults.zarr")
        done = subprocess.run(rewrite, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
        defaults = json.loads(done.stdout)
        section.measurements[preset] = {"store_bytes": own, "defaults": defaults, "series": series}
        section.rows.append(
            Row(
                f"size on disk / zarr's default float32, {preset}",
                100 * own / defaults["bytes"],
                "%",
                45.0,
                note=f"{own / series / 1e6:.1f} MB a series of {session.slices} slices, metadata included",
            )
        )
    return section


def _folder_bytes(folder: Path) -> int:
    """Sum the sizes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


SECTIONS = {"memory": memory, "size": size}
