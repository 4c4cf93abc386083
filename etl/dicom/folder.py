"""A folder of the file system as a container."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from etl.dicom.zip_archive import is_zip
from etl.stack import FileState


class Folder:
    """A folder of the file system, with everything below it.

    Links are followed, each folder is visited once; FIFOs, sockets and devices are passed over.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def members(self, problems: list[tuple[str, str]], only: tuple[str, ...] | None) -> Iterator[str]:
        """See `Container.members`."""
        if only is None:
            yield from self._walk(problems, "")
            return
        files = [name for name in only if not name.endswith("/")]
        lost = [name for name in files if _leads_nowhere(os.path.join(self._path, name))]
        yield from (name for name in files if name not in lost)
        for name in only:
            if name.endswith("/"):
                yield from self._walk(problems, name.rstrip("/"))
        _tell_lost(problems, "", len(lost))

    def _walk(self, problems: list[tuple[str, str]], start: str) -> Iterator[str]:
        visited: set[tuple[int, int]] = set()
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            path = os.path.join(self._path, folder)
            try:
                status = os.stat(path)
                with os.scandir(path) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                problems.append((folder, f"{type(error).__name__} while listing"))
                continue
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            inner = []
            lost = 0
            for entry in entries:
                name = os.path.join(folder, entry.name)
                try:
                    if entry.is_dir():
                        inner.append(name)
                    elif entry.is_file():
                        yield name
                    elif entry.is_symlink():
                        lost += _leads_nowhere(entry.path)
                except OSError as error:
                    if entry.is_symlink():
                        lost += 1
                    else:
                        problems.append((name, f"{type(error).__name__} while listing"))
            waiting += reversed(inner)
            _tell_lost(problems, folder, lost)

    @contextmanager
    def open(self, member: str, *, whole: bool) -> Iterator[BinaryIO]:
        """See `Container.open`."""
        path = os.path.join(self._path, member)
        # Between the scan and now a file may have become something that blocks for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileNotFoundError(f"{member!r} is no regular file")
        with open(path, "rb") as stream:
            yield stream

    def state(self, member: str) -> FileState:
        """See `Container.state`."""
        return FileState.of(os.path.join(self._path, member))

    def crc32(self, member: str) -> int:
        """Give -1: a folder keeps no checksums."""
        return -1

    def inner_path(self, member: str) -> str | None:
        """Give the path of a zip in the folder."""
        if not member.lower().endswith(".zip"):
            return None
        path = Path(self._path, member)
        return str(path) if path.is_file() and is_zip(path) else None

    def states(self, members: Iterable[str]) -> Iterator[tuple[str, FileState]]:
        """See `Container.states`."""
        return ((member, FileState.of(os.path.join(self._path, member))) for member in members)

    def expect(self, members: Sequence[str]) -> None:
        """Do nothing: a folder has what it has at once."""

    def close(self) -> None:
        """Do nothing: a folder is not held open."""


def _leads_nowhere(path: str) -> bool:
    """Whether it is a link without a target: git-annex and DataLad leave such where content was not fetched."""
    return os.path.islink(path) and not os.path.exists(path)


def _tell_lost(problems: list[tuple[str, str]], folder: str, count: int) -> None:
    if count:
        links = "1 link leads" if count == 1 else f"{count} links lead"
        problems.append((folder, f"{links} to nothing: content that was not fetched, or is gone"))
