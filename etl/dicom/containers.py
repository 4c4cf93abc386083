"""What holds files: a folder or a zip, here or in a bucket. Another kind of input is another class here.

A member is a name that its container gave; only the container knows what it means.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from etl.buckets.urls import is_bucket_url
from etl.dicom.folder import Folder
from etl.dicom.zip_archive import Zip
from etl.stack import FileState, Location


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

    def expect(self, members: Sequence[str]) -> None:
        """Hear which members will be opened whole, in which order; some may be fetched before they are wanted."""

    def close(self) -> None:
        """Give back what is held open."""


def open_container(path: str) -> Container:
    """Give the container at a path: a zip where it is a file, or a URL that does not end with a slash."""
    if is_bucket_url(path):
        # Not needed for what lies on this machine.
        from etl.dicom.bucket_folder import BucketFolder  # noqa: PLC0415
        from etl.dicom.bucket_zip import BucketZip  # noqa: PLC0415

        return BucketFolder(path) if path.endswith("/") else BucketZip(path)
    return Folder(path) if os.path.isdir(path) else Zip(path)


class Opener:
    """Opens members by location; keeps the last container, because the directory of a zip is long to read.

    Use as a context manager.

    Parameters
    ----------
    expected : sequence of Location
        What will be opened whole, in this order, where that is known.
    """

    def __init__(self, expected: Sequence[Location] = ()) -> None:
        self._last: tuple[str, Container] | None = None
        self._expected = expected

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
            if self._expected:
                self._last[1].expect([one.member for one in self._expected if one.container == path])
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
