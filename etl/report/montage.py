"""The pictures of the report: a montage of axial slices."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from etl.volume.hounsfield import BRAIN_LEVEL_HU, BRAIN_WIDTH_HU
from etl.volume.normalize import Normalization

COLUMNS, ROWS = 4, 3
TILE_PX, MIN_TILE_PX = 220, 110
GAP_PX = 4
MARGIN_PX, RIM_PX = 4, 2

# Above fat: skin and muscle count as body, blankets and air do not.
_BODY_HU = -200.0
# Every second pixel of every second row shows where the body is as well as all of them.
_STRIDE = 2
# From these the slices are chosen; reading more planes of a chunk costs next to nothing.
_CANDIDATES = 36


@dataclass(frozen=True)
class Montage:
    """A JPEG of axial slices, with what a caption needs."""

    jpeg: bytes
    width_px: int
    height_px: int
    slices: int

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode('ascii')}"

    def save(self, path: Path) -> None:
        """Write the picture to a file; it appears there whole.

        Raises
        ------
        OSError
        """
        unfinished = path.with_suffix(".partial")
        unfinished.write_bytes(self.jpeg)
        unfinished.replace(path)

    @staticmethod
    def load(path: Path) -> Montage:
        """Read a picture that `save` wrote.

        Raises
        ------
        OSError
            There is none.
        """
        jpeg = path.read_bytes()
        with Image.open(io.BytesIO(jpeg)) as picture:
            return Montage(jpeg, *picture.size, int(picture.info["comment"]))


def candidate_planes(planes: int) -> list[int]:
    """Give the axial planes, of so many, from which `draw_montage` chooses."""
    evenly = np.linspace(0, planes - 1, min(_CANDIDATES, planes))
    return [int(k) for k in np.unique(evenly.round())]


def draw_montage(
    planes: Sequence[NDArray[np.float32]],
    normalization: Normalization,
    *,
    z_mm: Sequence[float],
    spacing_mm: tuple[float, float],
) -> Montage:
    """Draw axial slices spread evenly over the body, brain window.

    Rows run to posterior and columns to the patient's left, as stored: the patient's right is on the viewer's
    left, anterior is up.

    Parameters
    ----------
    planes : sequence of n (y, x) float32 arrays
        The `candidate_planes` of a volume, normalized.
    normalization : Normalization
        How they map back to Hounsfield units.
    z_mm : sequence of n floats
        Where the planes lie.
    spacing_mm : (y, x)

    Returns
    -------
    Montage
        From inferior to superior, row by row.
    """
    low, high = normalization.window_hu
    above = normalization.value_of(max(_BODY_HU, low + 0.02 * (high - low)))
    body = np.stack([plane[::_STRIDE, ::_STRIDE] for plane in planes]) > above
    chosen = _spread(body.mean(axis=(1, 2)) > 0.01, COLUMNS * ROWS)
    rows, columns = (
        _bounds(np.asarray(body.any(axis=axes)), n)
        for axes, n in (((0, 2), planes[0].shape[0]), ((0, 1), planes[0].shape[1]))
    )
    return _join(
        [_tile(normalization.to_hu(planes[n][rows, columns]), spacing_mm, f"{z_mm[n]:.0f} mm") for n in chosen]
    )


def _spread(wanted: NDArray[np.bool_], count: int) -> list[int]:
    """Choose indices evenly from the first to the last wanted one; from all of them where none is."""
    found = np.flatnonzero(wanted)
    first, last = (found[0], found[-1]) if found.size else (0, len(wanted) - 1)
    edges = np.linspace(first, last + 1, min(count, last - first + 1) + 1)
    return [int(i) for i in (edges[:-1] + edges[1:]) / 2]


def _bounds(wanted: NDArray[np.bool_], pixels: int) -> slice:
    found = np.flatnonzero(wanted) * _STRIDE
    if not found.size:
        return slice(0, pixels)
    margin = pixels // 20
    return slice(max(0, int(found[0]) - margin), int(found[-1]) + _STRIDE + margin)


def _tile(hu: NDArray[np.float32], spacing_mm: tuple[float, float], label: str) -> Image.Image:
    """Draw one slice (y, x) to scale, its longer side TILE_PX."""
    low = BRAIN_LEVEL_HU - BRAIN_WIDTH_HU / 2
    gray = np.clip((hu - low) * (255 / BRAIN_WIDTH_HU), 0, 255).astype(np.uint8)
    height_mm, width_mm = (n * mm for n, mm in zip(hu.shape, spacing_mm, strict=True))
    scale = TILE_PX / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    canvas = (max(size[0], MIN_TILE_PX), max(size[1], MIN_TILE_PX))
    picture = Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    tile = Image.new("L", canvas)
    tile.paste(picture, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    for text, size_px, is_right, is_bottom in (
        ("R", 15, False, False),
        ("L", 15, True, False),
        (label, 13, False, True),
    ):
        letters, mask = _lettering(text, size_px)
        left = canvas[0] - MARGIN_PX - letters.width if is_right else MARGIN_PX
        tile.paste(letters, (left, canvas[1] - MARGIN_PX - letters.height if is_bottom else MARGIN_PX), mask)
    return tile


@lru_cache(maxsize=512)
def _lettering(text: str, size_px: int) -> tuple[Image.Image, Image.Image]:
    """Draw words once, white with a black rim: the picture, and where it covers what is below it."""
    font = ImageFont.load_default(size_px)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, stroke_width=RIM_PX))
    letters, mask = (Image.new("L", (right - left, bottom - top)) for _ in range(2))
    ImageDraw.Draw(letters).text((-left, -top), text, 255, font, stroke_width=RIM_PX, stroke_fill=0)
    ImageDraw.Draw(mask).text((-left, -top), text, 255, font, stroke_width=RIM_PX, stroke_fill=255)
    return letters, mask


def _join(tiles: list[Image.Image]) -> Montage:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    across, down = (px + GAP_PX for px in tiles[0].size)
    sheet = Image.new("L", (columns * across - GAP_PX, rows * down - GAP_PX), 40)
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % columns * across, n // columns * down))
    buffer = io.BytesIO()
    # What the caption needs travels with the picture.
    sheet.save(buffer, "JPEG", quality=76, comment=str(len(tiles)))
    return Montage(buffer.getvalue(), sheet.width, sheet.height, len(tiles))
