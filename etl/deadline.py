"""Give up on a call that takes too long: a file on a dead mount may never be read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")
_Calls = queue.SimpleQueue[Callable[[], None] | None]


class Abandoned(threading.Event):
    """Set once nobody waits for a call any more; what would be published is then thrown away."""


class Caller(Generic[Result]):
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

    def __enter__(self) -> Caller[Result]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._calls is not None:
            self._calls.put(None)

    def call(self, function: Callable[[Abandoned], Result]) -> Result:
        """Call ``function(abandoned)``.

        Raises
        ------
        TimeoutError
            It did not return within the limit.
        """
        answers: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
        abandoned = Abandoned()

        def attempt() -> None:
            try:
                answers.put((function(abandoned), None))
            except BaseException as error:  # noqa: BLE001 - raised again where the call was made
                answers.put((None, error))

        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True).start()
        self._calls.put(attempt)
        try:
            result, error = answers.get(timeout=self._limit_s)
        except queue.Empty:
            self._calls = None
            raise TimeoutError(f"nothing came back within {self._limit_s:g} s") from None
        finally:
            abandoned.set()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # an answer without an error is a result


def _serve(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        call()
