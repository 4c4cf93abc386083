"""What lies in a store, told apart by name and place."""

from __future__ import annotations

import os

import pytest

from etl.store.inventory import take_inventory
from etl.store.metadata import parsed

SERIES = "P1/0003-0123abcd"
HEX = "0123456789abcdef" * 2
GROUP = b'{"zarr_format": 3, "node_type": "group"}'


@pytest.fixture
def store(tmp_path):
    put(tmp_path, "zarr.json")
    put(tmp_path, "P1/zarr.json")
    for key in ("zarr.json", "volume/zarr.json", "volume/c/0/0/0", "hu_histogram/zarr.json", "source/zarr.json"):
        put(tmp_path, f"{SERIES}/{key}")
    return tmp_path


def put(store, name, content=GROUP):
    path = store / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_whole_store_has_published_series_and_nothing_else(store):
    put(store, f"{SERIES}-2/zarr.json")
    put(store, f"{SERIES}/validity/zarr.json")
    put(store, "P1/12345-0123abcd/zarr.json")
    found = take_inventory(store)
    assert set(found.published) == {SERIES, f"{SERIES}-2", "P1/12345-0123abcd"}
    assert (found.unfinished, found.partial, found.foreign) == ((), (), ())


def test_a_series_without_metadata_is_unfinished(store):
    put(store, "P2/0001-00000000/volume/c/0/0/0")
    os.makedirs(store / "P2/0002-00000000")
    found = take_inventory(store)
    assert set(found.unfinished) == {"P2/0001-00000000", "P2/0002-00000000"}
    assert found.published == (SERIES,)


def test_a_file_that_zarr_had_not_renamed_yet_is_partial(store):
    names = [
        f"zarr.{HEX}.partial",
        f"P1/zarr.{HEX}.partial",
        f"{SERIES}/zarr.{HEX}.partial",
        f"{SERIES}/volume/c/0/0/0.{HEX}.partial",
    ]
    for name in names:
        put(store, name)
    found = take_inventory(store)
    assert (sorted(found.partial), found.foreign) == (sorted(names), ())


def test_anything_else_is_foreign(store):
    names = [
        "notes.txt", ".DS_Store", "P1/notes.txt", f"{SERIES}/notes.txt", f"{SERIES}/labels/zarr.json",
        "P1/labels/zarr.json", "P1/0003-0123ABCD/x", "P1/3-0123abcd/x", "P1/0003-0123abcd-x/x",
        f"{SERIES}/.zattrs", "thesis.partial",
    ]  # fmt: skip
    for name in names:
        put(store, name)
    found = take_inventory(store)
    assert found.published == (SERIES,)
    assert (found.unfinished, found.partial) == ((), ())
    assert [name for name in names if not any(name == f or name.startswith(f"{f}/") for f in found.foreign)] == []


def test_links_are_foreign_and_not_followed(store, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "0001-00000000/zarr.json")
    (store / "P9").symlink_to(elsewhere)
    (store / "P1" / "0009-00000000").symlink_to(elsewhere / "0001-00000000")
    found = take_inventory(store)
    assert found.published == (SERIES,)
    assert set(found.foreign) == {"P9", "P1/0009-00000000"}


def test_what_is_no_json_object_is_none():
    for content in (None, b"", b"[]", b"3", b'"x"', b"null", b"{", b"\xff\xfe", b"[" * 100_000):
        assert parsed(content) is None, content


def test_a_json_object_is_read():
    assert parsed(GROUP) == {"zarr_format": 3, "node_type": "group"}
