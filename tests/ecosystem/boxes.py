"""Volumes that the tools are shown, a mask to go with them, and a word where a tool is missing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

STACKS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "straight": (("--native",), {}),
    "tilted": (("--spacing-mm", "3"), {"gantry_tilt_deg": 18.5}),
    "oblique": (
        ("--native",),
        {"orientation": (0.9396926207859084, 0.3420201433256687, 0.0, -0.3368240888334652, 0.9254165783983234,
                         0.1736481776669303)},
    ),
}  # fmt: skip


def needs(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            name, reason=f"{name} is not installed: make test-ecosystem", exc_type=ImportError
        )


def two_boxes(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    z, y, x = (n // 4 for n in shape)
    mask[z : 3 * z, y : 2 * y, x : 3 * x], mask[z : 2 * z, 2 * y : 3 * y, x : 2 * x] = 1, 2
    return mask
