"""What a scanner does with a `HeadPhantom`: where the slices lie and which values are stored. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etl.errors import UsageError
from etl.phantom.head import HeadPhantom

PLANES: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}
"""Image Orientation (Patient) (0020,0037) of the usual planes."""


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One stack of slices to write: where the slices are and how their values are stored.

    `regular` computes the positions. Slices are numbered in the order of `positions_lps_mm`.

    Raises
    ------
    UsageError
        The cosines are not orthonormal, or the padding does not fit the stored bits.
    """

    positions_lps_mm: NDArray[np.float64]
    """(n, 3) Image Position (Patient) (0020,0032): center of the first pixel of each slice, LPS mm."""
    orientation: tuple[float, ...] = PLANES["axial"]
    rows: int = 512
    columns: int = 512
    pixel_spacing_mm: tuple[float, float] = (0.48828125, 0.48828125)
    """Distance between rows, then between columns."""
    thickness_mm: float = 5.0
    gantry_tilt_deg: float = 0.0
    """What Gantry/Detector Tilt (0018,1120) says; `orientation` holds the tilt itself."""
    slope: float = 1.0
    intercept: float | tuple[float, ...] = -1024.0
    """For all slices, or one a slice."""
    bits_stored: int = 16
    high_bit: int | None = None
    """None: bits_stored - 1, the only value that CT Image Storage allows; other ones shift the value."""
    pixel_representation: Literal[0, 1] = 1
    padding: int | None = None
    """Stored value outside the circular field of view; a negative one is wrapped if values are unsigned."""
    padding_attribute: bool = True
    """Write Pixel Padding Value (0028,0120) where there is padding."""
    noise_hu: float = 0.0
    """Standard deviation of white noise, HU."""
    supersample: int = 1
    """Average n x n points a pixel, as a detector does."""
    series_number: int = 1
    series_description: str = "HEAD PHANTOM"
    kernel: str = "SOFT"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    transfer_syntax_uid: str = "1.2.840.10008.1.2.1"
    """Explicit VR Little Endian unless told; `etl.phantom.files` lists what can be written."""
    acquisition_number: int = 1
    temporal_position: int | None = None

    def __post_init__(self) -> None:
        axes = np.array(self.orientation, np.float64).reshape(2, 3)
        if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-6):
            raise UsageError(f"orientation {self.orientation}: allowed are two orthonormal vectors")
        low, high = self.stored_range
        if self.stored_padding is not None and not low <= self.stored_padding <= high:
            raise UsageError(f"padding {self.padding}: allowed is {low} to {high} in {self.bits_stored} bits")

    @classmethod
    def regular(
        cls,
        *,
        count: int = 32,
        spacing_mm: float = 5.0,
        gaps_mm: Sequence[float] | None = None,
        center_lps_mm: ArrayLike = (0.0, 0.0, 0.0),
        orientation: str | Sequence[float] = "axial",
        gantry_tilt_deg: float = 0.0,
        **options: Any,
    ) -> Acquisition:
        """Stack slices along their normal, around a center.

        Parameters
        ----------
        count : int
            Slices.
        spacing_mm : float
            Distance between neighbors; negative: from the last position to the first.
        gaps_mm : sequence of float, optional
            The count - 1 distances, instead of `spacing_mm`; `count` then follows from them.
        center_lps_mm : (3,) array
            Center of the stack, LPS mm.
        orientation : str or six float
            A name in `PLANES` or Image Orientation (Patient).
        gantry_tilt_deg : float
            Turn the image plane about its row axis, but not the direction in which slices advance: the
            table moves on along z. Positive: the anterior edge moves to the feet.
        **options
            Other fields of the acquisition.
        """
        axes = np.array(PLANES[orientation] if isinstance(orientation, str) else orientation, np.float64)
        row, column = axes[:3], axes[3:]
        table = np.cross(row, column)
        tilt = np.radians(gantry_tilt_deg)
        column = np.cos(tilt) * column + np.sin(tilt) * table
        gaps = np.full(count - 1, spacing_mm) if gaps_mm is None else np.asarray(gaps_mm, np.float64)
        along = np.concatenate([[0.0], np.cumsum(gaps)])
        one = cls(np.zeros((1, 3)), tuple(np.concatenate([row, column]).tolist()), **options)
        half_height = (one.rows - 1) / 2 * one.pixel_spacing_mm[0]
        half_width = (one.columns - 1) / 2 * one.pixel_spacing_mm[1]
        corner = np.asarray(center_lps_mm, np.float64) - half_height * column - half_width * row
        positions = corner + (along - along[-1] / 2)[:, None] * table
        return replace(one, positions_lps_mm=positions, gantry_tilt_deg=gantry_tilt_deg)

    @property
    def stored_range(self) -> tuple[int, int]:
        """Smallest and largest value that the stored bits hold."""
        if self.pixel_representation:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    @property
    def stored_padding(self) -> int | None:
        """Padding as stored: -2000 is 63536 where values are unsigned."""
        if self.padding is None or self.pixel_representation:
            return self.padding
        return self.padding & 0xFFFF

    def intercept_of(self, index: int) -> float:
        """Give Rescale Intercept (0028,1052) of a slice, HU."""
        return self.intercept[index] if isinstance(self.intercept, tuple) else self.intercept

    def stored(self, phantom: HeadPhantom, index: int, rng: np.random.Generator) -> NDArray[np.integer]:
        """Give the stored values of one slice.

        Parameters
        ----------
        phantom : HeadPhantom
            What lies in the scanner.
        index : int
            Slice, in the order of `positions_lps_mm`.
        rng : numpy.random.Generator
            Source of the noise.

        Returns
        -------
        (rows, columns) int16 or uint16 array
            Pixel Data (7FE0,0010), clipped to the stored bits.
        """
        n = self.supersample
        down = np.array(self.orientation[3:]) * (self.pixel_spacing_mm[0] / n)
        along = np.array(self.orientation[:3]) * (self.pixel_spacing_mm[1] / n)
        origin = self.positions_lps_mm[index] - (n - 1) / 2 * (down + along)
        hu = phantom.hu_on_plane(origin, down, along, (self.rows * n, self.columns * n))
        if n > 1:
            hu = hu.reshape(self.rows, n, self.columns, n).mean(axis=(1, 3))
        if self.noise_hu:
            hu += np.float32(self.noise_hu) * rng.standard_normal(hu.shape, np.float32)
        hu -= np.float32(self.intercept_of(index))
        hu /= np.float32(self.slope)
        np.clip(np.rint(hu, out=hu), *self.stored_range, out=hu)
        stored = hu.astype(np.int16 if self.pixel_representation else np.uint16)
        if self.stored_padding is not None:
            stored[self._outside_view()] = self.stored_padding
        shift = 0 if self.high_bit is None else self.high_bit + 1 - self.bits_stored
        return np.left_shift(stored, shift) if shift else stored

    def _outside_view(self) -> NDArray[np.bool_]:
        """Mark the pixels outside the circle that fits into the image."""
        height, width = self.pixel_spacing_mm
        y = (np.arange(self.rows) - (self.rows - 1) / 2) * height
        x = (np.arange(self.columns) - (self.columns - 1) / 2) * width
        radius = min(self.rows * height, self.columns * width) / 2
        return np.asarray(y[:, None] ** 2 + x[None, :] ** 2 > radius**2)
