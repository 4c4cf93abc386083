"""Cohorts of several scans, files lost, repeated and shuffled: no volume holds planes of two, none goes silently.

Most cohorts are made of records as the scan leaves them, without files, so that many can be tried.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from etl.config import Config
from etl.plan.plan import Plan, make_plan
from etl.scan.build_stacks import SliceRecord, build_stack, header_kind, part_planes
from etl.scan.distinctions import DISTINCTIONS
from etl.scan.scan import ScanResult
from etl.stack import Location, PixelFormat, StackKey

COHORTS = int(os.environ.get("COHORTS", "60"))
FORMAT = PixelFormat("1.2.840.10008.1.2.1", 8, 8, 1, 16, 16, 15, 0, "MONOCHROME2", 1)
CONFIG = Config(spacing_mm=(2.5, 1.0, 1.0), min_slices=4, max_gap_mm=3.0)
ROW = {row.keyword: k for k, row in enumerate(DISTINCTIONS)}
SAME = {
    "FrameOfReferenceUID": "1.9",
    "StudyInstanceUID": "1.8",
    "SeriesNumber": "3",
    "ConvolutionKernel": "B30f",
    "SliceThickness": "2.5",
    "KVP": "120",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
}
TELLING: dict[str, Any] = {
    "FrameOfReferenceUID": lambda n: f"1.9.{n}",
    "StudyInstanceUID": lambda n: f"1.8.{n}",
    "SeriesNumber": lambda n: f"{n + 1}",
    "ConvolutionKernel": lambda n: f"B{10 * n}f",
    "SliceThickness": lambda n: f"{2.5 + n}",
    "KVP": lambda n: f"{80 + 20 * n}",
    "ImageType": lambda n: f"DERIVED\\SECONDARY\\{'ABCD'[n]}",
    "TemporalPositionIndex": lambda n: f"{n + 1}",
    "TemporalPositionIdentifier": lambda n: f"{n + 1}",
    "StackID": lambda n: f"{n}",
    "DimensionIndexValues": lambda n: f"00209153={n}",
    "NominalPercentageOfCardiacPhase": lambda n: f"{10 * n}.0",
    "TriggerTime": lambda n: f"{75 * n}",
    "FrameReferenceDateTime": lambda n: f"2024010123595{n}.5+0100",
    "AcquisitionDateTime": lambda n: f"2024010123595{n}",
    "AcquisitionDate+AcquisitionTime": lambda n: (
        f"2024010{1 + n // 2} {('2359', '235959.5', '00', '10:12:00')[n]}"
    ),
    "AcquisitionNumber": lambda n: f"{n + 1}",
    "ScanOptions": lambda n: f"TP{n}",
}


@dataclass(frozen=True)
class Cohort:
    """Slices as (part, z), and what tells the parts apart."""

    attribute: str
    shift_mm: float
    far: bool
    slices: tuple[tuple[int, float], ...]
    counts: tuple[int, ...]


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    attribute = draw(st.sampled_from(sorted(TELLING)))
    shift = draw(st.sampled_from([0.0, 0.0, 1.25, 0.8, 0.4]))
    far = attribute in {"AcquisitionNumber", "StackID"} and draw(st.booleans())
    counts = tuple(draw(st.lists(st.integers(8, 14), min_size=2, max_size=4)))
    slices = []
    for part, count in enumerate(counts):
        start = 300.0 * part if far else shift * part
        lost = draw(st.sets(st.integers(0, count - 1), max_size=2))
        slices += [(part, start + 2.5 * k) for k in range(count) if k not in lost]
    return Cohort(attribute, shift, far, tuple(slices), counts)


def record(cohort: Cohort, n: int, name: str) -> SliceRecord:
    part, z = cohort.slices[n]
    said = {**SAME, cohort.attribute: TELLING[cohort.attribute](part)}
    marks = tuple(said.get(row.keyword, "") for row in DISTINCTIONS)
    key = StackKey(
        "P", marks[ROW["StudyInstanceUID"]], "1.2.3", int(marks[ROW["SeriesNumber"]]), "1.2", "CT", 8, 8, 1,
        (1.0, 0, 0, 0, 1, 0), (1.0, 1.0), "HU", False, True, False,
    )  # fmt: skip
    columns: dict[str, object] = {
        "frame": 0, "pixel_offset": 100, "pixel_length": 128, "file_bytes": 228, "crc32": -1, "modified_ns": 0,
        "changed_ns": 0, "inode": 0, "sop_instance_uid": f"1.{part}.{n}".encode(), "instance_number": n,
        "position_lps_mm": (0.0, 0.0, z), "slope": 1.0, "intercept": -1024.0, "padding": (np.nan, np.nan),
        "thickness_mm": float(marks[ROW["SliceThickness"]]),
    }  # fmt: skip
    dataset = Dataset()
    dataset.set_original_encoding(False, True)
    return SliceRecord(
        key, FORMAT, columns, marks, header_kind(dataset, key, FORMAT, marks), Location("/in", name), dataset
    )


def plan_of(cohort: Cohort, *, seed: int) -> Plan:
    """Plan the cohort with its files in some order, under some names, a few of them twice."""
    chance = random.Random(seed)
    order = list(range(len(cohort.slices)))
    order += chance.sample(order, 3)
    chance.shuffle(order)
    records = [record(cohort, n, f"{chance.randrange(10**9):09d}") for n in order]
    stacks = tuple(part for part in part_planes(build_stack(records)))
    return make_plan(ScanResult(stacks), CONFIG)


def parts_in(uids: list[bytes]) -> set[int]:
    return {int(uid.split(b".")[1]) for uid in uids}


def what_became(plan: Plan) -> list[tuple[Any, ...]]:
    written = [(task.entry, task.stack.told_apart_by, task.source_digest) for task in plan.tasks]
    return sorted([*written, *((entry, "", "") for entry in plan.settled)], key=str)


@settings(max_examples=COHORTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(cohorts(), st.integers(0, 2**16))
def test_no_volume_has_planes_of_two_parts_and_none_is_silently_gone(cohort: Cohort, seed: int) -> None:
    plan = plan_of(cohort, seed=0)
    for task in plan.tasks:
        assert len(parts_in(task.stack.slices.sop_instance_uid.tolist())) == 1
    found = [stack for _, stack in plan.stacks]
    uids = [uid for stack in found for uid in stack.slices.sop_instance_uid.tolist()]
    assert len(uids) == len(set(uids)) == len(cohort.slices)
    assert len(plan.tasks) + len(plan.settled) == len(found)
    assert {entry.reason for entry in plan.settled} <= {"missing-slices", "too-few-slices"}
    keys = [entry.series_key for entry, _ in plan.stacks]
    assert len(set(keys)) == len(keys)
    assert what_became(plan) == what_became(plan_of(cohort, seed=seed))


@pytest.mark.parametrize("attribute", sorted(TELLING))
def test_what_tells_a_part_apart_does_not_depend_on_how_many_there_are(attribute: str) -> None:
    told = []
    for count in (2, 3):
        slices = tuple((part, 2.5 * k) for part in range(count) for k in range(10))
        plan = plan_of(Cohort(attribute, 0.0, False, slices, (10,) * count), seed=1)
        told.append({task.stack.told_apart_by for task in plan.tasks})
        assert len(told[-1]) == count
    assert told[0] < told[1]
