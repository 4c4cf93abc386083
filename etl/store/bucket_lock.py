"""The lock of a store in a bucket: created only if absent, kept alive by rewriting it, judged by its ETag.

No clock decides, neither this machine's nor the server's. The holder writes another number into its lock every few
seconds, so the ETag changes. Who finds a lock of another machine watches it: one that changes is held; one that
does not for `STALE_AFTER_S` of watching is stale, and the next number may be taken, which one of several gets.
What a server does not answer counts as nothing seen: after an outage the holder has its time again.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from etl.buckets.bucket import Bucket
from etl.errors import DiskFullError, UsageError
from etl.store.bucket_keys import beside
from etl.store.lock_holder import has_ended, held_by, read_holder, taken_over, this_process, words_for

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
LOOK_EVERY_S = 1.0


class BucketLock:
    """Holds a store in a bucket for one run: see `etl.store.lock.Lock`.

    Parameters
    ----------
    store_url : str
    tell : callable
        Gets a line before a lock is watched that may be stale.

    Raises
    ------
    UsageError
        On entering: another run holds the store, or the bucket may not be written.
    """

    def __init__(self, store_url: str, tell: Callable[[str], None]) -> None:
        self._locks = Bucket(f"{beside(store_url)}/lock")
        self._tell = tell
        self._own: int | None = None
        self._about = {**this_process(), "run": uuid.uuid4().hex}
        self._beats = 0
        self._e_tag = ""
        self._stop = threading.Event()
        self._lost = False
        self._beat = threading.Thread(target=self._keep_fresh, daemon=True)

    def __enter__(self) -> BucketLock:
        while self._own is None:
            highest = max(self._numbers(), default=0)
            if highest and (holder := self._holder(highest)) is not None:
                raise held_by(holder, f"{self._locks.url}/{highest}")
            e_tag = self._created(highest + 1)
            if e_tag is not None:
                self._own, self._e_tag = highest + 1, e_tag
        self._locks.remove(str(number) for number in self._numbers() if number < self._own)
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join()
        # A server that has gone keeps the lock, which then goes stale.
        with suppress(OSError):
            self._locks.remove([str(self._own)])

    @property
    def token(self) -> str:
        """URL of the lock."""
        return f"{self._locks.url}/{self._own}"

    def check(self) -> None:
        """Fail if another run took the lock: see `etl.store.lock.Lock`.

        Raises
        ------
        StoreError
        """
        if self._lost:
            raise taken_over()

    def _numbers(self) -> list[int]:
        return sorted(int(found.name) for found in self._locks.walk() if found.name.isdecimal())

    def _created(self, number: int) -> str | None:
        try:
            return self._locks.create(str(number), self._content())
        except OSError as error:
            raise UsageError(f"store cannot be written: {error}") from error

    def _content(self) -> bytes:
        return json.dumps({**self._about, "beat": self._beats}).encode()

    def _holder(self, number: int) -> str | None:
        """Tell who holds a lock, once it has been seen to change; None where it is gone or stale."""
        try:
            first, content = self._locks.get(str(number))
            holder = read_holder(content)
            if has_ended(holder):
                return None
            self._tell(f"{words_for(holder)} holds the store, or did; watching its lock for up to a minute")
            quiet_s, last = 0.0, time.monotonic()
            while quiet_s < STALE_AFTER_S:
                time.sleep(LOOK_EVERY_S)
                if self._locks.head(str(number)).e_tag != first.e_tag:
                    return words_for(holder)
                now = time.monotonic()
                # A look that had to be asked for again and again says nothing of what was meanwhile.
                quiet_s += min(now - last, 2 * LOOK_EVERY_S)
                last = now
        except FileNotFoundError:
            return None
        return None

    def _keep_fresh(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            self._beats += 1
            try:
                e_tag = self._rewrite()
                numbers = self._numbers()
            except OSError:
                # The server is away for all: nobody can have taken the lock meanwhile, or the next beat tells.
                continue
            if e_tag is None or self._own != max(numbers, default=0):
                self._lost = True
                return
            self._e_tag = e_tag

    def _rewrite(self) -> str | None:
        """Write the next number into the lock; give its ETag, or None where it is not ours any more."""
        e_tag = self._locks.update(str(self._own), self._content(), self._e_tag)
        if e_tag is not None:
            return e_tag
        # A beat whose answer was lost, before the server went away, may have been done all the same.
        with suppress(FileNotFoundError):
            found, content = self._locks.get(str(self._own))
            if read_holder(content).get("run") == self._about["run"]:
                return found.e_tag
        return None


def is_there(token: str) -> bool:
    """Whether the lock at a URL is there."""
    folder, _, number = token.rpartition("/")
    try:
        Bucket(folder).head(number)
    except FileNotFoundError:
        return False
    except OSError as error:
        # It was asked for two minutes: what comes next would get no answer either.
        raise DiskFullError(f"the bucket does not answer ({error}); run again when it does") from error
    return True
