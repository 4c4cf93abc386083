"""The image of deploy/kubernetes/Dockerfile, built without a daemon on a Debian made here, and run as its user."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
# What pip needs to reach its index where there is a proxy or a mirror.
FROM_HERE = ("/etc/ssl/certs", "/etc/pip.conf")
# In the image, as its user: a local run, and one on scheduler and workers by the scripts that the manifests call.
WORK = """
set -e
test "$(id -u)" = 10001
! touch /opt/ct-etl/x 2>/dev/null
cd /tmp
ct-etl phantom in >/dev/null
ct-etl run in local.zarr --spacing-mm 6 -q --workers 0 >/dev/null
export HOST=127.0.0.1 PORT=0 DASHBOARD_PORT=0 WORKERS=1 MEMORY=1GiB TERMINATION_LOG=/tmp/termination-log
/opt/ct-etl/deploy/start-scheduler.sh --no-jupyter --scheduler-file /tmp/scheduler.json >scheduler.log 2>&1 &
scheduler=$!
trap 'kill $scheduler' EXIT
for second in $(seq 60); do [ -s scheduler.json ] && break; sleep 1; done
address=$(sed -n 's/.*"address": "\\([^"]*\\)".*/\\1/p' scheduler.json | head -n 1)
/opt/ct-etl/deploy/start-workers.sh "$address" >workers.log 2>&1 &
/opt/ct-etl/deploy/kubernetes/run.sh --scheduler scheduler.json in cluster.zarr --spacing-mm 6 -q >/dev/null
diff -r local.zarr cluster.zarr
echo all is well
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """Call buildah with a store of its own."""
    if os.getuid() != 0:
        pytest.skip("debootstrap takes root")
    if missing := [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("buildah")
    places = ("--root", str(folder / "storage"), "--runroot", str(folder / "run"))

    def call(*arguments: str) -> str:
        command = ["buildah", *places, *arguments]
        done = subprocess.run(command, env={**os.environ, "STORAGE_DRIVER": "vfs"}, capture_output=True, text=True,
                              timeout=500, check=False, cwd=CHECKOUT)  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()

    yield call
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(1200)
def test_the_image_is_built_and_does_its_work_as_nobody(buildah, tmp_path):
    root = tmp_path / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root, MIRROR], check=True, capture_output=True
    )
    shutil.rmtree(root / "dev")
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "root.tar", "."], check=True)
    base = buildah("from", "scratch")
    buildah("add", "--quiet", base, str(tmp_path / "root.tar"), "/")
    buildah("commit", "--quiet", base, "localhost/debian-with-python")
    mounts = [part for place in FROM_HERE if os.path.exists(place) for part in ("-v", f"{place}:{place}:ro")]
    options = ("--isolation", "chroot", "--network", "host", "--pull-never", *mounts)
    named = ("--build-arg", "BASE=localhost/debian-with-python", "-t", "localhost/ct-etl")
    buildah("bud", *options, *named, "-f", "deploy/kubernetes/Dockerfile", ".")
    container = buildah("from", "--pull-never", "localhost/ct-etl")
    entry = "/opt/ct-etl/deploy/kubernetes/entrypoint.sh"
    said = buildah("run", "--isolation", "chroot", container, "--", entry, "sh", "-c", WORK)
    assert said.splitlines()[-1] == "all is well"
