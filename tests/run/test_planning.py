"""A plan that is made part by part is the plan of the whole; what belongs together is found, and no more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from series import small_series

import etl.run.planning
from etl.config import build_config, load_preset
from etl.plan.plan import make_plan
from etl.run.planning import plan_run
from etl.run.spool import Place, Spool
from etl.run.spooled_scan import linked, scan_into
from etl.scan.inputs import scan_inputs
from etl.scan.scan import Limits
from etl.workers.pool import SerialPool

NAMES = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(NAMES, NAMES), max_size=30))
def test_stacks_are_together_just_where_patients_and_series_lead_from_one_to_the_other(names):
    stacks = [(patient, series, Place(n, 1)) for n, (patient, series) in enumerate(names)]
    # Brute force: parts are joined until no two of them share a name.
    parts = [({f"P{patient}", f"S{series}"}, [place]) for patient, series, place in stacks]
    while pair := next(((a, b) for a in parts for b in parts if a is not b and a[0] & b[0]), None):
        parts = [part for part in parts if part is not pair[0] and part is not pair[1]]
        parts.append((pair[0][0] | pair[1][0], pair[0][1] + pair[1][1]))
    assert {frozenset(part) for part in linked(stacks)} == {frozenset(places) for _, places in parts}
    assert [part[0] for part in linked(stacks)] == sorted(part[0] for part in linked(stacks))


@pytest.fixture
def cohort(tmp_path):
    """Patients with one series and with several, series in two folders or of two patients, slices of nobody."""
    folder = tmp_path / "dicom"
    for n in range(4):
        small_series(folder / f"p{n}", f"P{n}", seed=n)
    small_series(folder / "p1-more", "P1", seed=11)
    small_series(folder / "p2-again", "P2", seed=2, count=14)
    small_series(folder / "other", "Q", seed=3)
    small_series(folder / "nobody", "", seed=21)
    for n, path in enumerate(sorted((folder / "p0").iterdir())):
        if n % 2:
            (folder / "p0-rest").mkdir(exist_ok=True)
            path.rename(folder / "p0-rest" / path.name)
    (folder / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 99)
    return folder


@pytest.mark.parametrize("largest", [0, 1 << 30])
@pytest.mark.parametrize("series", ["all", "default"])
def test_a_plan_in_parts_is_the_plan_of_the_whole(cohort, tmp_path, monkeypatch, series, largest):
    monkeypatch.setattr(etl.run.planning, "LARGEST_MESSAGE_BYTES", largest)
    config = build_config(load_preset("head-ct"), {"workers": 0, "quiet": True, "series": series})
    whole = make_plan(scan_inputs([str(cohort)], SerialPool(), limits=Limits(), quiet=True), config)
    with Spool(tmp_path) as spool:
        scan = scan_into(spool, [str(cohort)], SerialPool(), limits=Limits(), quiet=True)
        parts = plan_run(scan, config, SerialPool(), spool)
        tasks = [ticket.load(spool).unpacked() for ticket in parts.tickets]
    assert len(scan.parts) > 3
    assert sorted(map(str, parts.settled)) == sorted(map(str, whole.settled))
    assert parts.default_series == whole.default_series

    def described(found):
        return sorted((str(task.entry), task.source_digest, task.points, task.unnamed_in) for task in found)

    assert described(tasks) == described(whole.tasks)
    assert len(whole.tasks) >= (3 if series == "default" else 5)


def test_a_spool_gives_back_what_was_put_into_it(tmp_path):
    contents = [random.Random(n).randbytes(n * 37) for n in range(50)]
    with Spool(tmp_path) as spool:
        places = [spool.put(content) for content in contents]
        random.Random(1).shuffle(order := list(range(50)))
        assert all(spool.get(places[n]) == contents[n] for n in order)
    assert list(tmp_path.iterdir()) == []
