"""Measure this project side by side with the article's recipe, as whole processes.

Figures are CPU seconds (user + system, children included), page cache warm. The two commands take turns, so a
machine that drifts slows both; what is reported is the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from etl.phantom_cohort import write_benchmark

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; give CPU seconds, children included, and wall seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def folder_bytes(folder: Path) -> int:
    """Sum the sizes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Build the input, take turns, print the table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=4)
    parser.add_argument("--slices", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("bench/results.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = compare(Path(scratch), options.series, options.slices, options.rounds)
    options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{options.series} series of {options.slices} slices 512x512, median of {options.rounds} rounds")
    print(f"{'what':<24}{'CPU s a series':>16}{'article / this':>16}{'MB on disk':>12}")
    for row in results["rows"]:
        print(f"{row['what']:<24}{row['cpu_s']:>16.3f}{row['article_ratio']:>16.1f}{row['megabytes']:>12.1f}")


def compare(scratch: Path, series: int, slices: int, rounds: int) -> dict[str, object]:
    """Take turns between the article's recipe and this project's presets."""
    source = scratch / "dicom"
    write_benchmark(source, series, slices, 0)
    target = scratch / "out.zarr"

    def run_etl(preset: str) -> list[str]:
        options = ["--preset", preset, "--workers", "0", "--quiet"]
        return [sys.executable, "-m", "etl", "run", str(source), str(target), *options]

    commands: dict[str, Callable[[], list[str]]] = {
        "article's recipe": lambda: [sys.executable, str(HERE / "article.py"), str(source), str(target)],
        "ct-etl, article": lambda: run_etl("article"),
        "ct-etl, head-ct": lambda: run_etl("head-ct"),
    }
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    size: dict[str, int] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(target, ignore_errors=True)
            cpu[name].append(measure(command())[0] / series)
            size[name] = folder_bytes(target)
    reference = cpu["article's recipe"]
    rows = [
        {
            "what": name,
            "cpu_s": statistics.median(seconds),
            "article_ratio": statistics.median(a / b for a, b in zip(reference, seconds, strict=True)),
            "megabytes": size[name] / series / 1e6,
        }
        for name, seconds in cpu.items()
    ]
    versions = {name: metadata.version(name) for name in ("ct-etl", "numpy", "scipy", "zarr", "pydicom", "dask")}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    return {"rows": rows, "versions": versions, "python": platform.python_version(), "machine": machine}


if __name__ == "__main__":
    main()
