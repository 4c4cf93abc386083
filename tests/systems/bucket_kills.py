"""Kill runs into a bucket, and its server: ``python tests/systems/bucket_kills.py --rounds 50 --seed 0``.

Each round starts a run from a bucket into another place of it, strikes while it goes on, and runs again until
nothing is left to do. Afterwards the store must be byte for byte that of an undisturbed run into a folder, nothing
may lie beside it, `verify` must pass, and a reader that polled all the time must have met whole volumes only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from kills import contents as local_contents  # noqa: E402
from kills import kill_group, start, strike  # noqa: E402
from proxy import Proxy  # noqa: E402
from seaweed import Seaweed, contents, upload, why_not  # noqa: E402
from series import small_series  # noqa: E402

VICTIMS = ("worker", "workers", "driver", "group", "server", "illness")
PATIENTS = 6
QUICK = ("--spacing-mm", "4", "-q")
ENDS_WELL = {"worker", "workers", "server", "illness"}
"""A run outlives these."""


@dataclass
class World:
    """A server, a proxy before it, an input and what an undisturbed run makes of it."""

    folder: Path
    server: Seaweed
    proxy: Proxy
    undisturbed: dict[str, bytes]
    illness_s: float


def published(store):
    return sum(name.count("/") == 2 and name.endswith("/zarr.json") for name in names(store))


def names(url):
    from etl.buckets.bucket import Bucket

    return [found.name for found in Bucket(url).walk()]


def strike_server(world, rng):
    world.server.kill()
    time.sleep(float(rng.uniform(0.5, 4)))
    world.server.start()


def fall_ill(world):
    world.proxy.fall_ill()
    time.sleep(world.illness_s)
    world.proxy.recover()


def struck(world, store, log, victim, rng):
    """Start a run and strike; give whether it was still going on, and its exit status."""
    process = start("run", "s3://data/in", store, *QUICK, "--workers", "2", log=log)
    try:
        wanted, end = int(rng.integers(PATIENTS)), time.monotonic() + 90
        while process.poll() is None and published(store) < wanted and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.2)))
        was_hit = process.poll() is None
        if victim == "server":
            strike_server(world, rng)
        elif victim == "illness":
            fall_ill(world)
        else:
            was_hit = strike(process, victim, rng)
        return was_hit, process.wait(400)
    finally:
        kill_group(process)


def problems_after(world, store, log):
    """Run again; give what is wrong then."""
    for command in (("run", "s3://data/in", store, *QUICK, "--workers", "0"), ("verify", store)):
        process = start(*command, log=log)
        try:
            if process.wait(300) != 0:
                yield f"{command[0]} ended with {process.returncode}: {log.read_text()[-1500:]}"
        finally:
            kill_group(process)
    if contents(store) != world.undisturbed:
        yield "the store is not that of an undisturbed run"
    folder = store.rpartition("/")[0]
    yield from (f"{name} was left" for name in names(folder) if not name.startswith("s.zarr/"))


def play(world, number, victim, rng):
    """Play one round; give what is wrong afterwards."""
    work = world.folder / f"round{number}"
    work.mkdir()
    store, log, over = f"s3://data/out{number}/s.zarr", work / "log", work / "over"
    reader = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("polling.py"), store, over],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    problems = []
    try:
        was_hit, status = struck(world, store, log, victim, rng)
        if victim in ENDS_WELL and status != 0:
            problems.append(f"the run ended with {status}: {log.read_text()[-1500:]}")
        problems += problems_after(world, store, log)
        over.touch()
        whole, complaints = reader.communicate(timeout=150)
        if reader.returncode:
            problems.append(f"a reader met: {complaints[-1000:]}")
    finally:
        reader.kill()
        reader.communicate()
    return problems, was_hit, status, int(whole or 0)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victim", choices=VICTIMS, help="[one after the other]")
    parser.add_argument("--illness-s", type=float, default=8.0, help="how long the server answers 503")
    given = parser.parse_args(arguments)
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    failed = 0
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bucket-kills-")))
        server = held.enter_context(Seaweed(folder / "server"))
        proxy = held.enter_context(Proxy(server.ports[3]))
        os.environ.update({**server.environment(folder / "state"), "AWS_ENDPOINT_URL": proxy.endpoint})
        server.make_bucket("data")
        for n in range(PATIENTS):
            small_series(folder / "dicom" / f"p{n}", f"P{n}", seed=n, rows=64, count=20)
        upload(folder / "dicom", "s3://data/in")
        done = start("run", folder / "dicom", folder / "u.zarr", *QUICK, "--workers", "0", log=folder / "log")
        assert done.wait(120) == 0, (folder / "log").read_text()
        world = World(folder, server, proxy, local_contents(folder / "u.zarr"), given.illness_s)
        for n in range(given.rounds):
            victim = given.victim or VICTIMS[n % len(VICTIMS)]
            began = time.monotonic()
            problems, was_hit, status, whole = play(world, n, victim, np.random.default_rng([given.seed, n]))
            failed += bool(problems)
            print(
                f"round {n}: {victim} {'hit' if was_hit else 'missed'}, run ended {status}, "
                f"{whole} whole volumes seen, {time.monotonic() - began:.1f} s"
                + "".join(f"\n  {problem}" for problem in problems),
                flush=True,
            )
    print(f"{given.rounds} rounds, {failed} with problems")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
