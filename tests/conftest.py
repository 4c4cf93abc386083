"""What tests of several modules share: real data where it is at hand, a phantom cohort, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings
from shared import SHARED_DATA

from etl.cli import main
from etl.phantom.cohort import WrittenSeries, write_cohort

THIN_SLICES = 14
COARSE = ("--spacing-mm", "6", "--workers", "0")
"""Options of a quick run: few voxels, no processes."""

# A busy machine is no fault of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what runs in the background with SIGINT ignored, and nohup with SIGHUP, which processes inherit:
# commands that tests start would not see these.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON object that stdout must be."""
        return json.loads(self.stdout)

    @property
    def why(self) -> str:
        """What to show where an assertion fails."""
        return f"exit {self.status}\n{self.stdout}\n{self.stderr}"


@dataclass(frozen=True)
class Cohort:
    """A folder of phantoms and what is in it."""

    folder: Path
    series: tuple[WrittenSeries, ...]

    @property
    def wanted(self) -> list[WrittenSeries]:
        """The series that are CT volumes."""
        return [one for one in self.series if one.kind != "localizer"]


@dataclass(frozen=True)
class CohortRun:
    """A finished run on a cohort; never changed by a test."""

    cohort: Cohort
    store: Path
    totals: dict[str, Any]
    stderr: str

    def entry(self, series_instance_uid: str) -> dict[str, Any]:
        """Give the ledger's line of a series."""
        return next(e for e in self.totals["series"] if e["series_instance_uid"] == series_instance_uid)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CT DICOM beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout: its real CT DICOM is not distributed with the code")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ct_etl() -> Callable[..., Finished]:
    """Run the command line in a process of its own."""

    def run(*arguments: object, timeout_s: float = 120, cwd: Path | None = None) -> Finished:
        command = [sys.executable, "-m", "etl", *(str(a) for a in arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, check=False, env=os.environ
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Run the command line in this process: a second quicker, and every warning is an error."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them; this takes them back

    def run(*arguments: object) -> Finished:
        done = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="ct-etl")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Three patients with a thin, a thick and a localizer series each, one patient in a zip."""
    folder = tmp_path_factory.mktemp("cohort") / "dicom"
    return Cohort(folder, tuple(write_cohort(folder, rows=64, thin_slices=THIN_SLICES)))


@pytest.fixture(scope="session")
def cohort_run(
    cohort: Cohort, ct_etl: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory
) -> CohortRun:
    """Bring the cohort into a store once, for all tests that only look."""
    store = tmp_path_factory.mktemp("cohort-run") / "store.zarr"
    done = ct_etl("run", cohort.folder, store, *COARSE, "--json")
    assert done.status == 0, done.why
    return CohortRun(cohort, store, done.json, done.stderr)


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Read every file below a folder, by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


@pytest.fixture(scope="session")
def stamps() -> Callable[[Path], dict[str, tuple[int, int, int]]]:
    """Tell which file is which: inode, time of the last change in ns and length, by relative path."""

    def read(folder: Path) -> dict[str, tuple[int, int, int]]:
        found = {p.relative_to(folder).as_posix(): p.stat() for p in sorted(folder.rglob("*"))}
        return {name: (s.st_ino, s.st_mtime_ns, s.st_size) for name, s in found.items()}

    return read
