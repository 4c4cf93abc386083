"""What workers are asked before they get work: each on its own, so that one that is frozen holds up nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from distributed import Client

from etl.software import SOFTWARE, differing_versions
from etl.workers.fitness import Needs, unfit

# A worker that is well answers within the time that a slow mount takes.
ANSWER_TIMEOUT_S = 20.0


@dataclass
class _Question:
    asked: float
    answer: Future[str | None]

    @property
    def is_lost(self) -> bool:
        """The way to the worker failed."""
        return self.answer.done() and isinstance(self.answer.exception(), OSError)


class Questions:
    """Asks workers whether they can do the work, and collects the answers as they come.

    A question to a worker that does not answer stays open: it costs nothing, and the answer counts when it comes.

    Parameters
    ----------
    client : Client
    needs : Needs
    """

    def __init__(self, client: Client, needs: Needs) -> None:
        self._client, self._needs = client, needs
        self._open: dict[str, _Question] = {}

    @property
    def is_waiting(self) -> bool:
        """Some worker has been asked, and may yet answer in time."""
        return len(self.silent) < len(self._open)

    @property
    def asked(self) -> Collection[str]:
        """Workers that have not answered yet."""
        return self._open.keys()

    @property
    def silent(self) -> list[str]:
        """Workers that should have answered long since."""
        latest = time.monotonic() - ANSWER_TIMEOUT_S
        return [address for address, question in self._open.items() if question.asked < latest]

    def ask(self, workers: Collection[str]) -> None:
        """Ask these workers, those that have been asked only once; forget all others."""
        for address in self._open.keys() - set(workers):
            self._open.pop(address).answer.cancel()
        for address in workers:
            known = self._open.get(address)
            if known is None:
                self._open[address] = _Question(time.monotonic(), self._start(address))
            elif known.is_lost:
                # It has gone, or is as silent as before.
                known.answer = self._start(address)

    def answers(self) -> dict[str, str | None]:
        """Give what has come since: why a worker cannot do the work; None where it can."""
        come = {
            address: question.answer.result()
            for address, question in self._open.items()
            if question.answer.done() and not question.is_lost
        }
        for address in come:
            del self._open[address]
        return come

    def close(self) -> None:
        """Wait for no answer any longer."""
        self.ask(())

    def _start(self, address: str) -> Future[str | None]:
        loop: Any = self._client.loop
        return asyncio.run_coroutine_threadsafe(self._ask(address), loop.asyncio_loop)

    async def _ask(self, address: str) -> str | None:
        """Ask one worker: without a pickled call first, since those do not cross all versions."""
        message = {"op": "versions", "packages": list(SOFTWARE)}
        scheduler: Any = self._client.scheduler
        answers = await scheduler.broadcast(msg=message, workers=[address], on_error="ignore")
        if address not in answers:
            raise ConnectionError(f"worker {address} cannot be reached")
        if named := differing_versions(dict(self._needs.versions), answers[address]["packages"]):
            return f"differs from where the run was started: {named}"
        said = await self._client.run(_unfit_in_time, self._needs, workers=[address], on_error="return")
        [why] = said.values()
        if isinstance(why, OSError):
            raise why
        return f"cannot be asked: {why!r}" if isinstance(why, Exception) else why


async def _unfit_in_time(needs: Needs) -> str | None:
    """Ask a worker on a thread of its own: a dead mount must hold up neither it nor the run."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(unfit, needs), ANSWER_TIMEOUT_S / 2)
    except TimeoutError:
        return f"did not say within {ANSWER_TIMEOUT_S / 2:g} s whether it sees input and store"
