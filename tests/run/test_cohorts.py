"""Cohorts as files, classic or enhanced, in folders or zips: planes of one part a volume, whatever the order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cohorts import ZS, encode, enhanced, scan_of, store_files, uid, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.config import Config
from etl.dicom.sources import find_sources
from etl.plan.plan import Plan, make_plan
from etl.scan.scan import merge_scans, scan_source

CONFIG = Config(spacing_mm=(2.5, 1.0, 1.0), min_slices=4)
PARTS: dict[str, Any] = {
    "time": lambda n: {"TemporalPositionIdentifier": n + 1},
    "kernel": lambda n: {"ConvolutionKernel": f"B{n}0f"},
    "study": lambda n: {"StudyInstanceUID": uid("study", n)},
    "space": lambda n: {"FrameOfReferenceUID": uid("frame", n)},
    "patient": lambda n: {"PatientID": f"P{n}"},
}


def files_of(kind: str, n: int, shift_mm: float, *, is_enhanced: bool) -> list[bytes]:
    zs = [z + shift_mm * n for z in ZS]
    if is_enhanced:
        return [encode(enhanced(zs, part=n, extra=50.0 * n, **PARTS[kind](n)))]
    return scan_of(zs, part=n, extra=50.0 * n, **PARTS[kind](n))


def planned(tmp_path_factory: pytest.TempPathFactory, files: list[bytes], *, is_zipped: bool, seed: int) -> Plan:
    folder = tmp_path_factory.mktemp("cohort")
    shuffled = random.Random(seed).sample(files, len(files))
    if is_zipped:
        zipped(folder / "in" / "p.zip", ((f"IM{k % 5}", content) for k, content in enumerate(shuffled)))
    else:
        store_files(folder / "in" / "p", shuffled)
    return make_plan(merge_scans(map(scan_source, find_sources([str(folder / "in")]))), CONFIG)


def summary(plan: Plan) -> list[tuple[Any, ...]]:
    tasks = [(t.entry, t.source_digest, t.stack.told_apart_by) for t in plan.tasks]
    return [
        (e.patient_id, e.series_key, e.outcome, e.reason, e.slices, told)
        for e, _, told in sorted([*tasks, *((e, "", "") for e in plan.settled)], key=str)
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(PARTS)), count=st.integers(2, 3), shift_mm=st.sampled_from([0.0, 1.25, 0.8]),
    is_enhanced=st.booleans(), is_zipped=st.booleans(), lost=st.sets(st.integers(0, 35), max_size=2),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_files_of_several_parts_never_share_a_volume(
    tmp_path_factory: pytest.TempPathFactory, kind: str, count: int, shift_mm: float, is_enhanced: bool,
    is_zipped: bool, lost: set[int], seed: int,
) -> None:  # fmt: skip
    files = [f for n in range(count) for f in files_of(kind, n, shift_mm, is_enhanced=is_enhanced)]
    kept = files if is_enhanced else [f for k, f in enumerate(files) if k not in lost]
    plan = planned(tmp_path_factory, kept, is_zipped=is_zipped, seed=0)
    for task in plan.tasks:
        known = {uid("s", n, k, z + shift_mm * n): n for n in range(count) for k, z in enumerate(ZS)}
        known |= {uid("enhanced", n): n for n in range(count)}
        assert len({known[sop.decode()] for sop in task.stack.slices.sop_instance_uid.tolist()}) == 1
    found = sum(len(stack.slices) for _, stack in plan.stacks)
    assert found == (12 * count if is_enhanced else len(kept))
    assert {entry.reason for entry in plan.settled} <= {"missing-slices"}
    assert summary(plan) == summary(planned(tmp_path_factory, kept, is_zipped=not is_zipped, seed=seed))
