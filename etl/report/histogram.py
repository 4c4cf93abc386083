"""The histogram of Hounsfield units as an SVG, the usual ranges of tissues marked.

Written out by hand: a plotting library takes half a second to load and fifty times as long to draw it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX = 826, 279
# Between panels, and around them for labels: tissues stand above, slanted.
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 58, 46, 76, 44, 56
_SOFT_TISSUE_HU = (-140, 100)
_MAX_BINS = 300


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
    Tissue("gray matter", 35, 45, "#b8508a"),
    Tissue("blood (clot)", 55, 85, "#d0493e"),
)

# An SVG in an <img> follows the reader's light or dark theme by itself.
_STYLE = (
    "<style>:root{--ink:#3d4a57;--text:#27313b}"
    "@media (prefers-color-scheme:dark){:root{--ink:#aebccb;--text:#d5dde6}}"
    "text{font:12px system-ui,sans-serif;fill:var(--text)}"
    ".axis{stroke:var(--text);fill:none}.bars{fill:var(--ink)}</style>"
)


def draw_histogram(counts: NDArray[np.uint32], window_hu: tuple[int, int]) -> str:
    """Draw the counts per Hounsfield unit on a logarithmic axis, the soft tissues once more beside them.

    Parameters
    ----------
    counts : (high - low + 1,) uint32 array
        The store's ``hu_histogram``.
    window_hu : (low, high)
        The first and the last bin, HU.

    Returns
    -------
    str
        An SVG as a data URI.
    """
    low, high = window_hu
    soft = (max(_SOFT_TISSUE_HU[0], low), min(_SOFT_TISSUE_HU[1], high))
    has_soft = soft[1] - soft[0] >= 40 and window_hu != soft
    inner = WIDTH_PX - _LEFT - _RIGHT
    width = (inner - _GAP) * 0.535 if has_soft else float(inner)
    tissues = WIDE_TISSUES if high - low > 400 else SOFT_TISSUES
    panels = [_Panel(counts, low, window_hu, _LEFT, width, tissues, "whole window")]
    if has_soft:
        left = _LEFT + width + _GAP
        panels.append(_Panel(counts, low, soft, left, WIDTH_PX - _RIGHT - left, SOFT_TISSUES, "soft tissue"))
    parts = [part for panel in panels for part in panel.parts()]
    label = f'<text transform="translate(14 {(_TOP + HEIGHT_PX - _BOTTOM) / 2:.0f}) rotate(-90)" '
    parts.append(f'{label}text-anchor="middle">voxels per HU</text>')
    size = f'width="{WIDTH_PX}" height="{HEIGHT_PX}" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{_STYLE}{"".join(parts)}</svg>'
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


class _Panel:
    """One pair of axes: HU across, voxels per HU up, from one half to the highest."""

    def __init__(
        self,
        counts: NDArray[np.uint32],
        first_hu: int,
        window_hu: tuple[int, int],
        left: float,
        width: float,
        tissues: tuple[Tissue, ...],
        title: str,
    ) -> None:
        self._low, self._high = window_hu
        self._left, self._width, self._tissues, self._title = left, width, tissues, title
        part = counts[self._low - first_hu : self._high - first_hu + 1].astype(np.float64)
        self._step = max(1, len(part) // _MAX_BINS)
        starts = np.arange(0, len(part), self._step)
        self._per_hu = np.add.reduceat(part, starts) / np.diff(np.append(starts, len(part)))
        self._decades = math.log10(max(10.0, self._per_hu.max() * 1.6) / 0.5)

    def parts(self) -> Iterator[str]:
        """Give the elements of the drawing, in the order in which SVG paints them."""
        right, bottom = self._left + self._width, HEIGHT_PX - _BOTTOM
        yield from self._tissue_marks()
        yield f'<path class="bars" d="{self._outline()}"/>'
        yield f'<path class="axis" d="M{self._left:.1f} {_TOP}V{bottom}H{right:.1f}"/>'
        for hu in _round_steps(self._low, self._high):
            x = self._x(hu)
            yield f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
            label = str(hu).replace("-", "\N{MINUS SIGN}")
            yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>'
        for power in range(math.floor(math.log10(0.5 * 10**self._decades)) + 1):
            y = self._y(10.0**power)
            yield f'<path class="axis" d="M{self._left:.1f} {y:.1f}h-4"/>'
            yield f'<text x="{self._left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{_plain_count(power)}</text>'
        middle = self._left + self._width / 2
        yield f'<text x="{middle:.1f}" y="{bottom + 36}" text-anchor="middle">HU, {self._title}</text>'

    def _tissue_marks(self) -> Iterator[str]:
        for tissue in self._tissues:
            low, high = max(tissue.low_hu, self._low), min(tissue.high_hu, self._high)
            if low >= high:
                continue
            x, width = self._x(low), self._x(high) - self._x(low)
            size = f'x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{HEIGHT_PX - _BOTTOM - _TOP}"'
            yield f'<rect {size} fill="{tissue.color}" opacity=".3"/>'
            place = f"translate({x + width / 2:.1f} {_TOP - 5}) rotate(-50)"
            yield f'<text transform="{place}">{escape(tissue.name)}</text>'

    def _outline(self) -> str:
        edges = np.minimum(self._low - 0.5 + self._step * np.arange(len(self._per_hu) + 1), self._high + 0.5)
        x = np.repeat(self._x(edges), 2)
        y = np.concatenate([[self._y(0.5)], np.repeat(self._y(np.maximum(self._per_hu, 0.5)), 2), [self._y(0.5)]])
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)) + "Z"

    def _x(self, hu: float | NDArray[np.float64]) -> NDArray[np.float64]:
        across = (np.asarray(hu) - self._low + 0.5) / (self._high - self._low + 1)
        return np.asarray(self._left + across * self._width)

    def _y(self, count: float | NDArray[np.float64]) -> NDArray[np.float64]:
        height = HEIGHT_PX - _BOTTOM - _TOP
        return np.asarray(HEIGHT_PX - _BOTTOM - np.log10(np.asarray(count) / 0.5) * (height / self._decades))


def _round_steps(low: int, high: int) -> Iterator[int]:
    """Give four to eight whole numbers between, a round step apart; fewer where there are fewer."""
    step = 10 ** math.floor(math.log10(max(1, high - low)))
    step = next(s for s in (step // 5, step // 2, step, 2 * step) if s and (high - low) / s <= 7)
    yield from range(-(-low // step) * step, high + 1, step)


def _plain_count(power: int) -> str:
    unit = ("", " k", " M", " G")[power // 3]
    return f"{10 ** (power % 3)}{unit}"
