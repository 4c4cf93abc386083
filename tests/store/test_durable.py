"""Files that survive a power cut in the sense of the file system; and those that a full disk cuts off."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from handmade_store import DESCRIBED

from etl.errors import DiskFullError
from etl.store.durable import write_durably
from etl.store.encoding import encode_series
from etl.store.finish import finish_store
from etl.store.keys import LocalKeys
from etl.store.local_folder import take_back
from etl.store.publish import publish
from etl.store.root import prepare_root


@pytest.fixture
def events(monkeypatch):
    """What is flushed and what gets its name, in that order."""
    seen = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor):
        seen.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def named(self, target):
        seen.append(("name", Path(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", named)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file is flushed is read from /proc")
    return seen


def encoded():
    return encode_series(
        volume=np.zeros((3, 4, 5), np.float32),
        histogram=np.zeros(3001, np.uint32),
        validity=None,
        source={"position_mm": np.arange(3.0)},
        attributes={"ct_etl": {"patient_id": "P1", **DESCRIBED}, "dicom": {}, "ome": {}},
    )


def test_every_key_is_flushed_before_its_name_and_every_folder_before_the_metadata(tmp_path, events):
    store = tmp_path / "s.zarr"
    keys = LocalKeys(str(store))
    prepare_root(keys, {"window": [-1000, 2000]}, overwrite=False)
    assert events[-1] == ("flush", tmp_path)  # the store's own name
    events.clear()
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    series = store / "P1" / "0001-aaaaaaaaaaaaaaaa"
    names = [path for what, path in events if what == "name"]
    assert set(names) == {path for path in series.rglob("*") if path.is_file()}
    for at, (what, path) in enumerate(events):
        if what == "name":
            before, partial = events[at - 1]
            assert before == "flush"
            assert partial.parent == path.parent
    last = events.index(("name", series / "zarr.json"))
    for path in names[:-1]:
        named = events.index(("name", path))
        for folder in (f for f in path.parents if f == store or store in f.parents):
            assert ("flush", folder) in events[named:last], f"{folder} after {path}"
    assert ("flush", series) in events[last:]


def test_the_root_is_the_last_to_be_named_and_its_folder_is_flushed(tmp_path, events):
    keys = LocalKeys(str(tmp_path / "s.zarr"))
    prepare_root(keys, {"window": [-1000, 2000]}, overwrite=False)
    publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    events.clear()
    finish_store(keys, {"window": [-1000, 2000]}, {})
    patient, root = tmp_path / "s.zarr" / "P1" / "zarr.json", tmp_path / "s.zarr" / "zarr.json"
    assert [path for what, path in events if what == "name"] == [patient, root]
    named = events.index(("name", root))
    assert ("flush", patient.parent) in events[:named]
    assert ("flush", root.parent) in events[named:]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, DiskFullError), (errno.EROFS, DiskFullError), (errno.EFBIG, OSError), (errno.EIO, OSError)],
)
def test_what_the_disk_refused_leaves_no_trace_and_the_old_content(tmp_path, monkeypatch, code, expected):
    path = tmp_path / "zarr.json"
    path.write_bytes(b"old")

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(expected, match=os.strerror(code)):
        write_durably(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("zarr.json", b"old")]


def test_a_series_that_is_taken_back_loses_its_metadata_first(tmp_path, monkeypatch):
    series = tmp_path / "P" / "0001-0123456789abcdef"
    for key in ("zarr.json", "volume/c/0/0/0", "volume/zarr.json", "labels/mine/zarr.json", "notes.txt"):
        (series / key).parent.mkdir(parents=True, exist_ok=True)
        (series / key).write_bytes(b"{}")
    order = []
    unlink = type(series).unlink
    monkeypatch.setattr(
        type(series), "unlink", lambda path, **options: (order.append(path), unlink(path, **options))
    )
    take_back(series)
    assert order[0] == series / "zarr.json"
    left = sorted(path.relative_to(series).as_posix() for path in series.rglob("*") if path.is_file())
    assert left == ["labels/mine/zarr.json", "notes.txt"]


def test_a_series_that_did_not_fit_takes_no_space(tmp_path, monkeypatch):
    keys = LocalKeys(str(tmp_path / "s.zarr"))
    prepare_root(keys, {"window": [-1000, 2000]}, overwrite=False)
    flush, left = os.fsync, [5]

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="make room"):
        publish(keys, "P1/0001-aaaaaaaaaaaaaaaa", encoded())
    assert not (tmp_path / "s.zarr" / "P1" / "0001-aaaaaaaaaaaaaaaa").exists()
