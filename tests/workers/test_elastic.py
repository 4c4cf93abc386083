"""Clusters whose workers come, go, or are not fit for the work: real schedulers and workers over TLS."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import dask
import pytest
from clusters import Cluster, client_settings, make_certificates, tls_environment, wait_until
from distributed import Security, SpecCluster, Worker
from distributed.scheduler import Scheduler

from etl.phantom.cohort import write_benchmark
from etl.workers.fitness import Needs, unfit, witnesses
from etl.workers.pool import open_pool

pytestmark = pytest.mark.slow
ONE_EACH = {"share": lambda _: 1.0, "memory_bytes": lambda _: 0}
SERIES = 30
# Scheduler and workers find the functions of this module as the tests do.
PATH = (str(Path(__file__).parent), *sys.path)
QUICK = ("--spacing-mm", "4")


def whose(item, seconds=0.2):
    """Work that says who did it."""
    from distributed import get_worker

    time.sleep(seconds)
    return get_worker().name


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture
def cluster(tls, tmp_path):
    """A scheduler over TLS without workers, which this process may talk to."""
    with Cluster(tmp_path / "dask", tls, path=PATH) as cluster, dask.config.set(client_settings(tls)):
        yield cluster


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "dicom"
    write_benchmark(folder, SERIES, 8, rows=32)
    return folder


@pytest.fixture(scope="module")
def undisturbed(series, ct_etl, tmp_path_factory, contents):
    store = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    done = ct_etl("run", series, store, "--workers", "0", "-q", *QUICK)
    assert done.status == 0, done.why
    return contents(store)


def start_run(cluster, series, store, *options):
    command = [sys.executable, "-m", "etl", "run", str(series), str(store), "--scheduler", cluster.address, *QUICK]
    command += options
    with (cluster.folder / "run.log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=cluster.environment)


def run_on(cluster, series, store, *options, timeout_s=120):
    """Give status and stderr of a run on a cluster."""
    process = start_run(cluster, series, store, *options)
    try:
        status = process.wait(timeout_s)
    finally:
        process.kill()
        process.wait(10)
    return status, (cluster.folder / "run.log").read_text()


def other_version(folder: Path) -> dict[str, str]:
    """An environment in which pylibjpeg-rle has another version."""
    info = folder / "pylibjpeg_rle-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pylibjpeg-rle\nVersion: 0.0.1\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *PATH])}


# --- workers that come -----------------------------------------------------------------------------------


def test_workers_that_join_in_mid_run_get_work(cluster):
    cluster.worker("--name", "first")
    with open_pool(0, cluster.address) as pool:
        results = pool.map(whose, range(60), **ONE_EACH)
        done = Counter([next(results)[1]])
        for number in range(3):
            cluster.worker("--name", f"later-{number}")
        done.update(name for _, name in results)
    assert sum(done.values()) == 60
    assert set(done) == {"first", "later-0", "later-1", "later-2"}
    assert min(done.values()) >= 3


def test_an_adaptive_cluster_grows_from_nothing_to_all_that_it_may():
    security = Security.temporary()
    options = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
    settings = {"distributed.scheduler.worker-saturation": 1.0}
    with (
        dask.config.set(settings),
        SpecCluster(
            scheduler={"cls": Scheduler, "options": {**options, "port": 0, "dashboard_address": "127.0.0.1:0"}},
            worker={"cls": Worker, "options": {**options, "nthreads": 1, "memory_limit": 0, "dashboard": False}},
            security=security,
        ) as cluster,
    ):
        cluster.adapt(minimum=0, maximum=4, interval="200ms", target_duration="1s")
        ours = {f"distributed.comm.tls.{name}": value for name, value in (
            ("ca-file", security.tls_ca_file), ("client.cert", security.tls_client_cert),
            ("client.key", security.tls_client_key))}  # fmt: skip
        with dask.config.set(ours), open_pool(0, cluster.scheduler_address, quiet=True) as pool:
            names = Counter(name for _, name in pool.map(whose, range(60), **ONE_EACH))
    assert len(names) == 4, names


def test_an_empty_cluster_is_waited_for_with_one_line(cluster, series, tmp_path, contents, undisturbed):
    store = tmp_path / "s.zarr"
    process = start_run(cluster, series, store)
    log = cluster.folder / "run.log"
    wait_until(lambda: "no workers yet" in log.read_text(), 30)
    time.sleep(2)
    assert len(log.read_text().splitlines()) == 1, log.read_text()
    cluster.worker()
    assert process.wait(120) == 0, log.read_text()
    assert contents(store) == undisturbed


def test_a_scheduler_file_stands_for_its_address(cluster, series, tmp_path, ct_etl, contents, undisturbed):
    cluster.worker()
    store = tmp_path / "s.zarr"
    command = [
        sys.executable,
        "-m",
        "etl",
        "run",
        str(series),
        str(store),
        "--scheduler",
        str(cluster.file),
        "-q",
        *QUICK,
    ]
    done = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(store) == undisturbed


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), ("{}", "no address"), ("[", "no address")]
)
def test_a_scheduler_file_that_is_none_is_one_line(series, tmp_path, ct_etl, content, says):
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    done = ct_etl("run", series, tmp_path / "s.zarr", "--scheduler", file)
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert says in line
    assert str(file) in line


# --- workers that are not fit ----------------------------------------------------------------------------


def test_a_worker_with_another_version_is_named_and_not_used(cluster, series, tmp_path, contents, undisturbed):
    cluster.worker("--name", "same")
    cluster.worker("--name", "other", environment=other_version(tmp_path / "site"))
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    status, said = run_on(cluster, series, tmp_path / "s.zarr")
    assert status == 0, said
    [line] = [line for line in said.splitlines() if "is not used" in line]
    assert re.search(r"worker tls://127\.0\.0\.1:\d+ .*pylibjpeg-rle 0\.0\.1 there", line), said
    assert contents(tmp_path / "s.zarr") == undisturbed


def test_a_worker_with_another_version_that_joins_in_mid_run_does_nothing(cluster, tmp_path, capfd):
    cluster.worker("--name", "same")
    with open_pool(0, cluster.address) as pool:
        results = pool.map(whose, range(60), **ONE_EACH)
        names = {next(results)[1]}
        cluster.worker("--name", "other", environment=other_version(tmp_path / "site"))
        names |= {name for _, name in results}
    assert names == {"same"}
    assert capfd.readouterr().err.count("is not used") == 1


def test_the_first_task_of_a_worker_looks_once_more(cluster, tmp_path, monkeypatch, capfd):
    """Between two looks of the submitter a worker may be given work before it is asked."""
    monkeypatch.setattr("etl.workers.fleet.LOOK_EVERY_S", 1e9)
    cluster.worker("--name", "same")
    with open_pool(0, cluster.address) as pool:
        results = pool.map(whose, range(60), **ONE_EACH)
        done = Counter([next(results)[1]])
        cluster.worker("--name", "other", environment=other_version(tmp_path / "site"))
        done.update(name for _, name in results)
    assert done == {"same": 60}
    assert capfd.readouterr().err.count("is not used") == 1


def blind(folder: Path) -> tuple[str, ...]:
    """A command whose process has an empty folder where others have one with files."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("hiding a folder from a process takes root and unshare")
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh")


