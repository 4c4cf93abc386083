"""Draw sequences of runs into one store, hold it against a model: ``python tests/sequences.py --runs 2000``.

Between runs the input grows, shrinks, loses files, changes pixels in place; runs are killed at a random step on
the disk, and something in the store is harmed or written by others. The model knows only what each readable slice
of the input holds, and what the store held before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import tiny_ct
from sequence_world import World, is_at, look, series_of, tree

from etl.config import build_config
from etl.errors import EtlError, UsageError
from etl.run.rerun import run_again
from etl.run.run import run
from etl.scan.inputs import scan_inputs
from etl.scan.scan import Limits
from etl.store.keys import LocalKeys
from etl.store.verify import verify_store
from etl.workers.pool import open_pool

CHANGING = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir"})
DEAD_PID = 1 << 23
EXPECTED = ("the same series", "cannot be derived", "its attribute qc", "the store has")


# --- a process that is killed -------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process is dead: from here on nothing changes on the disk any more."""


class Killer:
    """Kills at the n-th step that changes the disk; an audit hook, which cannot be taken out again."""

    def __init__(self):
        self.left = None
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self.left is None or not _changes_disk(event, arguments):
            return
        self.left -= 1
        if self.left < 0:
            raise KilledError(event)

    @contextmanager
    def after(self, steps):
        self.left = steps
        try:
            yield
        finally:
            self.left = None


def _changes_disk(event, arguments):
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in CHANGING


KILLER = Killer()


def killed_after(steps, work):
    """Do something in a process that dies after some steps on the disk; tell whether it did."""
    try:
        with KILLER.after(steps):
            work()
    except KilledError:
        return True
    return False


def let_locks_be_of_the_dead(folder):
    """Write into the locks of a killed run, which this process still lives for, that it is dead."""
    for lock in folder.glob(".s.zarr.lock.*"):
        if lock.name.rpartition(".")[2].isdigit() and lock.stat().st_size:
            lock.write_text(json.dumps({**json.loads(lock.read_text()), "pid": DEAD_PID}))
        else:
            lock.unlink()


@contextmanager
def quick_runs():
    """Trust files at once, and draw no report: neither decides what is in the store."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch("etl.run.input_files.SETTLED_S", 0.0))
        stack.enter_context(mock.patch("etl.run.pictures.MAX_PICTURES", 0))
        stack.enter_context(mock.patch("etl.report.page.write_report"))
        yield


def look_after_recovery(store):
    """Give what a store will hold once the next run has begun; nothing is touched."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (store, *store.parent.glob(f".{store.name}.*.ready")):
            shutil.copytree(path, Path(folder, path.name), symlinks=True)
        copy = Path(folder, store.name)
        LocalKeys(str(copy)).clear_leftovers()
        return look(copy)


# --- one run, and what must be so afterwards -------------------------------------------------------------------


@dataclass
class Options:
    overwrite: bool = False
    replace: bool = False
    min_slices: int = 2
    series: str = "all"
    run_dir: str | None = None
    max_file_mb: int = 4096
    time_limit_s: float = 900.0

    @staticmethod
    def draw(rng, folder):
        return Options(
            overwrite=rng.random() < 0.08,
            replace=rng.random() < 0.2,
            min_slices=rng.choice([2, 2, 2, 4]),
            series="default" if rng.random() < 0.1 else "all",
            run_dir=str(folder / f"record{rng.randrange(2)}") if rng.random() < 0.2 else None,
            max_file_mb=rng.choice([4096, 100]),
            time_limit_s=rng.choice([900.0, 500.0]),
        )


