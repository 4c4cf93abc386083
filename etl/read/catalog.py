"""List what a store holds, from metadata alone: the part of reading that knows how a store is laid out.

zarr's own consolidated metadata builds an object for every array, 1.5 to 2 ms a volume; a cohort of ten
thousand would take 15 s to open. For a folder neither zarr nor fsspec is loaded, which would take a third of a
run that finds nothing to do.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from etl.buckets.connecting import reading_options, url_errors
from etl.errors import StoreError
from etl.read.consolidated import Groups, arrange, parse_head, parse_root

METADATA = "zarr.json"
MAJOR_VERSION = "1"
_NO_STORE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


def read_catalog(path: str) -> tuple[Mapping[str, Any], Groups]:
    """Read the attributes of a store, its patients and its series.

    Consolidated metadata is used where the store has it: a run writes it at its end. Otherwise the folders
    are walked, and series without metadata, which are still being written, are left out.

    Parameters
    ----------
    path : str
        Folder or URL.

    Returns
    -------
    root : mapping
        The root's attribute ``ct_etl``.
    groups : Groups
        Only patients that have a series.

    Raises
    ------
    StoreError
        There is nothing at `path`, it is no store of ours, or its major format version is another.
    """
    try:
        place = _place(path)
        document, groups = parse_root(place.root())
    except _NO_STORE as error:
        raise StoreError(f"{path}: no ct-etl store here ({_one_line(error)})") from error
    root = _attributes(path, document)
    try:
        return root, arrange(_walk(place)) if groups is None else groups
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"{path}: metadata cannot be read ({_one_line(error)})") from error


def read_some(path: str, nodes: Iterable[str]) -> tuple[Mapping[str, Any], Groups]:
    """Read as `read_catalog` does, of some series alone.

    Parameters
    ----------
    path : str
        Folder or URL.
    nodes : iterable of str
        ``<patient key>/<series key>``; those that are not there are left out.

    Raises
    ------
    StoreError
        As `read_catalog`.
    """
    wanted = sorted(nodes)
    try:
        place = _place(path)
        document = parse_head(place.root())
        root = _attributes(path, document)
        patients = sorted({node.partition("/")[0] for node in wanted})
        return root, arrange(place.documents([*patients, *wanted]))
    except _NO_STORE as error:
        raise StoreError(f"{path}: no ct-etl store here ({_one_line(error)})") from error


def count_patients(path: str) -> int:
    """Count the groups directly below a store's root."""
    return _place(path).count_groups()


def _attributes(path: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = document.get("attributes")
    root = attributes.get("ct_etl") if isinstance(attributes, Mapping) else None
    if not isinstance(root, Mapping) or "format_version" not in root:
        raise StoreError(f"{path}: a Zarr group, but no ct-etl store (it has no attribute ct_etl.format_version)")
    version = str(root["format_version"])
    if version.partition(".")[0] != MAJOR_VERSION:
        raise StoreError(f"{path}: format version {version}; this release reads {MAJOR_VERSION}.x")
    return root


def read_node(store_path: str, node: str) -> bytes:
    """Read the metadata of one group or array.

    Parameters
    ----------
    store_path : str
        Folder or URL.
    node : str
        Path in the store.

    Raises
    ------
    StoreError
        There is none.
    """
    try:
        return _place(store_path).documents([node])[node]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{store_path}: {node} has no {METADATA} ({_one_line(error)})") from error


def list_nodes(store_path: str, node: str) -> list[str]:
    """List the paths of what lies directly below a group; nothing where there is no such group."""
    return _place(store_path).folders(node)


class _Place(Protocol):
    """Where metadata are read from."""

    def root(self) -> bytes | mmap.mmap:
        """Give the root's metadata."""

    def folders(self, node: str) -> list[str]:
        """Paths of what lies directly below a group; nothing where a writer has just taken it away."""

    def documents(self, nodes: Iterable[str]) -> dict[str, bytes]:
        """Metadata of those nodes that have some."""

    def count_groups(self) -> int:
        """Count the groups directly below the root."""


def _place(path: str) -> _Place:
    return _Url(path) if "://" in path else _Folder(path)


def _walk(place: _Place) -> dict[str, bytes]:
    patients = place.folders("")
    return place.documents(patients + [series for patient in patients for series in place.folders(patient)])


class _Folder:
    """A folder of this machine."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def root(self) -> bytes | mmap.mmap:
        """See `_Place.root`."""
        with (self._path / METADATA).open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def folders(self, node: str) -> list[str]:
        """See `_Place.folders`."""
        with suppress(FileNotFoundError):
            inside = [entry for entry in (self._path / node).iterdir() if entry.is_dir()]
            return [entry.relative_to(self._path).as_posix() for entry in inside]
        return []

    def documents(self, nodes: Iterable[str]) -> dict[str, bytes]:
        """See `_Place.documents`."""
        found = {}
        for node in nodes:
            with suppress(FileNotFoundError):
                found[node] = (self._path / node / METADATA).read_bytes()
        return found

    def count_groups(self) -> int:
        """See `_Place.count_groups`."""
        # Other programs leave folders without metadata.
        return sum(os.path.isfile(f"{entry.path}/{METADATA}") for entry in os.scandir(self._path))


class _Url:
    """Whatever fsspec, by which zarr reads URLs too, understands; all of a level asked for at once."""

    def __init__(self, url: str) -> None:
        import fsspec.core  # noqa: PLC0415 - folders are read without it

        self._files, self._path = fsspec.core.url_to_fs(url, **reading_options(url))
        # It remembers listings for as long as the process lives; a store grows.
        self._files.invalidate_cache()

    def root(self) -> bytes:
        """See `_Place.root`."""
        with url_errors():
            content: bytes = self._files.cat_file(f"{self._path}/{METADATA}")
        return content

    def folders(self, node: str) -> list[str]:
        """See `_Place.folders`."""
        with suppress(FileNotFoundError), url_errors():
            entries = self._files.ls(f"{self._path}/{node}".rstrip("/"), detail=True)
            names = [
                entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"
            ]
            return [f"{node}/{name}".lstrip("/") for name in names]
        return []

    def documents(self, nodes: Iterable[str]) -> dict[str, bytes]:
        """See `_Place.documents`."""
        wanted = {f"{self._path}/{node}/{METADATA}": node for node in nodes}
        if not wanted:
            return {}
        with url_errors():
            found = self._files.cat(list(wanted), on_error="return")
        for content in found.values():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise OSError(_one_line(content)) from content
        return {wanted[path]: content for path, content in found.items() if not isinstance(content, Exception)}

    def count_groups(self) -> int:
        """See `_Place.count_groups`."""
        return len(self.folders(""))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
