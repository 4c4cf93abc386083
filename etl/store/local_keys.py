"""The keys of a store in a folder of this machine, or of a file server that it mounts: each is a file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from etl.errors import StoreError, UsageError
from etl.store import durable, local_folder
from etl.store.inventory import Inventory, take_inventory
from etl.store.layout import METADATA, own_keys_of
from etl.store.replacing import complete_replacements, replace_groups

Content = bytes | bytearray | memoryview


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

    def put_parts(self, key: str, parts: Callable[[], Iterator[bytes]]) -> None:
        """See `Keys.put_parts`."""
        self._refuse_links(key.rpartition("/")[0])
        durable.write_parts_durably(Path(self.path, key), parts())

    def size(self, key: str) -> int | None:
        """See `Keys.size`."""
        try:
            status = os.stat(f"{self.path}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def digest(self, key: str) -> str | None:
        """See `Keys.digest`."""
        try:
            with open(f"{self.path}/{key}", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def part(self, key: str, start: int, stop: int) -> bytes | None:
        """See `Keys.part`."""
        try:
            with open(f"{self.path}/{key}", "rb", buffering=0) as file:
                file.seek(start)
                return file.read(stop - start)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

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

    def sizes(self, group: str, among: Iterable[str] | None = None) -> dict[str, int]:
        """See `Keys.sizes`."""
        if among is not None:
            # A series has thirty folders; to list them takes ten times as long as to look at its keys.
            asked = ((name, self.size(f"{group}/{name}")) for name in among)
            return {name: size for name, size in asked if size is not None}
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
