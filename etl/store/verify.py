"""Check a store: metadata valid, every chunk present and decodes, digests equal, values equal to the DICOM's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from etl.config import Config, build_config
from etl.digests import json_digest, volume_digest
from etl.errors import SeriesError, StoreError
from etl.plan.plan import SeriesTask, make_plan
from etl.process.series import convert_task
from etl.scan.deidentify import Pseudonyms, deidentify_scan
from etl.scan.scan import ScanResult
from etl.store.encoding import entry_digest
from etl.store.inventory import METADATA, Inventory, is_own_key, is_partial, read_json, take_inventory
from etl.store.keys import patient_key

MIN_IDENTIFIER = 4


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
    store = Path(store_path)
    if not (store / METADATA).is_file():
        raise StoreError(f"no store at {store_path!r}")
    inventory = take_inventory(store)
    findings = [Finding(path, "unfinished: it has no zarr.json", True) for path in inventory.unfinished]
    findings += [Finding(path, "half written by a run that was cut off", True) for path in inventory.partial]
    findings += [Finding(path, "not written by ct-etl; left alone") for path in inventory.foreign]
    for prefix in inventory.published:
        try:
            findings += [Finding(prefix, problem, True) for problem in _check_series(store, prefix)]
        except Exception as error:  # noqa: BLE001 - zarr and its codecs raise whatever damaged bytes provoke
            findings.append(Finding(prefix, f"cannot be read: {type(error).__name__}", True))
    findings += [Finding(path, problem) for path, problem in _check_upper(store, inventory)]
    return len(inventory.published), findings


def repair(store_path: str, findings: list[Finding]) -> list[str]:
    """Remove what the next run can make again; metadata first, so that no reader meets half a volume.

    Returns
    -------
    list of str
        What was removed.
    """
    removed = []
    for path in dict.fromkeys(finding.path for finding in findings if finding.can_be_made_again):
        target = Path(store_path) / path
        if target.is_dir() and not target.is_symlink():
            _remove_series(target)
        else:
            target.unlink(missing_ok=True)
        removed.append(path)
    return removed


def _remove_series(series: Path) -> None:
    """Remove the keys of a series and the folders that are empty then; what others left there stays."""
    (series / METADATA).unlink(missing_ok=True)
    inside = sorted(series.rglob("*"), reverse=True)
    for path in inside:
        if path.is_file() and (is_own_key(path.relative_to(series).as_posix()) or is_partial(path.name)):
            path.unlink()
    for folder in (*(path for path in inside if path.is_dir() and not path.is_symlink()), series):
        if not any(folder.iterdir()):
            folder.rmdir()


def verify_against_input(
    store_path: str, scan: ScanResult, pseudonyms: Pseudonyms | None = None
) -> tuple[int, list[Finding]]:
    """Derive volumes anew from the DICOM and compare every voxel with the store's.

    Parameters
    ----------
    store_path : str
    scan : ScanResult
        Of the input.
    pseudonyms : Pseudonyms, optional
        Of the key a de-identified store was written with; without it, only names are looked for.

    Returns
    -------
    int
        Volumes compared.
    list of Finding
    """
    recipe = _ct_etl(read_json(Path(store_path) / METADATA) or {}).get("config")
    if not isinstance(recipe, dict):
        return 0, [Finding(METADATA, "the store's configuration is lost; nothing can be derived anew")]
    findings: list[Finding] = []
    if recipe.get("deidentify"):
        findings += [Finding(path, problem) for path, problem in _plain_identifiers(Path(store_path), scan)]
        if pseudonyms is None:
            return 0, findings
        scan = deidentify_scan(scan, pseudonyms)
    config = build_config({}, {**{k: v for k, v in recipe.items() if v not in (None, False)}, "min_slices": 2})
    count = 0
    plan = make_plan(scan, config)
    for entry in plan.settled:
        prefix = f"{entry.patient_key}/{entry.series_key}"
        if entry.outcome == "failed" and (Path(store_path) / prefix / METADATA).is_file():
            findings.append(Finding(prefix, f"cannot be derived from the input: {entry.reason}"))
    for task in plan.tasks:
        prefix = f"{task.entry.patient_key}/{task.entry.series_key}"
        if not (Path(store_path) / prefix / METADATA).is_file():
            continue
        count += 1
        try:
            stored = np.asarray(zarr.open_array(store_path, path=f"{prefix}/volume", mode="r")[...])
        except Exception:  # noqa: BLE001 - as above
            findings.append(Finding(prefix, "volume cannot be read", True))
            continue
        findings += [Finding(prefix, problem) for problem in _compare(task, config, stored)]
    if count == 0:
        findings.append(Finding("", "none of the store's volumes was found in the input"))
    return count, findings


def _check_series(store: Path, prefix: str) -> Iterator[str]:
    """Digest first: it covers every byte, so what it accepts need not be doubted piece by piece."""
    folder = store / prefix
    node: Any = read_json(folder / METADATA)
    if node is None:
        yield "zarr.json is no JSON object"
        return
    attributes = node["attributes"]
    provenance = attributes["ct_etl"]["provenance"]
    recorded = provenance.pop("entry_digest", None)
    keys = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / METADATA and is_own_key(path.relative_to(folder).as_posix())
    }
    for name in ("volume/zarr.json", "volume/c/0/0/0", "hu_histogram/c/0", "source/sop_instance_uid/c/0/0"):
        if name not in keys:
            yield f"{name} is missing"
    if {k: v for k, v in node.items() if k != "attributes"} != {"zarr_format": 3, "node_type": "group"}:
        yield "zarr.json is not a group's"
    if recorded != entry_digest(keys, attributes):
        yield "its bytes or attributes are not those that were written"
    volume = np.asarray(zarr.open_array(store.as_posix(), path=f"{prefix}/volume", mode="r")[...])
    if volume_digest(volume) != provenance["volume_digest"]:
        yield "volume's values are not those that were written"


def _check_upper(store: Path, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Check root and patients, which the driver writes at the end of a run."""
    root: Any = read_json(store / METADATA) or {}
    attributes = _ct_etl(root)
    consolidated: Any = root.pop("consolidated_metadata", None)
    if root != _group_of(attributes, ct_etl_digest=json_digest(attributes)):
        yield METADATA, "the store's own attributes are not those that were written"
    if consolidated is None:
        yield METADATA, "no run has finished since volumes were written: there is no consolidated metadata"
    else:
        yield from _check_consolidated(store, inventory, consolidated)
    for patient in sorted({prefix.split("/")[0] for prefix in inventory.published}):
        node = read_json(store / patient / METADATA) or {}
        found = _ct_etl(node)
        is_known = f"{patient}/{found.get('default_series')}" in inventory.published
        if node != _group_of(found) or patient_key(str(found.get("patient_id"))) != patient or not is_known:
            yield patient, "its Patient ID or default series is not what was written"


