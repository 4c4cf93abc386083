"""Feed batches of 96^3 by one loader on two cores; print crops a second of wall time.

``crop_loaders.py LOADER FOLDER --crops N``. Run by the interpreter that has the loader.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 96
BATCH = 4
CORES = 2

Batches = Iterator[Any]


def threads(folder: Path, store: str, dtype: Any) -> Batches:
    """`ThreadLoader` with two threads."""
    from etl.training import CropDataset, ThreadLoader

    loader = ThreadLoader(
        CropDataset(folder / f"{store}.zarr", SIDE, dtype=dtype, crops_per_volume=64), BATCH, CORES
    )
    while True:
        for batch in loader:
            yield batch["image"]


def processes(folder: Path, store: str, dtype: Any) -> Batches:
    """PyTorch's DataLoader with two workers."""
    from etl.training import CropDataset, CropSampler, collate, worker_init

    torch: Any = import_module("torch")
    crops = CropDataset(folder / f"{store}.zarr", SIDE, dtype=dtype, crops_per_volume=64)
    loader = torch.utils.data.DataLoader(
        crops,
        batch_size=BATCH,
        sampler=CropSampler(crops),
        num_workers=CORES,
        collate_fn=collate,
        worker_init_fn=worker_init,
        persistent_workers=True,
    )
    while True:
        for batch in loader:
            yield batch["image"]


def nnunet(folder: Path) -> Batches:
    """nnU-Net's loader without augmentation, in two processes of batchgenerators."""
    from types import SimpleNamespace

    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
        NonDetMultiThreadedAugmenter,
    )
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    cases = nnUNetDatasetBlosc2(str(folder / "nnunet-full"))
    labels: Any = SimpleNamespace(all_labels=[1], has_ignore_label=False)
    shape = (SIDE, SIDE, SIDE)
    loader = nnUNetDataLoader(cases, BATCH, shape, shape, labels)
    batches = NonDetMultiThreadedAugmenter(loader, None, CORES, 2 * CORES, pin_memory=False)
    while True:
        yield next(batches)["data"]


def torchio(folder: Path) -> Batches:
    """TorchIO's queue over NIfTI, 16 crops a volume."""
    torch: Any = import_module("torch")
    tio: Any = import_module("torchio")
    nifti = folder / "nifti"
    if not nifti.exists():
        nifti.mkdir()
        for path in (folder / "float32").glob("*.npy"):
            tio.ScalarImage(tensor=torch.from_numpy(np.load(path)[None])).save(nifti / f"{path.stem}.nii.gz")
    subjects = [tio.Subject(image=tio.ScalarImage(path)) for path in sorted(nifti.iterdir())]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects * 8), max_length=64, samples_per_volume=16,
        sampler=tio.UniformSampler(SIDE), num_workers=CORES,
    )  # fmt: skip
    while True:
        for batch in tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0):
            yield batch["image"][tio.DATA]


def monai(folder: Path) -> Batches:
    """MONAI's CacheDataset: every volume in memory, two workers crop."""
    torch: Any = import_module("torch")
    data: Any = import_module("monai.data")
    transforms: Any = import_module("monai.transforms")
    steps = transforms.Compose(
        [
            transforms.LoadImaged("image", ensure_channel_first=False),
            transforms.EnsureChannelFirstd("image", channel_dim="no_channel"),
            transforms.RandSpatialCropd("image", (SIDE, SIDE, SIDE), random_size=False),
        ]
    )
    files = [{"image": str(path)} for path in sorted((folder / "float32").glob("*.npy"))]
    cached = data.CacheDataset(files * 64, steps, cache_num=len(files) * 64, progress=False, hash_as_key=True)
    loader = torch.utils.data.DataLoader(cached, BATCH, shuffle=True, num_workers=CORES, persistent_workers=True)
    while True:
        for batch in loader:
            yield batch["image"]


LOADERS: dict[str, Callable[[Path], Batches]] = {
    "threads, float32": lambda folder: threads(folder, "float32", "float32"),
    "threads, int16 to float32": lambda folder: threads(folder, "int16", "float32"),
    "threads, int16 to int16": lambda folder: threads(folder, "int16", "int16"),
    "threads, none to float32": lambda folder: threads(folder, "none", "float32"),
    "DataLoader, int16 to float32": lambda folder: processes(folder, "int16", "float32"),
    "nnU-Net": nnunet,
    "TorchIO": torchio,
    "MONAI": monai,
}


def main() -> None:
    """Measure one loader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loader", choices=list(LOADERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=400)
    options = parser.parse_args()
    batches = LOADERS[options.loader](options.folder)
    for _ in range(2 * CORES * 2):
        next(batches)
    start, done = time.perf_counter(), 0
    while done < options.crops:
        done += len(next(batches))
    print(json.dumps({"crops_per_s": done / (time.perf_counter() - start)}), flush=True)
    # Some of the loaders' processes wait for what nobody asks for any more, with our output open.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
