"""The input of a run as units of scanning: folders, zips, loose files; enough of them for all workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path

from etl.buckets.urls import is_bucket_url
from etl.dicom.containers import Container
from etl.dicom.zip_archive import is_zip
from etl.errors import UsageError

# Fewer top-level folders are cut further: a collection as TCIA hands it out is one folder, with a patient a folder
# two levels below.
ENOUGH_SOURCES = 64
MAX_DEPTH = 8


@dataclass(frozen=True)
class Source:
    """One unit of scanning: a zip, a folder, or the files that lie directly in one that is cut further.

    Parameters
    ----------
    container : str
        Path of the folder or zip.
    name : str
        What stands for the patient where the files do not name one: the zip's name, or the top-level folder's.
    members : tuple of str or None
        The files to look at; what ends with a slash is a folder with all below it; None: all that the container
        holds.
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
    return _fanned_out(list(sources))


def _fanned_out(sources: list[Source]) -> list[Source]:
    """Cut few sources into many, level by level, in the order in which a walk would come to the files."""
    for _ in range(MAX_DEPTH):
        if len(sources) >= ENOUGH_SOURCES:
            break
        cut = [part for source in sources for part in _parts(source)]
        if cut == sources:
            break
        sources = cut
    return list(dict.fromkeys(sources))


def _parts(source: Source) -> list[Source]:
    """Cut a source into what lies directly in its folder; itself where there is nothing to cut.

    Where a file lies below its top-level folder may tell series apart, so members keep their names.
    """
    below = _folder_of(source)
    if below is None:
        return [source]
    try:
        with os.scandir(os.path.join(source.container, below)) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        folders = [entry for entry in entries if entry.is_dir()]
        zips = [Path(entry.path) for entry in entries if entry.name.lower().endswith(".zip") and entry.is_file()]
    except OSError:
        return [source]  # the scan says so
    zips = [path for path in zips if is_zip(path)]
    # A walk visits each folder once; parts that are links may be the same folder.
    if not (folders or zips) or any(entry.is_symlink() for entry in folders):
        return [source]
    apart = {path.name for path in zips} | {entry.name for entry in folders}
    loose = tuple(
        below + entry.name for entry in entries if entry.name not in apart and _is_loose(Path(entry.path))
    )
    return [
        *([replace(source, members=loose)] if loose else []),
        *(replace(source, members=(f"{below}{entry.name}/",)) for entry in folders),
        *(Source(str(path), path.stem) for path in zips),
    ]


def _folder_of(source: Source) -> str | None:
    """Give the one folder that a source is, relative to its container; None where it is something else."""
    if source.members is None:
        return "" if os.path.isdir(source.container) else None
    [first, *more] = source.members
    return first if first.endswith("/") and not more else None


def _is_loose(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


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
        elif _is_loose(entry):
            loose.append(entry.name)
    if loose:
        sources.insert(0, Source(str(folder), folder.name, tuple(loose)))
    return sources
