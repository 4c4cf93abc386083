"""What later runs may do to a store: nothing is lost, nothing gets poorer, what changed is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from shared import SHARED_DATA
from tiny_ct import ROOT, checksum, day, lines, nodes, slices_of, told, values_of, write_series

import etl.process.read_hu
import etl.run.input_files

CASES = SHARED_DATA.parent / "cases"
WRITTEN, UNCHANGED, FEWER = [("written", None)], [("unchanged", None)], ("failed", "fewer-slices")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def dicom(tmp_path):
    write_series(tmp_path / "dicom", ks=range(20))
    return tmp_path / "dicom"


@pytest.fixture
def trusted(monkeypatch):
    """Trust files that were written just now."""
    monkeypatch.setattr(etl.run.input_files, "SETTLED_S", 0.0)


# --- 1: never poorer ----------------------------------------------------------------------------------------


def delete_ends(folder, _):
    for k in (*range(6), *range(14, 20)):
        (folder / f"{k:03d}.dcm").unlink()


def make_unreadable(folder, _):
    for k in range(8):
        (folder / f"{k:03d}.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)


def make_short(folder, _):
    """Cut within the header."""
    for k in range(12, 20):
        os.truncate(folder / f"{k:03d}.dcm", 200)


def forbid(folder, _):
    """Content that is not fetched."""
    for k in range(8):
        (folder / f"{k:03d}.dcm").unlink()
        (folder / f"{k:03d}.dcm").symlink_to("../annex/objects/none")


def another_folder(folder, _):
    """As many slices, of which half are other ones: a set, not a count."""
    shutil.rmtree(folder)
    write_series(folder, ks=range(10, 30))


@pytest.mark.parametrize("change", [delete_ends, make_unreadable, make_short, forbid, another_folder])
def test_a_run_that_lacks_published_slices_fails_and_leaves_the_volume(
    in_process, dicom, store, change, contents, stamps
):
    assert lines(day(in_process, dicom, store)) == WRITTEN
    before = contents(store), stamps(store / nodes(store)[0])
    change(dicom, None)
    done = day(in_process, dicom, store)
    assert done.status == 3
    assert FEWER in lines(done)
    [line] = [line for line in done.json["series"] if line["reason"] == "fewer-slices"]
    assert "20" in line["detail"]
    assert (contents(store), stamps(store / nodes(store)[0])) == before
    assert told(in_process, store)[0] == 0


def test_replace_lets_a_series_lose_slices(in_process, dicom, store):
    day(in_process, dicom, store)
    delete_ends(dicom, None)
    assert lines(day(in_process, dicom, store, "--replace")) == WRITTEN
    assert len(slices_of(store, nodes(store)[0])) == 8
    assert told(in_process, store)[0] == 0


def test_a_superset_is_an_update(in_process, dicom, store):
    day(in_process, dicom, store)
    write_series(dicom, ks=range(-3, 23))
    assert lines(day(in_process, dicom, store)) == WRITTEN
    [node] = nodes(store)
    assert len(slices_of(store, node)) == 26


@pytest.mark.parametrize("second", [1, 2])
def test_one_time_point_of_two_harms_neither(in_process, tmp_path, store, second):
    for point in (1, 2):
        write_series(tmp_path / f"t{point}", TemporalPositionIdentifier=point, hu=100 * point)
    both = [tmp_path / "t1", tmp_path / "t2"]
    assert lines(day(in_process, both, store)) == WRITTEN * 2
    before = {node: (slices_of(store, node), values_of(store, node)) for node in nodes(store)}
    assert len(before) == 2
    done = day(in_process, tmp_path / f"t{second}", store)
    assert (done.status, lines(done)) == (0, UNCHANGED)
    assert {node: (slices_of(store, node), values_of(store, node)) for node in nodes(store)} == before
    # And in the other order of arrival: the store has what both gave.
    shutil.rmtree(tmp_path / "t1")
    assert lines(day(in_process, tmp_path / "t2", store)) == UNCHANGED
    assert told(in_process, store)[0] == 0


# --- 2: keys that stay --------------------------------------------------------------------------------------


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases beside the checkout")
def test_a_longer_acquisition_that_comes_later_does_not_take_the_key_of_the_first(in_process, tmp_path, store):
    [make] = CASES.glob("39-*/make.py")

    def stage(number):
        subprocess.run([sys.executable, str(make), str(tmp_path / "dicom"), number], check=True, timeout=60)

    stage("1")
    assert lines(day(in_process, tmp_path / "dicom", store)) == WRITTEN
    [first] = nodes(store)
    slices, values = slices_of(store, first), values_of(store, first)
    stage("2")
    assert lines(day(in_process, tmp_path / "dicom", store)) == [("unchanged", None), ("written", None)]
    assert (slices_of(store, first), values_of(store, first)) == (slices, values)
    [second] = set(nodes(store)) - {first}
    assert len(slices_of(store, second)) == 14
    assert told(in_process, store)[0] == 0


def test_the_order_in_which_time_points_arrive_changes_keys_only(in_process, tmp_path):
    for point in (1, 2):
        write_series(tmp_path / f"t{point}", TemporalPositionIdentifier=point, hu=100 * point)
    found = []
    for order in ((1, 2), (2, 1)):
        store = tmp_path / f"s{order[0]}.zarr"
        for point in order:
            assert lines(day(in_process, tmp_path / f"t{point}", store)) == WRITTEN
        found.append({tuple(sorted(slices_of(store, node).items())) for node in nodes(store)})
        assert told(in_process, store)[0] == 0
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_two_series_whose_digits_are_equal_are_refused_by_name(in_process, tmp_path, store, contents):
    """Forged in the store: nobody finds two UIDs with 16 digits in common."""
    write_series(tmp_path / "a")
    day(in_process, tmp_path / "a", store)
    metadata = store / nodes(store)[0] / "zarr.json"
    metadata.write_text(metadata.read_text().replace(f'"{ROOT}.1"', '"1.2.3.4"'))
    before = contents(store)
    done = in_process("run", tmp_path / "a", store, "--native", "--workers", "0", "-q")
    assert done.status == 2, done.why
    assert "1.2.3.4" in done.stderr
    assert f"{ROOT}.1" in done.stderr
    assert contents(store) == before


def test_a_series_key_has_sixteen_digits(in_process, dicom, store):
    day(in_process, dicom, store)
    assert len(nodes(store)[0].split("-")[1]) == 16


# --- 3: corrected numbers and IDs ---------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [{"number": 7}, {"patient": "Q"}])
def test_a_corrected_number_or_patient_is_told_with_the_other_place(in_process, dicom, store, correction):
    day(in_process, dicom, store)
    [old] = nodes(store)
    shutil.rmtree(dicom)
    write_series(dicom, ks=range(20), **correction)
    done = day(in_process, dicom, store)
    [line] = done.json["series"]
    assert (done.status, line["outcome"]) == (0, "written")
    assert "shared-series-uid" in line["warnings"]
    assert line["related"] == [old]
    [again] = day(in_process, dicom, store).json["series"]
    assert (again["outcome"], again["related"]) == ("unchanged", [old])
    assert "shared-series-uid" in again["warnings"]
    status, said = told(in_process, store, "--input", dicom)
    assert (status, old in said) == (3, True)


def test_nothing_is_related_where_nothing_is_shared(in_process, tmp_path, store):
    write_series(tmp_path / "a", "A", series=f"{ROOT}.1")
    write_series(tmp_path / "b", "B", series=f"{ROOT}.2")
    done = day(in_process, [tmp_path / "a", tmp_path / "b"], store)
    assert [(line["related"], line["warnings"].count("shared-series-uid")) for line in done.json["series"]] == [
        ([], 0)
    ] * 2


# --- 6: pixels changed in place -----------------------------------------------------------------------------


def change_in_place(path, hu, *, keep_times=True):
    """Write other pixels over the old ones: same name, length, header, inode, even the time of modification."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    size = 16 * 16 * 2
    content[-size:] = (hu + 1024).to_bytes(2, "little") * (size // 2)
    with path.open("r+b") as stream:
        stream.write(content)
    assert path.stat().st_size == status.st_size
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [True, False])
@pytest.mark.parametrize("where", ["default", "given", "lost"])
def test_pixels_changed_in_place_are_noticed(in_process, dicom, store, trusted, tmp_path, keep_times, where):
    options = ("--run-dir", tmp_path / "elsewhere" / "one") if where == "given" else ()
    time.sleep(0.05)
    day(in_process, dicom, store, *options)
    if where == "lost":
        shutil.rmtree(tmp_path / "s.zarr.runs")
    change_in_place(dicom / "003.dcm", 777, keep_times=keep_times)
    options = ("--run-dir", tmp_path / "other" / "two") if where == "given" else ()
    assert lines(day(in_process, dicom, store, *options)) == WRITTEN
    [node] = nodes(store)
    assert checksum(777) in slices_of(store, node).values()
    assert values_of(store, node)[777] == 256
    assert told(in_process, store, "--input", dicom)[0] == 0


