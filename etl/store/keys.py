"""How keys of a store are read and written. Another kind of place is another class here.

A key is a path relative to the store, as Zarr has it. Whatever the place, a key is put atomically, and what was
put is still there after a power cut once `Keys.settle` has returned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from etl.buckets.urls import is_bucket_url, join_url, parse_url
from etl.errors import StoreError, UsageError
from etl.store import durable, local_folder
from etl.store.inventory import Inventory, take_inventory
from etl.store.layout import METADATA, own_keys_of
from etl.store.replacing import complete_replacements, replace_groups

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

    def replace(self, groups: Mapping[str, Mapping[str, Content]], check: Callable[[], None]) -> None:
        """Put the keys of groups, each a series or a label, in the place of those that are there.

        Whatever ends it, the old groups are there or the new ones, at the latest after `clear_leftovers`. What
        others left in them stays.

        Parameters
        ----------
        groups : mapping of mappings of bytes-like
            By group, by key relative to it, its metadata among them. A group without keys is to go.
        check : callable
            Called before each key; where it raises, the old groups stay.

        Raises
        ------
        DiskFullError, OSError
            The old groups stay.
        """

    def take_back(self, group: str) -> None:
        """Remove the keys of a series or a label, its metadata first; what others left in it stays."""

    def inventory(self) -> Inventory:
        """Tell apart everything that lies in the store."""

    def remove(self, path: str) -> None:
        """Remove what the inventory names: the keys of a series or a label, or one key."""

    def start_anew(self, root: bytes) -> str | None:
        """Put a store with nothing but a root in the place of the one that is there.

        Returns
        -------
        str or None
            Where things of the old store lie that this package did not write.
        """

    def clear_leftovers(self) -> None:
        """Finish the replacements that killed runs had ready; remove what they left above the series."""


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
        """See `Keys.put`; nothing is written through a link that leads elsewhere.

        Raises
        ------
        StoreError
            A folder of the store is a link.
        """
        self._refuse_links(key.rpartition("/")[0])
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
                # A link is none of ours: it may lead out of the store.
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
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

    def replace(self, groups: Mapping[str, Mapping[str, Content]], check: Callable[[], None]) -> None:
        """See `Keys.replace`."""
        for group, content in groups.items():
            for key in (METADATA, *content):
                self._refuse_links(f"{group}/{key}".rpartition("/")[0])
        replace_groups(Path(self.path), groups, check)

    def take_back(self, group: str) -> None:
        """See `Keys.take_back`."""
        self._refuse_links(group)
        local_folder.take_back(Path(self.path, group), own_keys_of(group))

    def inventory(self) -> Inventory:
        """See `Keys.inventory`."""
        return take_inventory(Path(self.path))

    def remove(self, path: str) -> None:
        """See `Keys.remove`."""
        target = Path(self.path, path)
        if target.is_dir() and not target.is_symlink():
            local_folder.take_back(target, own_keys_of(path))
        else:
            target.unlink(missing_ok=True)

    def start_anew(self, root: bytes) -> str | None:
        """See `Keys.start_anew`."""
        foreign = local_folder.start_anew(Path(self.path), root)
        return None if foreign is None else str(foreign)

    def clear_leftovers(self) -> None:
        """See `Keys.clear_leftovers`."""
        complete_replacements(Path(self.path))
        local_folder.clear_leftovers(Path(self.path))

    def _refuse_links(self, group: str) -> None:
        parts = group.split("/") if group else []
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if os.path.islink(f"{self.path}/{folder}"):
                raise StoreError(f"{folder} in the store is a link; nothing is written through links")


def resolve_store(path: str) -> str:
    """Give the real place of a store as a person names it; taken once, so that a run has one.

    Raises
    ------
    UsageError
        It is a URL that nothing can be written to, or names a whole bucket.
    """
    if is_bucket_url(path):
        place = parse_url(path)
        if not place.path:
            raise UsageError(
                f"store {path!r} is a whole bucket; a store needs a name in it: {path.rstrip('/')}/NAME"
            )
        return join_url(place)
    # One letter before the colon is a drive; one slash after it is what a shell script makes of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise UsageError(f"store {path!r} is a URL; allowed are folders of this machine, s3://, gs:// and az://")
    return os.path.realpath(os.path.expanduser(path))


def open_keys(path: str) -> Keys:
    """Give the keys of the store at a path, as `resolve_store` gives it."""
    if is_bucket_url(path):
        from etl.store.bucket_keys import BucketKeys  # noqa: PLC0415 - a folder needs none of it

        return BucketKeys(path)
    return LocalKeys(path)
