"""A store in a bucket is the store of a folder: the same bytes, the same commands, the same refusals."""

from __future__ import annotations

import json
import re
import time

import pytest
from kills import contents as local_contents
from seaweed import KEY, READER, contents
from tiny_ct import QUICK, ROOT, day, lines, told, write_series

pytestmark = pytest.mark.systems


@pytest.fixture
def dicom(tmp_path):
    write_series(tmp_path / "dicom/p", ks=range(8))
    write_series(tmp_path / "dicom/q", "Q", series=f"{ROOT}.2", ks=range(9), hu=40)
    return tmp_path / "dicom"


@pytest.fixture
def store(bucket):
    return f"{bucket}/s.zarr"


def leftovers(bucket):
    return [name for name in contents(bucket) if ".ct-etl/" in name]


def place(url):
    from etl.buckets.bucket import Bucket

    return Bucket(url)


def a_node(store):
    return min(
        name[: -len("/zarr.json")] for name in contents(store) if name.count("/") == 2 and "zarr.json" in name
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_bucket_gets_the_bytes_of_a_folder(in_process, dicom, bucket, store, tmp_path, workers):
    assert lines(day(in_process, dicom, tmp_path / "local.zarr")) == [("written", None)] * 2
    done = day(in_process, dicom, store, "--workers", workers)
    assert lines(done) == [("written", None)] * 2, done.why
    assert contents(store) == local_contents(tmp_path / "local.zarr")
    assert leftovers(bucket) == []
    assert told(in_process, store) == (0, "2 volumes checked\n")
    assert told(in_process, store, "--input", dicom)[0] == 0


def test_a_second_run_writes_nothing_and_the_record_lies_in_the_state_folder(
    in_process, dicom, bucket, store, tmp_path
):
    day(in_process, dicom, store)
    before = {found.name: found.state for found in place(store).walk()}
    time.sleep(2.1)
    assert lines(day(in_process, dicom, store)) == [("unchanged", None)] * 2
    assert {found.name: found.state for found in place(store).walk()} == before
    runs = sorted((tmp_path / "state/ct-etl/s3").rglob("run.json"))
    assert len(runs) == 2
    assert all(json.loads(path.read_text())["store"] == store for path in runs)
    assert in_process("report", store).status == 0
    assert in_process("info", store, "--json").json["volumes"][1]["patient_id"] == "Q"


def test_a_grown_series_replaces_the_old_volume_and_keeps_what_others_left(
    in_process, dicom, bucket, store, tmp_path
):
    day(in_process, dicom, store)
    node = a_node(store)
    place(store).put(f"{node}/labels/note.txt", b"mine")
    write_series(dicom / "p", ks=range(12))
    assert lines(day(in_process, dicom, store)) == [("unchanged", None), ("written", None)]
    found = contents(store)
    assert found.pop(f"{node}/labels/note.txt") == b"mine"
    day(in_process, dicom, tmp_path / "local.zarr")
    assert found == local_contents(tmp_path / "local.zarr")
    assert leftovers(bucket) == []


@pytest.mark.parametrize("step", ["staged", "ready", "half copied"])
def test_a_replacement_that_was_killed_is_finished_or_forgotten(
    in_process, dicom, store, bucket, step, monkeypatch
):
    """Cut off where a kill would: the next run of anything leaves the old volume or the new one."""
    from etl.buckets.bucket import Bucket
    from etl.store.keys import open_keys

    day(in_process, dicom, store)
    before, node = contents(store), a_node(store)
    new = {key[len(node) + 1 :]: value for key, value in before.items() if key.startswith(f"{node}/")}
    changed = {**new, "volume/c/0/0/0": b"other bytes"}

    class Killed(BaseException):
        pass

    done = {"put": 0, "copy": 0}
    limits = {"staged": ("put", 3), "ready": ("copy", 0), "half copied": ("copy", 2)}
    kind, limit = limits[step]
    original = getattr(Bucket, kind)

    def until_killed(self, *given):
        done[kind] += 1
        if done[kind] > limit:
            raise Killed
        return original(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, kind, until_killed)
        with pytest.raises(Killed):
            open_keys(store).replace({node: changed}, lambda: None)
    open_keys(store).clear_leftovers()
    expected = before if step == "staged" else {**before, f"{node}/volume/c/0/0/0": b"other bytes"}
    assert contents(store) == expected
    assert leftovers(bucket) == []


def test_a_replacement_of_which_a_part_was_lost_leaves_the_old_volume(in_process, dicom, store, bucket):
    day(in_process, dicom, store)
    before, node = contents(store), a_node(store)
    order = json.dumps({node: ["zarr.json", "volume/c/0/0/0"]})
    place(bucket).put(".s.zarr.ct-etl/ready/0a", order.encode())
    place(bucket).put(f".s.zarr.ct-etl/staged/0a/{node}/zarr.json", b"{}")
    assert told(in_process, store, "--repair")[0] == 0
    assert contents(store) == before
    assert leftovers(bucket) == []


def test_damage_is_found_and_repaired_and_made_again(in_process, dicom, store):
    day(in_process, dicom, store)
    before, node = contents(store), a_node(store)
    place(store).put(f"{node}/volume/c/0/0/0", before[f"{node}/volume/c/0/0/0"][:-1] + b"x")
    place(store).put("mine.txt", b"mine")
    status, said = told(in_process, store)
    assert status == 3
    assert f"{node}: " in said
    assert "mine.txt: not written by ct-etl" in said
    assert told(in_process, store, "--repair")[0] == 3
    assert not any(name.startswith(f"{node}/") for name in contents(store))
    place(store).remove(["mine.txt"])
    day(in_process, dicom, store)
    assert contents(store) == before


def test_a_lost_chunk_is_made_again_by_the_next_run(in_process, dicom, store):
    day(in_process, dicom, store)
    before, node = contents(store), a_node(store)
    place(store).remove([f"{node}/volume/c/0/0/0"])
    assert ("written", None) in lines(day(in_process, dicom, store))
    assert contents(store) == before


def test_overwrite_starts_anew_and_puts_aside_what_others_left(in_process, dicom, bucket, store, tmp_path):
    day(in_process, dicom, store)
    place(store).put("P/notes.txt", b"mine")
    done = day(in_process, dicom / "q", store, "--overwrite", "--window=-160,240")
    assert lines(done) == [("written", None)], done.why
    assert contents(f"{store}.foreign") == {"P/notes.txt": b"mine"}
    day(in_process, dicom / "q", tmp_path / "local.zarr", "--window=-160,240")
    assert contents(store) == local_contents(tmp_path / "local.zarr")
    assert leftovers(bucket) == []


def test_another_configuration_is_refused(in_process, dicom, store):
    day(in_process, dicom, store)
    before = contents(store)
    done = day(in_process, dicom, store, "--window=-160,240")
    assert done.status == 2
    assert "window" in done.stderr
    assert contents(store) == before


def test_what_is_no_place_for_a_store_is_one_line(in_process, dicom, bucket):
    place(bucket).put("file", b"x")
    place(bucket).put("other/file", b"x")
    for url in (f"{bucket}/file", f"{bucket}/other", "s3://no-such-bucket-here/x.zarr"):
        done = day(in_process, dicom, url)
        assert done.status == 2, done.why
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "secret", "said"),
    [
        (KEY, "wrong", "cannot be listed: .*SignatureDoesNotMatch: .*HTTP 403"),
        (READER, READER, "cannot be written: .*AccessDenied: .*HTTP 403"),
        ("", "", "cannot be listed: .*AccessDenied: .*; the environment names no credentials"),
    ],
    ids=["wrong", "reading only", "none"],
)
def test_who_may_not_write_is_told_so_in_a_line(ct_etl, dicom, bucket, monkeypatch, key, secret, said):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    # In a process of its own: a connection keeps the credentials that it was made with.
    done = ct_etl("run", dicom, f"{bucket}/s.zarr", *QUICK)
    assert done.status == 2, done.why
    [line] = done.stderr.splitlines()
    assert re.search(said, line)
    assert "<" not in line