def test_input_and_repair_mend_what_was_changed_in_place(in_process, dicom, store):
    day(in_process, dicom, store)
    change_in_place(dicom / "003.dcm", 777)
    assert told(in_process, store, "--input", dicom, "--repair")[0] == 3
    assert lines(day(in_process, dicom, store)) == WRITTEN
    assert told(in_process, store, "--input", dicom)[0] == 0


def counted(monkeypatch):
    """Count the series that are converted."""
    seen, convert = [], etl.process.read_hu.convert_task
    monkeypatch.setattr("etl.process.series.convert_task", lambda *given: seen.append(1) or convert(*given))
    return seen


def test_touched_files_with_the_same_pixels_are_compared_and_not_converted(
    in_process, dicom, store, trusted, monkeypatch, contents
):
    time.sleep(0.05)
    day(in_process, dicom, store)
    before = contents(store)
    converted = counted(monkeypatch)
    for path in dicom.iterdir():
        path.touch()
    assert lines(day(in_process, dicom, store)) == UNCHANGED
    shutil.rmtree(store.with_name("s.zarr.runs"))
    assert lines(day(in_process, dicom, store)) == UNCHANGED
    assert converted == []
    assert contents(store) == before


def test_what_looks_untouched_is_not_read(in_process, dicom, store, trusted, monkeypatch, tmp_path):
    """The record of the first run is found wherever that run had its directory."""
    time.sleep(0.05)
    day(in_process, dicom, store, "--run-dir", tmp_path / "elsewhere" / "one")
    read = []
    monkeypatch.setattr("etl.process.compare.read_checksums", lambda *_, **__: read.append(1))
    write_series(tmp_path / "more", "Q", series=f"{ROOT}.2")
    done = day(in_process, [dicom, tmp_path / "more"], store, "--run-dir", tmp_path / "other" / "two")
    assert lines(done) == [("unchanged", None), ("written", None)]
    assert read == []


