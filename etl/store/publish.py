"""One series in the store: publish it, find it, tell whether all of it is there.

A reader never sees half a volume, on a folder or a bucket, without any rename: the group's metadata is the last
key of a series, and each key is put atomically.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from etl.errors import EtlError
from etl.store.keys import Keys
from etl.store.layout import METADATA, arrays_of
from etl.store.metadata import parsed

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def publish(
    keys: Keys, node: str, content: Mapping[str, Buffer], *, check: Callable[[], None] = lambda: None
) -> int:
    """Write the keys of a series in the order given, its metadata last.

    One that was published before stays until the new one is ready beside it.

    Parameters
    ----------
    keys : Keys
    node : str
        ``<patient key>/<series key>``.
    content : mapping of Buffer
        By key relative to the series, from `etl.store.encoding.encode_series`.
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
    check()
    size = sum(len(buffer) for buffer in content.values())
    if keys.get(f"{node}/{METADATA}") is not None:
        keys.replace({node: {key: buffer.as_buffer_like() for key, buffer in content.items()}}, check)
        return size
    keys.take_back(node)
    try:
        _put_in_order(keys, node, content, check)
        keys.settle([f"{node}/{METADATA}"], node)
    except (OSError, EtlError):
        # What is there of it would only take space from others.
        with suppress(OSError):
            keys.take_back(node)
        raise
    return size


def _put_in_order(keys: Keys, node: str, content: Mapping[str, Buffer], check: Callable[[], None]) -> None:
    """Put the keys of a series, its metadata once all others are on the disk.

    After a power cut the metadata must not be there without the chunks it describes.
    """
    for key, buffer in content.items():
        check()
        if key == METADATA:
            keys.settle((f"{node}/{other}" for other in content if other != METADATA), "")
        keys.put(f"{node}/{key}", buffer.as_buffer_like())


def published(keys: Keys, node: str) -> dict[str, Any] | None:
    """Give the attributes of a published series; None where there is none."""
    attributes = (parsed(keys.get(f"{node}/{METADATA}")) or {}).get("attributes")
    return attributes if isinstance(attributes, dict) else None


def describes_volume(attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes of a series have what runs and readers hold on to; damaged ones may not.

    Parameters
    ----------
    attributes : mapping
        Of the series, from `published`.
    """
    about = attributes.get("ct_etl")
    if not isinstance(about, Mapping) or not isinstance(about.get("qc", {}), Mapping):
        return False
    geometry, normalization = about.get("geometry"), about.get("normalization")
    if not isinstance(geometry, Mapping) or not isinstance(normalization, Mapping):
        return False
    affine = geometry.get("affine_lps")
    rows = [*(affine if isinstance(affine, list) else []), about.get("qc", {}).get("warnings", [])]
    return (
        all(isinstance(about.get(name), str) for name in ("patient_id", "series_instance_uid"))
        and all(_has_numbers(geometry.get(name), 3) for name in ("shape", "spacing_mm", "source_shape"))
        and geometry.get("slice_axis") in (0, 1, 2)
        and len(rows) == 5
        and all(_has_numbers(row, 4) for row in rows[:4])
        and isinstance(rows[4], list)
        and isinstance(about.get("qc", {}).get("default_series_points", 0), int | float)
        and _has_numbers(normalization.get("window_hu"), 2)
        and isinstance(normalization.get("center"), int | float)
        and isinstance(normalization.get("precision_bits"), int | str)
    )


def _has_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(v, int | float) for v in value)


def is_whole(keys: Keys, node: str, attributes: Mapping[str, Any]) -> bool:
    """Whether every array that a published series consists of has its metadata and its chunks, none of them empty.

    A power cut may leave a name without content.

    Parameters
    ----------
    keys : Keys
    node : str
    attributes : mapping
        Of the series, from `published`.
    """
    arrays = arrays_of(attributes)
    if arrays is None:
        return False
    wanted = [key for array in arrays for key in (array.metadata_key, array.chunk_key)]
    sizes = keys.sizes(node, wanted)
    return all(sizes.get(key) for key in wanted)


def stored_bytes(keys: Keys, node: str) -> int:
    """Count the bytes of a series."""
    return sum(keys.sizes(node).values())
