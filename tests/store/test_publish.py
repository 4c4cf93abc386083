"""Publishing and finishing a store; the oracle is the file system, plain JSON and plain zarr."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from handmade_store import DESCRIBED
from sequences import killed_after

import etl.store.durable
from etl.errors import StoreConflictError, StoreError, UsageError
from etl.store.encoding import encode_series, uid_array
from etl.store.finish import finish_store
from etl.store.keys import LocalKeys
from etl.store.publish import is_whole, publish, published
from etl.store.root import check_root, prepare_root

NODE = "P1/0001-aaaaaaaaaaaaaaaa"
RECIPE = {"spacing_mm": [1.0, 1.0, 1.0], "window": [-1000, 2000], "center": 0.25}


def encoded(value=0.5, patient_id="P1", hu=40, validity=None):
    histogram = np.zeros(3001, np.uint32)
    histogram[hu + 1000] = 60
    return encode_series(
        volume=np.full((3, 4, 5), value, np.float32),
        histogram=histogram,
        validity=validity,
        source={
            "sop_instance_uid": uid_array(np.array([b"1.2.1", b"1.2.2", b"1.2.3"])),
            "position_mm": np.arange(3.0),
            "instance_number": np.arange(1, 4, dtype=np.int32),
        },
        attributes={"ct_etl": {"patient_id": patient_id, **DESCRIBED}, "dicom": {}, "ome": {}},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def keys(path):
    keys = LocalKeys(str(path))
    prepare_root(keys, RECIPE, overwrite=False)
    return keys


@pytest.fixture
def dying_after(monkeypatch):
    """Let writing fail once so many keys have been written."""

    def after(count):
        left, whole = [count], etl.store.durable.write_durably

        def write_or_fail(path, content):
            if left[0] == 0:
                raise OSError("power failure")
            left[0] -= 1
            whole(path, content)

        monkeypatch.setattr(etl.store.durable, "write_durably", write_or_fail)

    yield after
    monkeypatch.undo()


def root(path):
    return json.loads((path / "zarr.json").read_text())


def test_looking_at_a_place_writes_nothing(path):
    keys = LocalKeys(str(path))
    assert check_root(keys, RECIPE, overwrite=False) is None
    assert check_root(keys, RECIPE, overwrite=True) is None
    assert not path.exists()


def test_an_empty_folder_becomes_a_store(path):
    path.mkdir()
    prepare_root(LocalKeys(str(path)), RECIPE, overwrite=False)
    assert root(path)["attributes"]["ct_etl"]["config"] == RECIPE


def test_the_same_configuration_may_write_again(keys, path):
    before = root(path)
    prepare_root(LocalKeys(str(path)), json.loads(json.dumps(RECIPE)), overwrite=False)
    assert root(path) == before


def test_another_configuration_is_refused_naming_only_the_keys_that_differ(keys):
    with pytest.raises(StoreConflictError) as refusal:
        check_root(keys, {**RECIPE, "center": 0.5, "window": [0, 80]}, overwrite=False)
    for word in ("center", "0.25", "0.5", "window", "2000", "80"):
        assert word in str(refusal.value)
    assert "spacing_mm" not in str(refusal.value)


def test_a_key_that_only_one_side_has_differs(keys):
    with pytest.raises(StoreConflictError, match="denoise"):
        check_root(keys, {**RECIPE, "denoise": True}, overwrite=False)


def test_another_format_version_is_refused(keys, path):
    described = root(path)
    described["attributes"]["ct_etl"]["format_version"] = "2.0"
    (path / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(StoreConflictError, match=r"2\.0.*1\.1"):
        check_root(keys, RECIPE, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_of_ours_is_refused_and_left_alone(path, overwrite):
    path.write_text("a letter")
    with pytest.raises(UsageError, match="file"):
        prepare_root(LocalKeys(str(path)), RECIPE, overwrite=overwrite)
    assert path.read_text() == "a letter"
    path.unlink()
    path.mkdir()
    (path / "thesis.tex").write_text("chapter")
    with pytest.raises(UsageError, match="something else"):
        prepare_root(LocalKeys(str(path)), RECIPE, overwrite=overwrite)
    assert [p.name for p in path.iterdir()] == ["thesis.tex"]


def test_overwrite_takes_the_old_store_away_whole(keys, path):
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    prepare_root(keys, {**RECIPE, "center": 0.0}, overwrite=True)
    assert [p.name for p in path.iterdir()] == ["zarr.json"]
    assert root(path)["attributes"]["ct_etl"]["config"]["center"] == 0
    assert list(path.parent.iterdir()) == [path]


def test_the_metadata_of_a_series_is_its_last_key(keys, path, monkeypatch):
    written, whole = [], etl.store.durable.write_durably

    def listed(target, content):
        written.append(target.relative_to(path).as_posix())
        whole(target, content)

    monkeypatch.setattr(etl.store.durable, "write_durably", listed)
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    assert written[-1] == "P1/0001-aaaaaaaaaaaaaaaa/zarr.json"
    chunks = [i for i, key in enumerate(written) if "/volume/c/" in key]
    source = [i for i, key in enumerate(written) if "/source/" in key and not key.endswith("zarr.json")]
    metadata = [i for i, key in enumerate(written) if key.endswith("zarr.json")]
    assert max(chunks) < min(source)
    assert max(source) < min(metadata)


def test_a_series_that_lacks_any_chunk_or_array_is_not_whole(keys, path):
    """What an array has of its own: metadata and the one shard; also of validity, which not every series has."""
    content = encoded(validity=np.eye(4, 5, dtype=np.uint8)[None].repeat(3, axis=0))
    publish(keys, "P1/0001-a", content)
    attributes = published(keys, "P1/0001-a")
    assert is_whole(keys, "P1/0001-a", attributes)
    parts = [key for key in content if "/c/" in key or (path / "P1/0001-a" / key).parent.joinpath("c").is_dir()]
    assert {key.split("/")[0] for key in parts} == {"volume", "validity", "hu_histogram", "source"}
    for key in parts:
        file = path / "P1/0001-a" / key
        before = file.read_bytes()
        file.unlink()
        assert not is_whole(keys, "P1/0001-a", attributes), key
        file.write_bytes(b"")
        assert not is_whole(keys, "P1/0001-a", attributes), key
        file.write_bytes(before)
    assert is_whole(keys, "P1/0001-a", attributes)


def test_a_series_without_validity_is_whole(keys):
    publish(keys, "P1/0001-a", encoded())
    attributes = published(keys, "P1/0001-a")
    assert is_whole(keys, "P1/0001-a", attributes)


def test_publishing_gives_the_bytes_written(keys, path):
    written = publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    assert written == sum(p.stat().st_size for p in (path / "P1").rglob("*") if p.is_file())


def test_a_series_whose_writing_broke_off_is_not_published(keys, path, dying_after):
    whole = len(encoded())
    for count in range(whole):
        dying_after(count)
        with pytest.raises(OSError, match="power failure"):
            publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
        assert published(keys, "P1/0001-aaaaaaaaaaaaaaaa") is None
        assert not (path / "P1" / "0001-aaaaaaaaaaaaaaaa" / "zarr.json").exists()


@pytest.mark.parametrize("failure", ["power failure", "the run gave up"])
def test_a_series_whose_replacement_breaks_off_stays_as_it_was(keys, path, stamps, dying_after, failure):
    publish(keys, NODE, encoded(0.5))
    before = stamps(path)
    for count in range(len(encoded())):
        checks = iter([None] * (count + 1))

        def check(left=checks):
            if next(left, "over") == "over":
                raise StoreError("the run gave up")

        if failure == "power failure":
            dying_after(count)
        with pytest.raises((OSError, StoreError), match=failure):
            publish(keys, NODE, encoded(0.25), check=check if failure == "the run gave up" else lambda: None)
        assert stamps(path) == before
        assert list(path.parent.glob(f".{path.name}.*")) == []


def test_a_series_killed_while_it_is_replaced_is_the_old_one_or_the_new_one(keys, path):
    validity = np.ones((3, 4, 5), np.uint8)
    validity[0] = 0
    old, new = encoded(0.5, validity=validity), encoded(0.25)
    seen, was_absent, steps, is_killed = set(), False, 0, True
    while is_killed:
        publish(keys, NODE, old)
        note = path / NODE / "validity" / "note.txt"
        note.write_text("mine")
        is_killed = killed_after(steps, lambda: publish(keys, NODE, new))
        was_absent |= published(keys, NODE) is None
        # The next run may be killed while it finishes that, and the one after it goes on.
        killed_after(steps % 7, keys.clear_leftovers)
        keys.clear_leftovers()
        value = float(zarr.open_array(path / NODE / "volume", mode="r")[0, 0, 0])
        assert {p.relative_to(path / NODE).as_posix() for p in (path / NODE).rglob("*") if p.is_file()} == {
            *(old if value == 0.5 else new),
            "validity/note.txt",
        }
        assert is_whole(keys, NODE, published(keys, NODE))
        assert list(path.parent.glob(f".{path.name}.*")) == []
        seen.add(value)
        steps += 1
    assert seen == {0.5, 0.25}
    assert was_absent


def test_finish_writes_patients_fingerprint_and_consolidated_metadata(keys, path):
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded(hu=40))
    publish(keys, "P1/0002-bbbbbbbbbbbbbbbb", encoded(hu=60))
    publish(keys, "P-_.2/0001-cccccccccccccccc", encoded(patient_id="Päivi", hu=50))
    found, _ = finish_store(keys, RECIPE, {"P1": "0002-bbbbbbbbbbbbbbbb"})
    assert (found["volumes"], found["voxels"], found["mean_hu"]) == (3, 180, 50)
    group = zarr.open_group(path, mode="r")
    assert group.attrs["ct_etl"]["fingerprint"] == found
    assert group["P1"].attrs["ct_etl"] == {"patient_id": "P1", "default_series": "0002-bbbbbbbbbbbbbbbb"}
    assert group["P-_.2"].attrs["ct_etl"] == {"patient_id": "Päivi", "default_series": "0001-cccccccccccccccc"}
    listed = root(path)["consolidated_metadata"]["metadata"]
    nodes = {p.parent.relative_to(path) for p in path.rglob("zarr.json") if p.parent != path}
    # Where slices came from is not read by cohort, and would be a fifth of the text.
    assert set(listed) == {node.as_posix() for node in nodes if "source" not in node.parts}


def test_finish_passes_over_what_a_crash_left(keys, path, dying_after, monkeypatch):
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    dying_after(3)
    for patient in ("P1", "P2"):
        with pytest.raises(OSError, match="power failure"):
            publish(keys, f"{patient}/0009-9999999999999999", encoded(patient_id=patient))
    monkeypatch.undo()
    found, _ = finish_store(keys, RECIPE, {})
    assert found["volumes"] == 1
    group = zarr.open_group(path, mode="r")
    assert list(dict(group.groups())) == ["P1"]
    assert list(dict(group["P1"].groups())) == ["0001-aaaaaaaaaaaaaaaa"]


def test_finish_again_touches_no_file(keys, path, stamps):
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    first = finish_store(keys, RECIPE, {"P1": "0001-aaaaaaaaaaaaaaaa"})
    before = stamps(path)
    assert finish_store(LocalKeys(str(path)), RECIPE, {"P1": "0001-aaaaaaaaaaaaaaaa"}) == first
    assert stamps(path) == before


def test_a_patient_keeps_its_default_where_a_run_names_none(keys, path):
    for key in ("0001-aaaaaaaaaaaaaaaa", "0002-bbbbbbbbbbbbbbbb"):
        publish(keys, f"P1/{key}", encoded())
    finish_store(keys, RECIPE, {"P1": "0002-bbbbbbbbbbbbbbbb"})
    finish_store(keys, RECIPE, {})
    assert zarr.open_group(path, mode="r")["P1"].attrs["ct_etl"]["default_series"] == "0002-bbbbbbbbbbbbbbbb"


def test_a_default_that_is_not_in_the_store_is_not_named(keys, path):
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    finish_store(keys, RECIPE, {"P1": "0002-bbbbbbbbbbbbbbbb"})
    assert zarr.open_group(path, mode="r")["P1"].attrs["ct_etl"]["default_series"] == "0001-aaaaaaaaaaaaaaaa"


def test_an_empty_store_can_be_finished_and_opened(keys, path):
    assert finish_store(keys, RECIPE, {})[0]["volumes"] == 0
    assert dict(zarr.open_group(path, mode="r").groups()) == {}


def test_the_store_does_not_depend_on_the_order_of_publishing(tmp_path, contents):
    series = [("P1", "0001-aaaaaaaaaaaaaaaa"), ("P1", "0002-bbbbbbbbbbbbbbbb"), ("P2", "0001-cccccccccccccccc")]
    found = []
    for name, order in (("x", series), ("y", series[::-1])):
        keys = LocalKeys(str(tmp_path / name))
        prepare_root(keys, RECIPE, overwrite=False)
        for patient, key in order:
            publish(keys, f"{patient}/{key}", encoded(patient_id=patient))
        finish_store(keys, RECIPE, {})
        found.append(contents(tmp_path / name))
    assert found[0] == found[1]