def test_the_checksum_of_each_slice_is_that_of_its_bytes(in_process, dicom, store):
    day(in_process, dicom, store)
    assert sorted(slices_of(store, nodes(store)[0]).values()) == sorted(checksum(100 + k) for k in range(20))


# --- 7: what changes between scan and process ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_files_that_exchange_contents_after_the_scan_make_no_wrong_volume(
    in_process, tmp_path, store, monkeypatch, kind
):
    folder = tmp_path / "dicom"
    paths = write_series(folder)
    archive = tmp_path / "dicom.zip"

    def pack():
        with zipfile.ZipFile(archive, "w") as target:
            for path in paths:
                target.write(path, path.name)

    if kind == "zip":
        pack()
    process = etl.run.run.process

    def exchange_first(*given):
        contents = [path.read_bytes() for path in paths[:2]]
        for path, content in zip(paths[:2], reversed(contents), strict=True):
            path.write_bytes(content)
        if kind == "zip":
            pack()
        return process(*given)

    source = folder if kind == "folder" else archive
    monkeypatch.setattr("etl.run.run.process", exchange_first)
    done = day(in_process, source, store)
    assert (done.status, lines(done)) == (3, [("failed", "unreadable")])
    assert nodes(store) == []
    monkeypatch.setattr("etl.run.run.process", process)
    assert lines(day(in_process, source, store)) == WRITTEN
    assert told(in_process, store, "--input", source)[0] == 0


