"""List what a store holds, from metadata alone: the part of reading that knows how a store is laid out.

zarr's own consolidated metadata builds an object for every array, 1.5 to 2 ms a volume; a cohort of ten
thousand would take 15 s to open. Only attributes are needed here, and JSON gives them ten times faster. For a
folder zarr is not even loaded, which takes a third of a run that finds nothing to do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

METADATA = "zarr.json"
MAJOR_VERSION = "1"

Attributes = Mapping[str, Any]
Groups = dict[str, tuple[Attributes, dict[str, Attributes]]]
"""By patient key: the patient's attributes, and those of its series by series key."""


def read_catalog(path: str) -> tuple[Attributes, Groups]:
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
    groups : dict
        By patient key; only patients that have a series.

    Raises
    ------
    StoreError
        There is nothing at `path`, it is no store of ours, or its major format version is another.
    """
    source = _Url(path) if "://" in path else _Folder(path)
    try:
        document = source.root()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: no ct-etl store here ({_one_line(error)})") from error
    root = _attributes(document).get("ct_etl")
    if not isinstance(root, Mapping) or "format_version" not in root:
        raise StoreError(f"{path}: a Zarr group, but no ct-etl store (it has no attribute ct_etl.format_version)")
    version = str(root["format_version"])
    if version.partition(".")[0] != MAJOR_VERSION:
        raise StoreError(f"{path}: format version {version}; this release reads {MAJOR_VERSION}.x")
    try:
        consolidated = (document.get("consolidated_metadata") or {}).get("metadata")
        nodes = consolidated if consolidated is not None else source.walk()
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: metadata cannot be read ({_one_line(error)})") from error
    return root, _arrange(nodes)


def _arrange(nodes: Mapping[str, Mapping[str, Any]]) -> Groups:
    groups: Groups = {}
    for name, node in nodes.items():
        patient, slash, series = name.partition("/")
        if slash and "/" not in series and "ct_etl" in _attributes(node):
            # The patient's own metadata is written when a run finishes, its series before.
            attributes = _attributes(nodes.get(patient, {}))
            groups.setdefault(patient, (attributes, {}))[1][series] = _attributes(node)
    return groups


def _attributes(document: Mapping[str, Any]) -> Attributes:
    attributes = document.get("attributes")
    return attributes if isinstance(attributes, Mapping) else {}


class _Folder:
    """Metadata in a folder of this machine."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def root(self) -> Mapping[str, Any]:
        return _parsed(METADATA, (self._path / METADATA).read_bytes())

    def walk(self) -> dict[str, Mapping[str, Any]]:
        patients = _subfolders(self._path)
        documents = {}
        for folder in patients + [series for patient in patients for series in _subfolders(patient)]:
            with suppress(FileNotFoundError):
                name = folder.relative_to(self._path).as_posix()
                documents[name] = _parsed(f"{name}/{METADATA}", (folder / METADATA).read_bytes())
        return documents


def _subfolders(folder: Path) -> list[Path]:
    """Give the folders in a folder; none where a writer has just taken it away."""
    with suppress(FileNotFoundError):
        return [entry for entry in folder.iterdir() if entry.is_dir()]
    return []


class _Url:
    """Metadata in whatever zarr understands, all of a level asked for at once."""

    def __init__(self, url: str) -> None:
        self._url = url

    def root(self) -> Mapping[str, Any]:
        import zarr  # noqa: PLC0415
        from zarr.core.sync import sync  # noqa: PLC0415

        self._store = zarr.open_group(self._url, mode="r", use_consolidated=False, zarr_format=3).store
        return sync(_document(self._store, "")) or {}

    def walk(self) -> dict[str, Mapping[str, Any]]:
        from zarr.core.sync import sync  # noqa: PLC0415

        return sync(_walk(self._store))


async def _walk(store: ZarrStore) -> dict[str, Mapping[str, Any]]:
    patients = await _folders(store, "")
    series = await asyncio.gather(*(_folders(store, f"{patient}/") for patient in patients))
    names = patients + [name for folder in series for name in folder]
    documents = await asyncio.gather(*(_document(store, name) for name in names))
    return {name: document for name, document in zip(names, documents, strict=True) if document is not None}


async def _folders(store: ZarrStore, prefix: str) -> list[str]:
    names = [name.rstrip("/") async for name in store.list_dir(prefix.rstrip("/"))]
    return [prefix + name for name in names if name != METADATA]


async def _document(store: ZarrStore, node: str) -> Mapping[str, Any] | None:
    from zarr.core.buffer import default_buffer_prototype  # noqa: PLC0415

    key = f"{node}/{METADATA}" if node else METADATA
    content = await store.get(key, default_buffer_prototype())
    return None if content is None else _parsed(key, content.to_bytes())


def _parsed(key: str, content: bytes) -> Mapping[str, Any]:
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError(f"{key} holds no JSON object")
    return document


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
