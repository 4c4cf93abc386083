"""A zip archive as a container."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from etl.dicom.inflate import inflated_member
from etl.dicom.zip_entries import entries_by_name
from etl.stack import FileState

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


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
        self._entries: dict[str, zipfile.ZipInfo] = {}

    def members(self, problems: list[tuple[str, str]], only: tuple[str, ...] | None) -> Iterator[str]:
        """See `Container.members`."""
        try:
            names = sorted(self._opened_entries())
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
        yield "", FileState.of(self._path)

    def expect(self, members: Sequence[str]) -> None:
        """Do nothing: members of a zip are inflated one at a time."""

    def close(self) -> None:
        """Close the archive."""
        if self._opened is not None:
            self._opened.close()
            self._opened, self._entries = None, {}

    @property
    def _archive(self) -> zipfile.ZipFile:
        if self._opened is None:
            self._opened, self._archive_state = self._open_archive()
        return self._opened

    def _open_archive(self) -> tuple[zipfile.ZipFile, FileState]:
        return zipfile.ZipFile(self._path), FileState.of(self._path)

    def _opened_entries(self) -> dict[str, zipfile.ZipInfo]:
        archive = self._archive
        if not self._entries:
            self._entries = entries_by_name(archive.infolist())
        return self._entries

    def _info(self, member: str) -> zipfile.ZipInfo:
        try:
            return self._opened_entries()[member]
        except KeyError as error:
            raise FileNotFoundError("the zip holds no such member any more") from error


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does; one that was cut off has lost its directory, which is at the end."""
    try:
        with path.open("rb") as stream:
            return starts_as_zip(stream.read(4))
    except OSError:
        return False


def starts_as_zip(start: bytes) -> bool:
    """Whether the first four bytes of a file are those of a zip."""
    return start in _ZIP_STARTS
