"""What holds files: a folder or a zip. Another kind of input is another class here.

A member is a name that its container gave; only the container knows what it means.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from etl.dicom.inflate import inflated_member
from etl.stack import FileState, Location

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


class Container(Protocol):
    """Holds files that can be listed and opened."""

    def members(self, problems: list[tuple[str, str]], only: tuple[str, ...] | None) -> Iterator[str]:
        """List the regular files, in an order that does not depend on the file system.

        Parameters
        ----------
        problems : list
            Gets (member, what is wrong) of everything that cannot be listed, and of links that lead to nothing.
        only : tuple of str or None
            Names to look at; None: everything.
        """

    def open(self, member: str, *, whole: bool) -> AbstractContextManager[BinaryIO]:
        """Open a member for reading; seekable.

        Parameters
        ----------
        member : str
        whole : bool
            All of it will be read.

        Raises
        ------
        OSError, zipfile.BadZipFile
            It cannot be opened.
        """

    def state(self, member: str) -> FileState:
        """Tell what a member looks like from outside; of a zip's, the archive's times.

        Raises
        ------
        OSError
            It is not there any more.
        """

    def crc32(self, member: str) -> int:
        """Give the checksum that the container keeps of a member; -1 where it keeps none."""

    def inner_path(self, member: str) -> str | None:
        """Give the path of the container that a member is itself; None where it is a plain file."""

    def states(self, members: Iterable[str]) -> Iterator[tuple[str, FileState]]:
        """Tell what the files look like that hold some members: a name within the container, and its state.

        Raises
        ------
        OSError
            One is not there any more.
        """

    def close(self) -> None:
        """Give back what is held open."""


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
            yield from self._walk(problems)
            return
        lost = [name for name in only if _leads_nowhere(os.path.join(self._path, name))]
        yield from (name for name in only if name not in lost)
        _tell_lost(problems, "", len(lost))

    def _walk(self, problems: list[tuple[str, str]]) -> Iterator[str]:
        visited: set[tuple[int, int]] = set()
        waiting = [""]
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
        return _state_of(os.path.join(self._path, member))

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
        return ((member, _state_of(os.path.join(self._path, member))) for member in members)

    def close(self) -> None:
        """Do nothing: a folder is not held open."""


class Zip:
    """A zip archive; archives in it stay closed.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: zipfile.ZipFile | None = None
        self._archive_state = FileState(0, 0, 0, 0)

    def members(self, problems: list[tuple[str, str]], only: tuple[str, ...] | None) -> Iterator[str]:
        """See `Container.members`."""
        try:
            # `ZipInfo.is_dir` of Python 3.11 fails on an empty name.
            names = sorted(i.filename for i in self._archive.infolist() if i.filename and i.filename[-1] != "/")
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            problems.append(("", f"{type(error).__name__} while listing"))
            return
        yield from (name for name in names if only is None or name in only)

    @contextmanager
    def open(self, member: str, *, whole: bool) -> Iterator[BinaryIO]:
        """See `Container.open`; a member that is wanted whole is inflated at once."""
        info = self._info(member)
        content = inflated_member(self._archive, info) if whole else None
        with self._archive.open(info) if content is None else BytesIO(content) as stream:
            yield stream  # type: ignore[misc]  # ZipExtFile is a BinaryIO in all but name

    def state(self, member: str) -> FileState:
        """Give the length of a member, and the times of the archive when it was opened."""
        info = self._info(member)
        return self._archive_state._replace(size_bytes=info.file_size)

    def crc32(self, member: str) -> int:
        """Give the checksum in the archive's directory."""
        return self._info(member).CRC

    def inner_path(self, member: str) -> str | None:
        """Give None: zips in zips stay closed."""
        return None

    def states(self, members: Iterable[str]) -> Iterator[tuple[str, FileState]]:
        """Give the state of the archive, which stands for all its members."""
        yield "", _state_of(self._path)

    def close(self) -> None:
        """Close the archive."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None:
            self._opened, self._archive_state = zipfile.ZipFile(self._path), _state_of(self._path)
        return self._opened

    def _info(self, member: str) -> zipfile.ZipInfo:
        try:
            return self._archive.getinfo(member)
        except KeyError as error:
            raise FileNotFoundError("the zip holds no such member any more") from error


def open_container(path: str) -> Container:
    """Give the container at a path of the file system: a zip where it is a file."""
    return Folder(path) if os.path.isdir(path) else Zip(path)


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does; one that was cut off has lost its directory, which is at the end."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) in _ZIP_STARTS
    except OSError:
        return False


def _leads_nowhere(path: str) -> bool:
    """Whether it is a link without a target: git-annex and DataLad leave such where content was not fetched."""
    return os.path.islink(path) and not os.path.exists(path)


def _tell_lost(problems: list[tuple[str, str]], folder: str, count: int) -> None:
    if count:
        links = "1 link leads" if count == 1 else f"{count} links lead"
        problems.append((folder, f"{links} to nothing: content that was not fetched, or is gone"))


def _state_of(path: str) -> FileState:
    status = os.stat(path)
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Opener:
    """Opens members by location; keeps the last container, because the directory of a zip is long to read.

    Use as a context manager.
    """

    def __init__(self) -> None:
        self._last: tuple[str, Container] | None = None

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def container(self, path: str) -> Container:
        """Give the container at a path; it stays open until another one is asked for."""
        # Asked three times a file; to ask the file system each time takes longer than to read an element.
        if self._last is None or self._last[0] != path:
            self._close()
            self._last = path, open_container(path)
        return self._last[1]

    def open(self, location: Location, *, whole: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open the file at a location: see `Container.open`."""
        return self.container(location.container).open(location.member, whole=whole)

    def state(self, location: Location) -> FileState:
        """Tell what a file looks like from outside: see `Container.state`."""
        return self.container(location.container).state(location.member)

    def crc32(self, location: Location) -> int:
        """Give the checksum that its container keeps of a file; -1 where it keeps none."""
        return self.container(location.container).crc32(location.member)

    def _close(self) -> None:
        if self._last is not None:
            self._last[1].close()
            self._last = None
