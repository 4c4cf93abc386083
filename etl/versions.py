"""Workers elsewhere must run the software that runs here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etl.errors import UsageError

PACKAGES = ("etl", "numpy", "scipy", "pydicom", "zarr", "numcodecs", "imagecodecs", "pylibjpeg")
"""They decide a volume's bytes."""
# Pickled calls do not cross versions of these, which would hang, not fail.
_SAME_EVERYWHERE = ("python", "dask", "distributed", *PACKAGES)


def refuse_other_versions(found: Mapping[str, Any]) -> None:
    """Refuse workers with other versions than this process.

    Parameters
    ----------
    found : mapping
        As Dask's `Client.get_versions` gives it.

    Raises
    ------
    UsageError
        Names the worker and the packages.
    """
    here = found["client"]["packages"]
    for worker, node in found["workers"].items():
        there = node["packages"]
        differing = [name for name in _SAME_EVERYWHERE if there.get(name) != here.get(name)]
        if differing:
            named = ", ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in differing)
            raise UsageError(f"worker {worker} differs from this process: {named}")
