"""A large cohort stays quick to look at."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from handmade_store import Series, head, write_store

from etl.errors import UsageError
from etl.read.patients import Store
from etl.view.app import App
from etl.view.cohort import Cohort, Query


def large_store(tmp_path, patients: int) -> Store:
    """As many patients as asked for, all with the metadata of one volume."""
    one = Series(np.asarray(head((4, 5, 6))), warnings=["gantry-tilt"], dicom={"ConvolutionKernel": "H31s"})
    text = (write_store(tmp_path / "s.zarr", [one]) / one.node / "zarr.json").read_bytes()
    groups = {
        f"P{n:05d}": ({"patient_id": f"P{n:05d}", "default_series": one.key}, {one.key: text})
        for n in range(patients)
    }
    return Store(str(tmp_path / "s.zarr"), {}, groups)


@pytest.mark.slow
def test_of_ten_thousand_volumes_every_page_comes_in_a_second(tmp_path):
    app = App(large_store(tmp_path, 10_000))
    for asked, expected in (
        ({}, 10_000),
        ({"q": ["p0012"]}, 10),
        ({"warning": ["gantry-tilt"], "sort": ["-voxels"], "first": ["9950"]}, 10_000),
    ):
        start = time.perf_counter()
        answer = app.get("api/volumes", asked, byte_range=None, base="")
        elapsed_s = time.perf_counter() - start
        assert json.loads(answer.body)["found"] == expected
        assert elapsed_s < 1


@pytest.mark.parametrize("values", [{"sort": ["x"]}, {"slices_max": ["many"]}])
def test_a_question_that_makes_no_sense_is_refused(values):
    with pytest.raises(UsageError):
        Query.parse(values)


def test_filters_join_names_by_and_and_values_by_or(tmp_path):
    cohort = Cohort(large_store(tmp_path, 3))
    judged = {cohort.rows[0].node: "keep", cohort.rows[1].node: "reject"}
    query = Query(any_of={"verdict": ["keep", "reject"], "kernel": ["H31s"]}, search="p0000")
    assert [row.patient_id for row in cohort.find(query, lambda node: judged.get(node, "none"))] == [
        "P00000",
        "P00001",
    ]
    assert cohort.find(Query(any_of={"verdict": ["keep"], "kernel": ["B"]}), lambda _: "keep") == []