def test_a_reader_that_polls_never_meets_half_a_volume(in_process, dicom, store, polled):
    for count in (8, 9, 10, 11):
        write_series(dicom / "p", ks=range(count))
        assert ("written", None) in lines(day(in_process, dicom, store))
    assert polled() > 0


@pytest.mark.parametrize("damage", ["lost", "half new", "no sources"])
def test_the_reader_that_polls_would_tell_half_a_volume(in_process, dicom, store, polled, damage):
    day(in_process, dicom, store)
    before, node = contents(store), a_node(store)
    array = "source/sop_instance_uid" if damage == "no sources" else "volume"
    chunk = next(name for name in before if name.startswith(f"{node}/{array}/c/"))
    if damage == "half new":
        other = next(name for name in before if name.startswith("Q/") and "/volume/c/" in name)
        place(store).put(chunk, before[other])
    else:
        place(store).remove([chunk])
    with pytest.raises(AssertionError, match=node):
        polled()


@pytest.fixture
def killed_after(monkeypatch):
    """Do something that dies before it has changed the bucket so many times; tell whether it did."""
    from etl.buckets.bucket import Bucket

    class Killed(BaseException):
        pass

    def after(steps, work):
        left = [steps]

        def dying(original):
            def change(*given):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return original(*given)

            return change

        with monkeypatch.context() as patch:
            for kind in ("put", "copy", "remove"):
                patch.setattr(Bucket, kind, dying(getattr(Bucket, kind)))
            try:
                work()
            except Killed:
                return True
        return False

    return after


