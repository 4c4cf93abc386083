"""Write the same volumes in every layout that the section on training reads.

``crop_inputs.py own DICOM FOLDER``: stores, numpy's files, the layout of format 1.0, and where crops lie;
``crop_inputs.py nnunet FOLDER``: nnU-Net's files, by the peers' interpreter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SIDES = (96, 128)
CROPS_A_VOLUME = 8
STORES: dict[str, tuple[str, ...]] = {
    "float32": (),
    "int16": ("--dtype", "int16"),
    "none": ("--dtype", "int16", "--codec", "none"),
    "full": ("--precision-bits", "full"),
}


def write_own(source: Path, folder: Path) -> None:
    """Write everything that needs this project."""
    import zarr
    from zarr.codecs import BloscCodec

    from etl import open_store

    folder.mkdir(parents=True)
    for name, options in STORES.items():
        command = [sys.executable, "-m", "etl", "run", str(source), str(folder / f"{name}.zarr"), "-q", *options]
        subprocess.run([*command, "--workers", "0"], check=True, stdout=subprocess.DEVNULL)
    rng = np.random.default_rng(0)
    places: dict[str, list[tuple[str, list[int]]]] = {str(side): [] for side in SIDES}
    for kind in ("float32", "full"):
        for patient in open_store(folder / f"{kind}.zarr").values():
            for key, volume in patient.items():
                name, values = f"{patient.key}--{key}", volume[...]
                (folder / kind).mkdir(exist_ok=True)
                np.save(folder / kind / f"{name}.npy", values)
                if kind == "full":
                    continue
                (folder / "int16").mkdir(exist_ok=True)
                np.save(folder / "int16" / f"{name}.npy", np.rint(values * 2**13).astype(np.int16))
                even = tuple(-(-n // -(-n // 64)) for n in values.shape)
                zarr.create_array(
                    folder / "format10" / name,
                    data=values,
                    chunks=even,
                    shards=tuple(-(-n // c) * c for n, c in zip(values.shape, even, strict=True)),
                    compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", blocksize=1 << 18),
                )
                for side in SIDES:
                    for _ in range(CROPS_A_VOLUME if min(values.shape) >= side else 0):
                        places[str(side)].append(
                            (name, [int(rng.integers(0, n - side + 1)) for n in values.shape])
                        )
    (folder / "places.json").write_text(json.dumps(places))


def write_nnunet(folder: Path) -> None:
    """Write nnU-Net's own files, of rounded and of unrounded values; the segmentation is empty."""
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    for kind, source in (("nnunet-full", "full"), ("nnunet-rounded", "float32")):
        (folder / kind).mkdir()
        for path in sorted((folder / source).glob("*.npy")):
            data = np.load(path)[None]
            blocks, chunks = comp_blosc2_params(data.shape, (96, 96, 96), data.itemsize)
            segmentation = np.zeros(data.shape, np.int8)
            nnUNetDatasetBlosc2.save_case(
                data,
                segmentation,
                {"class_locations": {1: []}},
                str(folder / kind / path.stem),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=chunks,
                blocks_seg=blocks,
            )


def main() -> None:
    """Write one kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["own", "nnunet"])
    parser.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args()
    if options.kind == "own":
        write_own(*options.paths)
    else:
        write_nnunet(*options.paths)


if __name__ == "__main__":
    main()
