"""Calls that take too long are given up; the next call is not their victim."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from etl.workers.time_limit import TimeLimit


def test_an_answer_in_time_is_given_back():
    with TimeLimit(5) as caller:
        assert caller.call(lambda _: 7) == 7
        assert [caller.call(lambda _, n=n: n) for n in range(100)] == list(range(100))


def test_an_error_is_raised_where_the_call_was_made():
    def fail(_):
        raise KeyError("from inside")

    with TimeLimit(5) as caller:
        with pytest.raises(KeyError, match="from inside"):
            caller.call(fail)
        assert caller.call(lambda _: "still serving") == "still serving"


def test_errors_beyond_exception_come_back_too():
    def leave(_):
        raise SystemExit(3)

    with TimeLimit(5) as caller, pytest.raises(SystemExit):
        caller.call(leave)


def test_a_call_that_hangs_is_given_up_within_its_limit_and_the_next_is_served():
    release = threading.Event()
    with TimeLimit(0.1) as caller:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"0\.1 s"):
            caller.call(lambda _: release.wait(30))
        assert time.monotonic() - start < 2
        assert caller.call(lambda _: "next") == "next"
    release.set()


def test_a_late_answer_is_not_taken_for_that_of_the_next_call():
    go = threading.Event()

    def late(_):
        go.wait(10)
        return "late"

    with TimeLimit(0.1) as caller:
        with pytest.raises(TimeoutError):
            caller.call(late)
        go.set()
        assert [caller.call(lambda _, n=n: n) for n in range(20)] == list(range(20))


def test_an_abandoned_call_can_tell_and_one_that_is_waited_for_is_not():
    seen, done = [], threading.Event()

    def slow(abandoned):
        seen.append(abandoned.is_set())
        abandoned.wait(10)
        seen.append(abandoned.is_set())
        done.set()

    with TimeLimit(0.1) as caller:
        with pytest.raises(TimeoutError):
            caller.call(slow)
        assert done.wait(5)
    assert seen == [False, True]


def test_threads_end_with_the_caller():
    before = threading.active_count()
    for _ in range(20):
        with TimeLimit(5) as caller:
            caller.call(lambda _: None)
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_call_that_never_returns_does_not_keep_the_process():
    code = """
import time
from etl.workers.time_limit import TimeLimit
with TimeLimit(0.1) as caller:
    try:
        caller.call(lambda _: time.sleep(3600))
    except TimeoutError:
        print("given up")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr


def test_of_many_calls_one_that_hangs_and_one_that_fails_cost_only_themselves():
    release, late = threading.Event(), []

    def work(_, item):
        if item == 3:
            release.wait(30)
            late.append(item)
        if item == 5:
            raise ValueError("five")
        return 2 * item

    with TimeLimit(0.2) as caller:
        answers = caller.call_each(work, range(8))
        release.set()
    assert [result for result, _ in answers] == [0, 2, 4, None, 8, None, 12, 14]
    assert [type(error) for _, error in answers if error is not None] == [TimeoutError, ValueError]


def test_the_limit_is_for_each_call_and_not_for_all():
    with TimeLimit(0.4) as caller:
        answers = caller.call_each(lambda _, item: time.sleep(0.1) or item, range(8))
    assert answers == [(item, None) for item in range(8)]


def test_no_calls_have_no_answers():
    with TimeLimit(5) as caller:
        assert caller.call_each(lambda _, item: item, []) == []
