"""Compare a store with the DICOM it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from etl.buckets.urls import local_stand_in
from etl.config import LIMITS, Config
from etl.errors import SeriesError
from etl.option_rules import MAX_MB
from etl.plan.plan import make_plan
from etl.run.differences import differences
from etl.run.existing import match_store
from etl.run.ledger import read_totals
from etl.run.run_dir import newest_run
from etl.scan.deidentify import Pseudonyms, deidentify_scan
from etl.scan.scan import ScanResult
from etl.store.keys import Keys, open_keys
from etl.store.layout import METADATA, SOP_INSTANCE_UID
from etl.store.metadata import ct_etl_attributes, parsed
from etl.store.verify import Finding, read_array

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
        findings += [Finding(path, problem) for path, problem in _plain_identifiers(keys, scan)]
        if pseudonyms is None:
            return 0, findings
        scan = deidentify_scan(scan, pseudonyms)
    config = Config.from_recipe(recipe, min_slices=2, **_limits_of_run(store_path))
    plan = make_plan(scan, config, key_digest=recipe.get("deidentify"))
    matched = match_store(plan.tasks, keys, lambda task: task, may_lose_slices=False)
    tasks = [*matched.fresh, *matched.there]
    derived = {task.entry.node for task in tasks}
    for entry in plan.settled:
        is_there = entry.outcome == "failed" and keys.get(f"{entry.node}/{METADATA}") is not None
        # Another stack of its series may have the key that a failed one would have had.
        if is_there and entry.node not in derived:
            findings.append(Finding(entry.node, f"cannot be derived from the input: {entry.reason}"))
    # Not to be repaired: from this input the volume cannot be made again.
    findings += [Finding(entry.node, str(entry.detail)) for entry in matched.refused]
    tasks = [task for task in tasks if keys.get(f"{task.entry.node}/{METADATA}") is not None]
    for task in tasks:
        node = task.entry.node
        findings += (Finding(other, f"the same series as {node}") for other in task.entry.related)
        try:
            findings += [Finding(node, problem, True) for problem in differences(task, config, store_path)]
        except SeriesError as error:
            findings.append(Finding(node, f"cannot be derived from the input: {error}"))
        except Exception:  # noqa: BLE001 - zarr and its codecs raise whatever damaged bytes provoke
            findings.append(Finding(node, "cannot be read", True))
    if not tasks and not matched.refused:
        findings.append(Finding("", "none of the store's volumes was found in the input"))
    return len(tasks), findings


def _limits_of_run(store_path: str) -> dict[str, Any]:
    """Give the limits of the newest run into a store; the widest where there is no record of it."""
    with suppress(OSError, ValueError):
        totals = read_totals(newest_run(local_stand_in(store_path)))
        limits = (totals or {}).get("limits")
        if isinstance(limits, dict):
            return {name: limits[name] for name in LIMITS if name in limits}
    return {"max_file_mb": MAX_MB, "max_volume_mb": MAX_MB}


def _plain_identifiers(keys: Keys, scan: ScanResult) -> Iterator[tuple[str, str]]:
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
    there = keys.sizes("")
    for name in sorted(
        {*there, *(str(group) for key in there for group in list(PurePosixPath(key).parents)[:-1])}
    ):
        content = name.encode("utf-8", "surrogateescape")
        if PurePosixPath(name).name == METADATA:
            text = keys.get(name) or b""
            # JSON may write what is beyond ASCII as escapes.
            content += text + json.dumps(parsed(text), ensure_ascii=False).encode("utf-8", "surrogatepass")
        elif name not in there and name.endswith(SOP_INSTANCE_UID.path):
            content += read_array(keys.path, name).tobytes()
        for kind in sorted({kind for text, kind in wanted.items() if text in content}):
            yield name, f"{kind} of the input stands in it"
