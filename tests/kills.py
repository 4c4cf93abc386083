"""Kill runs and hold what must be left: ``python tests/kills.py --kills 100 --seed 0`` at random moments,
``python tests/kills.py --points all`` at every step that touches the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr
from series import small_series

QUICK = ("--spacing-mm", "2.5", "-q")
PATIENTS = 8
VICTIMS = ("driver", "group", "worker", "workers")
SCENARIOS = ("first", "grown", "changed", "overwrite")
CHANGING = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir"})


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- what a reader sees ---------------------------------------------------------------------------------


def broken_volumes(store):
    """Look at a store as a reader without any knowledge of the writer: plain zarr, no consolidated metadata.

    A volume is broken where the series' metadata stands before and after reading, and is not that of its values.
    """
    broken, whole = [], 0
    for metadata in store.glob("*/*/zarr.json"):
        try:
            before = metadata.read_bytes()
            recorded = json.loads(before)["attributes"]["ct_etl"]["provenance"]["volume_digest"]
        except FileNotFoundError:
            continue
        except ValueError as error:
            broken.append(f"{metadata}: {error}")
            continue
        try:
            group = zarr.open_group(metadata.parent, mode="r", use_consolidated=False)
            found = hashlib.sha256(np.ascontiguousarray(group["volume"][...], "<f4").tobytes()).hexdigest()
            uids = group["source/sop_instance_uid"][...]
            problem = None if found == recorded and uids.any(axis=1).all() else "is not what its metadata says"
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader could not read
            problem = f"{type(error).__name__}: {error}"
        try:
            stands = metadata.read_bytes() == before
        except FileNotFoundError:
            stands = False
        if problem is None:
            whole += 1
        elif stands:
            broken.append(f"{metadata}: {problem}")
    return broken, whole


@dataclass
class Reader:
    """Reads everything in a store again and again while others write; use as a context manager."""

    store: Path
    broken: list[str] = field(default_factory=list)
    rounds: int = 0
    volumes: int = 0

    def __post_init__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)

    def _poll(self):
        while not self._stop.wait(0.02):
            broken, whole = broken_volumes(self.store)
            self.broken += broken
            self.volumes += whole
            self.rounds += 1


# --- processes ------------------------------------------------------------------------------------------


def start(*arguments, log, environment=None):
    command = [sys.executable, "-m", "etl", *(str(a) for a in arguments)]
    with Path(log).open("ab") as stream:
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            cwd=Path(__file__).parents[1],
        )


def workers_of(pid):
    """Give the worker processes of a driver, as the kernel lists them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text()
                parent = int(status.rpartition(")")[2].split()[1])
                if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def group_lives(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def strike(process, victim, rng):
    """Send SIGKILL to whom it is meant for; False where there is nobody any more."""
    if process.poll() is not None:
        return False
    if victim == "driver":
        process.kill()
    elif victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        targets = workers_of(process.pid)
        if victim == "worker":
            targets = [targets[int(rng.integers(len(targets)))]] if targets else []
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(targets)
    return True


def wait_for_published(store, count, process, timeout_s=60):
    end = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < end:
        if len(list(store.glob("*/*/zarr.json"))) >= count:
            return
        time.sleep(0.002)


@dataclass
class Killed:
    """What came of one kill."""

    victim: str
    was_hit: bool
    status: int | None
    published: int
    """Series in the store when the kill was done."""
    problems: list[str]
    rounds: int
    volumes: int


def kill_once(folder, undisturbed, work, victim, rng, *, scheduler=None):
    """Start a run, kill, run again; give what is wrong afterwards."""
    store, log = work / "s.zarr", work / "log"
    options = ("--scheduler", scheduler) if scheduler else ("--workers", "2")
    problems: list[str] = []
    with Reader(store) as reader:
        process = start("run", folder, store, *QUICK, *options, log=log)
        try:
            if rng.random() < 0.2:
                time.sleep(float(rng.uniform(0, 3)))
            else:
                wait_for_published(store, int(rng.integers(PATIENTS)), process)
                time.sleep(float(rng.uniform(0, 0.08)))
            was_hit = strike(process, victim, rng)
            published = len(list(store.glob("*/*/zarr.json")))
            status = process.wait(60)
            end = time.monotonic() + 30
            while group_lives(process.pid) and time.monotonic() < end:
                time.sleep(0.01)
            if group_lives(process.pid):
                problems.append("a worker outlived its driver by 30 s")
        finally:
            kill_group(process)
        if victim in {"worker", "workers"} and was_hit and status not in (0, 3):
            problems.append(f"the run ended with {status} after a worker was killed")
        again = start("run", folder, store, *QUICK, "--workers", "0", "--run-dir", work / "again", log=log)
        try:
            if again.wait(120) != 0:
                problems.append(f"the next run ended with {again.returncode}: {log.read_text()[-500:]}")
        finally:
            kill_group(again)
    problems += [f"a reader met: {text}" for text in reader.broken]
    problems += whatever_is_wrong(store, undisturbed)
    if not problems:
        totals = json.loads((work / "again" / "run.json").read_text())
        if totals["written"] + totals["unchanged"] != PATIENTS or totals["failed"]:
            problems.append(f"the ledger of the next run says {totals}")
    return Killed(victim, was_hit, status, published, problems, reader.rounds, reader.volumes)


def whatever_is_wrong(store, undisturbed):
    """Compare a store with an undisturbed one and ask `verify`."""
    from etl.errors import StoreError
    from etl.store.verify import verify_store

    found = contents(store)
    problems = [f"{name} is missing" for name in undisturbed.keys() - found.keys()]
    problems += [f"{name} is left over" for name in found.keys() - undisturbed.keys()]
    problems += [f"{n} differs" for n in undisturbed.keys() & found.keys() if found[n] != undisturbed[n]]
    try:
        count, findings = verify_store(str(store))
    except StoreError as error:
        return [*problems, str(error)]
    problems += [f"verify: {finding.path}: {finding.problem}" for finding in findings]
    locks = [p.name for p in store.parent.iterdir() if p.name.startswith(f".{store.name}")]
    return problems + [f"{name} lies beside the store" for name in locks] + ([] if count else ["no volumes"])


# --- every step -----------------------------------------------------------------------------------------


def _die_at(step, places, report):
    """Kill this very process just before its n-th step that changes something at the places; count all steps."""
    seen = [0]

    def watch(event, arguments):
        if event == "open":
            path, mode, _ = arguments
            changes = isinstance(mode, str) and set(mode) & set("wxa+")
        else:
            path, changes = arguments[0] if arguments else None, event in CHANGING
        if not changes or not isinstance(path, str | os.PathLike):
            return
        if any(os.fspath(path).startswith(place) for place in places):
            if seen[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen[0] += 1
            if report is not None:
                os.pwrite(report, seen[0].to_bytes(8, "little"), 0)

    sys.addaudithook(watch)


def _in_child(function, log):
    """Call in a forked process; give how it ended."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            function()
            status = 0
        except BaseException:  # noqa: BLE001 - a fork must not return
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass(frozen=True)
class Stage:
    """Input before and after, and how the run that is killed is started."""

    before: Path | None
    after: Path
    overwrite: bool = False


def make_stages(folder):
    small_series(folder / "one" / "p0", "P0")
    for name in ("two", "new"):
        small_series(folder / name / "p0", "P0")
        small_series(folder / name / "p1", "P1", seed=2 if name == "new" else 1)
    # The same UIDs, other values: what is in the store is taken back and written anew.
    brighter = {"edit": lambda _, ds: setattr(ds, "RescaleIntercept", float(ds.RescaleIntercept) + 100)}
    small_series(folder / "other" / "p0", "P0", **brighter)
    small_series(folder / "other" / "p1", "P1", seed=1)
    return {
        "first": Stage(None, folder / "two"),
        "grown": Stage(folder / "one", folder / "two"),
        "changed": Stage(folder / "two", folder / "other"),
        "overwrite": Stage(folder / "two", folder / "new", overwrite=True),
    }


def _run(folder, store, *, overwrite=False):
    from etl.config import build_config, load_preset
    from etl.run.run import run

    options = {"spacing_mm": "8", "workers": 0, "quiet": True, "overwrite": overwrite}
    result = run([str(folder)], str(store), build_config(load_preset("head-ct"), options))
    if result.has_failures:
        raise AssertionError(f"failed: {result.entries}")


def crash_points(folder, chosen, rng, *, scenarios=SCENARIOS, tell=None):
    """Kill a run before its n-th step on the disk, for some n or all; give (points, problems).

    Parameters
    ----------
    chosen : int or None
        Points a scenario; None: all.
    """
    import etl.report.page
    import etl.run.run  # noqa: F401

    stages = make_stages(folder / "dicom")
    points, problems = 0, []
    for name in scenarios:
        stage, log = stages[name], folder / f"{name}.log"
        template, truth = folder / f"{name}-before", folder / f"{name}-truth"
        for place, source in ((template, stage.before), (truth, stage.after)):
            place.mkdir()
            if source is not None and _in_child(lambda p=place, s=source: _run(s, p / "s.zarr"), log):
                raise AssertionError(log.read_text())
        undisturbed = contents(truth / "s.zarr")

        def attempt(work, step, report, stage=stage, log=log):
            def killed():
                _die_at(step, [str(work)], report)
                _run(stage.after, work / "s.zarr", overwrite=stage.overwrite)

            return _in_child(killed, log)

        work = folder / f"{name}-count"
        shutil.copytree(template, work)
        with (folder / "steps").open("w+b") as report:
            if attempt(work, -1, report.fileno()):
                raise AssertionError(log.read_text())
            steps = int.from_bytes(report.read(8), "little")
        some = range(steps) if chosen is None else sorted(rng.choice(steps, min(chosen, steps), replace=False))
        for step in some:
            work = folder / f"{name}-{step}"
            shutil.copytree(template, work)
            where = f"{name}, step {step} of {steps}"
            if attempt(work, int(step), None) != -signal.SIGKILL:
                problems.append(f"{where}: not killed: {log.read_text()[-800:]}")
            problems += [f"{where}: a reader meets {text}" for text in broken_volumes_in_child(work, log)]
            again = stage.overwrite and not _was_overwritten(work / "s.zarr", undisturbed)
            log.write_bytes(b"")
            if _in_child(lambda w=work, o=again, s=stage: _run(s.after, w / "s.zarr", overwrite=o), log):
                problems.append(f"{where}: the next run failed: {log.read_text()[-300:]}")
            problems += [f"{where}: {text}" for text in wrong_in_child(work, undisturbed, log)]
            points += 1
            if tell is not None:
                tell(f"{where}: {len(problems)} problems so far")
            shutil.rmtree(work)
    return points, problems


def _was_overwritten(store, undisturbed):
    """Whether nothing of the old store is there; the same command is given again where it is."""
    return not store.exists() or not any(
        undisturbed.get(p.relative_to(store).as_posix(), b"") != p.read_bytes()
        for p in store.glob("*/*/zarr.json")
    )


def broken_volumes_in_child(work, log):
    return _lines_of_child(lambda: broken_volumes(work / "s.zarr")[0], log)


def wrong_in_child(work, undisturbed, log):
    return _lines_of_child(lambda: whatever_is_wrong(work / "s.zarr", undisturbed), log)


def _lines_of_child(function, log):
    """Zarr starts a thread on first use, and processes with threads must not be forked: so it works in a fork."""
    with tempfile.NamedTemporaryFile("w+") as answer:
        status = _in_child(lambda: Path(answer.name).write_text(json.dumps(function())), log)
        return [f"looking ended with {status}"] if status else json.loads(answer.read())


# --- by hand --------------------------------------------------------------------------------------------


def _random_kills(work, kills, seed):
    from etl.phantom.cohort import write_benchmark

    folder = work / "dicom"
    write_benchmark(folder, PATIENTS, 30, rows=96)
    log = work / "undisturbed.log"
    process = start("run", folder, work / "undisturbed.zarr", *QUICK, "--workers", "0", log=log)
    if process.wait(300):
        raise SystemExit(log.read_text())
    undisturbed = contents(work / "undisturbed.zarr")
    rng = np.random.default_rng(seed)
    failed = hits = volumes = rounds = 0
    by_victim = dict.fromkeys(VICTIMS, 0)
    attempts = 0
    while hits < kills:
        victim = VICTIMS[attempts % len(VICTIMS)]
        place = work / f"kill-{attempts}"
        place.mkdir()
        attempts += 1
        found = kill_once(folder, undisturbed, place, victim, rng)
        hits += found.was_hit
        by_victim[victim] += found.was_hit
        failed += bool(found.problems)
        volumes += found.volumes
        rounds += found.rounds
        print(
            f"{hits}/{kills} {victim}: {found.published} published, exit {found.status}, hit {found.was_hit}, "
            f"{len(found.problems)} problems",
            flush=True,
        )
        for problem in found.problems[:5]:
            print(f"    {problem}", flush=True)
        if not found.problems:
            shutil.rmtree(place)
    print(
        f"{attempts} runs, {hits} kills {by_victim}, {failed} with problems; a reader looked {rounds} times and "
        f"read {volumes} whole volumes"
    )
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--points", default="0", help="steps of each scenario to die at, or 'all'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        work, failed = Path(folder), 0
        if given.points != "0":
            chosen = None if given.points == "all" else int(given.points)
            (work / "points").mkdir()
            rng = np.random.default_rng(given.seed)
            tell = None if given.quiet else lambda text: print(text, file=sys.stderr, flush=True)
            points, problems = crash_points(work / "points", chosen, rng, tell=tell)
            print("\n".join(problems))
            print(f"{points} crash points, {len(problems)} problems")
            failed += len(problems)
        if given.kills:
            failed += _random_kills(work, given.kills, given.seed)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
