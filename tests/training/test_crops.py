"""Crops: the right voxels at the right places, the same whoever asks, and arguments that are checked."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_store import Series, damage_all_but_first_chunk, head, write_store

from etl.errors import StoreError, UsageError
from etl.read.patients import open_store
from etl.training import CropDataset, Draw, VolumeDataset, collate, normalize

pytestmark = pytest.mark.usefixtures("torch")


def starts(dataset: CropDataset, epoch: int = 0) -> list[tuple[int, ...]]:
    return [
        tuple(entry["start"].tolist())
        for entry in dataset.__getitems__([Draw(epoch, i) for i in range(len(dataset))])
    ]


def padded_crop(one: Series, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The oracle: numpy's own padding with air, and slicing."""
    sizes = zip(start, shape, one.hu.shape, strict=True)
    pad = [(max(0, -s), max(0, s + n - size)) for s, n, size in sizes]
    padded = np.pad(one.normalized, pad, constant_values=-0.25)
    return padded[tuple(slice(max(s, 0), max(s, 0) + n) for s, n in zip(start, shape, strict=True))]


def test_importing_loads_no_torch_and_without_it_the_error_says_what_to_install():
    code = "import sys, etl.training as t; t.CropDataset, t.ThreadLoader; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for dataset in (VolumeDataset, CropDataset):
        with pytest.raises(ImportError, match=r"pip install 'ct-etl\[torch\]'"):
            dataset(tmp_path)


@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 6, 6), (9, 10, 11), (12, 12, 12)])
def test_a_crop_is_the_volume_at_its_place_and_air_around_it(store_path, stored, shape):
    dataset = CropDataset(store_path, shape, crops_per_volume=6, seed=3, series="all")
    for index, entry in enumerate(dataset):
        one, start = stored[index // 6], tuple(entry["start"].tolist())
        np.testing.assert_array_equal(entry["image"].numpy(), padded_crop(one, start, shape)[None])
        assert (entry["patient_id"], entry["series_key"]) == (one.patient_id, one.key)
        affine = one.affine_lps
        np.testing.assert_allclose(entry["affine_lps"].numpy()[:3, 3], (affine @ [*start, 1])[:3])
        np.testing.assert_allclose(entry["affine_ras"].numpy()[:2], -entry["affine_lps"].numpy()[:2])
        np.testing.assert_allclose(entry["affine_ras"].numpy()[2:], entry["affine_lps"].numpy()[2:])


def test_int16_is_the_same_to_the_bit_once_normalized(torch, store_path):
    options = {"shape": (12, 6, 6), "crops_per_volume": 5, "series": "all"}
    floats, steps = CropDataset(store_path, **options), CropDataset(store_path, dtype="int16", **options)
    indices = list(range(len(floats)))
    expected, found = collate(floats.__getitems__(indices)), collate(steps.__getitems__(indices))
    assert found["image"].dtype == torch.int16
    assert torch.equal(normalize(found)["image"], expected["image"])
    assert torch.equal(normalize(steps[3])["image"], expected["image"][3])
    assert normalize(expected) is expected


def test_hounsfield_units_come_where_asked_for(store_path):
    entry = CropDataset(store_path, (3, 4, 5), values="hu")[0]
    place = tuple(slice(s, s + n) for s, n in zip(entry["start"].tolist(), (3, 4, 5), strict=True))
    expected = open_store(store_path)["P1"].default.to_hu(place)
    np.testing.assert_array_equal(entry["image"].numpy()[0], expected)


def test_every_place_is_drawn_and_none_outside(store_path):
    drawn = set(starts(CropDataset(store_path, (7, 12, 11), crops_per_volume=120))[:120])
    assert {s[0] for s in drawn} == {0, 1, 2}
    assert {s[1] for s in drawn} == {-2, -1, 0}
    assert {s[2] for s in drawn} == {0}


def test_seed_epoch_and_index_decide_the_crop(store_path):
    first, again = (CropDataset(store_path, (3, 3, 3), crops_per_volume=20, seed=1) for _ in range(2))
    other = CropDataset(store_path, (3, 3, 3), crops_per_volume=20, seed=2)
    assert starts(first) == starts(again) != starts(other)
    assert len(set(starts(first))) > 20
    assert starts(first, epoch=1) == starts(again, epoch=1) != starts(first)


def test_a_crop_reads_only_the_chunks_it_needs(tmp_path):
    one = Series(np.arange(990, dtype=np.float32).reshape(9, 10, 11))
    whole = write_store(tmp_path / "whole.zarr", [one])
    places = starts(CropDataset(whole, (2, 2, 2), crops_per_volume=200))
    path = write_store(tmp_path / "s.zarr", [one])
    damage_all_but_first_chunk(path, one)
    dataset = CropDataset(path, (2, 2, 2), crops_per_volume=200)
    inside = [i for i, start in enumerate(places) if max(start) <= 2]
    assert inside
    for index in inside:
        dataset[index]
    with pytest.raises(StoreError):
        [dataset[i] for i in range(200)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("by", [None, collate])
def test_a_loader_gives_the_same_crops_with_and_without_workers(torch, store_path, workers, context, by):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    dataset = CropDataset(store_path, (3, 3, 3), crops_per_volume=3)
    expected = torch.stack([entry["image"] for entry in dataset])
    options = {"multiprocessing_context": context} if workers else {}
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=by, **options)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), expected)
    assert [p for batch in batches for p in batch["patient_id"]] == ["P1"] * 3 + ["P2"] * 3


