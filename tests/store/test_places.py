"""Links that lead out of a store, and the lock of a store that has several names."""

from __future__ import annotations

import errno
import getpass
import os
import subprocess
import sys
import time

import pytest
from tiny_ct import ROOT, day, lines, nodes, told, write_series

from etl.errors import UsageError
from etl.store.lock import STALE_AFTER_S, StoreLock

NOBODY = 65534
HOLD = """
import sys
from etl.store.lock import StoreLock
with StoreLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def dicom(tmp_path):
    write_series(tmp_path / "dicom", ks=range(8))
    return tmp_path / "dicom"


# --- links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["P", "{node}", "{node}/volume", "{node}/source"])
def test_nothing_is_written_or_removed_through_a_link_that_leads_out_of_the_store(
    in_process, dicom, store, tmp_path, place, contents
):
    day(in_process, dicom, store)
    path = store / place.format(node=nodes(store)[0])
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = contents(outside)
    write_series(dicom, ks=range(12))
    done = day(in_process, dicom, store)
    assert done.status in (2, 3), done.why
    assert contents(outside) == before
    in_process("verify", store, "--repair")
    assert contents(outside) == before
    day(in_process, dicom, store, "--overwrite")
    assert contents(outside) == before


def test_a_link_in_the_place_of_a_key_is_replaced_and_not_followed(in_process, dicom, store, tmp_path):
    day(in_process, dicom, store)
    key = store / nodes(store)[0] / "volume/c/0/0/0"
    (tmp_path / "mine").write_bytes(b"mine")
    key.unlink()
    key.symlink_to(tmp_path / "mine")
    write_series(dicom, ks=range(12))
    assert lines(day(in_process, dicom, store)) == [("written", None)]
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not key.is_symlink()
    assert told(in_process, store)[0] == 0


# --- the lock -------------------------------------------------------------------------------------------


@pytest.fixture
def holder(store):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def names_of(tmp_path, store):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.zarr").symlink_to(store)
    (tmp_path / "folder").symlink_to(tmp_path)
    return [
        store,
        tmp_path / "elsewhere" / "link.zarr",
        tmp_path / "folder" / "s.zarr",
        tmp_path / "elsewhere" / ".." / "s.zarr",
        f"{store}/",
        os.path.relpath(store),
    ]


def test_the_lock_holds_under_every_name_of_a_store(in_process, dicom, store, tmp_path, holder):
    assert holder.poll() is None
    lock = tmp_path / ".s.zarr.lock.1"
    for name in names_of(tmp_path, store):
        done = in_process("run", dicom, name, "--workers", "0", "-q")
        assert done.status == 2, done.why
        [line] = done.stderr.splitlines()
        assert str(lock) in line
        assert getpass.getuser() in line
        assert str(holder.pid) in line
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["link.zarr"]


def test_repair_takes_the_lock(in_process, dicom, store, tmp_path):
    day(in_process, dicom, store)
    (store / nodes(store)[0] / "volume/c/0/0/0").write_bytes(b"damaged")
    with StoreLock(str(store)):
        done = in_process("verify", store, "--repair")
        assert done.status == 2, done.why
        assert str(tmp_path / ".s.zarr.lock.1") in done.stderr
        assert len(nodes(store)) == 1
        # To look needs none.
        assert told(in_process, store)[0] == 3
    assert told(in_process, store, "--repair")[0] == 3
    assert nodes(store) == []


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_one_failed_heartbeat_is_no_other_run(store, monkeypatch, number):
    monkeypatch.setattr("etl.store.lock.HEARTBEAT_S", 0.02)
    utime, failed, beats = os.utime, [], []

    def stumble(path, *given, **options):
        if ".lock." in str(path):
            if not failed:
                failed.append(1)
                raise OSError(number, os.strerror(number))
            beats.append(1)
        return utime(path, *given, **options)

    monkeypatch.setattr(os, "utime", stumble)
    with StoreLock(str(store)) as lock:
        end = time.monotonic() + 10
        while len(beats) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        lock.check()
    assert failed
    assert len(beats) >= 3


@pytest.mark.parametrize("skew_s", [-7200, -120, 120, 7200])
def test_another_clock_on_this_machine_takes_no_lock_and_leaves_none(store, tmp_path, monkeypatch, skew_s):
    """The file server stamps locks; what this machine thinks of the time does not count."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + skew_s)
    lock = tmp_path / ".s.zarr.lock.1"
    lock.write_text('{"host": "elsewhere", "pid": 1, "user": "somebody"}')
    with pytest.raises(UsageError, match="somebody"), StoreLock(str(store)):
        pass
    os.utime(lock, (now - STALE_AFTER_S - 5,) * 2)
    with StoreLock(str(store)):
        pass
    assert list(tmp_path.glob(".s.zarr.lock.*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_lock_of_another_user_names_the_owner_and_holds(tmp_path, dicom, in_process):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    store = shared / "s.zarr"
    command = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        sys.executable,
        "-c",
        HOLD,
        str(store),
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        if process.stdout.readline() != "held\n":
            pytest.skip(f"another user cannot run Python here: {process.communicate()[1].strip()[-80:]}")
        done = in_process("run", dicom, store, "--workers", "0", "-q")
        assert done.status == 2, done.why
        assert str(shared / ".s.zarr.lock.1") in done.stderr
        assert "nobody" in done.stderr or str(NOBODY) in done.stderr
    finally:
        process.kill()
        process.communicate()


def test_two_stores_beside_each_other_have_locks_of_their_own(in_process, dicom, tmp_path, store, holder):
    assert holder.poll() is None
    write_series(tmp_path / "more", "Q", series=f"{ROOT}.3")
    assert day(in_process, [dicom, tmp_path / "more"], tmp_path / "s.zarr.2").status == 0
    assert not (store / "zarr.json").exists()
