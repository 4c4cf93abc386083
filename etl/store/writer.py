"""The store on disk: publishing series, the root, the end of a run.

A reader never sees half a volume, on a folder or a bucket, without any rename: the group's ``zarr.json`` is the
last key of a series, and each key is written atomically. Only the driver writes the root and the patients.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from etl.digests import FORMAT_VERSION
from etl.errors import DiskFullError, StoreConflictError, StoreError, UsageError
from etl.store import durable
from etl.store.fingerprint import fingerprint
from etl.store.inventory import METADATA, NODES, is_partial
from etl.store.metadata import as_text, group, root_attributes, sealed, with_consolidated

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

SOURCE_ARRAYS = ("sop_instance_uid", "position_mm", "instance_number")
FRAMES = "frame_number"


class StoreWriter:
    """Writes into one store; cheap to make, in the driver and in every worker.

    Parameters
    ----------
    path : str
        Folder of the store.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self, recipe: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """Tell whether a run with this configuration may write here; writes nothing.

        Returns
        -------
        dict or None
            The root's attributes; None where there is no store yet.

        Raises
        ------
        StoreConflictError
            The store was written with another configuration; names the keys.
        UsageError
            The path is a file, or a folder of something else.
        """
        path = Path(self.path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"store {self.path!r} is a file; a folder is needed")
        root = self._get_json(METADATA)
        if root is None:
            if (path / METADATA).is_file() and not overwrite:
                raise UsageError(f"store {self.path!r} has a damaged {METADATA}; restore it, or use --overwrite")
            if (
                path.is_dir()
                and not (path / METADATA).is_file()
                and not all(is_partial(entry.name) for entry in path.iterdir())
            ):
                raise UsageError(f"store {self.path!r} is a folder that holds something else than a ct-etl store")
            return None
        attributes = root.get("attributes", {}).get("ct_etl")
        if not isinstance(attributes, dict):
            raise UsageError(f"store {self.path!r} is a Zarr hierarchy that ct-etl did not write")
        if not overwrite:
            _check_compatible(attributes, recipe)
        return attributes

    def prepare(self, recipe: Mapping[str, Any], *, overwrite: bool) -> None:
        """Create the root where there is none; with `overwrite`, after the old store is gone.

        Raises
        ------
        StoreConflictError, UsageError
            As `check`.
        """
        root = self.check(recipe, overwrite=overwrite)
        durable.clear_leftovers(Path(self.path))
        if root is not None and overwrite:
            durable.remove_store(Path(self.path))
            root = None
        if root is None:
            self._put_root(as_text(group(sealed(root_attributes(recipe)))))

    def withdraw_consolidated(self) -> None:
        """Take the consolidated metadata out of the root before volumes change under it.

        Readers then look at each series' own metadata until the run has finished.
        """
        root = self._node("")
        if root.pop("consolidated_metadata", None) is not None:
            self._put_root(as_text(root))

    def published(self, patient_key: str, series_key: str) -> dict[str, Any] | None:
        """Give the attributes of a published series; None where there is none."""
        node = self._get_json(f"{patient_key}/{series_key}/{METADATA}")
        attributes = (node or {}).get("attributes")
        return attributes if isinstance(attributes, dict) else None

    def publish(self, patient_key: str, series_key: str, keys: Mapping[str, Buffer]) -> int:
        """Write the keys of a series in the order given, its metadata last.

        A volume that was published before is taken back first, so that its metadata never describes new chunks.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        DiskFullError
        """
        series = Path(self.path, patient_key, series_key)
        durable.take_back(series)
        try:
            for key, buffer in keys.items():
                if key == METADATA:
                    # After a power cut the metadata must not be there without the chunks it describes.
                    durable.flush_folders((series / other for other in keys if other != METADATA), Path(self.path))
                durable.write_durably(series / key, buffer.as_buffer_like())
            durable.flush_folders([series / METADATA], series)
        except (OSError, DiskFullError):
            # What is there of it would only take space from others.
            with suppress(OSError):
                durable.take_back(series)
            raise
        return sum(len(buffer) for buffer in keys.values())

    def root_digest(self) -> str | None:
        """Give the SHA-256 of the root's metadata, which names every series by the digest of all its bytes."""
        content = durable.read_if_there(Path(self.path, METADATA))
        return None if content is None else hashlib.sha256(content).hexdigest()

    def is_whole(self, patient_key: str, series_key: str) -> bool:
        """Whether every array of a published series has its metadata and its chunks."""
        prefix = Path(self.path, patient_key, series_key)
        arrays = [prefix / name for name in ("volume", "hu_histogram", *(f"source/{n}" for n in SOURCE_ARRAYS))]
        if (prefix / "validity").is_dir():
            arrays.append(prefix / "validity")
        return all(durable.has_content(array / METADATA) and durable.has_chunks(array / "c") for array in arrays)

    def finish(
        self, recipe: Mapping[str, Any], default_series: Mapping[str, str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Write patients, the cohort's fingerprint and consolidated metadata; touch nothing that is right.

        Parameters
        ----------
        recipe : mapping
            The configuration of the store.
        default_series : mapping
            Series key a run prefers, by Patient ID. It is the default unless a series of an earlier run has more
            points; a patient keeps the one it has where the run names none.

        Returns
        -------
        dict
            The fingerprint.
        list of str
            Damaged series, as ``<patient key>/<series key>``: they are left out.
        """
        # As text and packed: of ten thousand series the parsed ones would take a gigabyte.
        nodes: dict[str, str] = {}
        histograms: list[bytes] = []
        damaged: list[str] = []
        for patient in self._children(""):
            published = {}
            for series in self._children(patient):
                try:
                    found = self._series_nodes(f"{patient}/{series}")
                    if found is not None:
                        histograms.append(self._packed_histogram(f"{patient}/{series}"))
                        published[series] = found
                except (StoreError, RuntimeError, KeyError, ValueError):
                    damaged.append(f"{patient}/{series}")
            if not published:
                continue
            self._write_patient(patient, published, default_series)
            nodes[patient] = self._node_text(patient)
            for series_nodes in published.values():
                nodes.update(series_nodes)
        summary = fingerprint(map(_unpacked, histograms), tuple(recipe["window"]))
        root = group(sealed({**root_attributes(recipe), "fingerprint": summary}))
        durable.flush_folders((Path(self.path, key, METADATA) for key in nodes if "/" not in key), Path(self.path))
        self._put_root(with_consolidated(root, nodes))
        return summary, damaged

    def _series_nodes(self, prefix: str) -> dict[str, str] | None:
        """Metadata of every node of a series; None for one that a crash left unfinished."""
        own = self._get_json(f"{prefix}/{METADATA}")
        if own is None:
            return None
        # What other programs leave in a folder (@eaDir, .DS_Store) is not ours to describe.
        inside = [name for name in self._children(prefix) if name in NODES]
        inside += [f"source/{n}" for n in self._children(f"{prefix}/source") if n in (*SOURCE_ARRAYS, FRAMES)]
        return {prefix: as_text(own), **{f"{prefix}/{n}": self._node_text(f"{prefix}/{n}") for n in inside}}

    def _write_patient(
        self, patient: str, published: Mapping[str, Mapping[str, str]], default_series: Mapping[str, str]
    ) -> None:
        about = {
            series: json.loads(nodes[f"{patient}/{series}"])["attributes"]["ct_etl"]
            for series, nodes in published.items()
        }
        points = {series: found.get("qc", {}).get("default_series_points", 0) for series, found in about.items()}
        best = [series for series in published if points[series] == max(points.values())]
        patient_id = about[best[0]]["patient_id"]
        known = (self._get_json(f"{patient}/{METADATA}") or {}).get("attributes", {}).get("ct_etl", {})
        wanted = [default_series.get(patient_id), known.get("default_series"), best[0]]
        default = next(series for series in wanted if series in best)
        attributes = {"ct_etl": {"patient_id": patient_id, "default_series": default}}
        self._put_json(f"{patient}/{METADATA}", group(attributes))

    def _node(self, path: str) -> dict[str, Any]:
        node = self._get_json(f"{path}/{METADATA}".removeprefix("/"))
        if node is None:
            raise StoreError(f"{path or 'the root'} has no {METADATA}")
        return node

    def _node_text(self, path: str) -> str:
        return as_text(self._node(path))

    def _packed_histogram(self, prefix: str) -> bytes:
        content = durable.read_if_there(f"{self.path}/{prefix}/hu_histogram/c/0")
        if content is None:
            raise StoreError(f"{prefix}/hu_histogram has no chunk")
        _unpacked(content)  # raises here and not when all are summed
        return content

    def _children(self, prefix: str) -> list[str]:
        """Names of the folders below a prefix, sorted."""
        with os.scandir(f"{self.path}/{prefix}") as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def _get_json(self, key: str) -> dict[str, Any] | None:
        """Read metadata; None where it is absent, empty or no JSON object, as a power cut may leave it."""
        content = durable.read_if_there(f"{self.path}/{key}")
        if content is None:
            return None
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _put_json(self, key: str, value: Mapping[str, Any]) -> None:
        self._put(key, as_text(value))

    def _put(self, key: str, text: str) -> None:
        content = text.encode()
        if durable.read_if_there(Path(self.path, key)) != content:
            durable.write_durably(Path(self.path, key), content)

    def _put_root(self, text: str) -> None:
        self._put(METADATA, text)
        durable.flush_folders([Path(self.path, METADATA)], Path(self.path).parent)


def _unpacked(histogram: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(numcodecs.blosc.decompress(histogram), "<u4")


def _check_compatible(root: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    version = str(root.get("format_version"))
    if version != FORMAT_VERSION:
        raise StoreConflictError(f"store has format version {version}; this ct-etl writes {FORMAT_VERSION}")
    there = root.get("config", {})
    differing = sorted(key for key in {*there, *recipe} if there.get(key) != recipe.get(key))
    if differing:
        named = "; ".join(f"{key}: {there.get(key)} there, {recipe.get(key)} now" for key in differing)
        raise StoreConflictError(
            f"store was written with another configuration ({named}); use another store or --overwrite"
        )
