"""Convert series with another program, one after the other in one process; run by the peers' interpreter.

``peers.py NAME SOURCE TARGET --series N`` converts the first N patients.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

WINDOW_HU = (-1000.0, 2000.0)
SPACING_MM = (1.0, 1.0, 1.0)
PATCH_SHAPE = (128, 128, 128)

Convert = Callable[[Path, Path], None]


def simpleitk() -> Convert:
    """SimpleITK: read, linear to 1 mm, window, save."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 - its users' name for it

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def convert(folder: Path, target: Path) -> None:
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        size = [round(n * s / t) for n, s, t in zip(image.GetSize(), image.GetSpacing(), SPACING_MM, strict=True)]
        image = sitk.Resample(
            image,
            size,
            sitk.Transform(),
            sitk.sitkLinear,
            image.GetOrigin(),
            SPACING_MM,
            image.GetDirection(),
            WINDOW_HU[0],
            sitk.sitkFloat32,
        )
        image = sitk.IntensityWindowing(image, *WINDOW_HU, 0.0, 1.0)
        np.save(target.with_suffix(".npy"), sitk.GetArrayViewFromImage(image))

    return convert


def torchio() -> Convert:
    """TorchIO: canonical, 1 mm, clamp, rescale, save uncompressed."""
    import torch
    import torchio as tio

    torch.set_num_threads(1)
    _one_simpleitk_thread()
    transform = tio.Compose(
        [
            tio.ToCanonical(),
            tio.Resample(1),
            tio.Clamp(*WINDOW_HU),
            tio.RescaleIntensity((0, 1), in_min_max=WINDOW_HU),
        ]
    )

    def convert(folder: Path, target: Path) -> None:
        transform(tio.ScalarImage(folder)).save(target.with_suffix(".nii"))

    return convert


def monai() -> Convert:
    """MONAI: orient, 1 mm, scale, save; the reader of DICOM is the one it chooses."""
    import numpy as np
    import torch
    from monai import transforms

    torch.set_num_threads(1)
    # The reader is made here, with the start-up: it imports what it reads with.
    transform = transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.Orientation(axcodes="RAS", labels=None),
            transforms.Spacing(pixdim=SPACING_MM),
            transforms.ScaleIntensityRange(*WINDOW_HU, 0.0, 1.0, clip=True),
        ]
    )

    def convert(folder: Path, target: Path) -> None:
        np.save(target.with_suffix(".npy"), transform(folder).numpy())

    return convert


def nnunet() -> Convert:
    """nnU-Net: its resampling to 1 mm (cubic) and its blosc2 files, as its preprocessor calls them."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813
    import torch
    from nnunetv2.preprocessing.resampling import default_resampling as resampling
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    torch.set_num_threads(1)
    _one_simpleitk_thread()

    def convert(folder: Path, target: Path) -> None:
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        spacing = image.GetSpacing()[::-1]
        data = sitk.GetArrayFromImage(image)[None].astype(np.float32)
        shape = resampling.compute_new_shape(data.shape[1:], spacing, SPACING_MM)
        np.clip(data, *WINDOW_HU, out=data)
        data = resampling.resample_data_or_seg_to_shape(
            data, shape, spacing, SPACING_MM, is_seg=False, order=3, order_z=0, force_separate_z=None
        ).astype(np.float32, copy=False)
        # It always saves a segmentation; one of a single value costs it next to nothing.
        labels = np.zeros(data.shape, np.int16)
        blocks, chunks = comp_blosc2_params(data.shape, PATCH_SHAPE, data.itemsize)
        label_blocks, label_chunks = comp_blosc2_params(labels.shape, PATCH_SHAPE, labels.itemsize)
        nnUNetDatasetBlosc2.save_case(
            data, labels, {}, str(target),
            chunks=chunks, blocks=blocks, chunks_seg=label_chunks, blocks_seg=label_blocks,
        )  # fmt: skip

    return convert


def _one_simpleitk_thread() -> None:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


PEERS: dict[str, Callable[[], Convert]] = {
    "simpleitk": simpleitk,
    "torchio": torchio,
    "monai": monai,
    "nnunet": nnunet,
}


def main() -> None:
    """Convert the first patients of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--series", type=int, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.target.mkdir(parents=True, exist_ok=True)
    convert = PEERS[options.name]()
    for patient in sorted(options.source.iterdir())[: options.series]:
        [series] = [path for path in patient.iterdir() if path.is_dir()]
        convert(series, options.target / patient.name)


if __name__ == "__main__":
    main()