def labels_of(keys, node, values):
    import numpy as np

    from etl.store.label_encoding import Segment, encode_label
    from etl.store.publish import published

    volume = published(keys, node)
    shape = tuple(volume["ct_etl"]["geometry"]["shape"])
    geometry = {"grid_digest": grid_digest(volume)}
    return {
        name: encode_label(
            np.full(shape, value, np.uint16),
            [Segment(value, "one")],
            name=name,
            volume=volume,
            chunk=None,
            provenance=geometry,
        )
        for name, value in values.items()
    }


def grid_digest(volume):
    from etl.volume.patient_space import Geometry

    return Geometry.from_attributes(volume["ct_etl"]["geometry"]).grid_digest


def test_a_label_in_a_bucket_that_was_killed_while_it_was_replaced_is_old_or_new(
    in_process, dicom, store, bucket, killed_after
):
    from etl.store.keys import open_keys
    from etl.store.labels import publish_label

    day(in_process, dicom, store)
    keys, node = open_keys(store), a_node(store)
    keys.put(f"{node}/labels/head/note.txt", b"mine")
    old, new = labels_of(keys, node, {"head": 1, "head-2": 2}), labels_of(keys, node, {"head": 3})
    publish_label(keys, node, old)
    of_old = contents(store)
    publish_label(keys, node, new, dropped=["head-2"])
    of_new = contents(store)
    assert {*of_old} - {*of_new} == {f"{node}/labels/head-2/{key}" for key in old["head-2"]}
    seen, steps, is_killed = [], 0, True
    while is_killed:
        publish_label(keys, node, old)
        is_killed = killed_after(steps, lambda: publish_label(keys, node, new, dropped=["head-2"]))
        killed_after(steps % 5, keys.clear_leftovers)
        assert told(in_process, store, "--repair")[0] in (0, 3)
        found = contents(store)
        assert found in (of_old, of_new)
        seen.append(found == of_new)
        assert leftovers(bucket) == []
        steps += 1
    assert seen == sorted(seen)
    assert {*seen} == {False, True}
    assert steps > 10


def test_labels_in_a_bucket_are_no_foreign_things_and_go_with_the_store(in_process, dicom, store, bucket):
    from etl.store.finish import finish_store
    from etl.store.keys import open_keys
    from etl.store.labels import publish_label

    day(in_process, dicom, store)
    keys, node = open_keys(store), a_node(store)
    publish_label(keys, node, labels_of(keys, node, {"head": 1}))
    finish_store(keys, json.loads(keys.get("zarr.json"))["attributes"]["ct_etl"]["config"], {})
    assert told(in_process, store) == (0, "2 volumes checked\n")
    keys.put(f"{node}/labels/liver/zarr.json", b"{}")
    assert lines(day(in_process, dicom, store, "--overwrite")) == [("written", None)] * 2
    assert {*contents(f"{store}.foreign")} == {f"{node}/labels/liver/zarr.json"}
    assert not [name for name in contents(store) if "/labels/" in name]
