"""A damaged or foreign thing in a store costs itself only; whatever ends a run, a ledger is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_ct import ROOT, day, lines, nodes, told, write_series

WRITTEN = ("written", None)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def older(in_process, tmp_path, store):
    """Three patients in the store, of whom the input of the next day has none."""
    for n, patient in enumerate("ABC"):
        write_series(tmp_path / "old" / patient, patient, series=f"{ROOT}.{n + 1}")
    assert lines(day(in_process, tmp_path / "old", store)) == [WRITTEN] * 3
    write_series(tmp_path / "new", "N", series=f"{ROOT}.9")
    return nodes(store)


def lose(name):
    def act(store, node):
        shutil.rmtree(store / node / name)

    return act


def write(name, content):
    def act(store, node):
        (store / node / name).parent.mkdir(parents=True, exist_ok=True)
        (store / node / name).write_bytes(content)

    return act


HARMS = {
    "source": lose("source"),
    "volume": lose("volume"),
    "chunk": lose("volume/c"),
    "histogram": lose("hu_histogram"),
    "empty chunk": write("volume/c/0/0/0", b""),
    "histogram of junk": write("hu_histogram/c/0", b"junk"),
    "{}": write("zarr.json", b"{}"),
    "null": write("zarr.json", b"null"),
    "[]": write("zarr.json", b"[]"),
    "empty": write("zarr.json", b""),
    "not utf-8": write("zarr.json", b"\xff\xfe"),
    "attributes null": write("zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":null}'),
    "ct_etl null": write("zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{"ct_etl":null}}'),
    "ct_etl list": write("zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{"ct_etl":[1]}}'),
    "provenance null": write(
        "zarr.json",
        b'{"zarr_format":3,"node_type":"group","attributes":{"ct_etl":{"patient_id":"A","provenance":null}}}',
    ),
    "deep": write("zarr.json", b"[" * 100_000),
    "foreign group": write(
        "../0007-0123456789abcdef/zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{"x":1}}'
    ),
    "foreign patient": write(
        "../../Z/0007-0123456789abcdef/zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{}}'
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_or_foreign_group_costs_itself_only(in_process, older, store, tmp_path, harm, contents):
    HARMS[harm](store, older[0])
    kept = contents(store / "B"), contents(store / "C")
    done = day(in_process, tmp_path / "new", store)
    assert done.status == 3, done.why
    assert lines(done) == [WRITTEN]
    assert len(done.json["damaged"]) == 1
    assert done.json["damaged"][0] in done.stderr
    assert Path(done.json["run_dir"], "ledger.jsonl").is_file()
    assert (contents(store / "B"), contents(store / "C")) == kept
    # The others are in the consolidated metadata, the damaged one is not.
    consolidated = json.loads((store / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    assert {older[1], older[2]} < set(consolidated)
    assert done.json["damaged"][0] not in consolidated
    # A later run says so again, and does not work again.
    done = day(in_process, tmp_path / "new", store)
    assert (done.status, lines(done)) == (3, [("unchanged", None)])
    assert told(in_process, store)[0] == 3


# That bytes of the right name are junk only `verify` finds; a run says where to look.
MADE_AGAIN = [harm for harm in HARMS if not harm.startswith("foreign") and harm != "histogram of junk"]


@pytest.mark.parametrize("harm", MADE_AGAIN)
def test_what_is_damaged_is_made_again_from_its_input(in_process, older, store, tmp_path, harm, contents):
    before = contents(store)
    HARMS[harm](store, older[0])
    done = day(in_process, tmp_path / "old", store)
    assert (done.status, lines(done)) == (0, [("unchanged", None)] * 2 + [WRITTEN])
    assert contents(store) == before
    assert told(in_process, store)[0] == 0


@pytest.mark.parametrize(
    "content", [b"null", b"{}", b'{"attributes":null}', b'{"attributes":{"ct_etl":null}}', b""]
)
def test_attributes_of_a_patient_that_are_lost_are_written_again(
    in_process, older, store, tmp_path, content, contents
):
    write_series(tmp_path / "both" / "N", "N", series=f"{ROOT}.9")
    day(in_process, tmp_path / "new", store)
    before = contents(store)
    (store / "A" / "zarr.json").write_bytes(content)
    done = day(in_process, [tmp_path / "new", tmp_path / "old"], store)
    assert done.status == 0, done.why
    assert {outcome for outcome, _ in lines(done)} == {"unchanged"}
    assert contents(store) == before


FIELDS = [
    *(("patient_id",), ("series_instance_uid",), ("arrays",), ("geometry",), ("normalization",), ("qc",)),
    *(("provenance",), ("provenance", "source_digest"), ("qc", "warnings"), ("qc", "default_series_points")),
    *(("geometry", "source_shape"), ("geometry", "slice_axis"), ("geometry", "affine_lps")),
    *(("geometry", "spacing_mm"), ("normalization", "window_hu"), ("normalization", "center")),
]


@pytest.mark.parametrize("way", FIELDS, ids=".".join)
def test_a_volume_with_a_damaged_attribute_costs_itself_only_and_is_made_again(in_process, tmp_path, store, way):
    write_series(tmp_path / "old", "A")
    write_series(tmp_path / "new", "N", series=f"{ROOT}.9")
    day(in_process, tmp_path / "old", store)
    [node] = nodes(store)
    right = (store / node / "zarr.json").read_bytes()
    content = json.loads(right)
    inner = content["attributes"]["ct_etl"]
    for name in way[:-1]:
        inner = inner[name]
    inner[way[-1]] = None
    (store / node / "zarr.json").write_text(json.dumps(content))
    done = day(in_process, tmp_path / "new", store)
    assert done.status in (0, 3), done.why
    assert lines(done) == [WRITTEN]
    done = day(in_process, [tmp_path / "old", tmp_path / "new"], store)
    assert (done.status, lines(done)) == (0, [("unchanged", None), WRITTEN]), done.why
    assert (store / node / "zarr.json").read_bytes() == right


# --- the ledger -----------------------------------------------------------------------------------------


def ledgers(folder):
    return sorted(folder.rglob("ledger.jsonl"))


def fail_with(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_a_ledger_is_left_where_the_last_step_fails(in_process, older, store, tmp_path, monkeypatch, number):
    assert older
    monkeypatch.setattr("etl.store.finish.put_root_parts", fail_with(number))
    done = in_process("run", tmp_path / "new", store, "--native", "--workers", "0", "-q", "--min-slices", "4")
    assert done.status == 1, done.why
    newest = ledgers(tmp_path / "s.zarr.runs")[-1]
    assert [json.loads(line)["outcome"] for line in newest.read_text().splitlines()] == ["written"]
    monkeypatch.undo()
    assert lines(day(in_process, tmp_path / "new", store)) == [("unchanged", None)]
    assert told(in_process, store)[0] == 0


def test_a_ledger_is_left_elsewhere_where_the_run_directory_takes_nothing(
    in_process, older, store, tmp_path, monkeypatch
):
    """The disk of store and record turns read-only while the run goes on."""
    assert older
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    import etl.store.durable

    real = etl.store.durable.write_durably

    def read_only(path, content, **options):
        if tmp_path / "tmp" not in Path(path).parents:
            from etl.errors import DiskFullError

            raise DiskFullError("the disk takes nothing more (Read-only file system)")
        real(path, content, **options)

    for module in ("etl.store.durable", "etl.run.ledger", "etl.run.input_files"):
        monkeypatch.setattr(f"{module}.write_durably", read_only)
    done = in_process("run", tmp_path / "new", store, "--native", "--workers", "0", "-q", "--min-slices", "4")
    assert done.status == 1, done.why
    [ledger] = ledgers(tmp_path / "tmp")
    assert str(ledger.parent) in done.stderr
    assert [json.loads(line)["outcome"] for line in ledger.read_text().splitlines()] == ["failed"]


def test_a_ledger_is_left_where_the_lock_is_lost(in_process, older, store, tmp_path, monkeypatch, contents):
    assert older
    before = contents(store)
    process = __import__("etl.run.run", fromlist=["process"]).process
    monkeypatch.setattr("etl.store.lock.HEARTBEAT_S", 0.02)

    def lose_lock(task, config, path, token):
        Path(token).unlink()
        time.sleep(0.3)
        return process(task, config, path, token)

    monkeypatch.setattr("etl.run.run.process", lose_lock)
    done = in_process("run", tmp_path / "new", store, "--native", "--workers", "0", "-q", "--min-slices", "4")
    assert done.status == 1, done.why
    assert "took over" in done.stderr
    newest = ledgers(tmp_path / "s.zarr.runs")[-1]
    assert [json.loads(line)["outcome"] for line in newest.read_text().splitlines()] == ["failed"]
    assert {k: v for k, v in contents(store).items() if "/" in k} == {k: v for k, v in before.items() if "/" in k}


READ_ONLY = """
set -e
mount -t tmpfs none "$1"
cp -r "$2" "$1/dicom"
"$3" -m etl run "$1/dicom" "$1/s.zarr" --native --workers 0 -q --min-slices 4 --run-dir "$4/first"
rm "$1/s.zarr/$5/volume/c/0/0/0"
mount -o remount,ro "$1"
set +e
"$3" -m etl run "$1/dicom" "$1/s.zarr" --native --workers 0 -q --min-slices 4 --run-dir "$4/second"
echo "status $?"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_store_on_a_disk_that_is_read_only_ends_in_a_line(tmp_path, in_process):
    write_series(tmp_path / "dicom")
    day(in_process, tmp_path / "dicom", tmp_path / "t.zarr")
    [node] = nodes(tmp_path / "t.zarr")
    (tmp_path / "disk").mkdir()
    command = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", tmp_path / "disk", tmp_path / "dicom", sys.executable]
    done = subprocess.run(
        [*command, tmp_path / "runs", node], capture_output=True, text=True, timeout=120, check=False
    )
    if "permission denied" in done.stderr.lower() and "mount" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()[:80]}")
    assert "status 1" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_ledger_is_left_by_ctrl_c_while_scanning(in_process, older, store, tmp_path, monkeypatch, contents):
    assert older
    before = contents(store)

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("nobody saw the signal")

    monkeypatch.setattr("etl.run.job.scan_into", interrupted)
    known = ledgers(tmp_path)
    done = in_process("run", tmp_path / "new", store, "--native", "--workers", "0", "-q")
    assert done.status == 130, done.why
    assert len(ledgers(tmp_path)) == len(known) + 1
    totals = json.loads((ledgers(tmp_path)[-1].parent / "run.json").read_text())
    assert totals["interrupted"] is True
    assert contents(store) == before
