"""How keys of a store are read and written. Another kind of place is another class here.

A key is a path relative to the store, as Zarr has it. Whatever the place, a key is put atomically, and what was
put is still there after a power cut once `Keys.settle` has returned.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from etl.errors import UsageError
from etl.store import durable
from etl.store.layout import METADATA

Content = bytes | bytearray | memoryview


class Keys(Protocol):
    """A place for the keys of one store."""

    @property
    def path(self) -> str:
        """Where it is, as a person writes it."""

    def check_place(self) -> None:
        """Refuse a place that cannot hold a store.

        Raises
        ------
        UsageError
        """

    def get(self, key: str) -> bytes | None:
        """Read a key; None where it is absent."""

    def put(self, key: str, content: Content) -> None:
        """Write a key; readers see all of it or what was there before.

        Raises
        ------
        DiskFullError
        OSError
        """

    def settle(self, keys: Iterable[str], below: str) -> None:
        """Return once the names of keys that were put below a group would survive a power cut.

        Parameters
        ----------
        keys : iterable of str
        below : str
            The group, itself included; empty: the store.
        """

    def names(self, group: str) -> list[str]:
        """List what stands directly below a group, sorted; nothing where the group is absent."""

    def groups(self, group: str) -> list[str]:
        """List the groups directly below a group, sorted."""

    def sizes(self, group: str) -> dict[str, int]:
        """Give the bytes of every key below a group, by its name relative to it."""

    def take_back(self, group: str) -> None:
        """Remove a group: its metadata first, so that they never describe what is half there."""

    def clear(self) -> None:
        """Take the whole store away in one step."""

    def clear_leftovers(self) -> None:
        """Remove what a killed run left above the series."""


class LocalKeys:
    """A folder of this machine, or of a file server that it mounts.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def check_place(self) -> None:
        """See `Keys.check_place`."""
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise UsageError(f"store {self.path!r} is a file; a folder is needed")

    def get(self, key: str) -> bytes | None:
        """See `Keys.get`."""
        return durable.read_if_there(f"{self.path}/{key}")

    def put(self, key: str, content: Content) -> None:
        """See `Keys.put`."""
        durable.write_durably(Path(self.path, key), content)

    def settle(self, keys: Iterable[str], below: str) -> None:
        """See `Keys.settle`."""
        # The name of the store itself stands in the folder above it.
        top = Path(self.path, below) if below else Path(self.path).parent
        durable.flush_folders((Path(self.path, key) for key in keys), top)

    def names(self, group: str) -> list[str]:
        """See `Keys.names`."""
        try:
            return sorted(os.listdir(f"{self.path}/{group}"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def groups(self, group: str) -> list[str]:
        """See `Keys.groups`."""
        try:
            with os.scandir(f"{self.path}/{group}") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sizes(self, group: str) -> dict[str, int]:
        """See `Keys.sizes`."""
        found: dict[str, int] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            with os.scandir(f"{self.path}/{group}/{folder}") as entries:
                for entry in entries:
                    name = f"{folder}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    elif entry.is_file():
                        found[name] = entry.stat().st_size
        return found

    def take_back(self, group: str) -> None:
        """See `Keys.take_back`."""
        durable.take_back(Path(self.path, group), METADATA)

    def clear(self) -> None:
        """See `Keys.clear`."""
        durable.remove_store(Path(self.path))

    def clear_leftovers(self) -> None:
        """See `Keys.clear_leftovers`."""
        durable.clear_leftovers(Path(self.path))


def open_keys(path: str) -> Keys:
    """Give the keys of the store at a path."""
    return LocalKeys(path)
