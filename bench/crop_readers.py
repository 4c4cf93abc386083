"""Read crops one after the other in one process, by one reader; print CPU seconds a crop and what was read.

``crop_readers.py READER FOLDER SIDE --rounds N``: FOLDER is what `crop_inputs.py` wrote. Run by this project's
interpreter or by the peers', whichever has the reader.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Crop = tuple[str, tuple[int, int, int]]
Read = Callable[[str, tuple[slice, slice, slice]], NDArray[Any]]


def memory_map(folder: Path, dtype: str, *, floats: bool) -> Read:
    """Map numpy's own files; what is read is copied into a new array, as a batch needs it."""
    maps: dict[str, NDArray[Any]] = {
        path.stem: np.load(path, mmap_mode="r") for path in (folder / dtype).glob("*.npy")
    }

    def read(name: str, place: tuple[slice, slice, slice]) -> NDArray[Any]:
        found: NDArray[Any] = np.array(maps[name][place], np.float32 if floats else None)
        if floats and dtype == "int16":
            np.multiply(found, np.float32(2**-13), out=found)
        return found

    return read


def nnunet(folder: Path, kind: str) -> Read:
    """Open the case for every crop, as nnU-Net's loader does."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    cases = nnUNetDatasetBlosc2(str(folder / kind))

    def read(name: str, place: tuple[slice, slice, slice]) -> NDArray[Any]:
        data, _, _, _ = cases.load_case(name)
        found: NDArray[Any] = np.asarray(data[(slice(0, 1), *place)])[0]
        return found

    return read


def own(folder: Path, store: str, dtype: Any) -> Read:
    """Read by `etl.open_store` into a new array."""
    from etl import open_store

    volumes = {
        f"{patient.key}--{key}": volume
        for patient in open_store(folder / f"{store}.zarr").values()
        for key, volume in patient.items()
    }
    return lambda name, place: volumes[name].read(place, dtype=dtype)


def zarr_python(folder: Path) -> Read:
    """Read the layout of format 1.0 (64^3, zstd) by zarr-python, as this project did."""
    import zarr

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    arrays = {path.name: zarr.open_array(path, mode="r") for path in (folder / "format10").iterdir()}
    return lambda name, place: np.asarray(arrays[name][place])


READERS: dict[str, Callable[[Path], Read]] = {
    "format 1.0, zarr-python": zarr_python,
    "float32": lambda folder: own(folder, "float32", "float32"),
    "int16 to float32": lambda folder: own(folder, "int16", "float32"),
    "int16 to int16": lambda folder: own(folder, "int16", "int16"),
    "none to float32": lambda folder: own(folder, "none", "float32"),
    "none to int16": lambda folder: own(folder, "none", "int16"),
    "nnU-Net": lambda folder: nnunet(folder, "nnunet-full"),
    "nnU-Net, rounded": lambda folder: nnunet(folder, "nnunet-rounded"),
    "memory map float32": lambda folder: memory_map(folder, "float32", floats=True),
    "memory map int16 to float32": lambda folder: memory_map(folder, "int16", floats=True),
    "memory map int16": lambda folder: memory_map(folder, "int16", floats=False),
}


def crops(folder: Path, side: int) -> Iterator[Crop]:
    """Give the places that every reader reads."""
    for name, start in json.loads((folder / "places.json").read_text())[str(side)]:
        z, y, x = start
        yield name, (z, y, x)


def main() -> None:
    """Measure one reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("side", type=int)
    options = parser.parse_args()
    read = READERS[options.reader](options.folder)
    places = [
        (name, (slice(z, z + options.side), slice(y, y + options.side), slice(x, x + options.side)))
        for name, (z, y, x) in crops(options.folder, options.side)
    ]
    sums = []
    for name, place in places:
        found = read(name, place)
        unit = 2**-13 if found.dtype == np.int16 else 1.0
        sums.append(float(found.sum(dtype=np.float64)) * unit)
    start = time.process_time()
    for name, place in places:
        read(name, place)
    cpu_s = (time.process_time() - start) / len(places)
    print(json.dumps({"cpu_s": cpu_s, "sums": sums}))


if __name__ == "__main__":
    main()