class Check:
    """Holds a store after a run against the model."""

    def __init__(self, world, options, before, before_series):
        self.world, self.options = world, options
        self.before, self.before_series = before, before_series
        self.now = look(world.store)
        self.problems: list[str] = []
        self.may_lose = options.replace or options.overwrite

    def problem(self, what):
        self.problems.append(what)

    def inputs(self):
        """What a volume may be made of: one time point; where no position occurs twice, all of a series."""
        found = [stack.readable for stack in self.world.stacks if stack.readable]
        for one in self.world.stacks:
            together = [stack for stack in self.world.stacks if stack.series == one.series and stack.readable]
            ks = [k for stack in together for k in stack.ks]
            if len(ks) == len(set(ks)):
                found.append({sop: crc for stack in together for sop, crc in stack.readable.items()})
        return found

    def nothing_is_poorer(self):
        for node, slices in self.before.items():
            now = self.now.get(node)
            if now is None:
                self._check_absent(node, slices)
            elif now != slices:
                if now not in self.inputs():
                    self.problem(f"{node} is neither what it was nor what the input has")
                elif not self.may_lose and set(slices) - set(now):
                    self.problem(f"{node} lost {sorted(set(slices) - set(now))}")
        for node, now in self.now.items():
            if node not in self.before and now not in self.inputs():
                was = self.world.damaged.get(node)
                if was is None or was != now:
                    self.problem(f"{node} is new and not what the input has")

    def _check_absent(self, node, slices):
        if self.options.overwrite:
            return
        # Killed in between: whatever run comes next finds the new volume ready.
        new = look_after_recovery(self.world.store).get(node)
        if new is None:
            self.problem(f"{node} is lost")
            return
        self.world.in_between[node] = new
        if new not in self.inputs() or (set(slices) - set(new) and not self.may_lose):
            self.problem(f"{node} is to become neither what it was nor what the input has")

    def everything_wanted_is_there(self, result):
        """Hold what the model is sure of: even stacks, alone or beside a time point of the same extent."""
        if self.options.series == "default":
            return
        for stack in self.world.stacks:
            readable = stack.readable
            if not readable or not self._is_plain(stack):
                continue
            if len(readable) < self.options.min_slices:
                continue
            holders = [node for node, now in self.now.items() if now == readable and self._is_of(node, stack)]
            earlier = {
                node: slices
                for node, slices in {**self.world.damaged, **self.before}.items()
                if self._was_of(node, stack)
            }
            own = [slices for slices in earlier.values() if set(slices) & set(readable)]
            if any(not set(slices) & set(readable) for slices in earlier.values()) and not own:
                continue  # it may be the rest of a volume that has none of its slices
            if self.may_lose or all(set(slices) <= set(readable) for slices in own):
                if len(holders) != 1:
                    self.problem(
                        f"{stack.uid}.{stack.time_point}: {len(holders)} volumes have its slices: {holders}"
                    )
                elif not self._holds_values(holders[0], stack):
                    self.problem(f"{holders[0]}: other values than the input's")
            elif not any(set(slices) - set(readable) for slices in own if slices in self.now.values()):
                continue  # what it lacked is damaged
            else:
                reasons = {entry.reason for entry in result.entries if entry.series_instance_uid == stack.uid}
                if "fewer-slices" not in reasons:
                    self.problem(f"{stack.uid}.{stack.time_point} lacks slices, and is told as {reasons}")

    def _is_plain(self, stack):
        others = [
            one for one in self.world.stacks if one is not stack and one.series == stack.series and one.readable
        ]
        # One or two values make a mask, which is no volume.
        is_image = len({stack.hu[k] for k in stack.ks}) > 2
        return is_image and stack.is_even and all(one.ks == stack.ks for one in others)

    def _is_of(self, node, stack):
        return series_of(self.world.store, node) == (stack.patient, stack.number, stack.uid)

    def _was_of(self, node, stack):
        return self.before_series.get(node) == (stack.patient, stack.number, stack.uid)

    def _holds_values(self, node, stack):
        wanted: dict[int, int] = {}
        for k in stack.ks:
            wanted[stack.hu[k]] = wanted.get(stack.hu[k], 0) + tiny_ct.ROWS**2
        return tiny_ct.values_of(self.world.store, node) == wanted

    def verify_is_true(self, result):
        _, findings = verify_store(str(self.world.store))
        damaged = {node for node in self.world.damaged if node not in self.now}
        told = set(result.totals.get("damaged", ()))
        for finding in findings:
            is_foreign = finding.path in self.world.foreign
            of_damaged = is_at(finding.path, damaged | {node.split("/")[0] for node in damaged})
            # What a kill cut off stays until its series can be written, and is told as such.
            of_killed = self.is_cut_off(finding.path) and not is_at(finding.path, self.now)
            if not is_foreign and not of_damaged and not of_killed:
                self.problem(f"verify: {finding.path}: {finding.problem}")
        for node in damaged:
            if (self.world.store / node / "zarr.json").is_file() and node not in told:
                self.problem(f"{node} is damaged and not told")
        failed = any(entry.outcome == "failed" for entry in result.entries)
        if result.has_failures != (failed or bool(told)):
            self.problem("the status is not what happened")

    def is_cut_off(self, path):
        return is_at(path, self.world.cut_off)

    def nothing_foreign_is_lost(self):
        kept = (
            tree(self.world.folder / "s.zarr.foreign") if (self.world.folder / "s.zarr.foreign").is_dir() else {}
        )
        for place, content in self.world.foreign.items():
            there = self.world.store / place
            if not (there.is_file() and there.read_bytes() == content) and content not in kept.values():
                self.problem(f"foreign {place} is lost")

    def nothing_is_left_over(self):
        left = [path.name for path in self.world.folder.glob(".s.zarr.*")]
        partial = {path.relative_to(self.world.store).as_posix() for path in self.world.store.rglob("*.partial")}
        left += [path for path in partial if not self.is_cut_off(path)]
        # A killed run with a directory elsewhere left its pictures there; nobody knows of it.
        left += [str(path) for path in self.world.folder.glob("s.zarr.runs/*/.pictures-*")]
        if left:
            self.problem(f"left over: {left}")


