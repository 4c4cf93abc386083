"""What the upper levels of a store say of a series: known to the worker that publishes it, or read back.

A run of many series would take longer to read all of them back than to plan them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from etl.errors import StoreError
from etl.store.keys import Keys
from etl.store.labels import list_labels, published_labels
from etl.store.layout import CONSOLIDATED_NODES, HISTOGRAM, LABEL_ARRAY, LABELS, METADATA
from etl.store.metadata import as_text, ct_etl_attributes, members, parsed
from etl.store.publish import describes_volume, is_whole

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


@dataclass(frozen=True, slots=True)
class SeriesNodes:
    """One published series, as root and patient need it.

    Parameters
    ----------
    members : str
        Its part of the consolidated metadata: the series, its arrays and its labels.
    histogram : bytes
        Its ``hu_histogram``, packed as it is stored.
    patient_id : str
    points : float
        How well it suits as its patient's default.
    """

    members: str
    histogram: bytes
    patient_id: str
    points: float

    def packed(self) -> bytes:
        """Give it as it travels and waits."""
        return pickle.dumps((self.members, self.histogram, self.patient_id, self.points), pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def unpack(packed: bytes) -> SeriesNodes:
        """Give what `packed` packed."""
        return SeriesNodes(*pickle.loads(packed))  # noqa: S301 - of our own workers

    def unpacked_histogram(self) -> NDArray[np.uint32]:
        """Give the histogram's counts.

        Raises
        ------
        RuntimeError, ValueError
            It does not decode.
        """
        return np.frombuffer(numcodecs.blosc.decompress(self.histogram), "<u4")


def published_nodes(keys: Keys, node: str, content: Mapping[str, Buffer]) -> SeriesNodes | None:
    """Give what is known of a series to the worker that has just published it.

    Parameters
    ----------
    keys : Keys
    node : str
        ``<patient key>/<series key>``.
    content : mapping of Buffer
        What was published, from `etl.store.encoding.encode_series`.

    Returns
    -------
    SeriesNodes or None
        None where it has labels from before, which may change until the run ends.
    """
    if LABELS in keys.groups(node):
        return None
    texts = {name: content[key].to_bytes() for name in ("", *CONSOLIDATED_NODES) if (key := _key(name)) in content}
    return _described(node, texts, content[HISTOGRAM.chunk_key].to_bytes())


def stored_nodes(keys: Keys, node: str) -> SeriesNodes | None:
    """Read a series back.

    Returns
    -------
    SeriesNodes or None
        None for one that a crash left unfinished, and for plain folders.

    Raises
    ------
    StoreError, RuntimeError, ValueError
        It is not a series of this package, or lacks something that it says it consists of.
    """
    content = keys.get(f"{node}/{METADATA}")
    if content is None:
        return None
    own = parsed(content) or {}
    if not ct_etl_attributes(own) or not describes_volume(own["attributes"]):
        raise StoreError(f"{node} is no series of this package")
    if not is_whole(keys, node, own["attributes"]):
        raise StoreError(f"{node} lacks an array")
    # What other programs leave in a folder (@eaDir, .DS_Store) is not ours to describe.
    inside = keys.groups(node)
    names = [name for name in CONSOLIDATED_NODES if name in inside]
    texts = {name: _text(keys, f"{node}/{name}") for name in names}
    if LABELS in inside:
        texts |= _label_texts(keys, node)
    histogram = keys.get(f"{node}/{HISTOGRAM.chunk_key}")
    if histogram is None:
        raise StoreError(f"{node}/{HISTOGRAM.path} has no chunk")
    found = _described(node, {"": content, **texts}, histogram)
    found.unpacked_histogram()  # raises here and not when all are summed
    return found


def _key(name: str) -> str:
    return f"{name}/{METADATA}" if name else METADATA


def _text(keys: Keys, node: str) -> bytes:
    content = keys.get(f"{node}/{METADATA}")
    if content is None:
        raise StoreError(f"{node} has no {METADATA}")
    return content


def _label_texts(keys: Keys, node: str) -> dict[str, bytes]:
    """Read the nodes of the labels of a series; a damaged one is left out, and costs the volume nothing."""
    texts: dict[str, bytes] = {}
    for name in published_labels(keys, node):
        label, array = f"{LABELS}/{name}", f"{LABELS}/{name}/{LABEL_ARRAY.path}"
        found = {one: keys.get(f"{node}/{one}/{METADATA}") for one in (label, array)}
        texts |= {
            one: text for one, text in found.items() if text is not None and all(map(parsed, found.values()))
        }
    if texts:
        # Whoever published them may have been killed before they were listed.
        list_labels(keys, node)
        texts[LABELS] = _text(keys, f"{node}/{LABELS}")
    return texts


def _described(node: str, texts: Mapping[str, bytes], histogram: bytes) -> SeriesNodes:
    """Describe a series by the text of its nodes, by their names below it; its own is the one without a name."""
    nodes: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        path = f"{node}/{name}" if name else node
        found = parsed(text)
        if found is None:
            raise StoreError(f"{path} has no {METADATA}")
        nodes[path] = found
    about = ct_etl_attributes(nodes[node])
    quality = about.get("qc")
    points = quality.get("default_series_points", 0) if isinstance(quality, dict) else 0
    inline = members({path: as_text(found) for path, found in nodes.items()})
    return SeriesNodes(inline, histogram, str(about["patient_id"]), points)
