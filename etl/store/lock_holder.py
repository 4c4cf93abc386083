"""Who holds a lock, as the lock itself says."""

from __future__ import annotations

import getpass
import json
import os
import socket
from typing import Any

from etl.errors import StoreError, UsageError


def this_process() -> dict[str, Any]:
    """Describe this process to others that would write to its store."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "user": _user()}


def read_holder(content: str | bytes) -> dict[str, Any]:
    """Read what a lock says; nothing where it was cut off."""
    try:
        found = json.loads(content or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def words_for(holder: dict[str, Any]) -> str:
    """Name a holder to people."""
    host, pid, user = holder.get("host"), holder.get("pid"), holder.get("user")
    return f"process {pid}{f' of {user}' if user else ''} on {host}"


def has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine that is gone; of others nothing is known."""
    host, pid = holder.get("host"), holder.get("pid")
    return host == socket.gethostname() and isinstance(pid, int) and not _is_alive(pid)


def held_by(holder: str, lock: str) -> UsageError:
    """Give the error of a run that finds the store held.

    Parameters
    ----------
    holder : str
        As `words_for` gives it.
    lock : str
        Path or URL of the lock.
    """
    return UsageError(
        f"another run ({holder}) is writing to this store; wait for it, or use another store (its lock is {lock})"
    )


def taken_over() -> StoreError:
    """Give the error of a run whose lock another one took."""
    return StoreError("another run took over this store while this one stood still; nothing more is written")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
