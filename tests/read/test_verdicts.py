"""Verdicts beside a store: what a reader makes of the file, also of one that a kill cut off."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_store import Series, head, write_store

from etl.codes import VerdictCode
from etl.errors import StoreError, UsageError
from etl.read.patients import open_store
from etl.read.verdicts import Verdict, parse_verdicts, read_verdicts, verdicts_path
from etl.training.criteria import chosen
from etl.view.verdict_file import MAX_NOTE_CHARACTERS, VerdictFile


def test_what_was_decided_is_read_back_with_its_note_and_opens_in_a_spreadsheet(tmp_path):
    file = tmp_path / "s.zarr.verdicts.csv"
    with VerdictFile(file) as verdicts:
        verdicts.judge("P1/a", VerdictCode.REJECT, 'tilted, "very"\nand blurred')
        verdicts.judge("P2/b", VerdictCode.KEEP)
    assert read_verdicts(str(tmp_path / "s.zarr")) == {
        "P1/a": Verdict(VerdictCode.REJECT, 'tilted, "very" and blurred'),
        "P2/b": Verdict(VerdictCode.KEEP),
    }
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["verdict"] for row in rows] == ["reject", "keep"]


def test_the_last_decision_counts_and_can_be_undone_step_by_step(tmp_path):
    file = tmp_path / "v.csv"
    with VerdictFile(file) as verdicts:
        verdicts.judge("P1/a", VerdictCode.KEEP, "fine")
        verdicts.judge("P1/a", VerdictCode.REJECT)
        assert verdicts.undo() == "P1/a"
        assert read_verdicts("", file) == {"P1/a": Verdict(VerdictCode.KEEP, "fine")}
        assert verdicts.undo() == "P1/a"
        assert verdicts.undo() is None
    assert read_verdicts("", file) == {}


def test_a_line_that_a_kill_cut_off_is_left_out_and_the_next_writer_goes_on_behind_the_last_whole_one(tmp_path):
    file = tmp_path / "v.csv"
    file.write_text("node,verdict,note\nP1/a,keep,\nP2/b,reje")
    assert list(read_verdicts("", file)) == ["P1/a"]
    with VerdictFile(file) as verdicts:
        verdicts.judge("P3/c", VerdictCode.LOOK_AGAIN)
    assert file.read_text() == "node,verdict,note\nP1/a,keep,\nP3/c,look-again,\n"


def test_what_was_answered_survives_kill_9_and_its_lock_blocks_nobody(tmp_path):
    code = (
        "import sys, pathlib; from etl.codes import VerdictCode\n"
        "from etl.view.verdict_file import VerdictFile\n"
        "with VerdictFile(pathlib.Path(sys.argv[1])) as verdicts:\n"
        "    for n in range(10**6):\n"
        "        verdicts.judge(f'P/{n}', VerdictCode.KEEP); print(n, flush=True)\n"
    )
    file = tmp_path / "v.csv"
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    answered = [int(writer.stdout.readline()) for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.stdout.close()
    writer.wait()
    assert {f"P/{n}" for n in answered} <= set(read_verdicts("", file))
    with VerdictFile(file) as verdicts:
        assert verdicts.count() >= len(answered)


def test_a_second_writer_is_refused_with_a_way_out(tmp_path):
    with (
        VerdictFile(tmp_path / "v.csv"),
        pytest.raises(UsageError, match=r"another view.*--read-only"),
        VerdictFile(tmp_path / "v.csv"),
    ):
        pass


def test_a_decision_that_finds_no_room_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "v.csv"
    with VerdictFile(file) as verdicts:
        verdicts.judge("P1/a", VerdictCode.KEEP)
        before = file.read_bytes()
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:5]))
        with pytest.raises(OSError, match="no room"):
            verdicts.judge("P2/b", VerdictCode.REJECT)
        monkeypatch.undo()
        assert file.read_bytes() == before
        assert verdicts.get("P2/b") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"node,verdict,note\nP/a,perhaps,\n",
            "P/a has the verdict 'perhaps'; allowed is keep",
        ),
        (b"patient,good\nP,yes\n", "columns patient, good; node, verdict, note are needed"),
        (b"\xff\xfe\x00\n", "not a file of verdicts"),
    ],
)
def test_a_file_of_something_else_is_refused(content, words):
    with pytest.raises(StoreError, match=words):
        parse_verdicts(content, "v.csv")


def test_a_note_has_an_end(tmp_path):
    with VerdictFile(tmp_path / "v.csv") as verdicts, pytest.raises(UsageError, match="allowed is up to"):
        verdicts.judge("P/a", VerdictCode.KEEP, "x" * (MAX_NOTE_CHARACTERS + 1))


def test_verdicts_lie_beside_the_store_that_it_really_is(tmp_path):
    (tmp_path / "real.zarr").mkdir()
    (tmp_path / "link.zarr").symlink_to("real.zarr")
    assert verdicts_path(str(tmp_path / "link.zarr")) == Path(os.path.realpath(tmp_path), "real.zarr.verdicts.csv")
    assert verdicts_path("s3://bucket/s.zarr") is None


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, {"P1", "P2", "P3"}),
        ({"verdict": "keep"}, {"P1"}),
        ({"verdict": ["keep", "none"]}, {"P1", "P3"}),
        (lambda volume: volume.patient_id == "P3", {"P3"}),
    ],
)
def test_training_takes_only_volumes_with_the_wanted_verdict(tmp_path, where, expected):
    hu = np.asarray(head((4, 5, 6)))
    store = write_store(tmp_path / "s.zarr", [Series(hu, patient_id=name) for name in ("P1", "P2", "P3")])
    with VerdictFile(tmp_path / "s.zarr.verdicts.csv") as verdicts:
        verdicts.judge("P1/0002-0a1b2c3d", VerdictCode.KEEP)
        verdicts.judge("P2/0002-0a1b2c3d", VerdictCode.REJECT)
    volumes = [patient.default for patient in open_store(store).values()]
    assert {volume.patient_id for volume in chosen(volumes, where)} == expected


@pytest.mark.parametrize(
    ("where", "words"), [({"kvp": 120}, "no volume has a column 'kvp'"), ({"verdict": "kept"}, "allowed is keep")]
)
def test_a_criterion_that_is_not_known_is_named(tmp_path, where, words):
    store = write_store(tmp_path / "s.zarr", [Series(np.asarray(head((4, 5, 6))))])
    volumes = [patient.default for patient in open_store(store).values()]
    with pytest.raises(UsageError, match=words):
        chosen(volumes, where)


def test_the_table_and_an_export_respect_verdicts(tmp_path, in_process):
    hu = np.asarray(head((4, 5, 6)))
    store = write_store(tmp_path / "s.zarr", [Series(hu, patient_id=name) for name in ("P1", "P2", "P3")])
    with VerdictFile(tmp_path / "s.zarr.verdicts.csv") as verdicts:
        verdicts.judge("P1/0002-0a1b2c3d", VerdictCode.KEEP)
        verdicts.judge("P2/0002-0a1b2c3d", VerdictCode.REJECT, "upside down, cut off")
    rows = list(csv.DictReader(io.StringIO(in_process("info", store, "--csv").stdout)))
    assert [(row["patient_id"], row["verdict"], row["verdict_note"]) for row in rows] == [
        ("P1", "keep", ""),
        ("P2", "reject", "upside down, cut off"),
        ("P3", "", ""),
    ]
    pytest.importorskip("nrrd")
    arguments = ("export", store, tmp_path / "out", "--format", "nrrd", "--workers", "0", "-q")
    done = in_process(*arguments)
    assert done.status == 0
    assert "1 rejected volumes left out" in done.stdout
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("*.nrrd")) == ["P1", "P3"]
    assert "3 volumes" in in_process(*arguments, "--rejected").stdout