def test_a_blind_worker_is_named_and_the_run_goes_on_with_the_others(
    cluster, series, tmp_path, contents, undisturbed
):
    cluster.worker("--name", "seeing")
    cluster.worker("--name", "blind", prefix=blind(series))
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    status, said = run_on(cluster, series, tmp_path / "s.zarr")
    assert status == 0, said
    [line] = [line for line in said.splitlines() if "is not used" in line]
    assert "does not see the input" in line
    assert contents(tmp_path / "s.zarr") == undisturbed


def test_exit_2_where_no_worker_is_left_and_nothing_is_written(cluster, series, tmp_path):
    cluster.worker(prefix=blind(series))
    cluster.worker(environment=other_version(tmp_path / "site"))
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    status, said = run_on(cluster, series, tmp_path / "s.zarr", "--wait-workers", "3")
    assert status == 2, said
    assert said.count("is not used") == 2
    assert "none of the 2 workers" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "s.zarr").exists()


def test_a_worker_that_cannot_write_the_store_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    seen = witnesses([str(tmp_path / "in")])
    assert unfit(Needs(seen, str(tmp_path / "s.zarr"))) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]
    why = unfit(Needs(seen, str(tmp_path / "gone" / "s.zarr")))
    assert why is not None
    assert "cannot write the store" in why


# --- what workers have the memory for --------------------------------------------------------------------


def resources(_):
    from distributed import get_worker

    return dict(get_worker().state.total_resources)


def test_workers_declare_their_memory_by_themselves(cluster):
    cluster.worker("--name", "by itself", "--memory-limit", "300MB")
    with open_pool(0, cluster.address) as pool:
        [(_, found)] = pool.map(resources, [None], **ONE_EACH)
        assert found == {"MEMORY": 300e6}
        assert pool.largest_worker_bytes == 300_000_000


def test_what_a_worker_was_given_by_hand_stays(cluster):
    cluster.worker("--memory-limit", "300MB", "--resources", "MEMORY=100e6")
    with open_pool(0, cluster.address) as pool:
        assert pool.largest_worker_bytes == 100_000_000


def test_what_needs_much_goes_to_the_workers_that_have_it(cluster):
    cluster.worker("--name", "small", "--memory-limit", "300MB")
    cluster.worker("--name", "large", "--memory-limit", "900MB")
    wait_until(lambda: (cluster.folder / "worker.log").read_text().count("Registered to") >= 2, 60)
    with open_pool(0, cluster.address) as pool:
        found = list(pool.map(whose, range(40), share=lambda _: 1.0, memory_bytes=lambda n: (n % 2) * 500_000_000))
    assert {name for item, name in found if item % 2} == {"large"}
    assert {name for item, name in found if not item % 2} >= {"small"}


def span(_):
    start = time.time()
    time.sleep(0.3)
    return start, time.time()


