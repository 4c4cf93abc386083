"""A run into a bucket that is killed, or whose server is, loses nothing; a server that is away costs time only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bucket_strikes import LASTING, VICTIMS, why_not_strike
from kills import contents as local_contents
from proxy import Proxy
from seaweed import contents, environment_of, upload
from tiny_ct import write_series

pytestmark = pytest.mark.systems
SCRIPT = Path(__file__).with_name("bucket_kills.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(why_not_strike()), reason=why_not_strike())
@pytest.mark.parametrize("victim", [*VICTIMS, *LASTING])
def test_whatever_befalls_a_run_into_a_bucket_nothing_is_lost(seaweed, victim):
    """In a process of its own: it kills its server, and a connection keeps the address that it was made with."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "1", "--victim", victim, "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(environment, *arguments, log):
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "etl", *(str(one) for one in arguments)]
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_answers_503_for_a_minute_costs_time_only(seaweed, bucket, tmp_path):
    write_series(tmp_path / "dicom/p", ks=range(8))
    upload(tmp_path / "dicom", f"{bucket}/in")
    options = ("--native", "--min-slices", "4", "--workers", "0", "-q")
    with Proxy(seaweed.ports[3]) as proxy:
        environment = {**environment_of(seaweed, tmp_path / "state"), "AWS_ENDPOINT_URL": proxy.endpoint}
        proxy.fall_ill()
        process = run(environment, "run", f"{bucket}/in", f"{bucket}/s.zarr", *options, log=tmp_path / "log")
        try:
            time.sleep(65)
            assert process.poll() is None, (tmp_path / "log").read_text()
            proxy.recover()
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
        assert proxy.refused > 5
    local = run(os.environ, "run", tmp_path / "dicom", tmp_path / "u.zarr", *options, log=tmp_path / "log")
    assert local.wait(60) == 0
    assert contents(f"{bucket}/s.zarr") == local_contents(tmp_path / "u.zarr")


def test_a_server_that_stays_away_is_one_line_and_exit_2(seaweed, bucket, tmp_path, monkeypatch, in_process):
    monkeypatch.setattr("etl.buckets.bucket.OUTLAST_S", 1.0)
    write_series(tmp_path / "dicom/p", ks=range(8))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # A bucket of another name has a connection of its own.
    done = in_process("run", tmp_path / "dicom", "s3://away/x.zarr", "--workers", "0", "-q")
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert "s3://away/x.zarr" in line


def test_a_bucket_that_takes_nothing_more_ends_the_run_and_room_lets_the_next_complete(
    seaweed, bucket, tmp_path, monkeypatch, in_process
):
    """As a server without room answers: every put fails, everything else works."""
    from etl.buckets.bucket import Bucket

    write_series(tmp_path / "dicom/p", ks=range(8))
    options = ("--native", "--min-slices", "4", "--workers", "0", "-q", "--json")

    def full(self, name, content):
        if "/c/" in name:
            raise OSError(f"{self.url}: no room")
        return put(self, name, content)

    put = Bucket.put
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", full)
        done = in_process("run", tmp_path / "dicom", f"{bucket}/s.zarr", *options)
        assert done.status == 1, done.why
        assert "takes nothing more" in done.stderr
    assert not [name for name in contents(f"{bucket}/s.zarr") if "volume" in name]
    assert in_process("run", tmp_path / "dicom", f"{bucket}/s.zarr", *options).status == 0
