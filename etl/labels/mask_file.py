"""Read a mask from a NIfTI or NRRD file, with its own geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.read.optional_library import optional_library
from etl.volume.patient_space import LPS_TO_RAS

NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr")
INSTALL = "ct-etl[labels]"
# How NRRD names its space: the signs that lead from there to LPS.
TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "lps": (1, 1, 1),
    "ras": (-1, -1, 1),
    "las": (1, -1, 1),
}


def read_mask(path: Path) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Read a mask.

    Parameters
    ----------
    path : Path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.nhdr``.

    Returns
    -------
    (z, y, x) uint16 array
        Axes in the file's order, last first: (k, j, i).
    (4, 4) float64 array
        From (k, j, i, 1) to LPS mm.

    Raises
    ------
    UsageError
        The name ends in something else, the file cannot be read, it has not three axes or no geometry, a value is
        no whole number from 0 to 65535, or the library for it is not installed.
    """
    name = path.name.lower()
    if not name.endswith((*NIFTI, *NRRD)):
        raise UsageError(f"mask {str(path)!r}: allowed is {', '.join((*NIFTI, *NRRD))}")
    try:
        values, affine = _read_nifti(path) if name.endswith(NIFTI) else _read_nrrd(path)
    except UsageError:
        raise
    except Exception as error:
        # nibabel and pynrrd raise whatever a damaged header provokes.
        raise UsageError(f"mask {str(path)!r} cannot be read: {error}") from error
    if values.ndim != 3:
        raise UsageError(f"mask {str(path)!r} has {values.ndim} axes; 3 are needed")
    return whole_values(values.transpose(2, 1, 0), path.name), affine[:, [2, 1, 0, 3]]


def whole_values(values: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """Give a mask as whole numbers.

    Raises
    ------
    UsageError
        A value is no whole number from 0 to 65535.
    """
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 65535):
        raise UsageError(f"{name}: values run from {values.min()} to {values.max()}; allowed is 0 to 65535")
    whole = values.astype(np.uint16)
    if not np.array_equal(whole, values):
        raise UsageError(f"{name}: values are not whole; a mask has 0 for background and a number a structure")
    return whole


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    nib = optional_library("nibabel", wanted_for=path.name, install=INSTALL)
    image = nib.load(path)
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise UsageError(f"mask {str(path)!r}: sform_code and qform_code are 0; it does not say where it lies")
    # Its own inverse.
    return np.asarray(image.dataobj), LPS_TO_RAS @ np.asarray(image.affine, np.float64)


def _read_nrrd(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    nrrd = optional_library("nrrd", wanted_for=path.name, install=INSTALL)
    values, header = nrrd.read(str(path))
    space = str(header.get("space", "")).lower()
    if space not in TO_LPS or "space directions" not in header or "space origin" not in header:
        raise UsageError(
            f"mask {str(path)!r}: space {space!r}; allowed is {', '.join(TO_LPS)}, with directions and origin"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], np.float64).T
    affine[:3, 3] = header["space origin"]
    return values, np.diag([*TO_LPS[space], 1.0]) @ affine
