"""`--overwrite` takes a store away only for something better; what others left in a store is never removed."""

from __future__ import annotations

import os
import shutil

import pytest
from tiny_ct import ROOT, checksum, day, lines, nodes, slices_of, told, write_series

MINE = b"a reader's verdict"
PLACES = ("README.md", "P/notes.txt", "{node}/labels/liver/zarr.json", "{node}/labels/liver/c/0/0/0")

HOLED = ("--spacing-mm", "3,10,10", "--max-gap-mm", "6", "--workers", "0", "-q", "--json")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def dicom(tmp_path):
    write_series(tmp_path / "dicom", ks=range(12))
    return tmp_path / "dicom"


def annotate(store):
    """Put things of another program into root, patient and series."""
    [node] = nodes(store)
    places = [place.format(node=node) for place in PLACES]
    for place in places:
        (store / place).parent.mkdir(parents=True, exist_ok=True)
        (store / place).write_bytes(MINE)
    return places


def nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def no_dicom(folder):
    nothing(folder)
    (folder / "readme.txt").write_text("not mounted")


def too_few(folder):
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()


def not_readable(folder):
    for path in folder.iterdir():
        os.truncate(path, 200)


def localizers(folder):
    nothing(folder)
    write_series(folder, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


# --- 4: --overwrite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [nothing, no_dicom, too_few, not_readable, localizers])
def test_overwrite_with_nothing_to_write_exits_2_and_touches_nothing(
    in_process, dicom, store, empty, contents, stamps
):
    day(in_process, dicom, store)
    annotate(store)
    before = contents(store), stamps(store)
    empty(dicom)
    done = in_process("run", dicom, store, "--native", "--workers", "0", "-q", "--overwrite")
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert "nothing was touched" in line
    assert (contents(store), stamps(store)) == before
    assert not store.with_name("s.zarr.foreign").exists()
    assert not list(store.parent.glob(".s.zarr*"))


def test_overwrite_of_nothing_by_nothing_is_a_run_like_any_other(in_process, tmp_path, store):
    (tmp_path / "empty").mkdir()
    assert day(in_process, tmp_path / "empty", store, "--overwrite").status == 0


@pytest.mark.parametrize("root", [b"", b"{", b"[1]", b'{"attributes":{}}', b"\xff"])
def test_overwrite_of_a_damaged_root_leaves_no_old_volume(in_process, dicom, store, tmp_path, root):
    day(in_process, dicom, store)
    (store / "zarr.json").write_bytes(root)
    write_series(tmp_path / "other", "Q", series=f"{ROOT}.7")
    done = day(in_process, tmp_path / "other", store, "--overwrite", "--precision-bits", "10")
    if root == b'{"attributes":{}}':
        # Another program's hierarchy is never taken away.
        assert done.status == 2, done.why
        assert [node.split("/")[0] for node in nodes(store)] == ["P"]
        return
    assert (done.status, lines(done)) == (0, [("written", None)])
    assert [node.split("/")[0] for node in nodes(store)] == ["Q"]
    assert told(in_process, store)[0] == 0


def test_volumes_of_another_configuration_do_not_pass_verify(in_process, dicom, store, tmp_path):
    """As a damaged root once left them: under a root that another run made."""
    day(in_process, dicom, store)
    write_series(tmp_path / "other", "Q", series=f"{ROOT}.7")
    day(in_process, tmp_path / "other", tmp_path / "t.zarr", "--precision-bits", "10")
    shutil.copytree(store / "P", tmp_path / "t.zarr" / "P")
    status, said = told(in_process, tmp_path / "t.zarr")
    assert (status, "another configuration" in said) == (3, True)


def test_overwrite_through_a_link_keeps_the_link(in_process, dicom, tmp_path, store):
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real.zarr"
    store.symlink_to(real)
    day(in_process, dicom, store)
    assert store.is_symlink()
    assert (real / "zarr.json").is_file()
    shutil.rmtree(dicom)
    write_series(dicom, "Q", series=f"{ROOT}.2", ks=range(12))
    assert lines(day(in_process, dicom, store, "--overwrite")) == [("written", None)]
    assert store.is_symlink()
    assert [node.split("/")[0] for node in nodes(real)] == ["Q"]
    assert told(in_process, store)[0] == 0
    # And it is the real place that has the record.
    assert (tmp_path / "disk" / "real.zarr.runs").is_dir()


def test_the_old_store_goes_only_when_the_new_root_is_ready(in_process, dicom, store, monkeypatch, contents):
    day(in_process, dicom, store)
    before = contents(store)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etl.store.local_folder.write_durably", full)
    assert in_process("run", dicom, store, "--native", "--workers", "0", "-q", "--overwrite").status == 1
    assert contents(store) == before


# --- 5: what others left -----------------------------------------------------------------------------------


def test_labels_and_notes_survive_that_their_series_is_rewritten(in_process, dicom, store):
    day(in_process, dicom, store)
    places = annotate(store)
    write_series(dicom, ks=range(14))
    assert lines(day(in_process, dicom, store)) == [("written", None)]
    assert {(store / place).read_bytes() for place in places} == {MINE}


def test_labels_and_notes_survive_a_repair(in_process, dicom, store):
    day(in_process, dicom, store)
    places = annotate(store)
    [node] = nodes(store)
    (store / node / "volume/c/0/0/0").write_bytes(b"damaged")
    assert told(in_process, store, "--repair")[0] == 3
    assert {(store / place).read_bytes() for place in places} == {MINE}
    assert lines(day(in_process, dicom, store)) == [("written", None)]
    assert {(store / place).read_bytes() for place in places} == {MINE}


def test_labels_and_notes_lie_beside_the_store_after_overwrite(in_process, dicom, store):
    day(in_process, dicom, store)
    places = annotate(store)
    done = day(in_process, dicom, store, "--overwrite")
    assert (done.status, lines(done)) == (0, [("written", None)])
    foreign = store.with_name("s.zarr.foreign")
    assert str(foreign) in done.stderr
    assert {(foreign / place).read_bytes() for place in places} == {MINE}
    assert told(in_process, store)[0] == 0
    # A second time takes nothing away that lies there.
    annotate(store)
    day(in_process, dicom, store, "--overwrite")
    assert sum(path.read_bytes() == MINE for path in foreign.rglob("*") if path.is_file()) == 2 * len(places)


def test_links_and_folders_of_others_survive_overwrite(in_process, dicom, store, tmp_path):
    day(in_process, dicom, store)
    (tmp_path / "mine").write_bytes(MINE)
    (store / "link").symlink_to(tmp_path / "mine")
    (store / "P" / "folder").mkdir()
    (store / "P" / "folder" / "x").write_bytes(MINE)
    day(in_process, dicom, store, "--overwrite")
    foreign = store.with_name("s.zarr.foreign")
    assert (foreign / "link").is_symlink()
    assert (foreign / "P" / "folder" / "x").read_bytes() == MINE
    assert (tmp_path / "mine").read_bytes() == MINE


# --- 9: an optional array is lost ---------------------------------------------------------------------------


@pytest.fixture
def with_hole(in_process, tmp_path, store):
    """A series with a lost slice: what lies there is interpolated, which `validity` says."""
    folder = tmp_path / "holed"
    write_series(folder, ks=[k for k in range(16) if k != 7])
    done = in_process("run", folder, store, *HOLED)
    assert done.status == 0, done.why
    [node] = nodes(store)
    assert (store / node / "validity" / "zarr.json").is_file()
    return folder


@pytest.mark.parametrize("lost", ["validity", "validity/c", "validity/zarr.json", "source/instance_number"])
def test_a_lost_optional_array_is_told_and_made_again(in_process, with_hole, store, lost, contents):
    before = contents(store)
    path = store / nodes(store)[0] / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    status, said = told(in_process, store)
    assert status == 3
    assert "missing" in said
    assert lines(in_process("run", with_hole, store, *HOLED)) == [("written", None)]
    assert contents(store) == before
    assert told(in_process, store)[0] == 0


def test_a_reader_does_not_take_a_lost_validity_for_all_measured(in_process, with_hole, store):
    import etl
    from etl.errors import StoreError

    shutil.rmtree(store / nodes(store)[0] / "validity")
    with pytest.raises(StoreError):
        etl.open_store(store)["P"].default.validity()


def test_checksums_are_those_of_the_slices(in_process, with_hole, store):
    assert with_hole.is_dir()
    assert checksum(107) not in slices_of(store, nodes(store)[0]).values()
