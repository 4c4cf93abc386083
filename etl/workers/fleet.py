"""The workers of a running scheduler: who is there, who is fit for the work, and what is said when nobody is.

Workers come and go while a run goes on: an adaptive cluster grows, a batch job ends, a host is taken away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Future

from etl.errors import ClusterError, UsageError
from etl.workers.declare_memory import MEMORY_RESOURCE
from etl.workers.fitness import Needs
from etl.workers.progress import say
from etl.workers.questions import ANSWER_TIMEOUT_S, Questions

LOOK_EVERY_S = 1.0
SAY_EVERY_S = 60.0
# A run begins with those that have answered when the first has been ready for so long.
SETTLE_S = 2.0
# Where all workers that came first are unfit, others may be about to come.
GRACE_S = 10.0


@dataclass(frozen=True)
class Hand:
    """A worker that may be given work.

    Parameters
    ----------
    threads : int
    memory : float or None
        Bytes: the smaller of its resource MEMORY and its memory limit; None: it says neither.
    declares : bool
        It has the resource MEMORY.
    """

    threads: int
    memory: float | None
    declares: bool


class Fleet:
    """Keeps account of the workers of a scheduler.

    Parameters
    ----------
    client : Client
    needs : Needs
    wait_s : float
        How long to wait where there is no worker.
    quiet : bool
        Say only what went wrong.
    """

    def __init__(self, client: Client, needs: Needs, *, wait_s: float, quiet: bool) -> None:
        self._client, self._wait_s, self._quiet = client, wait_s, quiet
        self._questions = Questions(client, needs)
        self.hands: dict[str, Hand] = {}
        self._refused: set[str] = set()
        self._named: set[tuple[str, str]] = set()
        self._looked = -float("inf")
        self._alone_since: float | None = None
        self._said = 0.0
        self._call_for_workers: Future[Any] | None = None

    @property
    def threads(self) -> int:
        """Tasks that can run at once."""
        return sum(hand.threads for hand in self.hands.values())

    @property
    def has_others(self) -> bool:
        """Some worker that is there gets no work, or none yet."""
        return bool(self._refused or self._questions.asked)

    @property
    def largest_bytes(self) -> int | None:
        """Memory of the largest worker; None where one does not say."""
        bounds = [hand.memory for hand in self.hands.values()]
        known = [bound for bound in bounds if bound is not None]
        return int(max(known)) if known and len(known) == len(bounds) else None

    def able(self, need: float) -> dict[str, Hand]:
        """Give those who have the memory for a call; the largest where nobody has."""
        most = max((hand.memory or 0 for hand in self.hands.values()), default=0)
        bound = min(need, most) if all(hand.memory is not None for hand in self.hands.values()) else need
        return {name: hand for name, hand in self.hands.items() if hand.memory is None or hand.memory >= bound}

    def wait(self) -> None:
        """Wait for the first worker that is fit.

        Raises
        ------
        UsageError
            None came in time, or those that came are unfit.
        """
        start, ready, is_said = time.monotonic(), float("inf"), False
        while True:
            self.look_now()
            now = time.monotonic()
            if self.hands:
                ready = min(ready, now)
                if not self._questions.is_waiting or now - ready >= SETTLE_S:
                    self._stop_calling()
                    return
            elif not self._questions.is_waiting:
                self._give_up(now - start)
                if not is_said and not self.has_others:
                    say(f"the scheduler has no workers yet: waiting up to {self._wait_s:g} s", quiet=self._quiet)
                    is_said = True
                self._call()
            time.sleep(min(0.1, self._wait_s))

    def _give_up(self, waited_s: float) -> None:
        """End the run where nobody that came can do the work, or nobody came."""
        if self._refused and waited_s >= min(GRACE_S, self._wait_s):
            count = len(self._refused) + len(self._questions.asked)
            raise UsageError(f"none of the {count} workers can do the work (named above)")
        if waited_s >= self._wait_s:
            there = "no worker that answers" if self._questions.asked else "no workers"
            raise UsageError(f"the scheduler has {there}; none came within {self._wait_s:g} s (--wait-workers)")

    def look(self, left: int) -> set[str]:
        """See who has come and who has gone, once a second; say so where nobody is left.

        Parameters
        ----------
        left : int
            Pieces of work that are not done.

        Returns
        -------
        set of str
            Keys of what lies with workers that do not answer: they got it before they could be asked.

        Raises
        ------
        ClusterError
            Nobody was there for as long as one may be waited for.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return set()
        held: set[str] = set()
        # A scheduler that is busy is asked again.
        with suppress(TimeoutError):
            self.look_now()
            held = self._held_by_silent()
        self._looked = time.monotonic()
        if self.hands:
            if self._alone_since is not None:
                say(f"workers are back: {len(self.hands)}", quiet=False)
            self._alone_since = None
            self._stop_calling()
            return held
        if self._alone_since is None:
            self._alone_since, self._said = now, -float("inf")
        alone_s = now - self._alone_since
        if alone_s >= self._wait_s:
            raise ClusterError(f"no workers for {alone_s:.0f} s (--wait-workers)")
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            say(f"no workers left: {left} tasks wait for one, {self._wait_s - alone_s:.0f} s longer", quiet=False)
        self._call()
        return held

    def refuse(self, address: str, why: str) -> None:
        """Give a worker no more work, and name it once."""
        self.hands.pop(address, None)
        self._refused.add(address)
        self._name(address, why)

    def _name(self, address: str, why: str) -> None:
        host = urlsplit(address).hostname or address
        if (host, why) not in self._named:
            self._named.add((host, why))
            say(f"worker {address} is not used: it {why}", quiet=False)

    def look_now(self) -> None:
        """See who has come and who has gone, ask those that have come, and hear those that have answered."""
        there = self._sync(self._scheduler.ncores)
        self._refused &= set(there)
        self.hands = {address: hand for address, hand in self.hands.items() if address in there}
        self._questions.ask([address for address in there if address not in self.hands.keys() | self._refused])
        answers = self._questions.answers()
        known = self._sync(self._scheduler.identity, n_workers=-1)["workers"] if answers else {}
        for address, why in answers.items():
            if why is not None:
                self.refuse(address, why)
            elif address in known:
                self.hands[address] = _hand(known[address])
        for address in self._questions.silent:
            self._name(address, f"did not answer within {ANSWER_TIMEOUT_S:g} s")

    def _held_by_silent(self) -> set[str]:
        silent = self._questions.silent
        held = self._sync(self._scheduler.processing) if silent else {}
        return {key for address in silent for key in held.get(address, ())}

    def close(self) -> None:
        """Wait for nobody any longer."""
        self._questions.close()

    def _call(self) -> None:
        """Have an adaptive cluster see that there is work: it grows by what waits at the scheduler."""
        if self._call_for_workers is None:
            self._call_for_workers = self._client.submit(int, pure=False)

    def _stop_calling(self) -> None:
        if self._call_for_workers is not None:
            self._call_for_workers.release()
            self._call_for_workers = None

    @property
    def _scheduler(self) -> Any:
        """What calls the scheduler; None in a client that was closed."""
        return self._client.scheduler

    def _sync(self, function: Any, **arguments: Any) -> Any:
        return self._client.sync(function, callback_timeout=ANSWER_TIMEOUT_S, **arguments)


def _hand(worker: Mapping[str, Any]) -> Hand:
    declared = (worker.get("resources") or {}).get(MEMORY_RESOURCE)
    bounds = [float(bound) for bound in (declared, worker.get("memory_limit")) if bound]
    return Hand(int(worker["nthreads"]), min(bounds, default=None), bool(declared))
