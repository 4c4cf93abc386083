"""The labels of a series in the store: publish one, find them, list them for OME-Zarr readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from etl.store.durable import is_partial
from etl.store.keys import Keys
from etl.store.layout import LABELS, METADATA, OME_VERSION, VOLUME
from etl.store.metadata import as_text, ct_etl_attributes, group, parsed
from etl.store.root import put_if_changed

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def publish_label(
    keys: Keys,
    node: str,
    layers: Mapping[str, Mapping[str, Buffer]],
    *,
    dropped: Iterable[str] = (),
    check: Callable[[], None] = lambda: None,
) -> int:
    """Put the arrays of a label in the place of those of their names, and list them.

    All of them are there in the end, or none: those of before stay until the new ones are ready beside the store.

    Parameters
    ----------
    keys : Keys
    node : str
        ``<patient key>/<series key>``.
    layers : mapping of mappings of Buffer
        By name, as `etl.store.node_names.label_key` gives it: keys relative to the array's group, from
        `etl.store.label_encoding.encode_label`.
    dropped : iterable of str
        Names of arrays that the label had and has no more.
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
    new = {
        name: {key: buffer.as_buffer_like() for key, buffer in content.items()} for name, content in layers.items()
    }
    groups: dict[str, dict[str, Any]] = {**new, **{name: {} for name in dropped}}
    check()
    keys.replace({f"{node}/{LABELS}/{name}": content for name, content in groups.items()}, check)
    check()
    list_labels(keys, node)
    return sum(len(buffer) for content in layers.values() for buffer in content.values())


def take_back_label(keys: Keys, node: str, name: str) -> None:
    """Remove an array of ours, its name from the list first: what is listed is there."""
    list_labels(keys, node, without=name)
    keys.take_back(f"{node}/{LABELS}/{name}")


def list_labels(keys: Keys, node: str, *, without: str | None = None) -> None:
    """Write which labels a series has, as OME-Zarr lists them: groups with an image-label.

    What else the group says, as another program may have written it, stays. An empty list of ours goes.

    Parameters
    ----------
    keys : Keys
    node : str
    without : str, optional
        Name of a label that is about to go.
    """
    place = f"{node}/{LABELS}"
    for name in filter(is_partial, keys.names(place)):
        keys.remove(f"{place}/{name}")
    old = parsed(keys.get(f"{place}/{METADATA}")) or {}
    attributes = old.get("attributes")
    attributes = dict(attributes) if isinstance(attributes, dict) else {}
    ome = attributes.get("ome")
    names = [
        name
        for name in keys.groups(place)
        if name != without and _is_image_label(parsed(keys.get(f"{place}/{name}/{METADATA}")))
    ]
    attributes["ome"] = {**(ome if isinstance(ome, dict) else {}), "version": OME_VERSION, "labels": names}
    if attributes == {"ome": {"version": OME_VERSION, "labels": []}}:
        keys.remove(f"{place}/{METADATA}")
        return
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
