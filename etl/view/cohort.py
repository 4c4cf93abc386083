"""The cohort as columns, read once: search, filters, sorting and pages are answered from memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from etl.errors import StoreError, UsageError
from etl.read.catalog import list_nodes
from etl.read.patients import Store, Volume

PAGE_ROWS = 50
MAX_PAGE_ROWS = 200
ANY_OF = ("warning", "kernel", "manufacturer", "label", "verdict")
RANGES = ("slices", "thickness_mm")


@dataclass(frozen=True)
class Row:
    """One volume as the list shows it."""

    node: str
    patient_id: str
    series_key: str
    is_default: bool
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    slices: int = 0
    thickness_mm: float | None = None
    kernel: str = ""
    manufacturer: str = ""
    model: str = ""
    warnings: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    problem: str = ""

    @property
    def words(self) -> str:
        """What a search looks through."""
        parts = (self.patient_id, self.series_key, self.kernel, self.manufacturer, self.model)
        return " ".join((*parts, *self.warnings, *self.labels)).casefold()


ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "patient": attrgetter("patient_id", "series_key"),
    "series": attrgetter("series_key", "patient_id"),
    "slices": attrgetter("slices", "patient_id", "series_key"),
    "voxels": lambda row: (_product(row.shape), row.node),
    "spacing": lambda row: (row.spacing_mm, row.node),
    "thickness": lambda row: (row.thickness_mm is None, row.thickness_mm or 0.0, row.node),
    "kernel": attrgetter("kernel", "node"),
    "manufacturer": attrgetter("manufacturer", "model", "node"),
    "warnings": lambda row: (-len(row.warnings), row.warnings, row.node),
}


@dataclass(frozen=True)
class Query:
    """What a person wants to see.

    Parameters
    ----------
    search : str
        Words that must all occur.
    any_of : mapping
        For a name of `ANY_OF`, the values of which a volume has at least one.
    ranges : mapping
        For a name of `RANGES`, the least and the greatest value; None for no limit.
    order : str
        One of `ORDERS`.
    is_descending : bool
    """

    search: str = ""
    any_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    order: str = "patient"
    is_descending: bool = False

    @staticmethod
    def parse(values: Mapping[str, Sequence[str]]) -> Query:
        """Read a query string.

        Raises
        ------
        UsageError
            An order or a number is not one.
        """
        order = (values.get("sort") or ["patient"])[0]
        if order.removeprefix("-") not in ORDERS:
            raise UsageError(f"sort {order!r}: allowed is {', '.join(ORDERS)}, or -NAME")
        ranges = {}
        for name in RANGES:
            low, high = (_number(values, f"{name}_{end}") for end in ("min", "max"))
            ranges[name] = (low, high)
        any_of = {name: [one for one in values.get(name, ()) if one] for name in ANY_OF}
        search = (values.get("q") or [""])[0]
        return Query(search, any_of, ranges, order.removeprefix("-"), order.startswith("-"))


class Cohort:
    """All volumes of a store, as rows.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows = [
            _row(volume, is_default=volume.key == patient.default_key)
            for patient in store.values()
            for volume in patient.values()
        ]
        self._by_node = {row.node: row for row in self.rows}
        self._words = {row.node: row.words for row in self.rows}

    def __contains__(self, node: object) -> bool:
        return node in self._by_node

    def row(self, node: str) -> Row:
        """Give one volume's row; a `KeyError` where there is none."""
        return self._by_node[node]

    def volume(self, node: str) -> Volume:
        """Open one volume; a `KeyError` where there is none."""
        row = self._by_node[node]
        return self.store[row.patient_id][row.series_key]

    def find(self, query: Query, verdict_of: Callable[[str], str]) -> list[Row]:
        """Give the rows that a query asks for, in its order.

        Parameters
        ----------
        query : Query
        verdict_of : callable
            The verdict of a node; `etl.read.verdicts.UNJUDGED` where nobody has judged it.
        """
        words = query.search.casefold().split()
        found = [
            row
            for row in self.rows
            if all(word in self._words[row.node] for word in words)
            and all(_is_within(getattr(row, name), *ends) for name, ends in query.ranges.items())
            and all(
                not wanted or not set(wanted).isdisjoint(_values(row, name, verdict_of))
                for name, wanted in query.any_of.items()
            )
        ]
        return sorted(found, key=ORDERS[query.order], reverse=query.is_descending)

    def choices(self, verdict_of: Callable[[str], str]) -> dict[str, list[tuple[str, int]]]:
        """Give what each filter can choose from, with the number of volumes, by name."""
        found = {}
        for name in ANY_OF:
            counts = Counter(value for row in self.rows for value in _values(row, name, verdict_of) if value)
            found[name] = sorted(counts.items())
        return found


def labels_of(store_path: str, node: str) -> list[str]:
    """List the names of a volume's labels."""
    return sorted(path.rpartition("/")[2] for path in list_nodes(store_path, f"{node}/labels"))


def _values(row: Row, name: str, verdict_of: Callable[[str], str]) -> Sequence[str]:
    if name == "verdict":
        return (verdict_of(row.node),)
    if name in {"warning", "label"}:
        values: tuple[str, ...] = getattr(row, f"{name}s")
        return values
    return (getattr(row, name),)


def _row(volume: Volume, *, is_default: bool) -> Row:
    known = (volume.node, volume.patient_id, volume.key, is_default)
    try:
        geometry, dicom = volume.geometry, volume.dicom
        # To look for labels in a bucket would be a request a volume; the page of a volume asks.
        labels = () if "://" in volume.store_path else tuple(labels_of(volume.store_path, volume.node))
        return Row(
            *known,
            shape=geometry.shape,
            spacing_mm=geometry.spacing_mm,
            slices=geometry.source_shape[geometry.slice_axis],
            thickness_mm=_float(dicom.get("SliceThickness")),
            kernel=_text(dicom.get("ConvolutionKernel")),
            manufacturer=_text(dicom.get("Manufacturer")),
            model=_text(dicom.get("ManufacturerModelName")),
            warnings=tuple(volume.warnings),
            labels=labels,
        )
    except StoreError:
        # The error names the store's path, which has no place on the page.
        return Row(*known, problem="Its metadata cannot be read; ct-etl verify says more.")


def _is_within(value: float | None, low: float | None, high: float | None) -> bool:
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _number(values: Mapping[str, Sequence[str]], name: str) -> float | None:
    text = (values.get(name) or [""])[0].strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise UsageError(f"{name} {text!r}: a number is needed") from error


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _product(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