@pytest.mark.parametrize(("need", "together"), [(100_000_000, True), (200_000_000, False)])
def test_a_worker_of_two_threads_does_together_what_fits_into_its_memory(cluster, need, together):
    cluster.worker("--nthreads", "2", "--memory-limit", "300MB")
    with open_pool(0, cluster.address) as pool:
        spans = sorted(
            found for _, found in pool.map(span, range(6), share=lambda _: 1.0, memory_bytes=lambda _: need)
        )
    overlaps = [start < end for (_, end), (start, _) in itertools.pairwise(spans)]
    assert any(overlaps) == together


# --- workers that go -------------------------------------------------------------------------------------


def test_no_workers_left_is_said_at_once_and_a_new_one_finishes(cluster, series, tmp_path, contents, undisturbed):
    first, store = cluster.worker(), tmp_path / "s.zarr"
    process, log = start_run(cluster, series, store), cluster.folder / "run.log"
    wait_until(lambda: any(store.glob("*/*/zarr.json")), 60)
    first.terminate()
    wait_until(lambda: "no workers left" in log.read_text(), 15)
    cluster.worker()
    assert process.wait(120) == 0, log.read_text()
    assert "workers are back" in log.read_text()
    assert contents(store) == undisturbed


def test_nobody_for_too_long_ends_the_run_and_the_next_goes_on(
    cluster, series, tmp_path, ct_etl, contents, undisturbed
):
    first, store = cluster.worker(), tmp_path / "s.zarr"
    process, log = start_run(cluster, series, store, "--wait-workers", "4"), cluster.folder / "run.log"
    wait_until(lambda: any(store.glob("*/*/zarr.json")), 60)
    first.terminate()
    assert process.wait(60) == 1, log.read_text()
    assert "--wait-workers" in log.read_text()
    assert "Traceback" not in log.read_text()
    done = ct_etl("run", series, store, "--workers", "0", "-q", *QUICK)
    assert done.status == 0, done.why
    assert contents(store) == undisturbed


def test_no_workers_left_is_said_again_every_minute(cluster, monkeypatch, capfd):
    monkeypatch.setattr("etl.workers.fleet.SAY_EVERY_S", 2.0)
    first = cluster.worker()
    with open_pool(0, cluster.address) as pool:
        results = pool.map(whose, range(30), **ONE_EACH)
        next(results)
        first.kill()
        # The one that takes its place comes late.
        with ThreadPoolExecutor(1) as later:
            later.submit(lambda: (time.sleep(7), cluster.worker()))
            assert len(list(results)) == 29
    assert 2 <= capfd.readouterr().err.count("no workers left") <= 6


def test_ctrl_c_says_in_one_line_what_was_not_reached(cluster, series, tmp_path):
    store = tmp_path / "s.zarr"
    cluster.worker()
    process, log = start_run(cluster, series, store), cluster.folder / "run.log"
    wait_until(lambda: any(store.glob("*/*/zarr.json")), 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    [line] = [line for line in log.read_text().splitlines() if "not reached" in line]
    left = int(re.search(r"(\d+) series were not reached", line)[1])
    assert left == json.loads(next(tmp_path.glob("s.zarr.runs/*/run.json")).read_text())["pending"]
    assert left > 0
    assert "Traceback" not in log.read_text()


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("no TLS_DIR", "set TLS_DIR"),
        ("another authority", "not of the same authority"),
        ("tcp to tls", "wants tls://"),
        ("tls to tcp", "does not answer"),
    ],
)
def test_a_mistake_with_tls_is_one_line_and_exit_2(tls, series, tmp_path, mistake, says):
    with Cluster(tmp_path / "dask", None if mistake == "tls to tcp" else tls) as cluster:
        address, folder = cluster.address, tls
        if mistake == "no TLS_DIR":
            folder = None
        elif mistake == "another authority":
            folder = make_certificates(tmp_path / "others")
        elif mistake == "tcp to tls":
            address, folder = address.replace("tls://", "tcp://"), None
        else:
            address = address.replace("tcp://", "tls://")
        command = [
            sys.executable,
            "-m",
            "etl",
            "run",
            str(series),
            str(tmp_path / "s.zarr"),
            "--scheduler",
            address,
        ]
        start = time.monotonic()
        done = subprocess.run(command, env=tls_environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert says in line
    assert address in line
    assert time.monotonic() - start < 40
    assert not (tmp_path / "s.zarr").exists()


def test_the_printed_address_of_the_dashboard_answers(cluster):
    cluster.worker()
    with open_pool(0, cluster.address) as pool:
        address = urlsplit(pool.dashboard)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", address.path)
        assert connection.getresponse().status == 200
        connection.close()


def test_where_the_dashboard_is_shut_the_way_to_it_is_printed(tls, tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))  # it does not listen, so nobody answers
        with (
            Cluster(tmp_path / "dask", tls) as cluster,
            dask.config.set(client_settings(tls)),
            dask.config.set({"distributed.dashboard.link": f"http://127.0.0.1:{busy.getsockname()[1]}/status"}),
        ):
            cluster.worker()
            with open_pool(0, cluster.address) as pool:
                assert "ssh -N -L" in pool.dashboard
