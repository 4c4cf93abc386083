"""Parallel batch ETL from CT DICOM to one Zarr store keyed by patient ID.

`open_store` reads a store; the command line ``ct-etl`` writes one. Importing this package loads neither
Dask, pydicom, zarr nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etl.errors import EtlError, SeriesError, StoreConflictError, StoreError, UsageError

if TYPE_CHECKING:
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
]


def __getattr__(name: str) -> Any:
    if name in {"Patient", "Store", "Volume", "open_store"}:
        from etl.read import patients  # noqa: PLC0415 - zarr is loaded on first use only

        return getattr(patients, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
