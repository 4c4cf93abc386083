"""Parallel batch ETL from CT DICOM to one Zarr store keyed by patient ID.

`open_store` reads a store, `write_prediction` puts a mask back onto its DICOM slices; the command line ``ct-etl``
writes a store. Importing this package loads neither Dask, pydicom, zarr nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etl.errors import EtlError, SeriesError, StoreConflictError, StoreError, UsageError

if TYPE_CHECKING:
    from etl.labels.prediction import write_prediction
    from etl.read.patients import Patient, Store, Volume, open_store

__version__ = "0.1.0"

__all__ = [
    "EtlError",
    "Patient",
    "SeriesError",
    "Store",
    "StoreConflictError",
    "StoreError",
    "UsageError",
    "Volume",
    "__version__",
    "open_store",
    "write_prediction",
]


def __getattr__(name: str) -> Any:
    if name in {"Patient", "Store", "Volume", "open_store"}:
        from etl.read import patients  # noqa: PLC0415 - zarr is loaded on first use only

        return getattr(patients, name)
    if name == "write_prediction":
        from etl.labels.prediction import write_prediction  # noqa: PLC0415 - pydicom is loaded on first use only

        return write_prediction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
