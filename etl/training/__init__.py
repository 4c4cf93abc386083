"""Feed PyTorch from a store: crops, whole volumes, grids of patches, and what keeps their order.

`docs/training.md` shows how. PyTorch is needed from the first data set on, not to import this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl.training.batches import collate, normalize, worker_init
    from etl.training.crops import CropDataset
    from etl.training.patches import Assembly, PatchDataset
    from etl.training.sampler import CropSampler, Draw
    from etl.training.split import split_patients
    from etl.training.thread_loader import ThreadLoader
    from etl.training.whole import VolumeDataset

__all__ = [
    "Assembly",
    "CropDataset",
    "CropSampler",
    "Draw",
    "PatchDataset",
    "ThreadLoader",
    "VolumeDataset",
    "collate",
    "normalize",
    "split_patients",
    "worker_init",
]

_HOMES = {
    **dict.fromkeys(("collate", "normalize", "worker_init"), "batches"),
    **dict.fromkeys(("Assembly", "PatchDataset"), "patches"),
    **dict.fromkeys(("CropSampler", "Draw"), "sampler"),
    "CropDataset": "crops",
    "ThreadLoader": "thread_loader",
    "VolumeDataset": "whole",
    "split_patients": "split",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"etl.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
