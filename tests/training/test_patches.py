"""Patches for inference: they cover the volume, and come together again."""

from __future__ import annotations

import numpy as np
import pytest

from etl.errors import UsageError
from etl.read.patients import open_store
from etl.training import Assembly, PatchDataset, ThreadLoader, collate, worker_init

torch = pytest.importorskip("torch", reason="PyTorch is an optional extra")


@pytest.fixture
def volume(store_path):
    return open_store(store_path)["P1"].default


@pytest.mark.parametrize("shape", [(4, 4, 4), (9, 10, 11), (5, 20, 3), (16, 16, 16), 6])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("weighting", ["gaussian", "constant"])
def test_what_a_network_leaves_alone_is_the_volume_again(volume, shape, overlap, weighting):
    patches = PatchDataset(volume, shape, overlap=overlap)
    assembly = patches.assembly(channels=2, weighting=weighting)
    for indices in np.array_split(np.arange(len(patches)), max(1, len(patches) // 3)):
        batch = collate(patches.__getitems__(indices))
        assembly.add(torch.cat([batch["image"], 2 * batch["image"]], dim=1), batch["start"])
    found = assembly.result()
    np.testing.assert_allclose(found[0], volume[...], atol=1e-6)
    np.testing.assert_allclose(found[1], 2 * volume[...], atol=1e-6)


def test_patches_overlap_as_much_as_asked_for(volume):
    starts = PatchDataset(volume, (4, 4, 4), overlap=0.5).starts
    for axis, n in enumerate(volume.shape):
        at = np.unique(starts[:, axis])
        assert at[0] == 0
        assert at[-1] == n - 4
        assert np.diff(at).max() <= 2


def test_patches_go_through_loaders(volume):
    patches = PatchDataset(volume, (5, 5, 5))
    options = {"batch_size": 3, "num_workers": 1, "collate_fn": collate, "worker_init_fn": worker_init}
    by_torch = list(torch.utils.data.DataLoader(patches, **options))
    assert sum(len(batch["patient_id"]) for batch in by_torch) == len(patches)
    whole = torch.cat([batch["image"] for batch in by_torch])
    assert torch.equal(whole, torch.stack([patch["image"] for patch in patches]))


def test_the_middle_of_a_patch_counts_more(volume):
    assembly = Assembly((8, 4, 4), (4, 4, 4))
    for start, value in ((0, 0.0), (2, 1.0), (4, 2.0)):
        assembly.add(np.full((1, 1, 4, 4, 4), value, np.float32), np.array([[start, 0, 0]]))
    line = assembly.result()[0, :, 1, 1]
    assert (np.diff(line) >= 0).all()
    assert line[2] < 0.5 < line[3]


def test_a_voxel_without_a_patch_is_refused(volume):
    with pytest.raises(UsageError, match="990 voxels lie in no patch"):
        PatchDataset(volume, 4).assembly().result()


@pytest.mark.parametrize(("options", "message"), [({"overlap": 1}, "overlap 1"), ({"shape": 0}, "shape 0")])
def test_a_bad_argument_is_named(volume, options, message):
    with pytest.raises(UsageError, match=message):
        PatchDataset(volume, **options)
    with pytest.raises(UsageError, match="weighting 'even'"):
        Assembly((4, 4, 4), (4, 4, 4), weighting="even")


def test_a_worker_is_kept_to_one_thread():
    before = torch.get_num_threads()
    try:
        worker_init(3)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_patches_need_no_sampler(volume):
    loader = ThreadLoader(PatchDataset(volume, 5), 4, threads=2)
    assert sum(len(batch["patient_id"]) for batch in loader) == len(PatchDataset(volume, 5))
