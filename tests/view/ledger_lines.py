"""A ledger as a run writes it: two series left out for one reason, and one that failed."""

from __future__ import annotations

LEDGER = [
    {"outcome": "written", "patient_id": "P1", "reason": None},
    {"outcome": "excluded", "reason": "localizer", "patient_id": "P1", "series_number": 1, "slices": 2},
    {"outcome": "failed", "reason": "missing-slices", "patient_id": "P9", "series_number": 4, "slices": 31,
     "detail": "a gap of 45 mm", "path": "/secret/place"},
    {"outcome": "excluded", "reason": "localizer", "patient_id": "P2", "series_number": 1, "slices": 1},
]  # fmt: skip
