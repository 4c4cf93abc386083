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

    A volume that was published before is taken back first, so that its metadata never describes new chunks.

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
    keys.take_back(node)
    try:
        for key, buffer in content.items():
            check()
            if key == METADATA:
                # After a power cut the metadata must not be there without the chunks it describes.
                keys.settle((f"{node}/{other}" for other in content if other != METADATA), "")
            keys.put(f"{node}/{key}", buffer.as_buffer_like())
        keys.settle([f"{node}/{METADATA}"], node)
    except (OSError, EtlError):
        # What is there of it would only take space from others.
        with suppress(OSError):
            keys.take_back(node)
        raise
    return sum(len(buffer) for buffer in content.values())


def published(keys: Keys, node: str) -> dict[str, Any] | None:
    """Give the attributes of a published series; None where there is none."""
    attributes = (parsed(keys.get(f"{node}/{METADATA}")) or {}).get("attributes")
    return attributes if isinstance(attributes, dict) else None


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
    sizes = keys.sizes(node)
    return all(sizes.get(array.metadata_key) and sizes.get(array.chunk_key) for array in arrays)


def stored_bytes(keys: Keys, node: str) -> int:
    """Count the bytes of a series."""
    return sum(keys.sizes(node).values())
