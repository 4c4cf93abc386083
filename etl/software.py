"""What decides the bytes of a volume: the versions of this package and of its libraries.

Workers elsewhere must run the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from etl.errors import UsageError
from etl.transfer_syntaxes import DISTRIBUTIONS

# By their names as distributions, which for this package is not its name as a module. Dask only moves work about.
SOFTWARE: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            *("ct-etl", "numpy", "scipy", "pydicom", "zarr", "numcodecs"),
            *(name for names in DISTRIBUTIONS.values() for name in names),
        )
    )
)
# Pickled calls do not cross versions of these, which would hang, not fail.
_SAME_EVERYWHERE = ("python", "dask", "distributed", *SOFTWARE)


@cache
def software_versions() -> dict[str, str]:
    """Give the versions of everything that decides the bytes of a volume."""
    return {name: metadata.version(name) for name in SOFTWARE}


def refuse_other_versions(found: Mapping[str, Any]) -> None:
    """Refuse workers with other versions than this process.

    Parameters
    ----------
    found : mapping
        As Dask's `Client.get_versions` gives it for `SOFTWARE`.

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
