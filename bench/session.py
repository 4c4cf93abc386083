"""What the sections of the benchmark share: options, inputs made once, and the commands that are compared."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from measure import ROOT, Command, environment

BENCH = ROOT / "bench"
OWN_PACKAGES = ("ct-etl", "numpy", "scipy", "zarr", "numcodecs", "pydicom", "dask", "imagecodecs")
PEER_PACKAGES = ("dcm2niix", "SimpleITK", "torchio", "monai", "itk", "nnunetv2", "torch", "blosc2")


@dataclass
class Session:
    """One run of the benchmark."""

    scratch: Path
    rounds: int
    series: int
    """Series of the comparisons that are amortised over many."""
    slow_series: int
    """Series that a slow program converts per round; its start-up is then spread as over `series`."""
    slices: int
    planned_series: int
    quick: bool
    peers: Path
    """Interpreter of the peers."""
    given: Path | None = None
    """Input made before: `series` folders of `slices` slices 512x512."""
    _made: dict[tuple[int, int], tuple[Path, int]] = field(default_factory=dict)

    def scaled(self, full: int, quick: int) -> int:
        """Choose a size by the kind of run."""
        return quick if self.quick else full

    # --- inputs ------------------------------------------------------------------------------------------

    def phantom(self, series: int, slices: int | None = None, rows: int = 512) -> Path:
        """Give a folder of exactly so many patients with one series each, made or linked from a larger one."""
        size = (slices or self.slices, rows)
        if size == (self.slices, 512) and self.given is not None:
            self._made.setdefault(size, (self.given, len(list(self.given.iterdir()))))
        whole, count = self._made.get(size, (Path(), 0))
        if count < series:
            whole = self.made(
                f"phantom-{series}x{size[0]}x{rows}", "phantom", series=series, slices=size[0], rows=rows
            )
            self._made[size] = (whole, count := series)
        if count == series:
            return whole
        part = self.scratch / f"part-{series}x{size[0]}x{rows}"
        if not part.exists():
            for patient in sorted(whole.iterdir())[:series]:
                shutil.copytree(patient, part / patient.name, copy_function=_link)
        return part

    def made(self, name: str, kind: str, *sources: Path, **options: object) -> Path:
        """Let `inputs.py` make an input, once."""
        target = self.scratch / name
        if not target.exists():
            flags = [f"--{key}={value}" for key, value in options.items()]
            paths = [str(path) for path in (*sources, target)]
            command = [sys.executable, str(BENCH / "inputs.py"), kind, *paths, *flags]
            subprocess.run(command, check=True, env=environment())
        return target

    # --- commands ----------------------------------------------------------------------------------------

    @property
    def target(self) -> Path:
        """Where measured commands write; see `clear`."""
        return self.scratch / "out"

    def clear(self) -> None:
        """Remove what the last command wrote."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    def run_etl(self, source: Path, preset: str = "head-ct", workers: int = 0, *options: str) -> Command:
        """Give the command of this project's `run`."""
        paths = [str(source), str(self.target / "store.zarr")]
        flags = ["--preset", preset, "--workers", str(workers), "--quiet"]
        return [sys.executable, "-m", "etl", "run", *paths, *flags, *options]

    def script(self, name: str, *arguments: object) -> Command:
        """Give the command of a script of this folder, run by this project's interpreter."""
        return [sys.executable, str(BENCH / name), *map(str, arguments)]

    def peer(self, name: str, source: Path, series: int) -> Command:
        """Give the command of a peer."""
        command = [str(self.peers), str(BENCH / "peers.py"), name, str(source), str(self.target / name)]
        return [*command, "--series", str(series)]

    # --- what it ran on ----------------------------------------------------------------------------------

    @cached_property
    def peer_versions(self) -> dict[str, str | None]:
        """Versions of the peers; None: not installed."""
        code = (
            "import sys; from importlib import metadata as m\n"
            "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
            "for name in sys.argv[1:]: print(name, found.get(name.lower(), ''))"
        )
        done = subprocess.run(
            [str(self.peers), "-c", code, *PEER_PACKAGES],
            check=False, capture_output=True, text=True, env=environment(),
        )  # fmt: skip
        lines = [line.partition(" ") for line in done.stdout.splitlines()]
        return dict.fromkeys(PEER_PACKAGES) | {name: version or None for name, _, version in lines}

    def describe(self) -> dict[str, Any]:
        """Give date, machine and versions."""
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "rounds": self.rounds,
            "quick": self.quick,
            "series": self.series,
            "slow_series": self.slow_series,
            "slices": self.slices,
            "commit": _commit(),
            "python": platform.python_version(),
            "machine": {
                "processor": _processor(),
                "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
                "system": platform.platform(),
            },
            "versions": {**{name: _version(name) for name in OWN_PACKAGES}, **self.peer_versions},
        }


def _link(source: str, target: str) -> None:
    """Link a file, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], check=False, capture_output=True, text=True
    )
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
