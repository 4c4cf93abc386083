"""Where crops are drawn: anywhere, on the body, or on a label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etl.read.patients import Volume
from etl.read.stored_array import read_values
from etl.training.volume_table import VolumeTable, body_cells
from etl.volume.body import CELL_VOXELS, body_shares

Sampling = Literal["uniform", "body", "label"]
MAX_TRIES = 16
LABEL = "labels/"
"""Begins the kind of cells that are counted on a label."""


class Places:
    """Draws where the crops of a table's volumes begin.

    Parameters
    ----------
    table : VolumeTable
    shape : (z, y, x)
        Of a crop.
    sampling : {"uniform", "body", "label"}
    foreground : float
        Share of crops on a label.
    min_valid : float
        Least share of a crop that was measured.
    labels : tuple of str
    """

    def __init__(
        self,
        table: VolumeTable,
        shape: tuple[int, int, int],
        sampling: Sampling,
        foreground: float,
        min_valid: float,
        labels: tuple[str, ...],
    ) -> None:
        self._table, self._shape, self._sampling = table, np.array(shape), sampling
        self._foreground, self._min_valid, self._labels = foreground, min_valid, labels
        # Cumulated weights of cells, by volume and kind: some kB each.
        self._cells: dict[tuple[int, str], NDArray[np.float64]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cells": {}}

    def draw(self, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the first voxel (z, y, x) of a crop of one volume; may lie outside where the volume is smaller."""
        best, best_valid = self._place(number, rng), -1.0
        if self._min_valid == 0:
            return best
        start = best
        for _ in range(MAX_TRIES):
            valid = self._valid_share(number, start)
            if valid > best_valid:
                best, best_valid = start, valid
            if valid >= self._min_valid:
                break
            start = self._place(number, rng)
        return best

    def _place(self, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
        slack = self._table.shapes[number] - self._shape
        low, high = np.minimum(slack, 0), np.maximum(slack, 0)
        kind = "body" if self._sampling != "uniform" else ""
        if self._sampling == "label" and rng.random() < self._foreground:
            kind = f"{LABEL}{self._labels[rng.integers(len(self._labels))]}"
        start: NDArray[np.int64] = rng.integers(low, high, endpoint=True)
        for each in dict.fromkeys((kind, "body")) if kind else ():
            weights = self._weights(number, each)
            if weights[-1] > 0:
                center = self._center(number, each, weights, rng)
                inside: NDArray[np.int64] = np.clip(center - self._shape // 2, 0, high)
                start = np.where(slack < 0, start, inside).astype(np.int64)
                break
        return start

    def _center(
        self, number: int, kind: str, weights: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw a voxel: for body anywhere in a cell that has some, for a label one that has it."""
        shape = self._table.shapes[number]
        cell = int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))
        corner = np.array(np.unravel_index(cell, tuple(-(-shape // CELL_VOXELS)))) * CELL_VOXELS
        stop = np.minimum(corner + CELL_VOXELS, shape)
        if kind == "body":
            return rng.integers(corner, stop)
        volume = self._table[number]
        with volume.reading(kind):
            inside = [range(a, b) for a, b in zip(corner.tolist(), stop.tolist(), strict=True)]
            found = np.argwhere(read_values(volume.label(kind.removeprefix(LABEL)), inside))
        center: NDArray[np.int64] = corner + found[int(rng.integers(len(found)))]
        return center

    def _weights(self, number: int, kind: str) -> NDArray[np.float64]:
        found = self._cells.get((number, kind))
        if found is None:
            volume = self._table[number]
            shares = body_cells(volume) if kind == "body" else _label_shares(volume, kind.removeprefix(LABEL))
            found = self._cells[number, kind] = np.cumsum(shares, dtype=np.float64)
        return found

    def _valid_share(self, number: int, start: NDArray[np.int64]) -> float:
        """Share of a crop's voxels that were measured; what lies outside the volume was not."""
        volume = self._table[number]
        first, stop = np.maximum(start, 0), np.minimum(start + self._shape, volume.shape)
        measured = volume.validity_of([range(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True)])
        return float(np.count_nonzero(measured == 1)) / float(np.prod(self._shape))


def _label_shares(volume: Volume, name: str) -> NDArray[np.uint8]:
    """Share of voxels with a label in each cell."""
    with volume.reading(f"{LABEL}{name}"):
        array = volume.label(name)
        return body_shares(read_values(array, [range(n) for n in array.shape]), above=0)
