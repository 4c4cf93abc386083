"""A store in a bucket is read like one in a folder, by threads, by spawned and by forked processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_ct import ROOT, day, write_series

import etl

pytestmark = [
    pytest.mark.systems,
    # s3fs leaves the sessions of its thread to the interpreter's end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


@pytest.fixture
def stores(in_process, bucket, tmp_path):
    write_series(tmp_path / "dicom/p", ks=range(12))
    write_series(tmp_path / "dicom/q", "Q", series=f"{ROOT}.2", ks=range(9), hu=40)
    day(in_process, tmp_path / "dicom", tmp_path / "local.zarr")
    day(in_process, tmp_path / "dicom", f"{bucket}/s.zarr")
    return etl.open_store(tmp_path / "local.zarr"), etl.open_store(f"{bucket}/s.zarr")


def crop_of(store, patient):
    return store[patient].default[2:6, 3:9, 4:12]


def send_crop(store, patient, queue):
    try:
        queue.put(crop_of(store, patient))
    except BaseException as error:  # noqa: BLE001 - told to the parent
        queue.put(f"{type(error).__name__}: {error}")


def test_values_and_sources_are_those_of_the_folder(stores):
    local, there = stores
    assert list(there) == list(local) == ["P", "Q"]
    for patient in local:
        one, other = local[patient].default, there[patient].default
        np.testing.assert_array_equal(other[:], one[:])
        np.testing.assert_array_equal(other.validity(), one.validity())
        assert other.source_slices == one.source_slices
        np.testing.assert_array_equal(np.asarray(other.dask()), one[:])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_reads_what_its_parent_has_read_before(stores, method):
    local, there = stores
    volume = there["P"].default
    np.testing.assert_array_equal(volume[2:6, 3:9, 4:12], crop_of(local, "P"))
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    for patient in ("P", "Q"):
        child = context.Process(target=send_crop, args=(there, patient, queue))
        child.start()
        found = queue.get(timeout=60)
        child.join(20)
        np.testing.assert_array_equal(found, crop_of(local, patient))


def test_a_forked_child_reads_a_volume_that_its_parent_holds_open(stores):
    local, there = stores
    volume = there["P"].default
    first = volume[2:6, 3:9, 4:12]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: send_crop({"P": type("One", (), {"default": volume})}, "P", queue))
    child.start()
    found = queue.get(timeout=60)
    child.join(20)
    np.testing.assert_array_equal(found, first)
    np.testing.assert_array_equal(first, crop_of(local, "P"))


def test_threads_read_at_once(stores):
    local, there = stores
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: crop_of(there, "PQ"[n % 2]), range(32)))
    for n, crop in enumerate(found):
        np.testing.assert_array_equal(crop, crop_of(local, "PQ"[n % 2]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_draws_the_crops_of_the_folder(stores, method):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from etl.training import CropDataset, CropSampler

    drawn = []
    for store in stores:
        crops = CropDataset(store.path, (4, 8, 8), crops_per_volume=3)
        loader = torch.utils.data.DataLoader(
            crops, batch_size=2, num_workers=2, multiprocessing_context=method, sampler=CropSampler(crops)
        )
        drawn.append([batch["image"].numpy() for batch in loader])
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_server_that_is_away_is_a_store_error(bucket):
    """In a process of its own: s3fs keeps the address that it was made with."""
    code = (
        "import sys, etl\n"
        "from etl.errors import StoreError\n"
        "try: etl.open_store('s3://data/x.zarr')\n"
        "except StoreError as error: print(error)\n"
    )
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert "http://127.0.0.1:9" in line
