"""How many workers `auto` is, where less than the machine may be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etl.workers.cores import usable_cores

ASK = "from etl.workers.cores import usable_cores; print(usable_cores())"
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "cores"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "1"}, 1),
        # Not more than there are, nor where the variable is left over from somewhere else.
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1000"}, len(os.sched_getaffinity(0))),
        ({"SLURM_CPUS_PER_TASK": "1"}, len(os.sched_getaffinity(0))),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "many"}, len(os.sched_getaffinity(0))),
    ],
)
def test_auto_is_what_slurm_gave(monkeypatch, given, cores):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert usable_cores() <= cores
    assert usable_cores() == min(cores, usable_cores_of_this_machine(monkeypatch, given))


def usable_cores_of_this_machine(monkeypatch, given):
    with monkeypatch.context() as context:
        for name in given:
            context.delenv(name)
        return usable_cores()


def test_auto_is_no_more_than_the_process_may_run_on():
    if shutil.which("taskset") is None:
        pytest.skip("binding a process to a core takes taskset")
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core, sys.executable, "-c", ASK]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "1"


def test_auto_is_no_more_than_the_control_group_gives():
    """Of version 1 or 2, whichever this machine has."""
    controller = CGROUPS if (CGROUPS / "cgroup.controllers").exists() else CGROUPS / "cpu"
    group = controller / f"ct-etl-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        try:
            if controller == CGROUPS:
                (group / "cpu.max").write_text("100000 100000")
            else:
                (group / "cpu.cfs_period_us").write_text("100000")
                (group / "cpu.cfs_quota_us").write_text("100000")
        except OSError as error:
            pytest.skip(f"this control group takes no limit: {error.strerror}")
        command = ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh", sys.executable, "-c", ASK]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no process can be put into a control group here: {done.stderr.strip()}")
        assert done.stdout.strip() == "1"
    finally:
        group.rmdir()