def test_files_that_exchange_names_after_the_scan_make_no_wrong_volume(in_process, tmp_path, store, monkeypatch):
    paths = write_series(tmp_path / "dicom")
    process = etl.run.run.process

    def exchange_first(*given):
        paths[0].rename(tmp_path / "aside")
        paths[1].rename(paths[0])
        (tmp_path / "aside").rename(paths[1])
        return process(*given)

    monkeypatch.setattr("etl.run.run.process", exchange_first)
    assert lines(day(in_process, tmp_path / "dicom", store)) == [("failed", "unreadable")]
    assert nodes(store) == []


# --- 10: two patients, one group ----------------------------------------------------------------------------


def test_two_patient_ids_that_would_share_a_group_across_runs_are_refused(in_process, tmp_path, store, contents):
    write_series(tmp_path / "one", "A/B", series=f"{ROOT}.1")
    write_series(tmp_path / "other", "A_B-998d3ed8", series=f"{ROOT}.2")
    for order in (("one", "other"), ("other", "one")):
        store = tmp_path / f"{order[0]}.zarr"
        day(in_process, tmp_path / order[0], store)
        assert [node.split("/")[0] for node in nodes(store)] == ["A_B-998d3ed8"]
        before = contents(store)
        done = in_process(
            "run", tmp_path / order[1], store, "--native", "--workers", "0", "-q", "--min-slices", "4"
        )
        assert done.status == 2
        [line] = done.stderr.splitlines()
        assert "A/B" in line
        assert "A_B-998d3ed8" in line
        assert contents(store) == before


# --- 11: links to nothing, large files ----------------------------------------------------------------------


def test_links_to_nothing_are_unreadable_and_counted_a_line_a_folder(in_process, tmp_path, store):
    paths = write_series(tmp_path / "dicom" / "a", ks=range(20))
    for path in paths[14:]:
        path.unlink()
        path.symlink_to(".git/annex/objects/none")
    done = day(in_process, tmp_path / "dicom", store)
    assert done.status == 3
    [line] = [line for line in done.json["series"] if line["reason"] == "unreadable"]
    assert "6 links" in line["detail"]


def test_a_large_file_that_is_not_dicom_is_ignored(in_process, dicom, store):
    with (dicom / "video.bin").open("wb") as stream:
        stream.truncate(5 << 30)
    done = day(in_process, dicom, store)
    assert (done.status, lines(done), done.json["ignored_files"]) == (0, WRITTEN, 1)


def test_a_large_file_that_says_it_is_dicom_is_told(in_process, dicom, store):
    with (dicom / "large.dcm").open("wb") as stream:
        stream.write(b"\0" * 128 + b"DICM")
        stream.truncate(5 << 30)
    done = day(in_process, dicom, store)
    assert (done.status, ("failed", "unreadable") in lines(done)) == (3, True)


def test_the_ledger_has_the_field_related(in_process, dicom, store):
    done = day(in_process, dicom, store)
    [line] = Path(done.json["run_dir"], "ledger.jsonl").read_text().splitlines()
    assert json.loads(line)["related"] == []
