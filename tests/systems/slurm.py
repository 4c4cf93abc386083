"""A SLURM cluster on this machine: Debian's munged, slurmctld and a slurmd a node, in a folder of their own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=10
MinJobAge=3600
"""


class Slurm:
    """Nodes of two cores each, at addresses of their own on lo; a context manager.

    Parameters
    ----------
    folder : Path
    checkout : Path
        Whose deploy/ is used.
    environment : dict
        Further variables of every job.
    """

    def __init__(self, folder: Path, checkout: Path, environment: dict[str, str]) -> None:
        self.folder, self.checkout = folder, checkout
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DASK_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "CT_ETL_HOME": str(checkout),
            "CT_ETL_SHARED": str(folder / "shared"),
            **environment,
        }

    def __enter__(self) -> Slurm:
        munge = self.folder / "munge"
        for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o600)
        munge.chmod(0o711)
        ports = _free_ports(1 + len(NODES))
        lines = [
            CONFIGURATION.format(host=socket.gethostname().partition(".")[0], folder=self.folder, port=ports[0])
        ]
        for number, (node, port) in enumerate(zip(NODES, ports[1:], strict=True)):
            lines.append(
                f"NodeName={node} NodeHostname={socket.gethostname().partition('.')[0]} "
                f"NodeAddr=127.0.0.{number + 2} Port={port} CPUs=2 RealMemory=4000"
            )
        lines.append(f"PartitionName=all Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP")
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "munged.pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self.call("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))
        self.call("slurmctld", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self.call("slurmd", "-N", node, "-f", str(self.folder / "slurm.conf"))
        end = time.monotonic() + 60
        while self.call("sinfo", "-h", "-t", "idle", "-o", "%D").strip() != str(len(NODES)):
            assert time.monotonic() < end, self.call("sinfo")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            ["scancel", "--user=root"], env=self.environment, check=False, capture_output=True, timeout=30
        )
        for file in [
            *self.folder.glob("slurmd-*.pid"),
            self.folder / "slurmctld.pid",
            self.folder / "munge/munged.pid",
        ]:
            if file.exists():
                _end(int(file.read_text()))

    def call(self, *command: str) -> str:
        """Run a command of the cluster's."""
        done = subprocess.run(
            command, env=self.environment, check=False, capture_output=True, text=True, timeout=60, cwd=self.folder
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def submit(self, *arguments: object, nodes: int = 1) -> int:
        """Submit a run; give the number of its job."""
        options = (f"--nodes={nodes}", "--cpus-per-task=2", "--mem-per-cpu=600", f"--output={self.folder}/%j.log")
        script = str(self.checkout / "deploy/slurm/ct-etl.sbatch")
        return int(self.call("sbatch", "--parsable", *options, script, *map(str, arguments)))

    def wait(self, job: int, timeout_s: float = 180) -> int:
        """Wait for the end of a job; give its exit status."""
        end = time.monotonic() + timeout_s
        while (state := self.field(job, "JobState")) in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}:
            assert time.monotonic() < end, (state, self.log(job))
            time.sleep(0.3)
        status, _, number = self.field(job, "ExitCode").partition(":")
        return int(status) or (128 + int(number) if int(number) else 0)

    def field(self, job: int, name: str) -> str:
        """Give what Slurm says of a job."""
        found = re.search(rf"\b{name}=(\S+)", self.call("scontrol", "show", "job", str(job)))
        assert found is not None
        return found[1]

    def log(self, job: int) -> str:
        """Give what a job has said."""
        file = self.folder / f"{job}.log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def processes(self, job: int) -> dict[int, str]:
        """Give the command lines of a job's processes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if (
                b"SLURM_JOB_ID=%d" % job in environment
                and b"SLURM_CONF=%b" % str(self.folder / "slurm.conf").encode() in environment
            ):
                found[int(folder.name)] = line
        return found


def missing_programs() -> list[str]:
    """Name what has to be installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _end(process: int) -> None:
    try:
        os.kill(process, 15)
        for _ in range(100):
            os.kill(process, 0)
            time.sleep(0.1)
        os.kill(process, 9)
    except ProcessLookupError:
        return
