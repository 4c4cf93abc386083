"""Kill runs into a bucket, and its server: ``python tests/systems/bucket_kills.py --rounds 50 --seed 0``.

Each round starts a run from a bucket into another place of it, empty or with volumes of older values, strikes
while it goes on, and runs again. What had been published is not made again; afterwards the store must be byte for
byte that of an undisturbed run into a folder, nothing may lie beside it, `verify` must pass, and a reader that
polled all the time must have met whole volumes only. A run that outlives its strike must have made that store by
itself. Rounds whose strike came too late are played, and not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from bucket_strikes import (  # noqa: E402
    JUMPS_S,
    LASTING,
    OUTLIVED,
    VICTIMS,
    Clock,
    World,
    small_disk,
    strike_run,
    why_not_strike,
)
from kills import contents as local_contents  # noqa: E402
from kills import kill_group, start  # noqa: E402
from proxy import Proxy  # noqa: E402
from seaweed import Seaweed, contents, upload, why_not  # noqa: E402
from series import small_series  # noqa: E402

PATIENTS = 6
QUICK = ("--spacing-mm", "4", "-q")
SCENARIOS = ("first", "changed")


@dataclass
class Case:
    """What runs start from, and what an undisturbed one makes of it."""

    folder: Path
    old: Path
    """A store of other values, as a folder."""
    undisturbed: dict[str, bytes]
    typical_s: float


@dataclass
class Round:
    """Whom a strike meant, and what came of it."""

    victim: str
    scenario: str
    was_hit: bool
    status: int
    published: int
    """New volumes that were there when the run had ended."""
    whole: int
    """How often a reader met a whole volume."""
    problems: list[str]


def published(store, old):
    """Count the volumes that are there and are not those of before."""
    return sum(
        old.get(name) != e_tag
        for name, e_tag in e_tags(store).items()
        if name.count("/") == 2 and name.endswith("/zarr.json")
    )


def e_tags(url):
    from etl.buckets.bucket import Bucket

    return {found.name: found.e_tag for found in Bucket(url).walk()}


def wait_for_the_moment(case, process, store, old, rng):
    """Wait for any moment of a run, or until some volumes are there."""
    if rng.random() < 0.5:
        end = time.monotonic() + float(rng.uniform(0.1, 1)) * case.typical_s
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return
    wanted, end = int(rng.integers(1, PATIENTS + 1)), time.monotonic() + 90
    while process.poll() is None and published(store, old) < wanted and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(float(rng.uniform(0, 0.2)))


def struck(world, case, store, log, victim, rng):
    """Start a run and strike; give whether it was going on, its exit status and how much it had published."""
    old = e_tags(store)
    world.clock.set(0)
    command = ("run", "s3://data/in", store, *QUICK, "--workers", "2")
    environment = world.clock.environment if victim in JUMPS_S else {}
    process = start(*command, log=log, environment=environment)
    try:
        wait_for_the_moment(case, process, store, old, rng)
        was_hit = strike_run(world, process, victim, rng)
        status = process.wait(400)
    finally:
        kill_group(process)
    return was_hit, status, published(store, old)


def problems_of_the_run(case, store, log, victim, status):
    """Give what is wrong before anything was run again."""
    if "Traceback" in log.read_text():
        yield f"a traceback: {log.read_text()[-1500:]}"
    if victim in OUTLIVED:
        if status != 0:
            yield f"the run ended with {status}: {log.read_text()[-1500:]}"
        elif contents(store) != case.undisturbed:
            yield "the run ended well, and its store is not that of an undisturbed run"


def problems_after(case, store, log, there):
    """Run again; give what is wrong then."""
    ledger = log.with_name("again")
    again = ("run", "s3://data/in", store, *QUICK, "--workers", "0", "--run-dir", ledger)
    for command in (again, ("verify", store)):
        process = start(*command, log=log)
        try:
            if process.wait(300) != 0:
                yield f"{command[0]} ended with {process.returncode}: {log.read_text()[-1500:]}"
        finally:
            kill_group(process)
    totals = json.loads((ledger / "run.json").read_text())
    if totals["unchanged"] < there or totals["unchanged"] + totals["written"] != PATIENTS:
        yield f"{there} volumes were there, and the ledger of the next run says {totals}"
    found = contents(store)
    wrong = sorted(
        name for name in found.keys() | case.undisturbed.keys() if found.get(name) != case.undisturbed.get(name)
    )
    if wrong:
        yield f"{len(wrong)} keys are not those of an undisturbed run: {wrong[:5]}"
    folder = store.rpartition("/")[0]
    yield from (f"{name} was left" for name in e_tags(folder) if not name.startswith("s.zarr/"))


def play(world, case, number, victim, rng):
    """Play one round."""
    scenario = SCENARIOS[int(rng.integers(len(SCENARIOS)))]
    work = case.folder / f"round{number}"
    work.mkdir()
    store, log, over = f"s3://data/out{number}/s.zarr", work / "log", work / "over"
    if scenario == "changed":
        upload(case.old, store)
    reader = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("polling.py"), store, over],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        was_hit, status, there = struck(world, case, store, log, victim, rng)
        problems = list(problems_of_the_run(case, store, log, victim, status))
        problems += problems_after(case, store, log, there)
        over.touch()
        said, complaints = reader.communicate(timeout=150)
        whole, at_last = (int(word) for word in said.split() or (0, 0))
        if reader.returncode:
            problems.append(f"a reader met: {complaints[-1000:]}")
        if at_last != PATIENTS:
            problems.append(f"a reader met {at_last} whole volumes at the end")
    finally:
        reader.kill()
        reader.communicate()
    return Round(victim, scenario, was_hit, status, there, whole, problems)


def make_case(folder):
    """Make the inputs and what an undisturbed run makes of each; time a run with nobody to disturb it."""
    brighter = {"edit": lambda _, ds: setattr(ds, "RescaleIntercept", float(ds.RescaleIntercept) + 100)}
    for n in range(PATIENTS):
        small_series(folder / "dicom" / f"p{n}", f"P{n}", seed=n, rows=64, count=20)
        small_series(folder / "older" / f"p{n}", f"P{n}", seed=n, rows=64, count=20, **brighter)
    upload(folder / "dicom", "s3://data/in")
    for source, store in ((folder / "older", folder / "old.zarr"), (folder / "dicom", folder / "u.zarr")):
        done = start("run", source, store, *QUICK, "--workers", "0", log=folder / "log")
        assert done.wait(120) == 0, (folder / "log").read_text()
    began = time.monotonic()
    done = start("run", "s3://data/in", "s3://data/timed/s.zarr", *QUICK, "--workers", "2", log=folder / "log")
    assert done.wait(120) == 0, (folder / "log").read_text()
    return Case(folder, folder / "old.zarr", local_contents(folder / "u.zarr"), time.monotonic() - began)


def told(number, found, seconds):
    """Say in a line what a round came to, and what is wrong below it."""
    return (
        f"round {number}: {found.victim} {'hit' if found.was_hit else 'missed'} a {found.scenario} run, "
        f"which ended with {found.status} and {found.published} new volumes; {found.whole} whole volumes seen; "
        f"{seconds:.1f} s" + "".join(f"\n  {problem}" for problem in found.problems)
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victim", choices=(*VICTIMS, *LASTING), help="[one after the other]")
    parser.add_argument("--illness-s", type=float, default=8.0, help="how long the server answers 503")
    given = parser.parse_args(arguments)
    if lacking := why_not() or why_not_strike():
        print(lacking, file=sys.stderr)
        return 2
    # What it started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = hits = seen = 0
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bucket-kills-")))
        disk = held.enter_context(small_disk(folder / "disk"))
        server = held.enter_context(Seaweed(disk / "server"))
        proxy = held.enter_context(Proxy(server.ports[3]))
        os.environ.update({**server.environment(folder / "state"), "AWS_ENDPOINT_URL": proxy.endpoint})
        server.make_bucket("data")
        world = World(server, proxy, disk, Clock(folder), given.illness_s)
        case = make_case(folder)
        print(f"a run takes {case.typical_s:.1f} s", flush=True)
        for n in itertools.count():
            if hits == given.rounds:
                break
            victim = given.victim or VICTIMS[n % len(VICTIMS)]
            began = time.monotonic()
            found = play(world, case, n, victim, np.random.default_rng([given.seed, n]))
            failed, hits, seen = failed + bool(found.problems), hits + found.was_hit, seen + found.whole
            print(told(n, found, time.monotonic() - began), flush=True)
    print(f"{n} rounds, {hits} of them hit, {failed} with problems; a reader met {seen} whole volumes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
