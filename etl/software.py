"""What decides the bytes of a volume: the versions of this package and of its libraries."""

from __future__ import annotations

from functools import cache
from importlib import metadata

# By their names as distributions. Dask only moves work about.
SOFTWARE = (
    *("ct-etl", "numpy", "scipy", "pydicom", "zarr", "numcodecs"),
    *("imagecodecs", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"),
)


@cache
def software_versions() -> dict[str, str]:
    """Give the versions of everything that decides the bytes of a volume."""
    return {name: metadata.version(name) for name in SOFTWARE}
