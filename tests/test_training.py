"""The PyTorch datasets, against stores written by hand."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_store import Series, damage_all_but_first_chunk, write_store

from etl.errors import StoreError, UsageError
from etl.training import CropDataset, VolumeDataset


def test_without_torch_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for dataset in (VolumeDataset, CropDataset):
        with pytest.raises(ImportError, match=r"pip install 'ct-etl\[torch\]'"):
            dataset(tmp_path)


def ramp(shape: tuple[int, int, int], first: int = 0) -> np.ndarray:
    """HU that tell every voxel from every other: the stored value gives the index away."""
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is an optional extra")


@pytest.fixture
def stored() -> list[Series]:
    return [
        Series(ramp((9, 10, 11)), "P1", "0002-aaaaaaaa"),
        Series(ramp((6, 8, 5), 1000), "P1", "0003-bbbbbbbb", is_default=False),
        Series(ramp((5, 20, 7), 500), "P2", "0002-cccccccc"),
    ]


@pytest.fixture
def store_path(tmp_path: Path, stored: list[Series]) -> Path:
    return write_store(tmp_path / "s.zarr", stored)


def starts(dataset: CropDataset) -> list[tuple[int, ...]]:
    """Where each crop begins in its volume, from its affine alone."""
    spacing, origin = np.array([2.0, 1.0, 0.5]), np.array([5.0, 20.0, -10.0])
    entries = [dataset[i]["affine_lps"][:3, 3].numpy()[::-1] for i in range(len(dataset))]
    return [tuple(np.rint((entry - origin) / spacing).astype(int).tolist()) for entry in entries]


def test_volumes_come_whole_with_their_identity(torch, store_path, stored):
    dataset = VolumeDataset(store_path, series="all")
    assert len(dataset) == 3
    for entry, one in zip(dataset, stored, strict=True):
        assert entry["volume"].dtype == torch.float32
        np.testing.assert_array_equal(entry["volume"].numpy(), one.normalized[None])
        assert (entry["patient_id"], entry["series_key"]) == (one.patient_id, one.key)
        np.testing.assert_array_equal(entry["affine_lps"].numpy(), one.affine_lps)


@pytest.mark.usefixtures("torch")
def test_the_default_series_is_one_volume_a_patient(store_path):
    dataset = VolumeDataset(store_path)
    assert [dataset[i]["series_key"] for i in range(len(dataset))] == ["0002-aaaaaaaa", "0002-cccccccc"]
    assert len(CropDataset(store_path, crops_per_volume=3)) == 6


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 6, 6), (9, 10, 11), (12, 12, 12)])
def test_a_crop_is_the_volume_at_its_place_and_air_around_it(store_path, stored, shape):
    dataset = CropDataset(store_path, shape=shape, crops_per_volume=6, seed=3, series="all")
    for index, start in enumerate(starts(dataset)):
        one = stored[index // 6]
        pad = [(max(0, -s), max(0, s + n - size)) for s, n, size in zip(start, shape, one.hu.shape, strict=True)]
        padded = np.pad(one.normalized, pad, constant_values=-0.25)
        place = tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(start, shape, strict=True))
        np.testing.assert_array_equal(dataset[index]["volume"].numpy(), padded[place][None])


@pytest.mark.usefixtures("torch")
def test_every_place_is_drawn_and_none_outside(store_path):
    dataset = CropDataset(store_path, shape=(7, 12, 11), crops_per_volume=120)
    drawn = set(starts(dataset)[:120])
    assert {s[0] for s in drawn} == {0, 1, 2}
    assert {s[1] for s in drawn} == {-2, -1, 0}
    assert {s[2] for s in drawn} == {0}


@pytest.mark.usefixtures("torch")
def test_seed_epoch_and_index_decide_the_crop(store_path):
    first, again = (CropDataset(store_path, shape=(3, 3, 3), crops_per_volume=20, seed=1) for _ in range(2))
    other = CropDataset(store_path, shape=(3, 3, 3), crops_per_volume=20, seed=2)
    assert starts(first) == starts(again) != starts(other)
    assert len(set(starts(first))) > 20
    first.set_epoch(1)
    assert starts(first) != starts(again)
    first.set_epoch(0)
    assert starts(first) == starts(again)


@pytest.mark.usefixtures("torch")
def test_a_crop_reads_only_the_chunks_it_needs(tmp_path):
    one = Series(ramp((9, 10, 11)))
    path, whole = (write_store(tmp_path / name, [one]) for name in ("s.zarr", "whole.zarr"))
    damage_all_but_first_chunk(path, one)
    dataset, twin = (CropDataset(p, shape=(2, 2, 2), crops_per_volume=200) for p in (path, whole))
    inside = [i for i, start in enumerate(starts(twin)) if max(start) <= 2]
    assert inside
    for index in inside:
        dataset[index]
    with pytest.raises(StoreError):
        [dataset[i] for i in range(200)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_crops_with_and_without_workers(torch, store_path, workers):
    dataset = CropDataset(store_path, shape=(3, 3, 3), crops_per_volume=3)
    expected = {}
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        expected[epoch] = torch.stack([dataset[i]["volume"] for i in range(len(dataset))])
    # Spawn and persistent: the strictest case for what a worker knows of the epoch.
    options = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=workers, **options)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        got = torch.cat([batch["volume"] for batch in loader])
        assert torch.equal(got, expected[epoch])
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.usefixtures("torch")
def test_datasets_survive_pickling(store_path):
    dataset = CropDataset(store_path, shape=(3, 3, 3))
    copy = pickle.loads(pickle.dumps(dataset))
    assert starts(copy) == starts(dataset)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 0, 3)}, "shape"),
        ({"shape": (3, 3)}, "shape"),
        ({"crops_per_volume": 0}, "crops_per_volume 0: allowed is 1 or more"),
        ({"seed": -1}, "seed -1: allowed is 0 or more"),
        ({"series": "some"}, "series 'some': allowed is 'default' or 'all'"),
    ],
)
def test_a_bad_argument_is_named_with_what_is_allowed(store_path, options, message):
    with pytest.raises(UsageError, match=message):
        CropDataset(store_path, **options)


@pytest.mark.usefixtures("torch")
def test_indices_beyond_the_end_are_index_errors(store_path):
    with pytest.raises(IndexError, match="entry 16: allowed is 0 to 15"):
        CropDataset(store_path)[16]
    with pytest.raises(IndexError):
        VolumeDataset(store_path)[2]