def _check_consolidated(store: Path, inventory: Inventory, consolidated: Any) -> Iterator[tuple[str, str]]:
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if consolidated != {"kind": "inline", "must_understand": False, "metadata": nodes} or not isinstance(
        nodes, dict
    ):
        yield METADATA, "its consolidated metadata is not what was written"
        return
    for path, node in nodes.items():
        if read_json(store / path / METADATA) != node:
            yield path, "consolidated metadata says something else"
    for prefix in inventory.published:
        if prefix not in nodes:
            yield prefix, "not in the consolidated metadata: a run has not finished"


def _ct_etl(node: Any) -> dict[str, Any]:
    attributes = node.get("attributes")
    found = attributes.get("ct_etl") if isinstance(attributes, dict) else None
    return found if isinstance(found, dict) else {}


def _group_of(attributes: dict[str, Any], **beside: str) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ct_etl": attributes, **beside}}


def _plain_identifiers(store: Path, scan: ScanResult) -> Iterator[tuple[str, str]]:
    """Look for the input's identifiers in every name and every byte of metadata and source maps."""
    wanted: dict[bytes, str] = {}
    for stack in scan.stacks:
        key = stack.key
        for uid in (
            *stack.slices.sop_instance_uid.tolist(),
            key.study_instance_uid.encode(),
            key.series_instance_uid.encode(),
        ):
            wanted[uid] = "a UID"
        wanted[key.patient_id.encode("utf-8", "replace")] = "a Patient ID"
    wanted = {text: kind for text, kind in wanted.items() if len(text) >= MIN_IDENTIFIER}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        content = name.encode("utf-8", "surrogateescape")
        if path.name == METADATA:
            content += path.read_bytes()
            # JSON may write what is beyond ASCII as escapes.
            content += json.dumps(read_json(path), ensure_ascii=False).encode("utf-8", "surrogatepass")
        elif path.is_dir() and path.name == "sop_instance_uid":
            content += np.asarray(zarr.open_array(path.as_posix(), mode="r")[...]).tobytes()
        for kind in sorted({kind for text, kind in wanted.items() if text in content}):
            yield name, f"{kind} of the input stands in it"


def _compare(task: SeriesTask, config: Config, stored: Any) -> Iterator[str]:
    try:
        expected = convert_task(task, config)[0].volume
    except SeriesError as error:
        yield f"cannot be derived from the input: {error}"
        return
    if expected.shape != stored.shape:
        yield f"shape {stored.shape} in the store, {expected.shape} from the input"
        return
    differing = int((expected != stored).sum())
    if differing:
        yield f"{differing} of {expected.size} values differ from the input's"
