"""Another user of the machine can neither drive nor watch the local workers of a run."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import dask
import psutil
import pytest
from distributed import LocalCluster

from etl.workers.pool import open_pool

NOBODY = 65534
WORKERS = 2
NOTHING = '{"paths": ["/sitemap.json"]}'
# Asks every port as a client without a certificate, as one with a certificate of its own, and by HTTP.
ATTACK = """
import asyncio, http.client, json, os, sys
from distributed import Security
from distributed.core import connect

PATHS = ("/", "//", "/status", "/sitemap.json", "/info/main/workers.html", "/info/main/logs.html", "/health",
         "/metrics", "/json/identity.json", "/json/counts.json", "/favicon.ico", "/system",
         "/individual-plots.json", "/status/ws", "/api/v1/retire_workers", "/statics/css/base.css")

async def ask(port, protocol, arguments):
    comm = await connect(f"{protocol}://127.0.0.1:{port}", timeout=2, **arguments)
    try:
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()
    finally:
        comm.abort()

def fetch(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read(200).decode("utf-8", "replace")
    connection.close()
    return None if answer.status in (400, 404) else body

async def main():
    own = Security.temporary()
    found = []
    for port in map(int, sys.argv[1:]):
        for protocol, arguments in (("tcp", {}), ("tls", own.get_connection_args("client"))):
            try:
                found.append([port, protocol, str(await asyncio.wait_for(ask(port, protocol, arguments), 4))[:60]])
            except Exception:
                pass
        for path in PATHS:
            try:
                answer = fetch(port, path)
            except Exception:
                break
            if answer:
                found.append([port, path, answer])
    print(json.dumps({"uid": os.getuid(), "found": found}))

asyncio.run(main())
"""


def listening_ports() -> list[int]:
    """Every port that this process and its children listen on."""
    me = psutil.Process()
    return sorted(
        {
            connection.laddr.port
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
    )


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    """Try all ports as another user; give what came back."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user takes root and setpriv")
    other = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    # The other user may not be able to read this checkout; the interpreter is enough.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [*other, sys.executable, "-c", ATTACK]

    def run(ports):
        done = subprocess.run(
            [*command, *map(str, ports)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
            env={**environment, "HOME": "/nowhere"},
        )
        if done.returncode != 0 and "Permission denied" in done.stderr:
            pytest.skip("the other user cannot start this interpreter")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["uid"] == NOBODY
        return said["found"]

    return run


@pytest.mark.slow
def test_the_attack_succeeds_on_a_cluster_that_is_open(attack):
    options = {"n_workers": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    # Dask's own would stay in this process.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}), LocalCluster(**options) as cluster:
        found = attack(listening_ports())
        scheduler = urlsplit(cluster.scheduler_address).port
    assert {port for port, protocol, _ in found if protocol == "tcp"} >= {scheduler}
    assert any(path == "/sitemap.json" for _, path, _ in found)


@pytest.mark.slow
def test_another_user_gets_nothing_from_any_port_of_a_run(attack):
    with open_pool(WORKERS, None):
        ports = listening_ports()
        # Scheduler, its dashboard, and for each worker its own and its nanny's.
        assert len(ports) >= 2 + 2 * WORKERS
        # A worker answers one question over HTTP: that it answers no other.
        assert [found for found in attack(ports) if found[1:] != ["/sitemap.json", NOTHING]] == []


@pytest.mark.slow
def test_all_ports_are_of_this_machine_alone():
    with open_pool(1, None):
        me = psutil.Process()
        hosts = {
            connection.laddr.ip
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
    assert hosts == {"127.0.0.1"}


@pytest.mark.slow
def test_the_dashboard_works_at_the_address_that_is_printed():
    with open_pool(1, None) as pool:
        address = urlsplit(pool.dashboard)
        # 144 bits that nobody guesses.
        assert len(address.path.split("/")[1]) >= 24
        for path, status in ((address.path, 200), (address.path.replace("/status", "/statics/css/base.css"), 200),
                             ("/status", 404), ("/", 404)):  # fmt: skip
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == status, path
            connection.close()


@pytest.mark.slow
def test_two_runs_have_different_addresses():
    with open_pool(1, None) as first:
        one = urlsplit(first.dashboard).path
    with open_pool(1, None) as second:
        assert urlsplit(second.dashboard).path != one


@pytest.mark.slow
def test_no_key_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with open_pool(1, None):
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert kept == []
