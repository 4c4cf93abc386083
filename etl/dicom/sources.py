"""Folders, zips and single files as one thing: containers whose members can be listed and opened."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from etl.dicom.inflate import inflated_member
from etl.errors import UsageError
from etl.stack import Location

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Source:
    """One unit of scanning: a zip, a top-level folder, or the files that lie directly in the input.

    Parameters
    ----------
    container : str
        Path of the folder or zip.
    name : str
        What stands for the patient where the files do not name one.
    members : tuple of str or None
        The files to look at; None: all that the container holds.
    """

    container: str
    name: str
    members: tuple[str, ...] | None = None

    @property
    def is_zip(self) -> bool:
        """Whether members are read out of a zip archive."""
        return Path(self.container).is_file()


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """Split the input into units of scanning.

    Parameters
    ----------
    inputs : iterable of str
        Folders, zips, single DICOM files.

    Raises
    ------
    UsageError
        An input does not exist.
    """
    sources: dict[Source, None] = {}
    for given in inputs:
        path = Path(given)
        if not path.exists():
            raise UsageError(f"input {given!r} does not exist")
        absolute = Path(os.path.abspath(path))
        if not path.is_dir() and not path.is_file():
            raise UsageError(f"input {given!r} is neither a folder nor a regular file")
        found = _children(absolute) if path.is_dir() else [_single(absolute)]
        sources.update(dict.fromkeys(found))
    return list(sources)


def list_members(source: Source, problems: list[tuple[str, str]]) -> Iterator[str]:
    """List the regular files of a source, in an order that does not depend on the file system.

    Links are followed, each folder is visited once; FIFOs, sockets and devices are passed over.

    Parameters
    ----------
    source : Source
    problems : list
        Gets (path, what happened) of every folder or archive that cannot be listed.
    """
    if source.members is not None:
        yield from source.members
    elif source.is_zip:
        try:
            with zipfile.ZipFile(source.container) as archive:
                names = sorted(info.filename for info in archive.infolist() if _is_file(info))
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            problems.append(("", type(error).__name__))
            return
        yield from names
    else:
        yield from _walk(source.container, problems)


def _is_file(info: zipfile.ZipInfo) -> bool:
    # `ZipInfo.is_dir` of Python 3.11 fails on an empty name.
    return bool(info.filename) and not info.filename.endswith("/")


def nested_archive(source: Source, member: str) -> Source | None:
    """Give the zip that a member of a folder is, as a source of its own; archives in archives stay closed."""
    if source.is_zip or not member.lower().endswith(".zip"):
        return None
    path = Path(source.container, member)
    return Source(str(path), path.stem) if path.is_file() and _is_zip(path) else None


def _walk(container: str, problems: list[tuple[str, str]]) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        path = os.path.join(container, folder)
        try:
            status = os.stat(path)
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            problems.append((folder, type(error).__name__))
            continue
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        inner = []
        for entry in entries:
            name = os.path.join(folder, entry.name)
            try:
                if entry.is_dir():
                    inner.append(name)
                elif entry.is_file():
                    yield name
            except OSError as error:
                # A link that leads to itself or nowhere holds nothing.
                if not entry.is_symlink():
                    problems.append((name, type(error).__name__))
        waiting += reversed(inner)


class Opener:
    """Open members; keeps the last zip open, because its directory is long to read.

    Use as a context manager.
    """

    def __init__(self) -> None:
        self._archive: zipfile.ZipFile | None = None
        self._folders: dict[str, bool] = {}

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def open(self, location: Location, *, whole: bool = False) -> Iterator[BinaryIO]:
        """Open a file for reading, whatever holds it; seekable.

        Parameters
        ----------
        location : Location
        whole : bool
            All of it will be read: a member of a zip is inflated at once.

        Raises
        ------
        OSError, zipfile.BadZipFile
            It cannot be opened.
        """
        if self._is_folder(location.container):
            path = os.path.join(location.container, location.member)
            # Between the scan and now a file may have become something that blocks for ever.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise FileNotFoundError(f"{location.member!r} is no regular file")
            with open(path, "rb") as stream:
                yield stream
        else:
            archive = self._zip(location.container)
            content = inflated_member(archive, self._info(location)) if whole else None
            with archive.open(location.member) if content is None else BytesIO(content) as member:
                yield member  # type: ignore[misc]  # ZipExtFile is a BinaryIO in all but name

    def size_bytes(self, location: Location) -> int:
        """Give the length of a file."""
        if self._is_folder(location.container):
            return os.stat(os.path.join(location.container, location.member)).st_size
        return self._info(location).file_size

    def crc32(self, location: Location) -> int:
        """Give the checksum that a zip keeps of a member; -1 for a file in a folder."""
        if self._is_folder(location.container):
            return -1
        return self._info(location).CRC

    def _is_folder(self, container: str) -> bool:
        # Asked three times a file; on some machines the answer takes longer than an element of its header.
        if container not in self._folders:
            self._folders[container] = os.path.isdir(container)
        return self._folders[container]

    def _info(self, location: Location) -> zipfile.ZipInfo:
        try:
            return self._zip(location.container).getinfo(location.member)
        except KeyError as error:
            raise FileNotFoundError("the zip holds no such member any more") from error

    def _zip(self, path: str) -> zipfile.ZipFile:
        if self._archive is None or self._archive.filename != path:
            self._close()
            self._archive = zipfile.ZipFile(path)
        return self._archive

    def _close(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def _single(path: Path) -> Source:
    if _is_zip(path):
        return Source(str(path), path.stem)
    return Source(str(path.parent), path.parent.name, (path.name,))


def _children(folder: Path) -> list[Source]:
    sources, loose = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"input {str(folder)!r} cannot be listed: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            sources.append(Source(str(entry), entry.name))
        elif entry.suffix.lower() == ".zip" and entry.is_file() and _is_zip(entry):
            sources.append(Source(str(entry), entry.stem))
        elif entry.is_file():
            loose.append(entry.name)
    if loose:
        sources.insert(0, Source(str(folder), folder.name, tuple(loose)))
    return sources


def _is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does; one that was cut off has lost its directory, which is at the end."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) in ZIP_STARTS
    except OSError:
        return False
