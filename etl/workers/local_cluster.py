"""Dask workers of this machine that nobody but the user of the run can drive or watch.

On a machine with several users, whoever reaches the port of a scheduler or worker runs code as its owner. So all
that these processes say to each other goes through TLS, with a certificate that lives in their memory alone, and
the dashboard answers only under a path that cannot be guessed.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import dask
from distributed import Nanny, Scheduler, SpecCluster
from tornado.routing import PathMatches, Rule, RuleRouter

from etl.errors import ClusterError
from etl.workers.certificate import temporary_security
from etl.workers.cores import usable_cores

BLAS_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOCAL_SETTINGS = {
    "distributed.worker.preload": ["etl.workers.preload"],
    # A receipt may still lie in a worker that was killed; with 30 s a try and three more the run stood still for
    # 97 s. The kernel answers for a process that is alive but busy, so a short wait blames nobody wrongly.
    "distributed.comm.retry.count": 0,
    "distributed.comm.timeouts.connect": "2s",
    # Without Dask's MALLOC_TRIM_THRESHOLD_: setting it stops glibc from learning that arrays of a megabyte come
    # and go, and each slice then costs 250 page faults, 0.3 s of CPU a series.
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(BLAS_THREADS, 1),
    # Each process of Dask's looks 50 times a second whether it still answers, and twice how the machine is: 4 % of
    # a core for the driver. A worker looks 100 times a second where its task is.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.profile.enabled": False,
    # What a worker would serve over HTTP, nobody here asks for.
    "distributed.worker.http.routes": [],
}
# Dask listens on the machine's outer address unless told.
HOST = "127.0.0.1"


@contextmanager
def local_cluster(workers: int | Literal["auto"]) -> Iterator[SpecCluster]:
    """Start a scheduler in this process and worker processes with one thread each; end them afterwards.

    Parameters
    ----------
    workers : int or "auto"
        "auto" is one per core that this process may use.

    Raises
    ------
    ClusterError
        They do not start.
    """
    path = f"/{secrets.token_urlsafe(24)}"
    link = f"{{scheme}}://{{host}}:{{port}}{path}/status"
    with dask.config.set({**LOCAL_SETTINGS, "distributed.dashboard.link": link}):
        with _without_interrupts():
            count = usable_cores() if workers == "auto" else workers
            cluster = _start(count, path)
        with cluster:
            yield cluster


class _PrivateScheduler(Scheduler):
    """A scheduler whose dashboard answers under its prefix only; Dask's own redirects there, and lists it."""

    def __init__(self, *, http_prefix: str, **options: Any) -> None:
        super().__init__(http_prefix=http_prefix, **options)
        # Nothing was answered yet: that takes a turn of the event loop.
        inside = Rule(PathMatches(f"{http_prefix}/.+"), self.http_application)
        self.http_server.request_callback = RuleRouter([inside])


@contextmanager
def _without_interrupts() -> Iterator[None]:
    # Ctrl-C on a terminal reaches every process of the group; workers are ended by this one. They inherit
    # that they ignore it, so that none of them dies with a traceback while it starts.
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _start(workers: int, dashboard_path: str, attempts: int = 3) -> SpecCluster:
    # TLS costs each process 0.03 s of CPU.
    security = temporary_security()
    shared: dict[str, Any] = {"host": HOST, "protocol": "tls://", "security": security}
    scheduler = {
        "cls": _PrivateScheduler,
        "options": {**shared, "port": 0, "dashboard": True, "dashboard_address": f"{HOST}:0"}
        | {"http_prefix": dashboard_path},
    }
    # Large arrays are the work itself; spilling or pausing at a share of memory would only stall it.
    options = {**shared, "nthreads": 1, "memory_limit": 0, "dashboard": False, "silence_logs": logging.CRITICAL}
    worker = {"cls": Nanny, "options": options}
    try:
        return SpecCluster(
            scheduler=scheduler,
            workers=dict.fromkeys(range(workers), worker),
            worker=worker,
            security=security,
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        # A worker that dies while it starts takes the cluster with it.
        if attempts == 1:
            raise ClusterError(f"the worker processes do not start: {error}") from error
        return _start(workers, dashboard_path, attempts - 1)
