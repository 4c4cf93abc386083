"""Folders, zips and files as inputs; the oracle is the standard library's own walk and zipfile."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from etl.dicom.containers import Opener, open_container
from etl.dicom.sources import ENOUGH_SOURCES, Source, find_sources, inner_source
from etl.errors import UsageError
from etl.stack import Location

FILES = {
    "loose.dcm": b"0",
    "a/1": b"a1",
    "a/deep/er/2": b"a2",
    "b/1": b"b1",
    "notes.txt": b"text",
}


def write_tree(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def list_members(source):
    return list(source.list_members(open_container(source.container), []))


def read_all(sources):
    """Every file of some sources: where it is and what is in it."""
    found = []
    with Opener() as opener:
        for source in sources:
            for member in list_members(source):
                location = Location(source.container, member)
                with opener.open(location) as stream:
                    content = stream.read()
                assert opener.state(location).size_bytes == len(content)
                found.append((location, content))
    return found


def test_every_file_of_a_folder_belongs_to_exactly_one_source(tmp_path):
    write_tree(tmp_path, FILES)
    found = [
        (str(Path(*location).relative_to(tmp_path)), content)
        for location, content in read_all(find_sources([str(tmp_path)]))
    ]
    assert sorted(found) == sorted(FILES.items())


def test_top_level_folders_and_zips_are_sources_named_for_themselves(tmp_path):
    write_tree(tmp_path, FILES)
    write_zip(tmp_path / "CQ500CT7.zip", {"x": b"x"})
    names = {source.name: source for source in find_sources([str(tmp_path)])}
    assert {"a", "b", "CQ500CT7"} <= set(names)
    assert Path(names["CQ500CT7"].container).is_file()
    assert Path(names["a"].container).is_dir()


def test_members_come_in_the_same_order_whatever_the_order_of_creation(tmp_path):
    write_tree(tmp_path / "one" / "p", {"b/2": b"", "a": b"", "c": b""})
    write_tree(tmp_path / "two" / "p", {"c": b"", "a": b"", "b/2": b""})
    lists = [[list(list_members(s)) for s in find_sources([str(tmp_path / n)])] for n in ("one", "two")]
    assert lists[0] == lists[1]
    one = write_zip(tmp_path / "one.zip", {"b": b"", "a": b""})
    two = write_zip(tmp_path / "two.zip", {"a": b"", "b": b""})
    assert [[*list_members(s)] for s in find_sources([str(one), str(two)])] == [["a", "b"]] * 2


def test_a_zip_is_read_in_place(tmp_path):
    archive = write_zip(tmp_path / "p.zip", {"study/series/1": b"one", "study/2": b"two", "empty/": b""})
    before = sorted(tmp_path.rglob("*"))
    found = read_all(find_sources([str(archive)]))
    assert {location.member: content for location, content in found} == {
        "study/series/1": b"one",
        "study/2": b"two",
    }
    assert {location.container for location, _ in found} == {str(archive)}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_given_by_itself_needs_no_extension(tmp_path):
    archive = write_zip(tmp_path / "download", {"1": b"one"})
    [source] = find_sources([str(archive)])
    assert Path(source.container).is_file()
    assert [content for _, content in read_all([source])] == [b"one"]


def test_a_zip_below_a_top_level_folder_is_a_source_of_its_own(tmp_path):
    """An archive of a hospital has a folder a site, and in it a zip a patient."""
    write_zip(tmp_path / "site" / "patient.zip", {"1": b"one"})
    site = Source(str(tmp_path / "site"), "site")
    [member] = list_members(site)
    patient = inner_source(open_container(site.container), member)
    assert [patient] == find_sources([str(tmp_path)])
    assert [content for _, content in read_all([patient])] == [b"one"]


def test_members_of_a_zip_can_be_read_from_any_place(tmp_path):
    content = bytes(range(256)) * 500
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("1"), content, zipfile.ZIP_DEFLATED)
    with Opener() as opener, opener.open(Location(str(path), "1")) as stream:
        stream.seek(100_000)
        assert stream.read(9) == content[100_000:100_009]
        stream.seek(3)
        assert stream.read(2) == content[3:5]


def test_one_opener_goes_from_zip_to_zip_and_back(tmp_path):
    archives = [write_zip(tmp_path / f"{n}.zip", {"1": n.encode()}) for n in "ab"]
    with Opener() as opener:
        for path in [*archives, archives[0]]:
            with opener.open(Location(str(path), "1")) as stream:
                assert stream.read() == path.stem.encode()


def test_a_single_file_is_a_source_of_that_file_only(tmp_path):
    write_tree(tmp_path / "p", {"1": b"one", "2": b"two"})
    [source] = find_sources([str(tmp_path / "p" / "1")])
    assert [content for _, content in read_all([source])] == [b"one"]
    assert source.name == "p"


def test_an_input_given_twice_is_read_once(tmp_path, monkeypatch):
    write_tree(tmp_path / "p", {"s/1": b"one"})
    monkeypatch.chdir(tmp_path)
    again = find_sources([str(tmp_path / "p"), "p", "./p/", "p/../p"])
    assert again == find_sources(["p"])


def test_relative_inputs_do_not_depend_on_the_folder_one_is_in_later(tmp_path, monkeypatch):
    write_tree(tmp_path / "p", {"s/1": b"one"})
    monkeypatch.chdir(tmp_path)
    sources = find_sources(["p"])
    monkeypatch.chdir("/")
    assert [content for _, content in read_all(sources)] == [b"one"]


def test_an_empty_folder_has_no_source(tmp_path):
    assert find_sources([str(tmp_path)]) == []


def test_a_missing_input_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"nothere.*does not exist"):
        find_sources([str(tmp_path), str(tmp_path / "nothere")])


def test_a_file_that_is_named_zip_and_is_none_is_a_file(tmp_path):
    write_tree(tmp_path, {"broken.zip": b"PK but no more", "p/1": b"one"})
    found = read_all(find_sources([str(tmp_path)]))
    assert sorted(content for _, content in found) == [b"PK but no more", b"one"]


def test_a_member_that_is_no_file_is_an_os_error(tmp_path):
    write_tree(tmp_path, {"p/1": b"one"})
    with (
        Opener() as opener,
        pytest.raises(OSError, match="gone"),
        opener.open(Location(str(tmp_path / "p"), "gone")),
    ):
        pass


def test_sources_can_be_compared_and_sent():
    import pickle

    source = Source("/data/p", "p", ("1", "2"))
    assert pickle.loads(pickle.dumps(source)) == source
    assert len({source, Source("/data/p", "p", ("1", "2"))}) == 1


def test_names_beyond_ascii_are_kept(tmp_path):
    write_tree(tmp_path / "Jürgen 頭部", {"série/1": b"one"})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("頭部/1", b"two")
    (tmp_path / "ü.zip").write_bytes(buffer.getvalue())
    assert sorted(content for _, content in read_all(find_sources([str(tmp_path)]))) == [b"one", b"two"]


# --- few folders at the top ------------------------------------------------------------------------------

COLLECTION = {
    "LICENSE": b"text",
    **{f"LIDC/P{patient}/{study}/{n}.dcm": f"{patient}{study}{n}".encode()
       for patient in range(5) for study in ("1.2", "1.3") for n in range(3)},
    "LIDC/P2/loose.dcm": b"loose",
}  # fmt: skip


def test_a_collection_in_one_folder_is_cut_into_its_series(tmp_path):
    """As TCIA hands it out; the one folder was read by one worker."""
    write_tree(tmp_path / "manifest-1", COLLECTION)
    sources = find_sources([str(tmp_path)])
    assert {source.members for source in sources} == {
        ("LICENSE",),
        ("LIDC/P2/loose.dcm",),
        *((f"LIDC/P{patient}/{study}/",) for patient in range(5) for study in ("1.2", "1.3")),
    }
    # What stands for a patient without an ID, and where a file lies, are what they were.
    assert {(source.container, source.name) for source in sources} == {
        (str(tmp_path / "manifest-1"), "manifest-1")
    }


def test_cutting_changes_neither_the_files_nor_their_order(tmp_path):
    write_tree(tmp_path / "manifest-1", COLLECTION)
    whole = Source(str(tmp_path / "manifest-1"), "manifest-1")
    assert read_all(find_sources([str(tmp_path)])) == read_all([whole])


def test_enough_folders_at_the_top_are_cut_no_further(tmp_path):
    write_tree(tmp_path, {f"P{n:03}/study/1.dcm": b"" for n in range(ENOUGH_SOURCES)})
    assert [source.members for source in find_sources([str(tmp_path)])] == [None] * ENOUGH_SOURCES


def test_folders_that_are_links_are_left_to_one_walk_which_visits_each_once(tmp_path):
    write_tree(tmp_path / "top", {"a/1": b"one", "a/deep/2": b"two"})
    (tmp_path / "top" / "b").symlink_to(tmp_path / "top" / "a")
    (tmp_path / "top" / "a" / "deep" / "up").symlink_to(tmp_path / "top")
    assert sorted(content for _, content in read_all(find_sources([str(tmp_path)]))) == [b"one", b"two"]
