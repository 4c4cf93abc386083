"""Check a store: metadata valid, every chunk present and decodes, digests equal, values equal to the DICOM's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from etl.buckets.urls import is_bucket_url
from etl.digests import json_digest, volume_digest
from etl.errors import StoreError
from etl.store.encoding import entry_digest
from etl.store.inventory import Inventory
from etl.store.keys import Keys, open_keys
from etl.store.labels import list_labels, take_back_label
from etl.store.layout import ARRAYS, LABELS, METADATA, VOLUME, arrays_of, is_own_key
from etl.store.metadata import ct_etl_attributes, group, parsed
from etl.store.node_names import patient_key
from etl.store.patient_labels import are_intact
from etl.store.verify_labels import label_problems


@dataclass(frozen=True)
class Finding:
    """Something wrong with the store: where, and what."""

    path: str
    problem: str
    can_be_made_again: bool = False


def verify_store(store_path: str) -> tuple[int, list[Finding]]:
    """Read everything that a store holds and compare it with its digests.

    Parameters
    ----------
    store_path : str

    Returns
    -------
    int
        Volumes looked at.
    list of Finding
        Empty where all is well.

    Raises
    ------
    StoreError
        There is no store.
    """
    keys = open_keys(store_path)
    if keys.get(METADATA) is None:
        raise StoreError(f"no store at {store_path!r}")
    inventory = keys.inventory()
    findings = [Finding(path, "unfinished: it has no zarr.json", True) for path in inventory.unfinished]
    findings += [Finding(path, "unfinished: it has no zarr.json", True) for path in inventory.unfinished_labels]
    findings += [Finding(path, "half written by a run that was cut off", True) for path in inventory.partial]
    config_digest = ct_etl_attributes(parsed(keys.get(METADATA)) or {}).get("config_digest")
    findings += [Finding(path, "not written by ct-etl; left alone") for path in inventory.foreign]
    for prefix in inventory.published:
        try:
            findings += [Finding(prefix, problem, True) for problem in _check_series(keys, prefix, config_digest)]
            findings += [Finding(path, problem, True) for path, problem in label_problems(keys, prefix)]
        except Exception as error:  # noqa: BLE001 - zarr and its codecs raise whatever damaged bytes provoke
            findings.append(Finding(prefix, f"cannot be read: {type(error).__name__}", True))
    findings += [Finding(path, problem) for path, problem in _check_upper(keys, inventory)]
    return len(inventory.published), findings


def repair(store_path: str, findings: list[Finding]) -> list[str]:
    """Remove what the next run can make again; metadata first, so that no reader meets half a volume.

    Returns
    -------
    list of str
        What was done, a sentence each.
    """
    keys = open_keys(store_path)
    done = []
    for path in dict.fromkeys(finding.path for finding in findings if finding.can_be_made_again):
        node, is_label, name = path.partition(f"/{LABELS}/")
        if path.endswith(f"/{LABELS}"):
            list_labels(keys, path.removesuffix(f"/{LABELS}"))
            done.append(f"listed anew what is in {path}")
        elif is_label and "/" not in name:
            take_back_label(keys, node, name)
            done.append(f"removed {path}; ct-etl label makes it again")
        else:
            keys.remove(path)
            done.append(f"removed {path}; the next run makes it again")
    return done


def _check_series(store: Keys, prefix: str, config_digest: object) -> Iterator[str]:
    """Digest first: it covers every byte, so what it accepts need not be doubted piece by piece."""
    node: Any = parsed(store.get(f"{prefix}/{METADATA}"))
    if node is None:
        yield "zarr.json is no JSON object"
        return
    attributes = node["attributes"]
    provenance = attributes["ct_etl"]["provenance"]
    recorded = provenance.pop("entry_digest", None)
    names = [name for name in store.sizes(prefix) if name != METADATA and is_own_key(name)]
    keys = {name: store.get(f"{prefix}/{name}") or b"" for name in names}
    wanted = arrays_of(attributes)
    if wanted is None:
        yield "it does not say which arrays it consists of"
        wanted = tuple(array for array in ARRAYS if not array.is_optional)
    if provenance.get("config_digest") != config_digest:
        yield "it was made with another configuration than the store's"
    for name in (key for array in wanted for key in (array.metadata_key, array.chunk_key)):
        if name not in keys:
            yield f"{name} is missing"
    if node != group(node["attributes"]):
        yield "zarr.json is not a group's"
    if recorded != entry_digest(keys, attributes):
        yield "its bytes or attributes are not those that were written"
    volume = read_array(store.path, f"{prefix}/{VOLUME.path}")
    if volume_digest(volume) != provenance["volume_digest"]:
        yield "volume's values are not those that were written"


def _check_upper(keys: Keys, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Check root and patients, which the driver writes at the end of a run."""
    root: Any = parsed(keys.get(METADATA)) or {}
    attributes = ct_etl_attributes(root)
    consolidated: Any = root.pop("consolidated_metadata", None)
    if root != _group_of(attributes, ct_etl_digest=json_digest(attributes)):
        yield METADATA, "the store's own attributes are not those that were written"
    if consolidated is None:
        yield METADATA, "no run has finished since volumes were written: there is no consolidated metadata"
    else:
        yield from _check_consolidated(keys, inventory, consolidated)
    for patient in sorted({prefix.split("/")[0] for prefix in inventory.published}):
        node = parsed(keys.get(f"{patient}/{METADATA}")) or {}
        found = ct_etl_attributes(node)
        is_known = f"{patient}/{found.get('default_series')}" in inventory.published
        if node != _group_of(found) or patient_key(str(found.get("patient_id"))) != patient or not is_known:
            yield patient, "its Patient ID or default series is not what was written"
        elif not are_intact(found):
            yield patient, "its labels are not what was written"
        elif not _is_best(keys, patient, str(found["default_series"]), inventory):
            yield patient, "another of its series suits better as the default"


