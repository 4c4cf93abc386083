"""The operator's record; its oracle is the standard library's json."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etl.codes import ExclusionCode, FailureCode
from etl.entry import Entry, count_outcomes
from etl.run.ledger import read_run, write_run

ENTRY = Entry(
    patient_id="CQ500-CT-1",
    patient_key="CQ500-CT-1",
    series_instance_uid="1.2.3",
    series_number=4,
    series_key="0004-c47f5b18",
    slices=30,
    outcome="written",
    warnings=("gantry-tilt", "mixed-padding"),
    seconds=0.25,
    bytes_in=1000,
    bytes_out=300,
)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").split("\n")[:-1]]


def test_a_line_is_json_with_the_fields_of_the_contract_in_its_order(tmp_path):
    write_run(tmp_path, [ENTRY], {})
    [line] = lines_of(tmp_path)
    assert line == {
        "patient_id": "CQ500-CT-1",
        "patient_key": "CQ500-CT-1",
        "series_instance_uid": "1.2.3",
        "series_number": 4,
        "series_key": "0004-c47f5b18",
        "slices": 30,
        "outcome": "written",
        "reason": None,
        "detail": None,
        "warnings": ["gantry-tilt", "mixed-padding"],
        "seconds": 0.25,
        "bytes_in": 1000,
        "bytes_out": 300,
        "related": [],
    }
    assert list(line)[:3] == ["patient_id", "patient_key", "series_instance_uid"]


def test_excluded_and_failed_keep_what_is_known_and_say_why():
    failed = ENTRY.failed("missing-rescale", "slope is absent in 1 of 30 slices")
    excluded = ENTRY.excluded("localizer", "Image Type names a localizer")
    assert (failed.outcome, failed.reason, failed.slices) == ("failed", "missing-rescale", 30)
    assert (excluded.outcome, excluded.reason, excluded.detail) == (
        "excluded",
        "localizer",
        "Image Type names a localizer",
    )
    assert ENTRY.outcome == "written"


def test_totals_always_add_up():
    entries = [
        ENTRY,
        replace(ENTRY, outcome="unchanged"),
        ENTRY.excluded("localizer", ""),
        ENTRY.failed("unreadable", ""),
        ENTRY.failed("too-large", ""),
    ]
    assert count_outcomes(entries) == {"scanned": 5, "written": 1, "unchanged": 1, "excluded": 1, "failed": 2}
    assert count_outcomes([]) == {"scanned": 0, "written": 0, "unchanged": 0, "excluded": 0, "failed": 0}


@pytest.mark.parametrize(
    "patient_id",
    ["Jürgen", "頭部", 'quote " and \\', "two\nlines", "line\u2028separator\u0085next", "\x00\x1f", "lone \udcff"],
)
def test_whatever_a_patient_id_holds_a_stack_is_one_line(tmp_path, patient_id):
    write_run(tmp_path, [replace(ENTRY, patient_id=patient_id), ENTRY], {"scanned": 2})
    lines = lines_of(tmp_path)
    assert len(lines) == 2
    if patient_id.isprintable() or "\n" in patient_id:
        assert lines[0]["patient_id"] == patient_id
    ledger, totals = read_run(tmp_path)
    assert len(ledger) == 2
    assert ledger[1] == lines[1]
    assert totals == {"scanned": 2}


def test_what_was_written_is_read_back(tmp_path):
    totals = {"scanned": 1, "ignored_paths": ["/data/ü"], "fingerprint": None}
    write_run(tmp_path / "a" / "b", [ENTRY], totals)
    assert read_run(tmp_path / "a" / "b") == ([ENTRY.to_json()], totals)


def test_a_run_that_is_not_there_reads_as_nothing(tmp_path):
    assert read_run(tmp_path / "nothere") == ([], None)


def test_reason_codes_are_those_of_the_contract():
    assert set(ExclusionCode) == {
        "not-ct",
        "localizer",
        "secondary-capture",
        "too-few-slices",
        "slice-count",
        "not-selected",
        "no-pixels",
        "single-position",
        "mask",
    }
    assert set(FailureCode) == {
        "missing-geometry",
        "missing-slices",
        "duplicate-positions",
        "fewer-slices",
        "inconsistent-slices",
        "missing-rescale",
        "unsupported-transfer-syntax",
        "truncated-pixel-data",
        "undecodable",
        "too-large",
        "unreadable",
        "worker-died",
        "internal-error",
    }
