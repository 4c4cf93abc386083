"""A label in a store: published whole, listed, read back by zarr and by our reader, refused on another grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from sequences import killed_after

import etl
from etl.errors import StoreError
from etl.store.finish import finish_store
from etl.store.keys import LocalKeys
from etl.store.label_encoding import Segment, encode_label
from etl.store.labels import inner_chunk, publish_label, published_labels, take_back_label
from etl.store.publish import published
from etl.store.verify import Finding, repair
from etl.store.verify_labels import label_problems

BLEED = Segment(1, "bleed", ("SCT", "50960005", "Hemorrhage"), (255, 0, 0))
BONE = Segment(2, "bone")


@pytest.fixture
def volume(cohort_run, tmp_path):
    path = tmp_path / "s.zarr"
    shutil.copytree(cohort_run.store, path)
    return etl.open_store(path)["PHANTOM-0001"].default


@pytest.fixture
def keys(volume):
    return LocalKeys(volume.store_path)


def values_of(volume):
    return (np.arange(np.prod(volume.shape)) % 3).astype(np.uint16).reshape(volume.shape)


def encoded(volume, keys, segments=(BLEED, BONE), values=None, **provenance):
    given = {"grid_digest": volume.geometry.grid_digest, **provenance}
    return encode_label(
        values_of(volume) if values is None else values,
        segments,
        name="head",
        volume=published(keys, volume.node),
        chunk=inner_chunk(keys, volume.node),
        provenance=given,
    )


def test_a_label_is_read_back_by_us_and_by_zarr(volume, keys):
    publish_label(keys, volume.node, {"head": encoded(volume, keys)})
    assert volume.labels == ("head",)
    array = volume.label("head")
    found = np.empty(volume.shape, array.dtype)
    array.read([range(n) for n in volume.shape], found)
    np.testing.assert_array_equal(found, values_of(volume))
    group = zarr.open_group(volume.store_path, path=f"{volume.node}/labels", mode="r", use_consolidated=False)
    assert group.attrs["ome"] == {"version": "0.5", "labels": ["head"]}
    level = group["head/0"]
    assert (level.dtype, level.metadata.dimension_names) == (np.uint8, ("z", "y", "x"))
    assert level.chunks == volume.chunks
    np.testing.assert_array_equal(level[...], values_of(volume))
    image = zarr.open_group(volume.store_path, path=volume.node, mode="r", use_consolidated=False).attrs["ome"]
    ours = group["head"].attrs["ome"]
    scale = image["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert ours["multiscales"][0]["datasets"] == [{"path": "0", "coordinateTransformations": scale}]
    assert ours["image-label"]["source"] == {"image": "../../"}


def test_the_table_of_a_label_has_names_codes_and_colors(volume, keys):
    publish_label(keys, volume.node, {"head": encoded(volume, keys)})
    table = volume.label_table("head")
    assert table[1] == {
        "name": "bleed",
        "code": {"scheme": "SCT", "value": "50960005", "meaning": "Hemorrhage"},
        "color": [255, 0, 0, 255],
    }
    assert (table[2]["name"], table[2]["code"]) == ("bone", None)


def test_a_value_above_a_byte_makes_it_two_bytes_wide(volume, keys):
    values = np.full(volume.shape, 300, np.uint16)
    publish_label(keys, volume.node, {"wide": encoded(volume, keys, [Segment(300, "wide")], values)})
    array = volume.label("wide")
    assert array.dtype == np.uint16
    assert list(volume.label_table("wide")) == [300]


def test_a_label_on_another_grid_is_not_handed_out(volume, keys):
    publish_label(keys, volume.node, {"head": encoded(volume, keys, grid_digest="0" * 64)})
    assert volume.labels == ("head",)
    with pytest.raises(StoreError, match=r"labels/head lies on another grid .* ct-etl label"):
        volume.label("head")


def test_a_plain_array_of_another_program_stays_readable_and_is_not_listed(volume, keys):
    labels = zarr.open_group(f"{volume.store_path}/{volume.node}").create_group("labels")
    labels.attrs["mine"] = 1
    labels.create_array("own", data=values_of(volume))
    publish_label(keys, volume.node, {"head": encoded(volume, keys)})
    assert volume.labels == ("head", "own")
    assert volume.label("own").shape == volume.shape
    assert volume.label_table("own") == {}
    assert list(published_labels(keys, volume.node)) == ["head"]
    attributes = json.loads(keys.get(f"{volume.node}/labels/zarr.json"))["attributes"]
    assert attributes == {"mine": 1, "ome": {"version": "0.5", "labels": ["head"]}}


def test_a_label_whose_metadata_is_not_there_yet_is_none(volume, keys):
    content = encoded(volume, keys)
    for key in list(content)[:-1]:
        keys.put(f"{volume.node}/labels/head/{key}", content[key].as_buffer_like())
    assert volume.labels == ()
    with pytest.raises(StoreError, match=r"labels/head has no zarr.json"):
        volume.label("head")


def test_what_stops_a_publication_leaves_nothing_of_the_label(volume, keys, contents):
    path = Path(volume.store_path)
    before = contents(path)
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 3:
            raise StoreError("stopped")

    with pytest.raises(StoreError, match="stopped"):
        publish_label(keys, volume.node, {"head": encoded(volume, keys)}, check=check)
    assert contents(path) == before


def test_a_label_that_is_taken_back_is_listed_no_more(volume, keys, contents):
    before = contents(Path(volume.store_path))
    for name in ("head", "other"):
        publish_label(keys, volume.node, {name: encoded(volume, keys)})
    take_back_label(keys, volume.node, "head")
    assert volume.labels == ("other",)
    assert json.loads(keys.get(f"{volume.node}/labels/zarr.json"))["attributes"]["ome"]["labels"] == ["other"]
    assert contents(Path(volume.store_path)) != before
    take_back_label(keys, volume.node, "other")
    assert contents(Path(volume.store_path)) == before


def test_a_label_killed_while_it_is_replaced_is_the_old_one_or_the_new_one(volume, keys, contents):
    """At every step on the disk, all arrays of it together; what others left stays, and the list is mended."""
    store, place = Path(volume.store_path), f"{volume.node}/labels"
    keys.put(f"{place}/liver/zarr.json", b'{"zarr_format":3,"node_type":"group","attributes":{"mine":1}}')
    keys.put(f"{place}/head/note.txt", b"mine")
    old = {name: encoded(volume, keys) for name in ("head", "head-2")}
    new = {"head": encoded(volume, keys, values=values_of(volume)[::-1])}
    publish_label(keys, volume.node, old)
    of_old = contents(store / place)
    publish_label(keys, volume.node, new, dropped=["head-2"])
    of_new = contents(store / place)
    assert {*of_old} - {*of_new} == {f"head-2/{key}" for key in old["head-2"]}
    seen, was_absent, steps, is_killed = [], False, 0, True
    while is_killed:
        publish_label(keys, volume.node, old)
        assert contents(store / place) == of_old
        is_killed = killed_after(steps, lambda: publish_label(keys, volume.node, new, dropped=["head-2"]))
        is_absent = "head" not in published_labels(keys, volume.node)
        assert not is_absent or list(store.parent.glob(f".{store.name}.*.ready"))
        was_absent |= is_absent
        # The next run may be killed while it finishes that, and the one after it goes on.
        killed_after(steps % 7, keys.clear_leftovers)
        keys.clear_leftovers()
        repair(str(store), [Finding(path, why, True) for path, why in label_problems(keys, volume.node)])
        for half_written in store.rglob("*.partial"):
            half_written.unlink()  # of the list; told by verify as any other
        assert list(label_problems(keys, volume.node)) == []
        found = contents(store / place)
        assert found in (of_old, of_new)
        seen.append(found == of_new)
        assert list(store.parent.glob(f".{store.name}.*")) == []
        steps += 1
    assert seen == sorted(seen)
    assert {*seen} == {False, True}
    assert was_absent
    assert steps > 20


def test_a_label_that_was_published_and_not_listed_is_listed_by_the_end_of_any_run(volume, keys):
    publish_label(keys, volume.node, {"head": encoded(volume, keys)})
    listed = keys.get(f"{volume.node}/labels/zarr.json")
    keys.remove(f"{volume.node}/labels/zarr.json")
    [(path, problem)] = label_problems(keys, volume.node)
    assert (path, problem) == (f"{volume.node}/labels", 'it does not list "head", which is there')
    finish_store(keys, json.loads(keys.get("zarr.json"))["attributes"]["ct_etl"]["config"], {})
    assert keys.get(f"{volume.node}/labels/zarr.json") == listed
    assert list(label_problems(keys, volume.node)) == []


def test_a_damaged_label_costs_its_volume_nothing(volume, keys):
    """The volume was left out of the store's metadata with it."""
    for name in ("head", "other"):
        publish_label(keys, volume.node, {name: encoded(volume, keys)})
    keys.remove(f"{volume.node}/labels/head/0/zarr.json")
    _, damaged = finish_store(keys, json.loads(keys.get("zarr.json"))["attributes"]["ct_etl"]["config"], {})
    assert damaged == []
    nodes = json.loads(keys.get("zarr.json"))["consolidated_metadata"]["metadata"]
    assert {path for path in nodes if path.startswith(f"{volume.node}/labels")} == {
        f"{volume.node}/labels{path}" for path in ("", "/other", "/other/0")
    }
    assert f"{volume.node}/labels/head" in {path for path, _ in label_problems(keys, volume.node)}
