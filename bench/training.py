"""Section on training: crops a second, against the files and loaders of others, same volumes, outputs equal."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from crop_inputs import SIDES
from crop_readers import READERS
from measure import CommandError, environment
from session import Session
from table import Row, Section

BY_PEERS = ("nnU-Net", "nnU-Net, rounded", "TorchIO", "MONAI")
REFERENCE = "nnU-Net"
# Readers' rates are compared with those of nnU-Net's own files, unrounded as it writes them.
READER_TARGETS = {
    "float32": 0.7,
    "int16 to float32": 1.2,
    "int16 to int16": 1.7,
    "none to float32": 3.0,
    "none to int16": 8.0,
}
BYTES_TARGETS = {"float32": 52.0, "int16": 45.0, "none": 80.0}
LOADER_TARGETS = {"threads, int16 to float32": 2.0, "threads, none to float32": 4.0}
OWN_LOADERS = (*LOADER_TARGETS, "threads, float32", "threads, int16 to int16", "DataLoader, int16 to float32")
MIN_CROPS_PER_S = 440.0
VOLUMES = 3
HALF_A_STEP = 2**-14


def training(session: Session) -> Section:
    """Compare readers a core, and loaders on two cores."""
    section = Section()
    folder = session.scratch / "crops"
    source = session.phantom(VOLUMES if not session.quick else 1, session.scaled(256, 200))
    _run([*session.script("crop_inputs.py", "own", source, folder)])
    has_peers = session.peer_versions.get("nnunetv2") is not None
    if has_peers:
        _run([str(session.peers), session.script("crop_inputs.py")[1], "nnunet", str(folder)])
    for side in SIDES:
        taken = _rates(session, folder, side, has_peers=has_peers)
        section.measurements[f"crops of {side}^3"] = taken
        section.rows += _reader_rows(taken, side)
    section.rows += _bytes_rows(folder) if has_peers else []
    loaders = _loader_rates(session, folder, has_peers=has_peers)
    section.measurements["loaders"] = loaders
    section.rows += _loader_rows(loaders)
    return section


def _rates(session: Session, folder: Path, side: int, *, has_peers: bool) -> dict[str, list[float]]:
    """Crops a second a core, by reader and round; every reader must have read the same."""
    taken: dict[str, list[float]] = {}
    sums: dict[str, list[float]] = {}
    for _ in range(session.rounds):
        for reader in READERS:
            if reader in BY_PEERS and not has_peers:
                continue
            python = str(session.peers) if reader in BY_PEERS else session.script("")[0]
            found = _run([python, session.script("crop_readers.py")[1], reader, str(folder), str(side)])
            taken.setdefault(reader, []).append(1 / found["cpu_s"])
            sums[reader] = found["sums"]
    for reader, found_sums in sums.items():
        allowed = HALF_A_STEP * side**3 if reader == REFERENCE else 1e-6
        if max(abs(a - b) for a, b in zip(found_sums, sums["memory map float32"], strict=True)) > allowed:
            raise CommandError(f"{reader} read other values than the memory map")
    return taken


def _reader_rows(taken: dict[str, list[float]], side: int) -> list[Row]:
    rows = [
        Row(f"crops of {side}^3 a second a core, {reader}", statistics.median(rates), "/s")
        for reader, rates in taken.items()
    ]
    for base, targets in ((REFERENCE, READER_TARGETS), ("format 1.0, zarr-python", {"float32": 4.5})):
        for reader, target in targets.items() if base in taken else ():
            ratio = statistics.median(a / b for a, b in zip(taken[reader], taken[base], strict=True))
            is_judged = side == SIDES[0]
            what = f"    crops of {side}^3, {reader} / {base}"
            rows.append(Row(what, ratio, "x", target if is_judged else None, at_least=True))
    return rows


def _bytes_rows(folder: Path) -> list[Row]:
    whole = _bytes(folder / "nnunet-full", "*.b2nd", but="_seg")
    return [
        Row(
            f"bytes of volumes, {store} / nnU-Net's files",
            100 * _bytes(folder / f"{store}.zarr", "0") / whole,
            "%",
            most,
        )
        for store, most in BYTES_TARGETS.items()
    ]


def _bytes(folder: Path, pattern: str, but: str = "/c/0/x") -> int:
    """Sum the sizes of the volumes' files: a shard lies under ``volume/c/0/0/0``."""
    files = [path for path in folder.rglob(pattern) if path.is_file() and but not in path.name]
    return sum(path.stat().st_size for path in files if pattern != "0" or path.parents[3].name == "volume")


def _loader_rates(session: Session, folder: Path, *, has_peers: bool) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {}
    for _ in range(session.rounds):
        for loader in (*OWN_LOADERS, *(("nnU-Net", "TorchIO", "MONAI") if has_peers else ())):
            python = str(session.peers) if loader in BY_PEERS else session.script("")[0]
            count = session.scaled(400, 40)
            command = [python, session.script("crop_loaders.py")[1], loader, str(folder), f"--crops={count}"]
            found = _run(command)
            taken.setdefault(loader, []).append(found["crops_per_s"])
    return taken


def _loader_rows(taken: dict[str, list[float]]) -> list[Row]:
    rows = []
    for loader, rates in taken.items():
        least = MIN_CROPS_PER_S if loader == "threads, int16 to float32" else None
        what = f"crops of 96^3 a second through a loader on two cores, {loader}"
        rows.append(Row(what, statistics.median(rates), "/s", least, at_least=True))
    for loader, target in LOADER_TARGETS.items() if REFERENCE in taken else ():
        ratio = statistics.median(a / b for a, b in zip(taken[loader], taken[REFERENCE], strict=True))
        rows.append(Row(f"    loader, {loader} / nnU-Net's", ratio, "x", target, at_least=True))
    return rows


def _run(command: list[str]) -> Any:
    done = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


SECTIONS = {"training": training}
