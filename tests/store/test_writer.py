"""Publishing and finishing a store; the oracle is the file system, plain JSON and plain zarr."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

import etl.store.durable
from etl.errors import StoreConflictError, UsageError
from etl.store.encoding import encode_series
from etl.store.writer import StoreWriter

RECIPE = {"spacing_mm": [1.0, 1.0, 1.0], "window": [-1000, 2000], "center": 0.25}


def encoded(value=0.5, patient_id="P1", hu=40):
    histogram = np.zeros(3001, np.uint32)
    histogram[hu + 1000] = 60
    return encode_series(
        volume=np.full((3, 4, 5), value, np.float32),
        histogram=histogram,
        validity=None,
        source={"position_mm": np.arange(3.0)},
        attributes={"ct_etl": {"patient_id": patient_id}, "dicom": {}, "ome": {}},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def writer(path):
    writer = StoreWriter(str(path))
    writer.prepare(RECIPE, overwrite=False)
    return writer


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
    writer = StoreWriter(str(path))
    assert writer.check(RECIPE, overwrite=False) is None
    assert writer.check(RECIPE, overwrite=True) is None
    assert not path.exists()


def test_an_empty_folder_becomes_a_store(path):
    path.mkdir()
    StoreWriter(str(path)).prepare(RECIPE, overwrite=False)
    assert root(path)["attributes"]["ct_etl"]["config"] == RECIPE


def test_the_same_configuration_may_write_again(writer, path):
    before = root(path)
    StoreWriter(str(path)).prepare(json.loads(json.dumps(RECIPE)), overwrite=False)
    assert root(path) == before


def test_another_configuration_is_refused_naming_only_the_keys_that_differ(writer):
    with pytest.raises(StoreConflictError) as refusal:
        writer.check({**RECIPE, "center": 0.5, "window": [0, 80]}, overwrite=False)
    for word in ("center", "0.25", "0.5", "window", "2000", "80"):
        assert word in str(refusal.value)
    assert "spacing_mm" not in str(refusal.value)


def test_a_key_that_only_one_side_has_differs(writer):
    with pytest.raises(StoreConflictError, match="denoise"):
        writer.check({**RECIPE, "denoise": True}, overwrite=False)


def test_another_format_version_is_refused(writer, path):
    described = root(path)
    described["attributes"]["ct_etl"]["format_version"] = "2.0"
    (path / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(StoreConflictError, match=r"2\.0.*1\.0"):
        writer.check(RECIPE, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_of_ours_is_refused_and_left_alone(path, overwrite):
    path.write_text("a letter")
    with pytest.raises(UsageError, match="file"):
        StoreWriter(str(path)).prepare(RECIPE, overwrite=overwrite)
    assert path.read_text() == "a letter"
    path.unlink()
    path.mkdir()
    (path / "thesis.tex").write_text("chapter")
    with pytest.raises(UsageError, match="something else"):
        StoreWriter(str(path)).prepare(RECIPE, overwrite=overwrite)
    assert [p.name for p in path.iterdir()] == ["thesis.tex"]


def test_overwrite_takes_the_old_store_away_whole(writer, path):
    writer.publish("P1", "0001-a", encoded())
    writer.prepare({**RECIPE, "center": 0.0}, overwrite=True)
    assert [p.name for p in path.iterdir()] == ["zarr.json"]
    assert root(path)["attributes"]["ct_etl"]["config"]["center"] == 0
    assert list(path.parent.iterdir()) == [path]


def test_the_metadata_of_a_series_is_its_last_key(writer, path, monkeypatch):
    keys, whole = [], etl.store.durable.write_durably

    def listed(target, content):
        keys.append(target.relative_to(path).as_posix())
        whole(target, content)

    monkeypatch.setattr(etl.store.durable, "write_durably", listed)
    writer.publish("P1", "0001-a", encoded())
    assert keys[-1] == "P1/0001-a/zarr.json"
    chunks = [i for i, key in enumerate(keys) if "/volume/c/" in key]
    source = [i for i, key in enumerate(keys) if "/source/" in key and not key.endswith("zarr.json")]
    metadata = [i for i, key in enumerate(keys) if key.endswith("zarr.json")]
    assert max(chunks) < min(source)
    assert max(source) < min(metadata)


def test_publishing_gives_the_bytes_written(writer, path):
    written = writer.publish("P1", "0001-a", encoded())
    assert written == sum(p.stat().st_size for p in (path / "P1").rglob("*") if p.is_file())


def test_a_series_whose_writing_broke_off_is_not_published(writer, path, dying_after):
    whole = len(encoded())
    for count in range(whole):
        dying_after(count)
        with pytest.raises(OSError, match="power failure"):
            writer.publish("P1", "0001-a", encoded())
        assert writer.published("P1", "0001-a") is None
        assert not (path / "P1" / "0001-a" / "zarr.json").exists()


def test_a_series_that_is_written_anew_is_never_half_old_and_half_new(writer, path, monkeypatch, dying_after):
    writer.publish("P1", "0001-a", encoded(0.5))
    dying_after(2)
    with pytest.raises(OSError, match="power failure"):
        writer.publish("P1", "0001-a", encoded(0.25))
    assert writer.published("P1", "0001-a") is None
    monkeypatch.undo()
    writer.publish("P1", "0001-a", encoded(0.25))
    assert (zarr.open_group(path, mode="r", use_consolidated=False)["P1/0001-a/volume"][:] == 0.25).all()


def test_finish_writes_patients_fingerprint_and_consolidated_metadata(writer, path):
    writer.publish("P1", "0001-a", encoded(hu=40))
    writer.publish("P1", "0002-b", encoded(hu=60))
    writer.publish("P-_.2", "0001-c", encoded(patient_id="Päivi", hu=50))
    found, _ = writer.finish(RECIPE, {"P1": "0002-b"})
    assert (found["volumes"], found["voxels"], found["mean_hu"]) == (3, 180, 50)
    group = zarr.open_group(path, mode="r")
    assert group.attrs["ct_etl"]["fingerprint"] == found
    assert group["P1"].attrs["ct_etl"] == {"patient_id": "P1", "default_series": "0002-b"}
    assert group["P-_.2"].attrs["ct_etl"] == {"patient_id": "Päivi", "default_series": "0001-c"}
    listed = root(path)["consolidated_metadata"]["metadata"]
    assert set(listed) == {
        p.parent.relative_to(path).as_posix() for p in path.rglob("zarr.json") if p.parent != path
    }


def test_finish_passes_over_what_a_crash_left(writer, path, dying_after, monkeypatch):
    writer.publish("P1", "0001-a", encoded())
    dying_after(3)
    for patient in ("P1", "P2"):
        with pytest.raises(OSError, match="power failure"):
            writer.publish(patient, "0009-z", encoded(patient_id=patient))
    monkeypatch.undo()
    found, _ = writer.finish(RECIPE, {})
    assert found["volumes"] == 1
    group = zarr.open_group(path, mode="r")
    assert list(dict(group.groups())) == ["P1"]
    assert list(dict(group["P1"].groups())) == ["0001-a"]


def test_finish_again_touches_no_file(writer, path, stamps):
    writer.publish("P1", "0001-a", encoded())
    first = writer.finish(RECIPE, {"P1": "0001-a"})
    before = stamps(path)
    assert StoreWriter(str(path)).finish(RECIPE, {"P1": "0001-a"}) == first
    assert stamps(path) == before


def test_a_patient_keeps_its_default_where_a_run_names_none(writer, path):
    for key in ("0001-a", "0002-b"):
        writer.publish("P1", key, encoded())
    writer.finish(RECIPE, {"P1": "0002-b"})
    writer.finish(RECIPE, {})
    assert zarr.open_group(path, mode="r")["P1"].attrs["ct_etl"]["default_series"] == "0002-b"


def test_a_default_that_is_not_in_the_store_is_not_named(writer, path):
    writer.publish("P1", "0001-a", encoded())
    writer.finish(RECIPE, {"P1": "0002-b"})
    assert zarr.open_group(path, mode="r")["P1"].attrs["ct_etl"]["default_series"] == "0001-a"


def test_an_empty_store_can_be_finished_and_opened(writer, path):
    assert writer.finish(RECIPE, {})[0]["volumes"] == 0
    assert dict(zarr.open_group(path, mode="r").groups()) == {}


def test_the_store_does_not_depend_on_the_order_of_publishing(tmp_path, contents):
    series = [("P1", "0001-a"), ("P1", "0002-b"), ("P2", "0001-c")]
    found = []
    for name, order in (("x", series), ("y", series[::-1])):
        writer = StoreWriter(str(tmp_path / name))
        writer.prepare(RECIPE, overwrite=False)
        for patient, key in order:
            writer.publish(patient, key, encoded(patient_id=patient))
        writer.finish(RECIPE, {})
        found.append(contents(tmp_path / name))
    assert found[0] == found[1]
