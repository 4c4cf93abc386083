"""Workers that stand still while their connections live on, as where a host hangs: SIGSTOP, over TLS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dask
import pytest
from clusters import Cluster, client_settings, make_certificates, wait_until
from distributed import get_worker

from etl.phantom.cohort import write_benchmark
from etl.workers.pool import open_pool

pytestmark = pytest.mark.slow
ONE_EACH = {"share": lambda _: 1.0, "memory_bytes": lambda _: 0}
# Scheduler and workers find the functions of this module as the tests do.
PATH = (str(Path(__file__).parent), *sys.path)
ANSWER_S = 6.0
# The scheduler gives up a worker that it has not heard of for so long; 5 minutes in deploy/dask.yaml.
TTL_S = 6


def whose(_, seconds=0.2):
    """Work that says who did it."""
    time.sleep(seconds)
    return get_worker().name


def whose_unless_frozen(item, folder):
    """Work at the first piece of which the worker named "freezes" stands still."""
    name = get_worker().name
    if name == "freezes":
        (folder / "froze").write_text(str(item))
        os.kill(os.getpid(), signal.SIGSTOP)
    return whose(item, 0.05)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture
def cluster(tls, tmp_path, monkeypatch):
    """A scheduler over TLS that soon gives up a worker that is silent; this process may talk to it."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", f"{TTL_S}s")
    with Cluster(tmp_path / "dask", tls, path=PATH) as cluster, dask.config.set(client_settings(tls)):
        yield cluster


@pytest.fixture
def patient_cluster(tls, tmp_path):
    """One that waits for five minutes, so that what happens earlier is the run's own doing."""
    with Cluster(tmp_path / "dask", tls, path=PATH) as cluster, dask.config.set(client_settings(tls)):
        yield cluster


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("etl.workers.questions.ANSWER_TIMEOUT_S", ANSWER_S)


def freeze_when_registered(cluster: Cluster, *options: str) -> subprocess.Popen[bytes]:
    """Start a worker and stop it as soon as the scheduler knows it."""
    log = cluster.folder / "scheduler.log"
    known = log.read_text().count("Register worker")
    worker = cluster.worker(*options)
    wait_until(lambda: log.read_text().count("Register worker") > known, 60)
    worker.send_signal(signal.SIGSTOP)
    return worker


def refusals(said: str) -> list[str]:
    return [line for line in said.splitlines() if "is not used" in line]


def test_a_worker_that_is_frozen_from_the_start_is_named_and_the_others_begin_at_once(
    patient_cluster, monkeypatch, capfd
):
    freeze_when_registered(patient_cluster, "--name", "frozen")
    patient_cluster.worker("--name", "well")
    wait_until(lambda: (patient_cluster.folder / "scheduler.log").read_text().count("Register worker") > 1, 60)
    monkeypatch.setattr("etl.workers.questions.ANSWER_TIMEOUT_S", 12.0)
    with open_pool(0, patient_cluster.address) as pool:
        results = pool.map(whose, range(80), **ONE_EACH)
        names = Counter([next(results)[1]])
        said = capfd.readouterr().err
        assert not refusals(said)  # it is not found out yet
        names.update(name for _, name in results)
    assert names == {"well": 80}
    [line] = refusals(capfd.readouterr().err)
    assert re.search(r"worker tls://127\.0\.0\.1:\d+ is not used: it did not answer within", line), line


def test_what_a_worker_got_that_froze_as_it_joined_is_done_by_others(patient_cluster, quick, capfd):
    patient_cluster.worker("--name", "well")
    with open_pool(0, patient_cluster.address) as pool:
        results = pool.map(whose, range(60), **ONE_EACH)
        names = Counter([next(results)[1]])
        # The scheduler gives it something to do before anybody can ask it.
        freeze_when_registered(patient_cluster, "--name", "frozen")
        start = time.monotonic()
        names.update(name for _, name in results)
    assert names.total() == 60
    # What it had finished before it was stopped, it had finished.
    assert names["well"] >= 55, names
    assert time.monotonic() - start < 40
    assert len(refusals(capfd.readouterr().err)) == 1


def test_a_worker_that_answers_later_is_used(patient_cluster, quick, capfd):
    frozen = freeze_when_registered(patient_cluster, "--name", "frozen")
    patient_cluster.worker("--name", "well")
    said = ""
    with open_pool(0, patient_cluster.address) as pool:
        names = Counter[str]()
        for _, name in pool.map(whose, range(80), **ONE_EACH):
            names[name] += 1
            said += capfd.readouterr().err
            if "is not used" in said:
                frozen.send_signal(signal.SIGCONT)
    assert names.total() == 80
    assert names["frozen"] > 5, names


def test_where_all_are_frozen_the_run_ends_with_2_and_a_line(patient_cluster, tmp_path):
    freeze_when_registered(patient_cluster)
    write_benchmark(tmp_path / "in", 2, 8, rows=32)
    command = [sys.executable, "-m", "etl", "run", "in", "s.zarr", "--scheduler", patient_cluster.address]
    done = subprocess.run(
        [*command, "--wait-workers", "25"],
        env=patient_cluster.environment, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(refusals(done.stderr)) == 1, done.stderr
    assert "no worker that answers" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_what_lies_with_a_worker_that_freezes_at_work_is_done_by_others(cluster, tmp_path):
    cluster.worker("--name", "well")
    cluster.worker("--name", "freezes")
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    start = time.monotonic()
    with open_pool(0, cluster.address) as pool:
        found = dict(pool.map(whose_unless_frozen, range(40), tmp_path, **ONE_EACH))
    assert found == dict.fromkeys(range(40), "well")
    assert (tmp_path / "froze").exists()
    assert time.monotonic() - start < 10 * TTL_S


def test_a_result_that_lies_with_a_worker_that_froze_holds_up_no_other(cluster, monkeypatch):
    monkeypatch.setattr("etl.workers.calls.RESULT_TIMEOUT_S", 0.3)
    cluster.worker("--name", "well")
    second = cluster.worker("--name", "freezes")
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    with open_pool(0, cluster.address) as pool:
        results = pool.map(whose, range(40), **ONE_EACH)
        names = Counter([next(results)[1]])
        time.sleep(1)  # both have finished some by now, which nobody has fetched
        second.send_signal(signal.SIGSTOP)
        start, came = time.monotonic(), []
        for _, name in results:
            names[name] += 1
            came.append(time.monotonic() - start)
    assert names.total() == 40
    # What the other does, and has done, comes before the frozen one is given up.
    assert sum(at < TTL_S - 1 for at in came) >= 12, came
    assert came[-1] < 10 * TTL_S


def freeze_at(item, deadly):
    """Work that stands still at one piece."""
    if item == deadly:
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def test_a_series_that_freezes_its_worker_fails_by_name(tls, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", f"{TTL_S}s")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with Cluster(tmp_path / "dask", tls, path=PATH) as cluster, dask.config.set(client_settings(tls)):
        # Nannies start those anew that the scheduler gave up.
        cluster.worker("--nanny")
        with open_pool(0, cluster.address) as pool:
            found = dict(pool.map(freeze_at, range(12), 5, **ONE_EACH))
    assert found == {item: None if item == 5 else item for item in range(12)}
