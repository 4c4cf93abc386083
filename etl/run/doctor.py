"""Look at the machine as a run will find it: libraries, decoders that decode, memory, cores, disk."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from etl.dicom.decoder_check import broken_decoders
from etl.errors import UsageError
from etl.software import SOFTWARE
from etl.transfer_syntaxes import TRANSFER_SYNTAXES

DISK_BYTES = 64 << 20
MIN_FREE_BYTES = 1 << 30
MIN_MEMORY_BYTES = 2 << 30
MIN_OPEN_FILES = 256
SMALL_FILES = 50


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    is_good: bool = True


def examine(folder: str) -> list[Finding]:
    """Look at everything.

    Parameters
    ----------
    folder : str
        Where a store would be written.

    Raises
    ------
    UsageError
        It is no folder that can be written to.
    """
    return [*_software(), *_decoders(), *_machine(), *_disk(folder)]


def _software() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in (*SOFTWARE, "dask", "distributed"):
        try:
            yield Finding(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed", is_good=False)


def _decoders() -> Iterator[Finding]:
    broken = broken_decoders()
    names: dict[str, list[str]] = {}
    for syntax in TRANSFER_SYNTAXES.values():
        names.setdefault(syntax.decoder, []).append(syntax.name)
    for decoder, syntaxes in names.items():
        why = broken.get(decoder)  # type: ignore[call-overload]
        found = f"decodes {', '.join(syntaxes)}" if why is None else f"{why} (for {', '.join(syntaxes)})"
        yield Finding(f"decoder {decoder}", found, is_good=why is None)


def _machine() -> Iterator[Finding]:
    # They take a third of a second to load, and know about control groups.
    from dask.system import CPU_COUNT  # noqa: PLC0415
    from distributed.system import MEMORY_LIMIT  # noqa: PLC0415

    workers = max(1, int(CPU_COUNT))
    yield Finding("cores", f"{workers} to use of {os.cpu_count()}; --workers auto starts {workers}")
    yield Finding(
        "memory",
        f"{MEMORY_LIMIT / 1e9:.1f} GB, {MEMORY_LIMIT / workers / 1e9:.1f} a worker",
        is_good=MEMORY_LIMIT >= MIN_MEMORY_BYTES,
    )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", f"{files} allowed", is_good=files >= MIN_OPEN_FILES)


def _disk(folder: str) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryDirectory(prefix=".ct-etl-doctor-", dir=folder) as inside:
            large, small_s = _time_large(Path(inside)), _time_small(Path(inside))
    except OSError as error:
        raise UsageError(f"{folder!r} cannot be written to: {error.strerror}") from error
    free = shutil.disk_usage(folder).free
    yield Finding("room", f"{free / 1e9:.1f} GB free in {folder}", is_good=free >= MIN_FREE_BYTES)
    yield Finding(
        "disk", f"writes {large / 1e6:.0f} MB/s; a small file is safe on it after {small_s * 1e3:.1f} ms"
    )


def _time_large(folder: Path) -> float:
    """Write a large file through to the disk; bytes a second."""
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    with (folder / "large").open("wb") as stream:
        for _ in range(DISK_BYTES // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return DISK_BYTES / (time.perf_counter() - start)


def _time_small(folder: Path) -> float:
    """Write small files through to the disk, as a store's metadata are; seconds for one."""
    start = time.perf_counter()
    for n in range(SMALL_FILES):
        with (folder / str(n)).open("wb") as stream:
            stream.write(b"x")
            stream.flush()
            os.fsync(stream.fileno())
    return (time.perf_counter() - start) / SMALL_FILES
