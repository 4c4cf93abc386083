"""Give up on a call that takes too long: a file on a dead mount may never be read."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")
_Calls = queue.SimpleQueue[Callable[[], None] | None]
_Answer = tuple[Result | None, BaseException | None]

# How often the waiting side looks whether anything has come since it last looked.
LOOK_S = 0.5


class GivenUp(threading.Event):
    """Set once nobody waits for a call any more; what would be published is then thrown away."""


class TimeLimit(Generic[Result]):
    """Makes calls on a thread of its own and stops waiting after a time limit.

    A call that never returns keeps its thread, which is a daemon and ends with the process; the next call gets a
    new one. Not a `concurrent.futures` executor: these join their threads at exit.

    Use as a context manager.

    Parameters
    ----------
    limit_s : float
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._calls: _Calls | None = None

    def __enter__(self) -> TimeLimit[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._calls is not None:
            self._calls.put(None)

    def call(self, function: Callable[[GivenUp], Result]) -> Result:
        """Call ``function(abandoned)``.

        Raises
        ------
        TimeoutError
            It did not return within the limit.
        """
        ((result, error),) = self.call_each(lambda abandoned, _: function(abandoned), [None])
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # an answer without an error is a result

    def call_each(
        self, function: Callable[[GivenUp, Given], Result], given: Sequence[Given]
    ) -> list[_Answer[Result]]:
        """Call ``function(abandoned, item)`` for one item after the other, the limit for each.

        All are called without a handover between threads in between, which takes 0.2 ms each.

        Returns
        -------
        list of (result, error)
            One for each item, in order; the error is a `TimeoutError` where the limit passed.
        """
        answers: list[_Answer[Result]] = []
        while len(answers) < len(given):
            answers += self._call_until_one_hangs(function, given[len(answers) :])
        return answers

    def _call_until_one_hangs(
        self, function: Callable[[GivenUp, Given], Result], given: Sequence[Given]
    ) -> list[_Answer[Result]]:
        answers: list[_Answer[Result]] = []
        abandoned, finished = GivenUp(), threading.Event()

        def attempt() -> None:
            for item in given:
                if abandoned.is_set():
                    return
                try:
                    answers.append((function(abandoned, item), None))
                except BaseException as error:  # noqa: BLE001 - raised again where the call was made
                    answers.append((None, error))
            finished.set()

        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True).start()
        self._calls.put(attempt)
        try:
            seen, since = 0, time.monotonic()
            while not finished.wait(min(LOOK_S, self._limit_s / 4)):
                if len(answers) != seen:
                    seen, since = len(answers), time.monotonic()
                elif time.monotonic() - since >= self._limit_s:
                    self._calls = None
                    error = TimeoutError(f"nothing came back within {self._limit_s:g} s")
                    return [*answers[:seen], (None, error)]
            return answers
        finally:
            abandoned.set()


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call()
