"""How many cores this process may use, which may be fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SELF = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Give the least of affinity, CPU quota of the control groups, and what SLURM gave.

    A SLURM job may be bound by neither of the first two, and has been given so many cores all the same. Dask looks
    at the outermost control group alone, which is enough in a container, and not for systemd's CPUQuota.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bounds = [affinity, *map(math.ceil, _quotas())]
    if "SLURM_JOB_ID" in os.environ:
        given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or ""
        bounds += [int(given)] if given.isdecimal() else []
    return max(1, min(bounds))


def _quotas() -> Iterator[float]:
    """Yield the CPU quotas, in cores, of the control groups that this process is in, version 1 or 2."""
    try:
        lines = SELF.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers and (CGROUPS / controllers).is_dir() else CGROUPS
        root = CGROUPS / "cpu" if controllers and root == CGROUPS else root
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            if (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text("ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text("ascii").strip() for name in ("quota", "period")
            )
        cores = int(quota) / int(period)  # "max", or -1, is no limit
    except (OSError, ValueError):
        return None
    return cores if cores > 0 else None
