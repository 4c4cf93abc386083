"""Read the voxels of a NIfTI or NRRD mask, with the geometry that the file itself says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.codes import LabelCode
from etl.labels.source_mask import LabelError, refusing
from etl.read.optional_library import optional_library
from etl.volume.patient_space import LPS_TO_RAS

NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr", ".seg.nrrd")
INSTALL = "ct-etl[labels]"
# NRRD's names of spaces, and what turns their axes into LPS (teem.sourceforge.net/nrrd/format.html#space).
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


@dataclass(frozen=True)
class MaskVoxels:
    """A mask as its file has it.

    Parameters
    ----------
    values : (i, j, k) array
        Axes in the file's order.
    affine_lps : (4, 4) float64 array
        From (i, j, k, 1) to LPS mm; it can be inverted.
    names : dict
        Of segments, by value: what 3D Slicer wrote.
    """

    values: NDArray[Any]
    affine_lps: NDArray[np.float64]
    names: dict[int, str]


def read_mask_file(path: Path) -> MaskVoxels:
    """Read a mask of one of the endings `NIFTI` and `NRRD`.

    Raises
    ------
    LabelError
        ``unreadable-mask``: the name ends in something else, the file is damaged, it has not three axes, or it
        does not say where it lies.
    UsageError
        The library for it is not installed.
    """
    name = path.name.lower()
    if not name.endswith((*NIFTI, *NRRD)):
        raise _unreadable(f"its name ends in {path.suffix!r}; allowed is {', '.join((*NIFTI, *NRRD))}")
    with refusing("it"):
        values, affine, names = _read_nifti(path) if name.endswith(NIFTI) else _read_nrrd(path)
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.ndim != 3:
        raise _unreadable(f"it has axes {values.shape}; allowed are three")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise _unreadable(f"its affine {affine.tolist()} cannot be inverted")
    return MaskVoxels(values, affine, names)


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], dict[int, str]]:
    nib = optional_library("nibabel", wanted_for="a NIfTI mask", install=INSTALL)
    image = nib.load(path)
    if image.header["qform_code"] == 0 and image.header["sform_code"] == 0:
        raise _unreadable("qform_code and sform_code are 0: it does not say where it lies")
    # Its own inverse.
    return np.asanyarray(image.dataobj), LPS_TO_RAS @ np.asarray(image.affine, np.float64), {}


def _read_nrrd(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], dict[int, str]]:
    nrrd = optional_library("nrrd", wanted_for="an NRRD mask", install=INSTALL)
    values, header = nrrd.read(str(path))
    signs = SPACES.get(str(header.get("space", "")).lower())
    directions, origin = header.get("space directions"), header.get("space origin")
    if signs is None or directions is None or origin is None:
        raise _unreadable(
            f"space {header.get('space')!r}: allowed are {', '.join(SPACES)}, with space directions and origin"
        )
    if np.shape(directions) != (3, 3) or not np.isfinite(np.asarray(directions, np.float64)).all():
        raise _unreadable(f"it has axes {np.shape(values)}; allowed are three of space")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, np.float64).T * np.array(signs)[:, None]
    affine[:3, 3] = np.asarray(origin, np.float64) * signs
    return values, affine, _slicer_names(header)


def _slicer_names(header: Any) -> dict[int, str]:
    """Names of segments by value, as 3D Slicer writes them."""
    names = {}
    for key, value in header.items():
        if key.startswith("Segment") and key.endswith("_LabelValue"):
            names[int(value)] = str(header.get(f"{key.removesuffix('_LabelValue')}_Name", ""))
    return names


def _unreadable(why: str) -> LabelError:
    return LabelError(LabelCode.UNREADABLE_MASK, why)
