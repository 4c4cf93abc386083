"""The pictures of the report: a montage of axial slices and the histogram of Hounsfield units."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
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
_SOFT_TISSUE_HU = (-140, 100)


@dataclass(frozen=True)
class Tissue:
    """The usual range of a tissue, HU."""

    name: str
    low_hu: int
    high_hu: int
    color: str


WIDE_TISSUES = (
    Tissue("air", -1000, -940, "#5b7c99"),
    Tissue("lung", -900, -500, "#3a9aa8"),
    Tissue("fat", -120, -60, "#c7962c"),
    Tissue("soft tissue", 0, 80, "#b8508a"),
    Tissue("bone", 250, 2000, "#8a7fd0"),
)
SOFT_TISSUES = (
    Tissue("fat", -120, -60, "#c7962c"),
    Tissue("water, CSF", 0, 15, "#3a8fd0"),
    Tissue("white matter", 20, 30, "#7d8a99"),
    Tissue("grey matter", 35, 45, "#b8508a"),
    Tissue("blood (clot)", 55, 85, "#d0493e"),
)


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
    return Montage(_data_uri("image/jpeg", buffer.getvalue()), sheet.width, sheet.height, len(tiles))


class HistogramDrawing:
    """Histograms of one window, drawn again and again on the same figure.

    Parameters
    ----------
    window_hu : tuple of int
        The first and the last bin, HU.
    """

    def __init__(self, window_hu: tuple[int, int]) -> None:
        self._low, high = window_hu
        soft = (max(_SOFT_TISSUE_HU[0], self._low), min(_SOFT_TISSUE_HU[1], high))
        tissues = WIDE_TISSUES if high - self._low > 400 else SOFT_TISSUES
        has_soft = soft[1] - soft[0] >= 40 and window_hu != soft
        with rc_context(_STYLE):
            self._figure = Figure(figsize=(8.6, 2.9), layout="constrained")
            self._figure.patch.set_visible(False)
            self._canvas = FigureCanvasSVG(self._figure)
            axes = self._figure.subplots(1, 1 + has_soft, squeeze=False, width_ratios=[1.15, 1][: 1 + has_soft])[0]
            step = max(1, (high - self._low) // 300)
            self._panels = [_Panel(axes[0], window_hu, step, tissues, "whole window")]
            if has_soft:
                self._panels.append(_Panel(axes[1], soft, 1, SOFT_TISSUES, "soft tissue"))
            axes[0].set_ylabel("voxels per HU")

    def draw(self, counts: NDArray[np.uint32]) -> str:
        """Draw the counts per Hounsfield unit (the store's `hu_histogram`) as an SVG data URI."""
        for panel in self._panels:
            panel.show(counts, self._low)
        buffer = io.StringIO()
        with rc_context(_STYLE):
            # Only the counts change: the first layout serves all, and takes longer than the drawing.
            if self._figure.get_layout_engine() is not None:
                self._figure.draw_without_rendering()
                self._figure.set_layout_engine("none")
            # Not savefig, which draws twice.
            self._canvas.print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
        return _data_uri("image/svg+xml", _themed(buffer.getvalue()).encode())


class _Panel:
    def __init__(
        self, axes: Axes, window_hu: tuple[int, int], step_hu: int, tissues: tuple[Tissue, ...], title: str
    ) -> None:
        self._axes, self._window, self._step = axes, window_hu, step_hu
        low, high = window_hu
        bins = -(-(high - low + 1) // step_hu)
        edges = low - 0.5 + step_hu * np.arange(bins + 1)
        self._stairs: StepPatch = axes.stairs(np.ones(bins), edges, baseline=0.1, fill=True, color=_INK)
        for tissue in tissues:
            _mark(axes, tissue, window_hu)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_count_label)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel(f"HU, {title}")
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.minorticks_off()

    def show(self, counts: NDArray[np.uint32], first_hu: int) -> None:
        low, high = self._window
        part = counts[low - first_hu : high - first_hu + 1].astype(np.float64)
        starts = np.arange(0, part.size, self._step)
        widths = np.diff(np.append(starts, part.size))
        per_hu = np.add.reduceat(part, starts) / widths
        self._stairs.set_data(np.maximum(per_hu, 0.1))
        self._axes.set_ylim(0.5, max(10.0, per_hu.max() * 1.6))


def _count_label(count: float, _position: float = 0) -> str:
    """Write a power of ten plainly; matplotlib's typeset exponents are half of the drawing time."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:g} {unit}"
    return f"{count:g}"


def _mark(axes: Axes, tissue: Tissue, window_hu: tuple[int, int]) -> None:
    """Shade the range of a tissue and write its name above the panel."""
    low, high = max(tissue.low_hu, window_hu[0]), min(tissue.high_hu, window_hu[1])
    if low >= high:
        return
    axes.axvspan(low, high, color=tissue.color, alpha=0.3, linewidth=0, zorder=0)
    axes.text(
        (low + high) / 2, 1.02, tissue.name, transform=axes.get_xaxis_transform(),
        ha="left", va="bottom", rotation=50, rotation_mode="anchor", fontsize=8.5,
    )  # fmt: skip


# Stand-ins for the page's own colours: an SVG in an <img> follows the reader's light or dark theme by itself.
_INK, _TEXT = "#0a0b0c", "#0c0b0a"
_THEME = (
    "<style>:root{--ink:#3d4a57;--text:#27313b}"
    "@media (prefers-color-scheme:dark){:root{--ink:#aebccb;--text:#d5dde6}}"
    "text{font-family:system-ui,sans-serif}</style>"
)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ct-etl",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _themed(svg: str) -> str:
    svg = re.sub(r"<svg[^>]*>", lambda tag: tag[0] + _THEME, svg[svg.index("<svg") :], count=1)
    # Decimals and lists of fonts are half of the file.
    svg = re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"font-family: [^;]*; ", "", svg))
    return re.sub(r"\s+", " ", svg).replace(_INK, "var(--ink)").replace(_TEXT, "var(--text)")


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
