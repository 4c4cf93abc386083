"""NIfTI and NRRD masks to pixels on planes, by their own affine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.codes import LabelCode
from etl.errors import UsageError
from etl.labels.source_mask import LabelError, MaskSegment, PixelMask
from etl.store.label_encoding import MAX_VALUE, Segment
from etl.volume.patient_space import LPS_TO_RAS
from etl.volume.plane_masks import MaskPlanes

# NRRD's names of spaces, and what turns their axes into LPS (teem.sourceforge.net/nrrd/format.html#space).
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr", ".seg.nrrd")


def read_nifti(path: Path) -> PixelMask:
    """Read a NIfTI mask: whole numbers are segments, fractions of 0 to 1 one segment.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LabelError
        ``unreadable-mask``: it has no three axes, no place in the patient, or other values.
    UsageError
        nibabel is not installed.
    """
    try:
        import nibabel  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing("nibabel") from error
    image: Any = nibabel.load(path)
    if image.header["qform_code"] == 0 and image.header["sform_code"] == 0:
        raise LabelError(
            LabelCode.UNREADABLE_MASK, "qform_code and sform_code are 0: it does not say where it lies"
        )
    return pixel_mask(np.asanyarray(image.dataobj), LPS_TO_RAS @ image.affine, {})


def read_nrrd(path: Path) -> PixelMask:
    """Read an NRRD mask; one that 3D Slicer wrote (``.seg.nrrd``) names its segments.

    Parameters
    ----------
    path : Path

    Raises
    ------
    LabelError
        ``unreadable-mask``: it has no three axes, no space that is known, or other values.
    UsageError
        pynrrd is not installed.
    """
    try:
        import nrrd  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing("pynrrd") from error
    values, header = nrrd.read(str(path))
    signs = SPACES.get(str(header.get("space", "")).lower())
    directions, origin = header.get("space directions"), header.get("space origin")
    if signs is None or directions is None or origin is None:
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"space {header.get('space')!r}: allowed are {', '.join(SPACES)}, with space directions and origin",
        )
    if np.shape(directions) != (3, 3) or not np.isfinite(np.asarray(directions, np.float64)).all():
        raise LabelError(LabelCode.UNREADABLE_MASK, f"it has axes {np.shape(values)}; allowed are three of space")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, np.float64).T * np.array(signs)[:, None]
    affine[:3, 3] = np.asarray(origin, np.float64) * signs
    return pixel_mask(values, affine, _slicer_names(header))


def _slicer_names(header: Any) -> dict[int, str]:
    """Names of segments by value, as 3D Slicer writes them."""
    names = {}
    for key, value in header.items():
        if key.startswith("Segment") and key.endswith("_LabelValue"):
            names[int(value)] = str(header.get(f"{key.removesuffix('_LabelValue')}_Name", ""))
    return names


def pixel_mask(values: NDArray[Any], affine_lps: NDArray[np.float64], names: dict[int, str]) -> PixelMask:
    """Cut an array into planes across its coarsest axis.

    Parameters
    ----------
    values : (i, j, k) array
    affine_lps : (4, 4) float64 array
        From (i, j, k, 1) to LPS mm.
    names : dict
        Of segments, by value.
    """
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.ndim != 3:
        raise LabelError(LabelCode.UNREADABLE_MASK, f"it has axes {values.shape}; allowed are three")
    steps = affine_lps[:3, :3].T
    if not np.isfinite(affine_lps).all() or abs(np.linalg.det(steps)) == 0:
        raise LabelError(LabelCode.UNREADABLE_MASK, f"its affine {affine_lps.tolist()} cannot be inverted")
    is_fractional = _is_fractional(values)
    # Of equal steps the last one: slices, as most programs write them.
    lengths = np.round(np.linalg.norm(steps, axis=1), 6)
    across = 2 - int(np.argmax(lengths[::-1]))
    along, down = (axis for axis in range(3) if axis != across)
    if np.cross(steps[along], steps[down]) @ steps[across] < 0:
        along, down = down, along
    planes_values = values.transpose(across, down, along)
    origins = affine_lps[:3, 3] + np.arange(values.shape[across])[:, None] * steps[across]
    planes = MaskPlanes(origins, steps[down], steps[along], float(lengths[across]))
    if is_fractional:
        pixels: dict[int, NDArray[Any]] = {n: plane.astype(np.float32) for n, plane in enumerate(planes_values)}
        return PixelMask(planes, (MaskSegment(Segment(1, names.get(1, "")), pixels),), is_fractional=True)
    numbers = [int(number) for number in np.unique(values) if number != 0]
    if numbers and not 0 < numbers[0] <= numbers[-1] <= MAX_VALUE:
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"values run from {numbers[0]} to {numbers[-1]}; allowed is 0 to {MAX_VALUE}",
        )
    segments = tuple(
        MaskSegment(
            Segment(number, names.get(number, "")),
            {n: found for n, plane in enumerate(planes_values) if (found := plane == number).any()},
        )
        for number in numbers
    )
    return PixelMask(planes, segments)


def _is_fractional(values: NDArray[Any]) -> bool:
    """Tell fractions from whole numbers; anything else is no mask."""
    if values.dtype.kind in "biu":
        return False
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise LabelError(LabelCode.UNREADABLE_MASK, f"its values are {values.dtype}; allowed are finite numbers")
    if (values == np.rint(values)).all():
        return False
    if values.min() < 0 or values.max() > 1:
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"values run from {values.min()} to {values.max()}; allowed are whole numbers, or fractions of 0 to 1",
        )
    return True


def _missing(name: str) -> UsageError:
    return UsageError(f"{name} is needed to read this mask: pip install 'ct-etl[labels]'")
