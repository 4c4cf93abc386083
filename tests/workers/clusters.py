"""Dask clusters of processes over TLS, for tests: a scheduler and workers that come and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def make_certificates(folder: Path) -> Path:
    """Make a folder for TLS_DIR with the script of deploy/."""
    subprocess.run([DEPLOY / "make-certificates.sh", folder], check=True, capture_output=True)
    return folder


def tls_environment(folder: Path | None) -> dict[str, str]:
    """Give the environment that deploy/environment.sh makes of TLS_DIR."""
    script = '. "$CT_ETL_DEPLOY/environment.sh"; env -0'
    given = {**os.environ, "CT_ETL_DEPLOY": str(DEPLOY), "TLS_DIR": str(folder or "")}
    done = subprocess.run(["sh", "-c", script], env=given, check=True, capture_output=True, text=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)


def client_settings(folder: Path) -> dict[str, str]:
    """Give what deploy/environment.sh makes of TLS_DIR, as Dask's configuration of this process."""
    names = {"ca-file": "ca.pem", "client.cert": "cluster.pem", "client.key": "cluster-key.pem"}
    return {f"distributed.comm.tls.{name}": str(folder / file) for name, file in names.items()}


class Cluster:
    """A scheduler process on this machine and worker processes with one thread each; a context manager.

    Parameters
    ----------
    folder : Path
        For logs and the scheduler file.
    tls : Path or None
        Certificates; None: plain TCP.
    path : sequence of str
        Where its processes look for modules; left out, as Python does.
    """

    def __init__(self, folder: Path, tls: Path | None, *, path: Sequence[str] = ()) -> None:
        self.folder, self.environment = folder, tls_environment(tls)
        if path:
            self.environment["PYTHONPATH"] = os.pathsep.join(path)
        self.protocol = "tls" if tls else "tcp"
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start("scheduler", "--port", "0", "--no-jupyter", "--dashboard-address", "127.0.0.1:0",
                   "--scheduler-file", str(self.file))  # fmt: skip
        wait_until(lambda: self.file.exists() and self.file.read_text().rstrip().endswith("}"), 60)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait(20)

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return str(json.loads(self.file.read_text())["address"])

    def worker(
        self, *options: str, environment: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a worker; `prefix` is a command that starts it."""
        given = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--death-timeout", "60")
        return self.start("worker", self.address, *given, *options, environment=environment, prefix=prefix)

    def start(
        self, what: str, *options: str, environment: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a process of Dask's."""
        command = [*prefix, sys.executable, "-m", "dask", what, "--host", "127.0.0.1", "--protocol", self.protocol]
        with (self.folder / f"{what}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
            )
        self.processes.append(process)
        return process


def wait_until(is_true: Callable[[], object], timeout_s: float) -> None:
    """Wait until something is so."""
    end = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