def one_run(world, rng, *, may_kill):
    """Run once; give what is wrong afterwards."""
    options = Options.draw(rng, world.folder)
    given = {name: value for name, value in vars(options).items() if value is not None}
    config = build_config({}, {"native": True, "workers": 0, "quiet": True, **given})
    seen = look(world.store)
    before = {**seen, **world.in_between}
    world.in_between = {}
    before_series = {**world.known, **{node: series_of(world.store, node) for node in seen}}
    world.known = before_series
    tree_before = tree(world.store) if options.overwrite and world.store.exists() else None
    steps = int(rng.expovariate(1 / 25)) if may_kill and rng.random() < 0.3 else None
    world.tell(f"run {options}, killed after {steps}")
    arguments = ([str(world.input)], str(world.store), config)
    try:
        with KILLER.after(steps):
            result = run_again(*arguments)
            if result is None:
                result = run(*arguments)
    except KilledError:
        world.tell("killed")
        let_locks_be_of_the_dead(world.folder)
        world.cut_off |= {path.relative_to(world.store).as_posix() for path in world.store.glob("*/*-*")}
        if rng.random() < 0.5:
            # As the next run begins.
            LocalKeys(str(world.store)).clear_leftovers()
        check = Check(world, options, before, before_series)
        check.nothing_is_poorer()
        check.nothing_foreign_is_lost() if not options.overwrite else None
        return check.problems
    except UsageError as error:
        world.tell(f"refused: {error}")
        if options.overwrite and "nothing was touched" in str(error):
            return [] if tree(world.store) == tree_before else ["--overwrite was refused and touched something"]
        return [f"refused: {error}"]
    except (EtlError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]
    world.tell(f"{ {e.node: (e.outcome, e.reason) for e in result.entries} }")
    check = Check(world, options, before, before_series)
    check.nothing_is_poorer()
    check.everything_wanted_is_there(result)
    check.verify_is_true(result)
    check.nothing_foreign_is_lost()
    check.nothing_is_left_over()
    if rng.random() < 0.1:
        check.problems += compare_with_input(world)
    world.damaged = {node: held for node, held in world.damaged.items() if node not in check.now}
    if options.overwrite:
        world.damaged.clear()
    return check.problems


def compare_with_input(world):
    """``verify --input`` finds nothing in the volumes that are those of the input."""
    from etl.run.verify_input import verify_against_input

    with open_pool(0, None) as pool:
        scan = scan_inputs([str(world.input)], pool, limits=Limits(), quiet=True)
    _, findings = verify_against_input(str(world.store), scan)
    inputs, now = [stack.readable for stack in world.stacks], look(world.store)
    return [
        f"verify --input: {finding.path}: {finding.problem}"
        for finding in findings
        if now.get(finding.path) in inputs and not finding.problem.startswith(EXPECTED)
    ]


def one_sequence(folder, seed, *, may_kill=True):
    """Draw and hold one sequence; give its story and what is wrong."""
    rng = random.Random(seed)
    world = World(Path(folder), rng)
    world.add()
    for _ in range(rng.randint(3, 6)):
        problems = one_run(world, rng, may_kill=may_kill)
        if problems:
            return world.story, problems
        for _ in range(rng.randint(1, 3)):
            world.change()
    # The last run is neither killed nor special: whatever came before, it ends well.
    return world.story, one_run(world, rng, may_kill=False)


def draw_sequences(description, one_sequence):
    """Play sequences by the command line's options, and print those that end badly."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="Sequences to draw.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="Where to work; a RAM disk is quicker.")
    arguments = parser.parse_args()
    start, wrong = time.monotonic(), 0
    with quick_runs():
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                story, problems = one_sequence(Path(folder) / "w", seed)
            if problems:
                wrong += 1
                print(f"--- seed {seed}", *story, *(f"  ! {p}" for p in problems), sep="\n", flush=True)
    print(f"{arguments.runs} sequences, {wrong} wrong, {time.monotonic() - start:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    draw_sequences(__doc__, one_sequence)
