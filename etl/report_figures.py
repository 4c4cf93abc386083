"""The pictures of the report: a montage of axial slices."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from etl.stored import Volume

BRAIN_WIDTH_HU, BRAIN_LEVEL_HU = 80, 40
COLUMNS, ROWS = 4, 3
TILE_PX, MIN_TILE_PX = 220, 110
GAP_PX = 4

# Above fat: skin and muscle count as body, blankets and air do not.
_BODY_HU = -200.0
# The candidates from which the slices are chosen; reading more planes of a chunk costs next to nothing.
_CANDIDATES = 36


@dataclass(frozen=True)
class Montage:
    """A JPEG of axial slices as a data URI, with what a caption needs."""

    uri: str
    width_px: int
    height_px: int
    slices: int


def draw_montage(volume: Volume) -> Montage:
    """Draw axial slices spread evenly over the body, brain window.

    Rows run to posterior and columns to the patient's left, as stored: the patient's right is on the viewer's
    left, anterior is up.

    Parameters
    ----------
    volume : Volume
        Only the chunks that hold a candidate plane are decoded.

    Returns
    -------
    Montage
        From inferior to superior, row by row.

    Raises
    ------
    StoreError
        A chunk cannot be read.
    """
    count = min(_CANDIDATES, volume.shape[0])
    candidates = np.unique(np.linspace(0, volume.shape[0] - 1, count).round().astype(int))
    hu = volume.hu_of(volume.planes(0, candidates.tolist()))
    low, high = volume.window_hu
    body = hu > max(_BODY_HU, low + 0.02 * (high - low))
    chosen = _spread(body.mean(axis=(1, 2)) > 0.01, COLUMNS * ROWS)
    rows, columns = (_bounds(np.asarray(body.any(axis=axes))) for axes in ((0, 2), (0, 1)))
    origin_mm, step_mm = volume.affine_lps[2, 3], volume.affine_lps[2, 0]
    tiles = [
        _tile(hu[n, rows, columns], volume.spacing_mm[1:], f"{origin_mm + candidates[n] * step_mm:.0f} mm")
        for n in chosen
    ]
    return _join(tiles)


def _spread(wanted: NDArray[np.bool_], count: int) -> list[int]:
    """Choose indices evenly from the first to the last wanted one; from all of them where none is."""
    found = np.flatnonzero(wanted)
    first, last = (found[0], found[-1]) if found.size else (0, len(wanted) - 1)
    edges = np.linspace(first, last + 1, min(count, last - first + 1) + 1)
    return [int(i) for i in (edges[:-1] + edges[1:]) / 2]


def _bounds(wanted: NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(wanted)
    if not found.size:
        return slice(0, len(wanted))
    margin = len(wanted) // 20
    return slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin)


def _tile(hu: NDArray[np.float32], spacing_mm: tuple[float, ...], label: str) -> Image.Image:
    """Draw one slice (y, x) to scale, its longer side TILE_PX."""
    low = BRAIN_LEVEL_HU - BRAIN_WIDTH_HU / 2
    grey = np.clip((hu - low) * (255 / BRAIN_WIDTH_HU), 0, 255).astype(np.uint8)
    height_mm, width_mm = (n * mm for n, mm in zip(hu.shape, spacing_mm, strict=True))
    scale = TILE_PX / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    canvas = (max(size[0], MIN_TILE_PX), max(size[1], MIN_TILE_PX))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    tile = Image.new("L", canvas)
    tile.paste(picture, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    draw = ImageDraw.Draw(tile)
    for place, text, anchor, size_px in (
        ((6, 5), "R", "lt", 15),
        ((canvas[0] - 6, 5), "L", "rt", 15),
        ((5, canvas[1] - 5), label, "ls", 13),
    ):
        draw.text(place, text, 255, _font(size_px), anchor, stroke_width=2, stroke_fill=0)
    return tile


@lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _join(tiles: list[Image.Image]) -> Montage:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    across, down = (px + GAP_PX for px in tiles[0].size)
    sheet = Image.new("L", (columns * across - GAP_PX, rows * down - GAP_PX), 40)
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % columns * across, n // columns * down))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=76)
    return Montage(
        f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        sheet.width,
        sheet.height,
        len(tiles),
    )
