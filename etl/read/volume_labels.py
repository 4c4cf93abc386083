"""The labels of one volume: which there are, their voxels, and what their values stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etl.errors import StoreError
from etl.read.catalog import list_nodes, read_node
from etl.read.stored_array import StoredArray
from etl.read.volume_arrays import VolumeArrays

LABELS = "labels"
LEVEL = "0"


class VolumeLabels(VolumeArrays):
    """The labels below one series' group; see `VolumeMetadata` for the parameters."""

    def __init__(
        self,
        store_path: str,
        node: str,
        patient_id: str,
        text: bytes | None = None,
        patient: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(store_path, node, patient_id, text, patient)
        self._label_paths: dict[str, str] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, sorted; those that are still being written are left out."""
        inside = sorted(path.rpartition("/")[2] for path in list_nodes(self.store_path, f"{self.node}/{LABELS}"))
        return tuple(name for name in inside if self._is_published(name))

    def label(self, name: str) -> StoredArray:
        """Open a label.

        Parameters
        ----------
        name : str
            One of `labels`: what ``ct-etl label`` wrote, or a plain array that another program put there.

        Returns
        -------
        StoredArray
            (z, y, x) array on the volume's grid; 0 is background.

        Raises
        ------
        StoreError
            There is no such label, it cannot be read, or the volume was written anew on another grid since.
        """
        path = self._label_paths.get(name)
        if path is None:
            path = self._label_paths[name] = self._label_path(name)
        with self.reading(path):
            return self.open(path)

    def label_table(self, name: str) -> dict[int, dict[str, Any]]:
        """Tell what the values of a label stand for.

        Parameters
        ----------
        name : str
            One of `labels`.

        Returns
        -------
        dict
            By value: ``name``, ``code`` (``scheme``, ``value`` and ``meaning``; None where the source has none)
            and ``color`` ([red, green, blue, alpha], 0 to 255; None where nothing says so). Empty for a plain
            array.

        Raises
        ------
        StoreError
            There is no such label.
        """
        image_label = _part(_attributes(self._label_node(name)), "ome", "image-label")
        colors = {row["label-value"]: row.get("rgba") for row in image_label.get("colors", ())}
        return {
            int(row["label-value"]): {
                "name": row.get("name", ""),
                "code": row.get("code"),
                "color": colors.get(row["label-value"]),
            }
            for row in image_label.get("properties", ())
        }

    def _label_path(self, name: str) -> str:
        """Path of a label's array below the series, if it lies on the grid that the volume has now."""
        node = self._label_node(name)
        if node.get("node_type") == "array":
            return f"{LABELS}/{name}"
        drawn_on = _part(_attributes(node), "ct_etl", "provenance").get("grid_digest")
        if drawn_on is not None and drawn_on != self.geometry.grid_digest:
            raise StoreError(
                f"{self.store_path}: {self.node}/{LABELS}/{name} lies on another grid than the volume has now; "
                "make it anew with ct-etl label"
            )
        return f"{LABELS}/{name}/{LEVEL}"

    def _label_node(self, name: str) -> Mapping[str, Any]:
        path = f"{self.node}/{LABELS}/{name}"
        try:
            node = json.loads(read_node(self.store_path, path))
        except ValueError as error:
            raise StoreError(f"{self.store_path}: {path} has no metadata that can be read") from error
        if not isinstance(node, Mapping):
            raise StoreError(f"{self.store_path}: {path} has no metadata that can be read")
        return node

    def _is_published(self, name: str) -> bool:
        try:
            return bool(self._label_node(name))
        except StoreError:
            return False


def _attributes(node: Mapping[str, Any]) -> Mapping[str, Any]:
    found = node.get("attributes")
    return found if isinstance(found, Mapping) else {}


def _part(attributes: Mapping[str, Any], key: str, inner: str) -> Mapping[str, Any]:
    outer = attributes.get(key)
    found = outer.get(inner) if isinstance(outer, Mapping) else None
    return found if isinstance(found, Mapping) else {}
