"""Where the slices of a stack are: order, gaps, tilt. Positions decide, never file names or thickness.

References
----------
DICOM PS3.3 C.7.6.2.1.1 (Image Position and Image Orientation), C.7.6.16.2.3 (Plane Position, enhanced).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.volume.gaps import find_missing, find_uncovered

# Image Position is a decimal string: scanners print two to six decimals, so closer positions are the same one.
SAME_POSITION_MM = 0.01
# A kilometer: no table reaches it.
MAX_POSITION_MM = 1e6
# From micro-CT to a projection of the whole body.
PIXEL_SPACING_MM = (1e-3, 100.0)
# Two parts of a scan may meet anywhere, but only where they meet; slices are never planned so close.
CLOSE_SHARE = 0.05
CLOSE_MAX_SHARE = 0.4
IRREGULAR_SHARE = 0.02
IRREGULAR_MM = 0.011
TILT_DEG = 0.1
# A tilted gantry moves slices evenly; a field of view that was moved jumps.
EVEN_MM = 0.1
ORTHOGONAL_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Layout:
    """Slices of one stack, ordered along their normal.

    Parameters
    ----------
    order : (n,) int array
        Which slice comes first, second … along the normal.
    axes : (3, 3) float64 array
        Rows are unit LPS directions: the slice normal, from row to row, from column to column.
    offset_mm : (n, 3) float64 array
        Center of each ordered slice's first pixel, in the frame of `axes`, mm. Column 0 increases strictly.
    row_spacing_mm, column_spacing_mm : float
        Pixel Spacing (0028,0030).
    rows, columns : int
    gantry_tilt_deg : float
        Positive where slices move towards larger rows as they advance along the normal; the sign that the
        scanner's own Gantry/Detector Tilt (0018,1120) has on head-first supine scans.
    missing : (n - 1,) bool array
        The gap behind a slice is one that a lost slice left.
    interpolated : (n - 1,) bool array
        What lies in the gap was not measured: a slice is missing, or slices are too thin to reach across.
    """

    order: NDArray[np.intp]
    axes: NDArray[np.float64]
    offset_mm: NDArray[np.float64]
    row_spacing_mm: float
    column_spacing_mm: float
    rows: int
    columns: int
    gantry_tilt_deg: float
    missing: NDArray[np.bool_]
    interpolated: NDArray[np.bool_]

    @cached_property
    def gaps_mm(self) -> NDArray[np.float64]:
        """Distances between neighbors along the normal, (n - 1,)."""
        return np.diff(self.offset_mm[:, 0])

    @cached_property
    def is_even(self) -> bool:
        """Whether slices lie behind each other on a straight line, upright or tilted."""
        return _line_residual_mm(self.offset_mm) <= EVEN_MM

    @cached_property
    def is_regular(self) -> bool:
        """Whether all gaps are equal as far as printed positions can tell."""
        return are_equal(self.gaps_mm)


def are_equal(gaps_mm: NDArray[np.float64]) -> bool:
    """Tell whether gaps between slices, at least one, are equal as far as printed positions can tell."""
    middle = float(np.median(gaps_mm))
    spread = float(np.abs(gaps_mm - middle).max())
    return spread <= max(IRREGULAR_MM, IRREGULAR_SHARE * middle)


@lru_cache(maxsize=64)
def slice_axes(orientation: tuple[float, ...]) -> NDArray[np.float64]:
    """Give the unit directions (normal, row to row, column to column) of an image plane.

    Parameters
    ----------
    orientation : tuple of six floats
        Image Orientation (Patient) (0020,0037): direction of the first row (towards larger column numbers),
        then of the first column (towards larger row numbers).

    Raises
    ------
    SeriesError
        ``missing-geometry``: not six finite cosines of two orthogonal directions.
    """
    values = np.asarray(orientation, np.float64)
    if values.shape != (6,) or not np.isfinite(values).all():
        raise SeriesError(
            FailureCode.MISSING_GEOMETRY, f"Image Orientation (0020,0037) is {orientation}; six numbers are needed"
        )
    along_columns, along_rows = values[:3], values[3:]
    lengths = np.linalg.norm(along_columns), np.linalg.norm(along_rows)
    if min(lengths) < 0.9 or max(lengths) > 1.1:
        raise SeriesError(
            FailureCode.MISSING_GEOMETRY,
            f"Image Orientation (0020,0037) is {orientation}; two unit directions are needed",
        )
    along_columns, along_rows = along_columns / lengths[0], along_rows / lengths[1]
    cosine = float(along_columns @ along_rows)
    if abs(cosine) > ORTHOGONAL_TOLERANCE:
        raise SeriesError(
            FailureCode.MISSING_GEOMETRY,
            f"Image Orientation (0020,0037) is {orientation}; its directions must be at right angles",
        )
    along_rows = along_rows - cosine * along_columns
    along_rows /= np.linalg.norm(along_rows)
    axes = np.stack([np.cross(along_columns, along_rows), along_rows, along_columns])
    axes.flags.writeable = False  # It is handed out again: most stacks of a cohort lie alike.
    return axes


def lay_out(
    position_lps_mm: NDArray[np.float64],
    *,
    orientation: tuple[float, ...],
    pixel_spacing_mm: tuple[float, ...],
    rows: int,
    columns: int,
    thickness_mm: NDArray[np.float64],
    instance_number: NDArray[np.integer] | None = None,
) -> Layout:
    """Order the slices of a stack by where they are and describe the stack.

    Parameters
    ----------
    position_lps_mm : (n, 3) float64 array
        Image Position (Patient) (0020,0032): center of the first pixel.
    orientation : tuple of six floats
        Image Orientation (Patient) (0020,0037).
    pixel_spacing_mm : tuple of two floats
        Pixel Spacing (0028,0030): between rows, then between columns.
    rows, columns : int
    thickness_mm : (n,) float64 array
        Slice Thickness (0018,0050); NaN where absent. Used only to tell a lost slice from a wide gap.
    instance_number : (n,) int array, optional
        Instance Number (0020,0013); used for the same.

    Raises
    ------
    SeriesError
        ``missing-geometry``: a position, the orientation or the spacing is absent or senseless.
        ``duplicate-positions``: two slices are at one place, or many nearly so.
    """
    axes = slice_axes(orientation)
    if len(pixel_spacing_mm) != 2 or not all(
        PIXEL_SPACING_MM[0] <= spacing <= PIXEL_SPACING_MM[1] for spacing in pixel_spacing_mm
    ):
        raise SeriesError(
            FailureCode.MISSING_GEOMETRY,
            f"Pixel Spacing (0028,0030) is {pixel_spacing_mm}; two numbers from {PIXEL_SPACING_MM[0]} to "
            f"{PIXEL_SPACING_MM[1]} mm are needed",
        )
    lacking = np.asarray(~(np.abs(position_lps_mm) <= MAX_POSITION_MM).all(axis=1))
    if lacking.any():
        raise SeriesError(
            FailureCode.MISSING_GEOMETRY,
            f"Image Position (0020,0032) is absent or beyond {MAX_POSITION_MM:.0e} mm in {int(lacking.sum())} of "
            f"{len(lacking)} slices",
        )
    offset_mm = position_lps_mm @ axes.T
    order = np.argsort(offset_mm[:, 0], kind="stable")
    offset_mm = offset_mm[order]
    gaps = np.diff(offset_mm[:, 0])
    doubled = int((gaps < SAME_POSITION_MM).sum())
    if doubled:
        raise SeriesError(
            FailureCode.DUPLICATE_POSITIONS,
            f"{doubled} of {len(order)} slices lie within {SAME_POSITION_MM} mm of the one before",
        )
    _refuse_close(gaps, thickness_mm)
    missing = find_missing(gaps, thickness_mm[order], None if instance_number is None else instance_number[order])
    return Layout(
        order=order,
        axes=axes,
        offset_mm=offset_mm,
        row_spacing_mm=float(pixel_spacing_mm[0]),
        column_spacing_mm=float(pixel_spacing_mm[1]),
        rows=rows,
        columns=columns,
        gantry_tilt_deg=_tilt_deg(offset_mm) if _line_residual_mm(offset_mm) <= EVEN_MM else 0.0,
        missing=missing,
        interpolated=missing | find_uncovered(gaps, thickness_mm[order]),
    )


def _refuse_close(gaps_mm: NDArray[np.float64], thickness_mm: NDArray[np.float64]) -> None:
    """Refuse two scans that lie in each other with nothing to tell them apart."""
    if len(gaps_mm) < 2:
        return
    known = thickness_mm[np.isfinite(thickness_mm)]
    usual = float(np.median(known)) if len(known) else float(np.quantile(gaps_mm, 0.75))
    close = int((gaps_mm < CLOSE_SHARE * usual).sum())
    if close > max(1, CLOSE_MAX_SHARE * len(gaps_mm)):
        raise SeriesError(
            FailureCode.DUPLICATE_POSITIONS,
            f"{close} of {len(gaps_mm)} gaps are below {CLOSE_SHARE * usual:.3f} mm where slices are {usual:.3f} "
            "mm thick or apart: several scans of one region that nothing tells apart",
        )


def _line_residual_mm(offset_mm: NDArray[np.float64]) -> float:
    """How far first pixels lie from the straight line that an even table feed gives, in plane."""
    if len(offset_mm) < 3:
        return 0.0
    along = offset_mm[:, 0] - offset_mm[:, 0].mean()
    across = offset_mm[:, 1:] - offset_mm[:, 1:].mean(axis=0)
    slope = along @ across / (along @ along)
    return float(np.linalg.norm(across - along[:, None] * slope, axis=1).max())


def _tilt_deg(offset_mm: NDArray[np.float64]) -> float:
    """Angle between the normal and the line through the slices' first pixels, signed by the row direction."""
    if len(offset_mm) < 2:
        return 0.0
    centered = offset_mm - offset_mm.mean(axis=0)
    along, rows, columns = centered.T
    slope_rows = float(along @ rows / (along @ along))
    slope_columns = float(along @ columns / (along @ along))
    angle = float(np.degrees(np.arctan(np.hypot(slope_rows, slope_columns))))
    leading = slope_rows if abs(slope_rows) >= abs(slope_columns) else slope_columns
    return 0.0 if angle < TILT_DEG else round(float(np.copysign(angle, leading)), 4)