def _is_best(keys: Keys, patient: str, default: str, inventory: Inventory) -> bool:
    """Whether no series of a patient has more points than the default one."""
    points = {}
    for node in (node for node in inventory.published if node.startswith(f"{patient}/")):
        quality = ct_etl_attributes(parsed(keys.get(f"{node}/{METADATA}"))).get("qc")
        points[node] = quality.get("default_series_points", 0) if isinstance(quality, dict) else 0
    return bool(points[f"{patient}/{default}"] == max(points.values()))


def _check_consolidated(keys: Keys, inventory: Inventory, consolidated: Any) -> Iterator[tuple[str, str]]:
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if consolidated != {"kind": "inline", "must_understand": False, "metadata": nodes} or not isinstance(
        nodes, dict
    ):
        yield METADATA, "its consolidated metadata is not what was written"
        return
    for path, node in nodes.items():
        if parsed(keys.get(f"{path}/{METADATA}")) != node:
            yield path, "consolidated metadata says something else"
    for prefix in inventory.published:
        if prefix not in nodes:
            yield prefix, "not in the consolidated metadata: a run has not finished"


def _group_of(attributes: dict[str, Any], **beside: str) -> dict[str, Any]:
    return group({"ct_etl": attributes, **beside})


def read_array(store_path: str, path: str) -> NDArray[Any]:
    """Read the values of a whole array by zarr-python; it raises whatever damaged bytes provoke."""
    if is_bucket_url(store_path):
        array = zarr.open_array(_in_memory(open_keys(store_path), path), mode="r")
    else:
        array = zarr.open_array(store_path, path=path, mode="r")
    values: NDArray[Any] = np.asarray(array[...])
    step: Any = array.attrs.get("scale_factor")
    if step is None:
        return values
    scaled: NDArray[np.float32] = np.multiply(values, np.float32(step), dtype=np.float32)
    return scaled


def _in_memory(keys: Keys, group: str) -> MemoryStore:
    """Fetch the keys below a group, which a bucket gives sooner whole than one by one to zarr."""
    found = {name: keys.get(f"{group}/{name}") or b"" for name in keys.sizes(group)}
    return MemoryStore(
        {name: default_buffer_prototype().buffer.from_bytes(content) for name, content in found.items()}
    )
