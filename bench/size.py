"""Print how large a store's volumes are with zarr's defaults, written to TARGET: ``size.py STORE TARGET``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import zarr

import etl


def main() -> None:
    """Write every volume of a store as an array with zarr's defaults."""
    source, target = sys.argv[1:]
    group = zarr.open_group(target, mode="w")
    values = 0
    for patient_id, patient in etl.open_store(source).items():
        for key, volume in patient.items():
            values += volume[...].size
            group[f"{patient_id}/{key}"] = volume[...]
    stored = sum(path.stat().st_size for path in Path(target).rglob("*") if path.is_file())
    print(json.dumps({"values": values, "bytes": stored}))


if __name__ == "__main__":
    main()