def test_a_batch_is_filled_in_one_piece(torch, store_path):
    examples = CropDataset(store_path, (3, 4, 5)).__getitems__([0, 3, 9])
    whole = collate(examples)
    assert whole["image"].shape == (3, 1, 3, 4, 5)
    assert examples[1]["image"].data_ptr() == whole["image"][1].data_ptr()
    by_torch = torch.utils.data.default_collate(examples)
    assert set(by_torch) == set(whole)
    assert all(torch.equal(by_torch[k], whole[k]) for k in whole if isinstance(whole[k], torch.Tensor))


def test_what_is_pickled_are_paths_and_places(store_path):
    dataset = CropDataset(store_path, (3, 3, 3), where=lambda volume: volume.dicom["KVP"] == 120, patients=["P1"])
    dataset[0]
    sent = pickle.dumps(dataset)
    assert len(sent) < 2500
    assert starts(pickle.loads(sent)) == starts(dataset)


def test_patients_and_where_choose_volumes(store_path):
    def patients(**options) -> list[str]:
        return [entry["patient_id"] for entry in CropDataset(store_path, 3, crops_per_volume=1, **options)]

    assert patients() == ["P1", "P2"]
    assert patients(patients=["P2"]) == ["P2"]
    assert patients(where=lambda volume: volume.dicom.get("KVP") == 120) == ["P1"]
    assert patients(series="all") == ["P1", "P1", "P2"]


def test_several_stores_are_one_data_set_and_share_no_patient(tmp_path, store_path):
    other = write_store(tmp_path / "t.zarr", [Series(np.zeros((5, 5, 5), np.float32), "P0")])
    dataset = CropDataset([store_path, open_store(other)], 3, crops_per_volume=2)
    assert [dataset[i]["patient_id"] for i in (0, 2, 4)] == ["P0", "P1", "P2"]
    with pytest.raises(UsageError, match=r"patient 'P1' is in .* and in "):
        CropDataset([store_path, store_path])


