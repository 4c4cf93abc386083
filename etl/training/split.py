"""Divide patients, never volumes: two scans of one person in training and test would flatter any network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from etl.errors import UsageError

ROUNDING = 1e-9


def split_patients(
    patients: Iterable[str], fractions: Mapping[str, float] | Sequence[float] = (0.8, 0.2), seed: int = 0
) -> dict[str, list[str]]:
    """Divide patients by a hash of their ID, so that patients who come later move nobody.

    Parameters
    ----------
    patients : iterable of str
        Patient IDs; a store is one.
    fractions : mapping or sequence of float
        Shares by name; in a sequence the first is "train", then "validation" and "test". They sum to 1 and hold
        for many patients, not to the patient for few.
    seed : int
        Another seed, another division.

    Returns
    -------
    dict of list of str
        Patient IDs by name, sorted.

    Raises
    ------
    UsageError
        The fractions are negative, do not sum to 1, or are more than three without names.

    Examples
    --------
    >>> split_patients([f"P{n}" for n in range(8)], (0.75, 0.25), seed=1)["validation"]
    ['P5']
    """
    names = ("train", "validation", "test")
    if not isinstance(fractions, Mapping):
        if len(fractions) > len(names):
            raise UsageError(f"fractions {list(fractions)}: more than {len(names)} need names, as in a dict")
        fractions = dict(zip(names, fractions, strict=False))
    total = sum(fractions.values())
    if not fractions or min(fractions.values()) < 0 or abs(total - 1) > ROUNDING:
        raise UsageError(
            f"fractions {dict(fractions)}: allowed are shares from 0 that sum to 1; they sum to {total}"
        )
    bounds = list(accumulate(fractions.values()))
    divided: dict[str, list[str]] = {name: [] for name in fractions}
    for patient_id in sorted(patients):
        place = _place(patient_id, seed)
        name = next((name for name, bound in zip(fractions, bounds, strict=True) if place < bound), None)
        divided[name if name is not None else list(fractions)[-1]].append(patient_id)
    return divided


def _place(patient_id: str, seed: int) -> float:
    """Give a number from 0 to below 1 that depends on nothing else."""
    digest = hashlib.sha256(f"{seed}\0{patient_id}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
