"""The lock of a store in a bucket: one run at a time, whatever clocks say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from seaweed import contents

from etl.errors import StoreError, UsageError

pytestmark = pytest.mark.systems
ELSEWHERE = json.dumps({"host": "elsewhere", "pid": 1, "user": "somebody"}).encode()
HOLD = """
import sys
from etl.store.lock import store_lock
with store_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(bucket):
    return f"{bucket}/s.zarr"


@pytest.fixture
def locks(bucket):
    from etl.buckets.bucket import Bucket

    return Bucket(f"{bucket}/.s.zarr.ct-etl/lock")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("etl.store.bucket_lock.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("etl.store.bucket_lock.STALE_AFTER_S", 1.5)
    monkeypatch.setattr("etl.store.bucket_lock.LOOK_EVERY_S", 0.2)


def lock_of(store):
    from etl.store.lock import store_lock

    return store_lock(store)


@pytest.fixture
def holder(store):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_that_beats_is_held_and_its_holder_named(store, holder, bucket):
    with pytest.raises(UsageError, match=f"process {holder.pid} .*on {socket.gethostname()}"), lock_of(store):
        pass
    assert list(contents(bucket)) == [".s.zarr.ct-etl/lock/1"]


def test_a_lock_of_a_process_that_was_killed_here_is_free_at_once(store, holder, bucket):
    holder.kill()
    holder.wait()
    start = time.monotonic()
    with lock_of(store) as lock:
        lock.check()
        assert list(contents(bucket)) == [".s.zarr.ct-etl/lock/2"]
    assert time.monotonic() - start < 10
    assert contents(bucket) == {}


@pytest.mark.parametrize("content", [ELSEWHERE, b"", b"{", b"\xff", b"[1]"])
def test_a_lock_of_another_machine_that_stands_still_is_taken_after_watching(store, bucket, locks, quick, content):
    locks.put("7", content)
    start = time.monotonic()
    with lock_of(store):
        assert time.monotonic() - start > 1.5
        assert list(contents(bucket)) == [".s.zarr.ct-etl/lock/8"]
    assert contents(bucket) == {}


@pytest.mark.parametrize("skew_s", [-7200, 7200])
def test_no_clock_decides(store, locks, quick, monkeypatch, skew_s):
    """Another machine's lock that changes is held, whatever time it is here."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew_s)
    over = threading.Event()

    def beat():
        number = 0
        while not over.wait(0.3):
            number += 1
            locks.put("1", ELSEWHERE + b" " * number)

    locks.put("1", ELSEWHERE)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 1 of somebody on elsewhere"), lock_of(store):
            pass
    finally:
        over.set()
        thread.join()


def test_a_held_lock_changes_and_stays(store, locks, quick):
    with lock_of(store) as lock:
        seen = set()
        for _ in range(12):
            seen.add(locks.head("1").e_tag)
            time.sleep(0.1)
        lock.check()
    assert len(seen) > 3


def test_a_run_that_stood_still_notices_that_another_took_over(store, locks, quick):
    from etl.store.lock import is_held

    with lock_of(store) as lock:
        assert is_held(lock.token)
        locks.put("2", ELSEWHERE)
        locks.remove(["1"])
        assert not is_held(lock.token)
        time.sleep(0.5)
        with pytest.raises(StoreError, match="took over"):
            lock.check()
    assert [found.name for found in locks.walk()] == ["2"]


def test_a_beat_whose_answer_was_lost_is_no_other_run(store, locks, quick):
    with lock_of(store) as lock:
        there = json.loads(locks.get("1")[1])
        # As the server has it when a beat arrived of which the holder never heard.
        locks.put("1", json.dumps({**there, "beat": 999}).encode())
        time.sleep(0.5)
        lock.check()
        assert json.loads(locks.get("1")[1])["beat"] < 999


def test_of_many_that_try_at_once_over_a_stale_lock_one_wins(store, locks, quick):
    for _ in range(3):
        locks.put("3", json.dumps({"host": socket.gethostname(), "pid": 2**22 + os.getpid()}).encode())
        outcome, go, over = [], threading.Barrier(6), threading.Barrier(6)

        def attempt(go=go, over=over, outcome=outcome):
            go.wait(10)
            try:
                with lock_of(store):
                    outcome.append("held")
                    over.wait(20)
            except UsageError:
                outcome.append("refused")
                over.wait(20)

        threads = [threading.Thread(target=attempt) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(outcome) == ["held"] + ["refused"] * 5
        assert locks.walk() == []
