"""One writer per store: a lock that survives crashes without blocking for ever.

The lock is a numbered file beside the store, created only if it is absent; that is all it needs, so a bucket can
do the same with a conditional put. Whoever holds the highest number holds the lock while its heartbeat is fresh.
A crashed holder's file goes stale, and the next run takes the next number: of two that try, one wins.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from etl.buckets.urls import is_bucket_url
from etl.store.lock_holder import has_ended, held_by, read_holder, taken_over, this_process, words_for

HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0


class Lock(Protocol):
    """Holds a store for one run; use as a context manager.

    Entering it raises `UsageError` where another run holds the store.
    """

    @property
    def token(self) -> str:
        """Where the lock is: a worker publishes only while `is_held` finds it there."""

    def check(self) -> None:
        """Fail if another run took the lock.

        Raises
        ------
        StoreError
        """

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def store_lock(store_path: str, tell: Callable[[str], None] = lambda _: None) -> Lock:
    """Give the lock of a store, a folder's or a bucket's.

    Parameters
    ----------
    store_path : str
    tell : callable
        Gets a line where it takes long to find out whether another run lives.
    """
    if is_bucket_url(store_path):
        from etl.store.bucket_lock import BucketLock  # noqa: PLC0415 - a folder needs none of it

        return BucketLock(store_path, tell)
    return StoreLock(store_path)


def is_held(token: str) -> bool:
    """Whether the lock with a token is still there."""
    if is_bucket_url(token):
        from etl.store.bucket_lock import is_there  # noqa: PLC0415

        return is_there(token)
    return os.path.exists(token)


class StoreLock:
    """The lock of a store in a folder: see `Lock`.

    Parameters
    ----------
    store_path : str
        The lock lies beside the folder that it really is, as ``.<name>.lock.<number>``: two names of one store
        are one store.

    Raises
    ------
    UsageError
        On entering: another run holds the store.
    """

    def __init__(self, store_path: str) -> None:
        store = Path(os.path.realpath(store_path))
        self._folder, self._stem = store.parent, f".{store.name}.lock."
        self._own: Path | None = None
        self._stop = threading.Event()
        self._lost = False
        self._beat = threading.Thread(target=self._keep_fresh, daemon=True)

    def __enter__(self) -> StoreLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        while self._own is None:
            held = self._numbers()
            highest = held[-1] if held else 0
            if highest and (holder := self._holder(highest)) is not None:
                raise held_by(holder, str(self._path(highest)))
            self._own = self._create(highest + 1)
        for number in self._numbers():
            if self._path(number) != self._own:
                self._path(number).unlink(missing_ok=True)
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join()
        if self._own is not None:
            self._own.unlink(missing_ok=True)

    @property
    def token(self) -> str:
        """Path of the lock file: a worker publishes only while it is there."""
        return str(self._own)

    def check(self) -> None:
        """Fail if another run took the lock, because this one was stopped for longer than a minute.

        Raises
        ------
        StoreError
        """
        if self._lost:
            raise taken_over()

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._stem) + r"(\d+)")
        found = (pattern.fullmatch(name) for name in os.listdir(self._folder))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._stem}{number}"

    def _create(self, number: int) -> Path | None:
        """Create the lock of that number, and only that; None where another run was quicker."""
        path = self._path(number)
        try:
            with path.open("x", encoding="utf-8") as stream:
                json.dump(this_process(), stream)
        except FileExistsError:
            return None
        return path

    def _holder(self, number: int) -> str | None:
        """Tell who holds a lock; None where it is stale."""
        path = self._path(number)
        try:
            age_s = self._now_s() - path.stat().st_mtime
            holder = read_holder(path.read_bytes())
        except FileNotFoundError:
            return None
        return None if has_ended(holder) or age_s > STALE_AFTER_S else words_for(holder)

    def _now_s(self) -> float:
        """Tell the time by the clock of the file server, which also stamps the locks: others may be wrong."""
        probe = self._folder / f"{self._stem}probe.{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _keep_fresh(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(HEARTBEAT_S):
            try:
                os.utime(self._own or "")
                numbers = self._numbers()
            except FileNotFoundError:
                self._lost = True
                return
            except OSError:
                # A file server that stumbles (ESTALE, EIO) is no other run. Others wait a minute too.
                if time.monotonic() - last < STALE_AFTER_S:
                    continue
                self._lost = True
                return
            last = time.monotonic()
            if numbers and self._path(numbers[-1]) != self._own:
                self._lost = True
                return