def test_labels_lie_where_the_image_does(labeled_path, stored):
    dataset = CropDataset(labeled_path, (6, 12, 6), labels=("bright", "column"), crops_per_volume=5, series="all")
    for index, entry in enumerate(dataset):
        one, start = stored[index // 5], entry["start"].tolist()
        bright, column = entry["label"].numpy()
        image = entry["image"].numpy()[0]
        assert entry["label"].dtype == __import__("torch").uint8
        np.testing.assert_array_equal(bright, image > one.normalized.dtype.type(1600 / 3000 - 0.25 + 1e-5))
        expected = np.clip(np.arange(6) + start[2], 0, one.hu.shape[2] - 1)
        inside = image != -0.25
        np.testing.assert_array_equal(column[inside], np.broadcast_to(expected, column.shape)[inside])


def test_a_label_that_is_missing_is_named_with_those_that_are_there(store_path, labeled_path):
    with pytest.raises(UsageError, match=r"P1/0002-aaaaaaaa has no label 'tumor'; it has bright, column"):
        CropDataset(labeled_path, labels=("bright", "tumor"))
    with pytest.raises(UsageError, match="it has none"):
        CropDataset(store_path, labels=("tumor",))


@pytest.fixture(scope="module")
def head_path(tmp_path_factory) -> Path:
    hu = np.full((64, 96, 96), -1000, np.float32)
    hu[4:60, 4:60, 4:60] = head((56, 56, 56))
    validity = np.ones(hu.shape, np.uint8)
    validity[:30] = 0
    one = Series(hu, chunk=(16, 16, 16), validity=validity)
    path = write_store(tmp_path_factory.mktemp("heads") / "s.zarr", [one])
    import zarr

    label = np.zeros(hu.shape, np.uint8)
    label[30:33, 80:83, 70:73] = 3
    zarr.open_group(path / one.node).create_group("labels").create_array("spot", data=label)
    return path


def share_of_body(entry: dict) -> float:
    return float((entry["image"].numpy() > 500 / 3000 - 0.25).mean())


def test_crops_on_the_body_hold_more_of_it(head_path):
    shape = (24, 24, 24)
    anywhere, on_body = (
        [share_of_body(e) for e in CropDataset(head_path, shape, crops_per_volume=150, sampling=sampling)]
        for sampling in ("uniform", "body")
    )
    assert np.mean(np.array(anywhere) < 0.1) > 0.3
    assert np.mean(np.array(on_body) < 0.1) < 0.05


@pytest.mark.parametrize(("foreground", "low", "high"), [(1.0, 1, 1), (0.5, 0.35, 0.65), (0.0, 0, 0.1)])
def test_a_share_of_the_crops_is_centered_on_a_label(head_path, foreground, low, high):
    options = {"labels": ("spot",), "sampling": "label", "foreground": foreground}
    dataset = CropDataset(head_path, (24, 24, 24), crops_per_volume=150, **options)
    share = np.mean([bool(entry["label"].any()) for entry in dataset])
    assert low <= share <= high


def test_crops_hold_at_least_the_share_that_was_measured(head_path):
    dataset = CropDataset(head_path, (10, 10, 10), crops_per_volume=60, min_valid=0.5)
    assert all(start[0] >= 25 for start in starts(dataset))
    assert min(start[0] for start in starts(CropDataset(head_path, 10, crops_per_volume=60))) < 10


def test_a_transform_gets_each_entry(store_path):
    dataset = CropDataset(store_path, 3, transform=lambda entry: float(entry["image"].sum()))
    plain = CropDataset(store_path, 3)
    assert [dataset[i] for i in range(3)] == [float(plain[i]["image"].sum()) for i in range(3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (3, 0, 3)}, r"shape \(3, 0, 3\): allowed is \(z, y, x\), each 1 or more"),
        ({"shape": (3, 3)}, "shape"),
        ({"shape": (3.5, 3, 3)}, "shape"),
        ({"shape": "abc"}, "shape"),
        ({"crops_per_volume": 0}, "crops_per_volume 0: allowed is 1 or more"),
        ({"crops_per_volume": 1.5}, "crops_per_volume 1.5: allowed is a whole number"),
        ({"seed": -1}, "seed -1: allowed is 0 or more"),
        ({"series": "some"}, "series 'some': allowed is 'default' or 'all'"),
        ({"values": "raw"}, "values 'raw': allowed is 'normalized', 'hu'"),
        ({"dtype": "float16"}, "dtype 'float16': allowed is 'float32', 'int16'"),
        ({"dtype": "int16", "values": "hu"}, "values 'hu' are float32"),
        ({"sampling": "best"}, "sampling 'best': allowed is 'uniform', 'body', 'label'"),
        ({"sampling": "label"}, "sampling 'label' needs labels"),
        ({"foreground": 1.5}, "foreground 1.5: allowed is 0 to 1"),
        ({"min_valid": -1}, "min_valid -1: allowed is 0 to 1"),
        ({"patients": "P1"}, "patients 'P1': allowed is a collection"),
        ({"patients": ["P1", "P9"]}, "1 are in no store, 'P9' among them"),
        ({"labels": "tumor"}, "labels 'tumor': allowed is a sequence"),
        ({"where": lambda _: False}, "no volume of .* is chosen"),
    ],
)
def test_a_bad_argument_is_named_with_what_is_allowed(store_path, options, message):
    with pytest.raises(UsageError, match=message):
        CropDataset(store_path, **options)


def test_indices_are_those_of_any_sequence(torch, store_path):
    dataset = CropDataset(store_path, np.array([3, 3, 3]))
    assert torch.equal(dataset[-1]["image"], dataset[15]["image"])
    assert torch.equal(dataset[np.int64(2)]["image"], dataset[2]["image"])
    for index in (16, -17):
        with pytest.raises(IndexError, match=f"entry {index}: allowed is -16 to 15"):
            dataset[index]
    with pytest.raises(TypeError):
        dataset[1.5]


def test_volumes_come_whole_with_their_identity(torch, store_path, stored):
    dataset = VolumeDataset(store_path, series="all")
    assert len(dataset) == 3
    for entry, one in zip(dataset, stored, strict=True):
        assert entry["image"].dtype == torch.float32
        np.testing.assert_array_equal(entry["image"].numpy(), one.normalized[None])
        assert (entry["patient_id"], entry["series_key"]) == (one.patient_id, one.key)
        np.testing.assert_array_equal(entry["affine_lps"].numpy(), one.affine_lps)
    assert torch.equal(dataset[-1]["image"], dataset[2]["image"])
    with pytest.raises(IndexError):
        dataset[3]
