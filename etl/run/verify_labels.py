"""Compare the labels of a store with the masks that they were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etl.labels.find import StoreIndex
from etl.labels.label_series import LabelTask, encoded_layers
from etl.labels.source_mask import LabelError
from etl.labels.survey import Survey, find_masks, survey
from etl.scan.deidentify import Pseudonyms
from etl.store.keys import Keys, open_keys
from etl.store.label_encoding import label_digest
from etl.store.labels import published_labels
from etl.store.layout import LABELS
from etl.store.verify import Finding, read_array


def verify_labels_against(
    store_path: str, inputs: Sequence[str], pseudonyms: Pseudonyms | None = None
) -> tuple[int, list[Finding]]:
    """Place masks anew and compare every voxel with the labels of the store.

    A mask that the store has no label of is passed over: which label is whose stands in the label.

    Parameters
    ----------
    store_path : str
    inputs : sequence of str
        Files, and folders that are searched for masks.
    pseudonyms : Pseudonyms, optional
        Of the key that a de-identified store was written with.

    Returns
    -------
    int
        Labels compared.
    list of Finding
    """
    keys = open_keys(store_path)
    index = StoreIndex(keys, pseudonyms)
    masks = find_masks(inputs, only_masks=False).sources
    surveys = [(source, found) for source in masks if isinstance(found := survey(source), Survey)]
    by_id = {index.uid(found.references.source_id): (source, found) for source, found in surveys}
    compared, findings = 0, list[Finding]()
    for series in index.series:
        there = published_labels(keys, series.node)
        for name in sorted(name for name, one in there.items() if one.get("layer") == 1):
            source_id = str(there[name].get("source_id"))
            if source_id not in by_id:
                continue
            source, found = by_id[source_id]
            hidden = None if pseudonyms is None else found.words
            patient_id = str(series.about["patient_id"])
            task = LabelTask(source, found.digest, source_id, patient_id, series.node, name, hidden)
            compared += 1
            findings += _differences(task, keys, there)
    return compared, findings


def _differences(task: LabelTask, keys: Keys, there: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    try:
        placed, layers = encoded_layers(task, keys)
    except LabelError as error:
        return [Finding(f"{task.node}/{LABELS}/{task.name}", f"cannot be derived from the input: {error}")]
    findings = []
    for name, layer in zip(layers, placed.layers, strict=True):
        path = f"{task.node}/{LABELS}/{name}"
        if name not in there:
            findings.append(Finding(path, "is in the input only"))
        elif there[name].get("source_digest") != task.source_digest:
            findings.append(Finding(path, "its mask was changed since; ct-etl label makes it anew", True))
        else:
            stored = read_array(keys.path, f"{path}/0")
            if stored.shape != layer.values.shape or label_digest(stored) != label_digest(layer.values):
                findings.append(Finding(path, "its voxels differ from the input's", True))
    return findings
