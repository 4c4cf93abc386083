"""Where everything stands in a store: nodes, arrays, chunks, and the order in which a series is published.

A store has three levels of groups: the root, a patient, a series. What a series consists of is the table `ARRAYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = "1.1"
OME_VERSION = "0.5"
METADATA = "zarr.json"
"""Name of the metadata of every Zarr v3 node."""


@dataclass(frozen=True)
class ArrayLayout:
    """One array of a series.

    Parameters
    ----------
    path : str
        Relative to the series' group.
    dimensions : tuple of str
        Names of its axes.
    is_optional : bool
        A series may be whole without it.
    long_name : str
        In words, for CF.
    """

    path: str
    dimensions: tuple[str, ...]
    is_optional: bool = False
    long_name: str = ""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def metadata_key(self) -> str:
        """Key of the array's metadata, relative to the series."""
        return f"{self.path}/{METADATA}"

    @property
    def chunk_key(self) -> str:
        """Key of the one chunk, or shard, of the array."""
        return "/".join((self.path, "c", *("0" for _ in self.dimensions)))


SOURCE = "source"
_GRID = ("z", "y", "x")
VOLUME = ArrayLayout("volume", _GRID)
VALIDITY = ArrayLayout("validity", _GRID, is_optional=True)
HISTOGRAM = ArrayLayout("hu_histogram", ("hu",))
BODY = ArrayLayout("body", ("z_cell", "y_cell", "x_cell"), is_optional=True)
COORDINATES = tuple(
    ArrayLayout(axis, (axis,), is_optional=True, long_name=f"towards the patient's {direction} (LPS)")
    for axis, direction in zip(_GRID, ("head", "back", "left"), strict=True)
)
"""Centers of voxels, mm, where the grid is axis-aligned."""
SOP_INSTANCE_UID = ArrayLayout(f"{SOURCE}/sop_instance_uid", ("slice", "character"))
POSITION_MM = ArrayLayout(f"{SOURCE}/position_mm", ("slice",))
INSTANCE_NUMBER = ArrayLayout(f"{SOURCE}/instance_number", ("slice",))
PIXEL_CRC32 = ArrayLayout(f"{SOURCE}/pixel_crc32", ("slice",))
FRAME_NUMBER = ArrayLayout(f"{SOURCE}/frame_number", ("slice",), is_optional=True)
ARRAYS = (
    *(VOLUME, VALIDITY, HISTOGRAM, BODY, *COORDINATES),
    *(SOP_INSTANCE_UID, POSITION_MM, INSTANCE_NUMBER, PIXEL_CRC32, FRAME_NUMBER),
)

LABELS = "labels"
"""Group of what others drew on a series; each label is a group with one array in it."""
LABEL_ARRAY = ArrayLayout("0", _GRID)
_LABEL_KEYS = frozenset({METADATA, LABEL_ARRAY.metadata_key, LABEL_ARRAY.chunk_key})

CONSOLIDATED_NODES = tuple(array.path for array in ARRAYS if not array.path.startswith(f"{SOURCE}/"))
"""What the root's consolidated metadata name of a series: what is read by cohort.

Where slices came from is looked up volume by volume, and would be a fifth of the text.
"""
_OWN_KEYS = frozenset(
    {
        METADATA,
        f"{SOURCE}/{METADATA}",
        *(key for array in ARRAYS for key in (array.metadata_key, array.chunk_key)),
    }
)


def is_own_key(key: str) -> bool:
    """Whether a key, relative to its series, is one that this package writes."""
    return key in _OWN_KEYS


def is_label_key(key: str) -> bool:
    """Whether a key, relative to the group of a label, is one that this package writes."""
    return key in _LABEL_KEYS


def own_keys_of(group: str) -> Callable[[str], bool]:
    """Give what tells the keys of this package in a group of the store, relative to it.

    Parameters
    ----------
    group : str
        A series, ``<patient key>/<series key>``, or a label, ``<patient key>/<series key>/labels/<name>``.
    """
    return is_label_key if f"/{LABELS}/" in group else is_own_key


def publishing_rank(key: str) -> tuple[int, str]:
    """Give the place of a key of a series in publishing: chunks, `source`, metadata, the group's metadata.

    A reader sees a series once its group has metadata, which is last.
    """
    if key == METADATA:
        return (3, key)
    if key.endswith(METADATA):
        return (2, key)
    return (1 if key.startswith(f"{SOURCE}/") else 0, key)


def arrays_of(attributes: Mapping[str, Any]) -> tuple[ArrayLayout, ...] | None:
    """Give the arrays that a published series says it consists of; None where it does not say.

    Parameters
    ----------
    attributes : mapping
        Of the series' group.
    """
    ct_etl = attributes.get("ct_etl")
    named = ct_etl.get("arrays") if isinstance(ct_etl, Mapping) else None
    if not isinstance(named, list):
        return None
    known = {array.path: array for array in ARRAYS}
    return tuple(known[path] for path in named if path in known)
