"""Sections that compare with other programs: CPU seconds per series, start-up spread over a process's series."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from measure import Usage, environment, median_ratio, take_turns
from session import Session
from table import Row, Section

PACKAGES = {
    "simpleitk": ("SimpleITK",),
    "torchio": ("torchio",),
    # The reader that MONAI prefers for DICOM; without it there is none, or a slower one.
    "monai": ("monai", "itk"),
    "nnunet": ("nnunetv2",),
}
TITLES = {
    "simpleitk": "SimpleITK: linear to 1 mm, window, npy",
    "torchio": "TorchIO: canonical, 1 mm, clamp, rescale, nii",
    "monai": "MONAI: orient, 1 mm, scale, npy",
    "nnunet": "nnU-Net: cubic to 1 mm, blosc2",
}
TARGETS = {"simpleitk": 0.8, "torchio": 0.2, "monai": 0.2, "nnunet": 0.1}


def against_article(session: Session) -> Section:
    """Compare the preset `article` with the article's own recipe."""
    source = session.phantom(session.series)
    commands = {"ct-etl": session.run_etl(source, "article")}
    for count in (1, session.slow_series):
        arguments = (source, session.target / "recipe.zarr", "--series", count)
        commands[f"recipe, {count} series"] = session.script("article.py", *arguments)
    section = Section()
    taken = take_turns(commands, session.rounds, session.clear)
    section.keep(taken)
    own = [usage.cpu_s / session.series for usage in taken["ct-etl"]]
    theirs = spread(session, taken["recipe, 1 series"], taken[f"recipe, {session.slow_series} series"])
    section.rows = [
        Row("article preset, CPU / the article's own recipe", median_ratio(own, theirs), "x", 1 / 10),
        *_seconds(session, "article preset", own, "the article's recipe", theirs),
    ]
    return section


def against_dcm2niix(session: Session) -> Section:
    """Compare the preset `article` with `dcm2niix -z n`: no resampling, no compression."""
    what = "article preset, CPU / dcm2niix -z n"
    binary = _dcm2niix(session)
    if binary is None:
        return Section([Row(what, None, "x", 3.0, note="not installed")])
    source = session.phantom(session.series)
    commands = {
        "ct-etl": session.run_etl(source, "article"),
        "dcm2niix": [binary, "-z", "n", "-f", "%i_%s", "-o", str(session.target), str(source)],
    }
    section = Section()
    taken = take_turns(commands, session.rounds, session.clear)
    section.keep(taken)
    own, theirs = ([usage.cpu_s / session.series for usage in taken[name]] for name in commands)
    section.rows = [
        Row(what, median_ratio(own, theirs), "x", 3.0),
        *_seconds(session, "article preset", own, "dcm2niix -z n", theirs),
    ]
    return section


def against_peer(name: str, session: Session) -> Section:
    """Compare the default preset with a library's way to 1 mm."""
    what = f"default preset, CPU / {TITLES[name]}"
    missing = [package for package in PACKAGES[name] if session.peer_versions[package] is None]
    if missing:
        return Section([Row(what, None, "x", TARGETS[name], note=f"not installed: {', '.join(missing)}")])
    source = session.phantom(session.series)
    # SimpleITK is quick enough to convert them all.
    counts = [session.series] if name == "simpleitk" else [1, session.slow_series]
    commands = {"ct-etl": session.run_etl(source)}
    commands |= {f"{name}, {count} series": session.peer(name, source, count) for count in counts}
    section = Section()
    taken = take_turns(commands, session.rounds, session.clear)
    section.keep(taken)
    own = [usage.cpu_s / session.series for usage in taken["ct-etl"]]
    first, last = taken[f"{name}, {counts[0]} series"], taken[f"{name}, {counts[-1]} series"]
    if name == "simpleitk":
        theirs = [usage.cpu_s / session.series for usage in last]
    else:
        theirs = spread(session, first, last)
    section.rows = [
        Row(what, median_ratio(own, theirs), "x", TARGETS[name]),
        *_seconds(session, "default preset", own, name, theirs),
    ]
    return section


def spread(session: Session, one: Sequence[Usage], several: Sequence[Usage]) -> list[float]:
    """Give CPU seconds a series as if one process had converted all `session.series`.

    A slow program converts `session.slow_series` a round. A further series costs the slope from one to these; the
    rest of what one costs is start-up, what is imported by the first use included, and weighs as over all.
    """
    seconds = []
    for first, last in zip(one, several, strict=True):
        slope = (last.cpu_s - first.cpu_s) / (session.slow_series - 1)
        seconds.append(slope + (first.cpu_s - slope) / session.series)
    return seconds


def _seconds(session: Session, own: str, own_s: list[float], other: str, other_s: list[float]) -> list[Row]:
    is_spread = other not in ("dcm2niix -z n", "simpleitk")
    note = f"1 and {session.slow_series} converted a round, start-up spread as over {session.series}"
    return [
        Row(f"    {own}, CPU a series over {session.series}", statistics.median(own_s), "s"),
        Row(f"    {other}, CPU a series", statistics.median(other_s), "s", note=note if is_spread else ""),
    ]


def _dcm2niix(session: Session) -> str | None:
    """Find the program itself: the one on the path may be a Python script that starts it."""
    code = "import dcm2niix; print(dcm2niix.bin)"
    done = subprocess.run(
        [str(session.peers), "-c", code], check=False, capture_output=True, text=True, env=environment()
    )
    found = done.stdout.strip()
    return found if found and Path(found).exists() else None


SECTIONS: dict[str, Callable[[Session], Section]] = {
    "article": against_article,
    "dcm2niix": against_dcm2niix,
    **{name: partial(against_peer, name) for name in PACKAGES},
}
