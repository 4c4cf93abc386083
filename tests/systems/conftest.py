"""Whole systems: batch systems, orchestrators, SeaweedFS as S3. `make test-systems` installs what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from seaweed import Seaweed, why_not


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket("data")
        server.make_bucket("public")
        yield server


@pytest.fixture
def bucket(seaweed, monkeypatch, tmp_path, request):
    """A place in a bucket that no other test has, and the environment that leads there."""
    for name, value in seaweed.environment(tmp_path / "state").items():
        monkeypatch.setenv(name, value)
    return f"s3://data/{request.node.name[:40].replace('[', '-').strip(']')}-{tmp_path.name}"


@pytest.fixture
def polled(store, tmp_path):
    """Have another process read the store all the time; called, it says how often it met a whole volume."""
    over = tmp_path / "over"
    reader = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("polling.py"), store, over],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def ended():
        over.touch()
        said, complained = reader.communicate(timeout=120)
        assert reader.returncode == 0, complained[-2000:]
        return int(said.split()[0])

    yield ended
    reader.kill()
    reader.communicate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them elsewhere, with the reason."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.systems)
            if os.environ.get("CT_ETL_SYSTEMS") != "yes":
                item.add_marker(pytest.mark.skip(reason="installs and starts whole systems: make test-systems"))
