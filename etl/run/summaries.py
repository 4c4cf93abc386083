"""What `scan` and `info` find, as plain JSON values: what ``--json`` prints and a terminal shows."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING, Any

from etl.codes import ExclusionCode
from etl.entry import Entry

if TYPE_CHECKING:
    from etl.plan.plan import Plan
    from etl.read.patients import Store
    from etl.scan.scan import ScanResult


def scan_summary(scan: ScanResult, plan: Plan) -> dict[str, Any]:
    """Describe what a scan found and what a run would do with it, as plain JSON values."""
    from etl.plan.plan import describe  # noqa: PLC0415 - not to load scipy for a table of results

    described = {_identity(entry): describe(stack) for entry, stack in plan.stacks}
    series = []
    for entry in sorted(
        [*plan.settled, *(task.entry for task in plan.tasks)],
        key=lambda e: (e.patient_key, e.series_number, e.series_key),
    ):
        action = "write" if entry.outcome == "written" else entry.outcome
        facts = described.get(_identity(entry), {})
        is_default = plan.default_series.get(entry.patient_id) == entry.series_key and action == "write"
        series.append({**entry.to_json(), **facts, "outcome": action, "is_default": is_default})
    counts = Counter(row["slices"] for row in series if row["reason"] not in _NOT_VOLUMES and row["slices"] > 1)
    most = max(counts, key=lambda n: (counts[n], n)) if counts else None
    return {
        "series": series,
        "slice_counts": {str(n): counts[n] for n in sorted(counts)},
        "most_common_slice_count": most,
        "files": scan.files,
        "ignored_files": scan.ignored_files,
    }


_NOT_VOLUMES = {
    ExclusionCode.NOT_CT,
    ExclusionCode.LOCALIZER,
    ExclusionCode.SECONDARY_CAPTURE,
    ExclusionCode.NO_PIXELS,
}


def store_summary(store: Store) -> dict[str, Any]:
    """Describe what is in a store, as plain JSON values."""
    volumes = [
        {
            "patient_id": patient_id,
            "series_key": key,
            "is_default": patient.default.key == volume.key,
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "warnings": list(volume.warnings),
        }
        for patient_id, patient in store.items()
        for key, volume in patient.items()
    ]
    return {"config": store.config, "fingerprint": store.fingerprint, "volumes": volumes}


def csv_of(store: Store) -> str:
    """Give every volume as a line of CSV, as `Store.table` has it; nothing where there is no value."""
    names, rows = store.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _identity(entry: Entry) -> tuple[str, str]:
    return entry.patient_key, entry.series_key
