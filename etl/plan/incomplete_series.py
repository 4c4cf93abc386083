"""Slices that lack what the others of their series have: they are no stack of their own, but a hole in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.stack import StackKey

_GEOMETRY: FailureCode = FailureCode.MISSING_GEOMETRY
_CODES: dict[str, tuple[FailureCode, str]] = {
    "orientation": (_GEOMETRY, "Image Orientation (0020,0037) is absent"),
    "pixel_spacing_mm": (_GEOMETRY, "Pixel Spacing (0028,0030) is absent"),
    "rescale_type": (FailureCode.MISSING_RESCALE, "Rescale Type (0028,1054) is not 'HU'"),
    "modality": (FailureCode.INCONSISTENT_SLICES, "Modality (0008,0060) is absent"),
}


def find_incomplete(keys: Sequence[StackKey], counts: Sequence[int]) -> list[SeriesError | None]:
    """Tell which stacks are what is left of a series in which some slices lack an attribute.

    Slices without an orientation, say, differ from the others in that and make a stack of their own, perhaps too
    small to be wanted. The volume of the others would have a hole, or end early, without a word.

    Parameters
    ----------
    keys : sequence of StackKey
    counts : sequence of int
        Slices of each stack.

    Returns
    -------
    list of SeriesError or None
        For each stack why it cannot be written: ``missing-geometry``, ``missing-rescale`` or
        ``inconsistent-slices``. None where no slice of its kind lacks anything, or all do.
    """
    found: list[SeriesError | None] = [None] * len(keys)
    if not any(_lacks(key, attribute) for key in keys for attribute in _CODES):
        return found
    series: defaultdict[StackKey, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        if key.modality in {"CT", ""} and key.has_pixels and not key.is_localizer:
            series[replace(key.bare(), rescale_type="HU", modality="CT")].append(i)
    for members in series.values():
        total = sum(counts[i] for i in members)
        for attribute, (code, what) in _CODES.items():
            lacking = [i for i in members if _lacks(keys[i], attribute)]
            if lacking and len(lacking) < len(members):
                count = sum(counts[i] for i in lacking)
                for i in members:
                    found[i] = SeriesError(code, f"{what} in {count} of {total} slices of the series")
                break
    return found


def _lacks(key: StackKey, attribute: str) -> bool:
    return key.rescale_type != "HU" if attribute == "rescale_type" else not getattr(key, attribute)
