"""Measure whole processes: CPU seconds and peak memory of a command and its children, from the kernel's own count.

Only the standard library is imported here and in what imports this: the kernel counts the memory of whoever
starts a process as that process's too, until it is its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
# One thread each: CPU seconds are compared, and threads that wait for each other burn them.
ONE_THREAD = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
)
SHOWN_OUTPUT = 2000

Command = Sequence[str]


class CommandError(RuntimeError):
    """A measured command ended with another exit status than 0."""


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    cpu_s: float
    """User and system time, ended children included."""
    wall_s: float
    peak_mb: float
    """Resident memory of its largest process, 10^6 bytes."""


def environment() -> dict[str, str]:
    """Give the environment of every measured command."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": path}


def measure(command: Command) -> Usage:
    """Run a command to its end.

    Raises
    ------
    CommandError
        It failed; the end of what it wrote is in the message.
    """
    warm(Path(part) for part in command)
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise CommandError(f"{' '.join(command)}: exit status {process.returncode}\n{_end_of(output)}")
    return Usage(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024 / 1e6)


def warm(paths: Iterable[Path]) -> None:
    """Read what lies in folders, so that what was put out of the page cache meanwhile is there again."""
    buffer = bytearray(1 << 20)
    for path in (file for folder in paths if folder.is_dir() for file in folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def take_turns(
    commands: Mapping[str, Command], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[Usage]]:
    """Measure commands one after the other, round by round, so that a machine that drifts slows all alike.

    Parameters
    ----------
    commands : mapping from name to command
    rounds : int
    before : callable
        Called before each command, unmeasured.
    """
    taken: dict[str, list[Usage]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            before()
            taken[name].append(measure(command))
    return taken


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Give the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def _end_of(output: BinaryIO) -> str:
    output.seek(0)
    return output.read()[-SHOWN_OUTPUT:].decode(errors="replace")
