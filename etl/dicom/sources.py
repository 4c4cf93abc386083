"""The input of a run as units of scanning: top-level folders, zips, loose files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from etl.buckets.urls import is_bucket_url
from etl.dicom.containers import Container
from etl.dicom.zip_archive import is_zip
from etl.errors import UsageError


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

    def list_members(self, container: Container, problems: list[tuple[str, str]]) -> Iterator[str]:
        """List the members of this source in its open container: see `Container.members`."""
        return container.members(problems, self.members)


def resolve_input(given: str) -> str:
    """Give an input as it is from any folder: workers have working folders of their own."""
    return given if is_bucket_url(given) else os.path.abspath(os.path.expanduser(given))


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """Split the input into units of scanning.

    Parameters
    ----------
    inputs : iterable of str
        Folders, zips, single DICOM files; URLs of buckets, and manifests of such.

    Raises
    ------
    UsageError
        An input does not exist.
    """
    sources: dict[Source, None] = {}
    for given in inputs:
        if is_bucket_url(given):
            from etl.dicom.bucket_sources import units_below  # noqa: PLC0415 - for URLs only

            sources.update(dict.fromkeys(starmap(Source, units_below(given))))
            continue
        path = Path(given)
        if not path.exists():
            raise UsageError(f"input {given!r} does not exist")
        absolute = Path(os.path.abspath(path))
        if not path.is_dir() and not path.is_file():
            raise UsageError(f"input {given!r} is neither a folder nor a regular file")
        found = _children(absolute) if path.is_dir() else _single(absolute)
        sources.update(dict.fromkeys(found))
    return list(sources)


def inner_source(container: Container, member: str) -> Source | None:
    """Give the container that a member is itself, as a source of its own."""
    path = container.inner_path(member)
    return None if path is None else Source(path, Path(path).stem)


def _single(path: Path) -> list[Source]:
    if is_zip(path):
        return [Source(str(path), path.stem)]
    if path.suffix:
        from etl.dicom.bucket_sources import units_of_manifest  # noqa: PLC0415 - for single files only

        units = units_of_manifest(path)
        if units is not None:
            return list(starmap(Source, units))
    return [Source(str(path.parent), path.parent.name, (path.name,))]


def _children(folder: Path) -> list[Source]:
    sources, loose = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"input {str(folder)!r} cannot be listed: {error.strerror}") from error
    for entry in entries:
        if entry.is_dir():
            sources.append(Source(str(entry), entry.name))
        elif entry.suffix.lower() == ".zip" and entry.is_file() and is_zip(entry):
            sources.append(Source(str(entry), entry.stem))
        elif entry.is_file() or (entry.is_symlink() and not entry.exists()):
            loose.append(entry.name)
    if loose:
        sources.insert(0, Source(str(folder), folder.name, tuple(loose)))
    return sources
