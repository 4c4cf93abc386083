"""What decides the bytes of a volume: the versions of this package and of its libraries.

Workers elsewhere must run the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

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


def versions_here() -> dict[str, str | None]:
    """Give the versions that a worker elsewhere must have too; None: not installed."""
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info))}
    for name in _SAME_EVERYWHERE[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def differing_versions(expected: Mapping[str, str | None], found: Mapping[str, Any] | None = None) -> str:
    """Name what differs, such as ``"numpy 1.26.4 there, 2.1.0 here"``; empty: nothing.

    Parameters
    ----------
    expected : mapping
        Versions where the run was started ("here").
    found : mapping, optional
        Versions of a worker ("there"); by default those of this process.
    """
    there = versions_here() if found is None else found
    return ", ".join(
        f"{name} {there.get(name)} there, {version} here"
        for name, version in expected.items()
        if there.get(name) != version
    )
