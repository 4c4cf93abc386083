"""What befalls a run into a bucket: kills, a server that dies, is ill or has no room, a clock that jumps."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kills import strike
from proxy import Proxy
from seaweed import Seaweed

DISK_MB = 2048
JUMPS_S = {"minutes": 600, "hour": 3600}
"""A server refuses what is signed more than a quarter of an hour off."""
OUTLIVED = frozenset({"worker", "workers", "server", "illness", "full", "minutes"})
"""A run ends well all the same."""
VICTIMS = ("worker", "workers", "driver", "group", "server", "illness", "full", *JUMPS_S)
LASTING = ("full for good",)
"""Takes the two minutes for which a bucket is asked again."""


def why_not_strike():
    """Say what strikes lack; empty where all is there."""
    if os.geteuid():
        return "a disk that is filled is mounted for it: run as root"
    return "" if shutil.which("cc") else "there is no C compiler, for a clock that is wrong: apt-get install gcc"


@contextmanager
def small_disk(folder):
    """Mount a disk that can be filled without harm to anybody."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "ct-etl-tests", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Clock:
    """The time of day of processes that are started for it."""

    def __init__(self, folder):
        self._library, self._file = folder / "clock.so", folder / "clock"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", self._library, source], check=True)
        self.set(0)

    @property
    def environment(self):
        return {"LD_PRELOAD": str(self._library), "CLOCK_WRONG_BY": str(self._file)}

    def set(self, wrong_by_s):
        self._file.touch()
        with self._file.open("r+b") as stream:
            stream.write(struct.pack("@l", wrong_by_s))


@dataclass
class World:
    """A server on a disk of its own, a proxy before it, and the clock of the runs that are struck."""

    server: Seaweed
    proxy: Proxy
    disk: Path
    clock: Clock
    illness_s: float


def strike_run(world, process, victim, rng):
    """Do what befalls a run; give whether it was going on then."""
    if process.poll() is not None:
        return False
    if victim == "server":
        world.server.kill()
        time.sleep(float(rng.uniform(0.5, 4)))
        world.server.start()
    elif victim == "illness":
        world.proxy.fall_ill()
        time.sleep(world.illness_s)
        world.proxy.recover()
    elif victim in ("full", "full for good"):
        _fill(world.disk, process, float(rng.uniform(1, 8)) if victim == "full" else float("inf"))
        # goleveldb, SeaweedFS' index, fails for good once its journal had no room; its people start it anew.
        world.server.kill()
        world.server.start()
    elif victim in JUMPS_S:
        world.clock.set(int(rng.choice([-1, 1])) * JUMPS_S[victim])
    else:
        return strike(process, victim, rng)
    return True


def _fill(disk, process, seconds):
    """Leave a server no room for some seconds, at most until the run has ended."""
    filler, end = disk / "filler", time.monotonic() + seconds
    try:
        with filler.open("wb", buffering=0) as stream:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        stream.write(bytes(size))
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                # Room that the server itself makes meanwhile.
                with suppress(OSError):
                    stream.write(bytes(1 << 12))
    finally:
        filler.unlink()
