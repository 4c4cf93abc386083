"""Compare a store with the DICOM it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etl.config import Config
from etl.errors import SeriesError
from etl.plan.plan import SeriesTask, make_plan
from etl.process.read_hu import convert_task
from etl.scan.deidentify import Pseudonyms, deidentify_scan
from etl.scan.scan import ScanResult
from etl.store.keys import open_keys
from etl.store.layout import METADATA, SOP_INSTANCE_UID, VOLUME
from etl.store.metadata import parsed
from etl.store.verify import Finding, ct_etl_attributes, read_array

MIN_IDENTIFIER = 4


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
    keys = open_keys(store_path)
    recipe = ct_etl_attributes(parsed(keys.get(METADATA)) or {}).get("config")
    if not isinstance(recipe, dict):
        return 0, [Finding(METADATA, "the store's configuration is lost; nothing can be derived anew")]
    findings: list[Finding] = []
    if recipe.get("deidentify"):
        findings += [Finding(path, problem) for path, problem in _plain_identifiers(Path(store_path), scan)]
        if pseudonyms is None:
            return 0, findings
        scan = deidentify_scan(scan, pseudonyms)
    config = Config.from_recipe(recipe, min_slices=2)
    count = 0
    plan = make_plan(scan, config, key_digest=recipe.get("deidentify"))
    for entry in plan.settled:
        prefix = entry.node
        if entry.outcome == "failed" and keys.get(f"{prefix}/{METADATA}") is not None:
            findings.append(Finding(prefix, f"cannot be derived from the input: {entry.reason}"))
    for task in plan.tasks:
        prefix = task.entry.node
        if keys.get(f"{prefix}/{METADATA}") is None:
            continue
        count += 1
        try:
            stored = read_array(store_path, f"{prefix}/{VOLUME.path}")
        except Exception:  # noqa: BLE001 - as above
            findings.append(Finding(prefix, "volume cannot be read", True))
            continue
        findings += [Finding(prefix, problem) for problem in _compare(task, config, stored)]
    if count == 0:
        findings.append(Finding("", "none of the store's volumes was found in the input"))
    return count, findings


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
            content += json.dumps(parsed(path.read_bytes()), ensure_ascii=False).encode("utf-8", "surrogatepass")
        elif path.is_dir() and name.endswith(SOP_INSTANCE_UID.path):
            content += read_array(store.as_posix(), name).tobytes()
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
