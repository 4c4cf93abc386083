"""The workers of a running scheduler: who is there, who is fit for the work, and what is said when nobody is.

Workers come and go while a run goes on: an adaptive cluster grows, a batch job ends, a host is taken away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Future

from etl.errors import ClusterError, UsageError
from etl.software import SOFTWARE, differing_versions
from etl.workers.declare_memory import MEMORY_RESOURCE
from etl.workers.fitness import Needs, unfit
from etl.workers.progress import say

LOOK_EVERY_S = 1.0
SAY_EVERY_S = 60.0
# A scheduler that is there answers at once, and a worker within the time that a slow mount takes.
ANSWER_TIMEOUT_S = 20.0
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
        self._client, self._needs, self._wait_s, self._quiet = client, needs, wait_s, quiet
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
    def has_refused(self) -> bool:
        """Some worker that is there gets no work."""
        return bool(self._refused)

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
        start, is_said = time.monotonic(), False
        while True:
            self.look_now()
            if self.hands:
                self._stop_calling()
                return
            waited = time.monotonic() - start
            if self._refused and waited >= min(GRACE_S, self._wait_s):
                raise UsageError(f"none of the {len(self._refused)} workers can do the work (named above)")
            if waited >= self._wait_s:
                raise UsageError(
                    f"the scheduler has no workers; none came within {self._wait_s:g} s (--wait-workers)"
                )
            if not is_said and not self._refused:
                say(f"the scheduler has no workers yet: waiting up to {self._wait_s:g} s", quiet=self._quiet)
                is_said = True
            self._call()
            time.sleep(min(0.2, self._wait_s))

    def look(self, left: int) -> None:
        """See who has come and who has gone, once a second; say so where nobody is left.

        Parameters
        ----------
        left : int
            Pieces of work that are not done.

        Raises
        ------
        ClusterError
            Nobody was there for as long as one may be waited for.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        # A scheduler that is busy is asked again.
        with suppress(TimeoutError):
            self.look_now()
        self._looked = time.monotonic()
        if self.hands:
            if self._alone_since is not None:
                say(f"workers are back: {len(self.hands)}", quiet=False)
            self._alone_since = None
            self._stop_calling()
            return
        if self._alone_since is None:
            self._alone_since, self._said = now, -float("inf")
        alone_s = now - self._alone_since
        if alone_s >= self._wait_s:
            raise ClusterError(f"no workers for {alone_s:.0f} s (--wait-workers)")
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            say(f"no workers left: {left} tasks wait for one, {self._wait_s - alone_s:.0f} s longer", quiet=False)
        self._call()

    def refuse(self, address: str, why: str) -> None:
        """Give a worker no more work, and name it once."""
        self.hands.pop(address, None)
        self._refused.add(address)
        host = urlsplit(address).hostname or address
        if (host, why) not in self._named:
            self._named.add((host, why))
            say(f"worker {address} is not used: it {why}", quiet=False)

    def look_now(self) -> None:
        """See who has come and who has gone, and ask those that have come."""
        there = self._sync(self._scheduler.ncores)
        self._refused &= set(there)
        self.hands = {address: hand for address, hand in self.hands.items() if address in there}
        new = [address for address in there if address not in self.hands and address not in self._refused]
        if new:
            self._ask(new)

    def _ask(self, new: Sequence[str]) -> None:
        """Ask workers what they are: without a pickled call first, since those do not cross all versions."""
        asked = {"op": "versions", "packages": list(SOFTWARE)}
        answers = self._sync(self._scheduler.broadcast, msg=asked, workers=list(new), on_error="ignore")
        same = []
        for address, answer in answers.items():
            named = differing_versions(dict(self._needs.versions), answer["packages"])
            if named:
                self.refuse(address, f"differs from where the run was started: {named}")
            else:
                same.append(address)
        found = self._client.run(_unfit_in_time, self._needs, workers=same, on_error="return") if same else {}
        known = self._sync(self._scheduler.identity, n_workers=-1)["workers"]
        for address, why in found.items():
            if isinstance(why, OSError):
                continue  # it has gone; if it has not, it is asked again
            if why is not None:
                self.refuse(address, str(why) if isinstance(why, str) else f"cannot be asked: {why!r}")
            elif address in known:
                self.hands[address] = _hand(known[address])

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


async def _unfit_in_time(needs: Needs) -> str | None:
    """Ask a worker on a thread of its own: a dead mount must hold up neither it nor the run."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(unfit, needs), ANSWER_TIMEOUT_S / 2)
    except TimeoutError:
        return f"did not say within {ANSWER_TIMEOUT_S / 2:g} s whether it sees input and store"
