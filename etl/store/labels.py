"""The labels of a series in the store: publish one, find them, list them for OME-Zarr readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from etl.errors import EtlError
from etl.store.keys import Keys
from etl.store.layout import LABELS, METADATA, OME_VERSION, VOLUME, is_label_key
from etl.store.metadata import as_text, ct_etl_attributes, group, parsed
from etl.store.publish import put_in_order
from etl.store.root import put_if_changed

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def publish_label(
    keys: Keys, node: str, name: str, content: Mapping[str, Buffer], *, check: Callable[[], None] = lambda: None
) -> int:
    """Write the keys of a label in the order given, its group's metadata last, and list it.

    A label of that name is taken back first, so that its metadata never describes new chunks.

    Parameters
    ----------
    keys : Keys
    node : str
        ``<patient key>/<series key>``.
    name : str
        As `etl.store.node_names.label_key` gives it.
    content : mapping of Buffer
        By key relative to the label, from `etl.store.label_encoding.encode_label`.
    check : callable
        Called before each key; it raises where nothing may be written any more.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    DiskFullError
    """
    place = f"{node}/{LABELS}/{name}"
    check()
    keys.take_back(place, is_label_key)
    try:
        put_in_order(keys, place, content, check, below=node)
        keys.settle([f"{place}/{METADATA}"], node)
        check()
        list_labels(keys, node)
    except (OSError, EtlError):
        with suppress(OSError):
            keys.take_back(place, is_label_key)
        raise
    return sum(len(buffer) for buffer in content.values())


def take_back_label(keys: Keys, node: str, name: str) -> None:
    """Remove a label of ours, and its name from the list."""
    keys.take_back(f"{node}/{LABELS}/{name}", is_label_key)
    list_labels(keys, node)


def list_labels(keys: Keys, node: str) -> None:
    """Write which labels a series has, as OME-Zarr lists them: groups with an image-label.

    What else the group says, as another program may have written it, stays.
    """
    place = f"{node}/{LABELS}"
    old = parsed(keys.get(f"{place}/{METADATA}")) or {}
    attributes = old.get("attributes")
    attributes = dict(attributes) if isinstance(attributes, dict) else {}
    ome = attributes.get("ome")
    names = [
        name for name in keys.groups(place) if _is_image_label(parsed(keys.get(f"{place}/{name}/{METADATA}")))
    ]
    attributes["ome"] = {**(ome if isinstance(ome, dict) else {}), "version": OME_VERSION, "labels": names}
    put_if_changed(keys, f"{place}/{METADATA}", as_text(group(attributes)))
    keys.settle([f"{place}/{METADATA}"], node)


def published_labels(keys: Keys, node: str) -> dict[str, dict[str, Any]]:
    """Give the attribute ``ct_etl.provenance`` of every label that this package wrote, by name."""
    place = f"{node}/{LABELS}"
    found = {}
    for name in keys.groups(place):
        provenance = provenance_of(parsed(keys.get(f"{place}/{name}/{METADATA}")))
        if provenance is not None:
            found[name] = provenance
    return found


def provenance_of(label: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give the provenance that the metadata of a label of ours has; None for another program's."""
    found = ct_etl_attributes(label).get("provenance")
    return found if isinstance(found, dict) else None


def inner_chunk(keys: Keys, node: str) -> tuple[int, ...] | None:
    """Give the shape of a volume's inner chunks; None where its metadata does not say."""
    array = parsed(keys.get(f"{node}/{VOLUME.metadata_key}")) or {}
    try:
        (sharding,) = array["codecs"]
        z, y, x = sharding["configuration"]["chunk_shape"]
        return (int(z), int(y), int(x))
    except (KeyError, ValueError, TypeError):
        return None


def _is_image_label(node: Mapping[str, Any] | None) -> bool:
    attributes = (node or {}).get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    return isinstance(ome, dict) and "image-label" in ome
