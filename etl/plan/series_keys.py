"""The keys of the stacks of a series.

What tells a stack apart decides, never its order among those that a run happens to see.
"""

from __future__ import annotations

from collections.abc import Sequence

from etl.digests import json_digest
from etl.stack import Stack
from etl.store.node_names import series_key

# Cosines and spacings as far as scanners print them alike.
_COSINE_DECIMALS, _SPACING_DECIMALS = 2, 3


def keys_of(stacks: Sequence[Stack]) -> list[str]:
    """Give every stack a key that no other stack of its patient has.

    Parameters
    ----------
    stacks : sequence of Stack
        Numbered: the first of a series has the number 1.
    """
    taken: set[tuple[str, str]] = set()
    keys = []
    for stack in stacks:
        possible = [make(stack) for make in (first_key, further_key, last_resort_key)]
        patient = stack.key.patient_id
        key = next(key for key in possible[stack.number > 1 :] if (patient, key) not in taken)
        taken.add((patient, key))
        keys.append(key)
    return keys


def first_key(stack: Stack) -> str:
    """Give the key of the first stack of a series, and of the only one."""
    return series_key(stack.key.series_number, stack.key.series_instance_uid)


def further_key(stack: Stack) -> str:
    """Give the key of a stack beside others: the first key, and a digest of what tells this stack apart."""
    digest = json_digest(_what_tells_apart(stack))
    return series_key(stack.key.series_number, stack.key.series_instance_uid, digest)


def last_resort_key(stack: Stack) -> str:
    """Give the key of a stack that nothing tells apart but its slices."""
    slices = stack.slices
    identities = sorted(zip(slices.sop_instance_uid.tolist(), slices.frame.tolist(), strict=True))
    named = [[uid.decode("ascii", "replace"), frame] for uid, frame in identities]
    return series_key(stack.key.series_number, stack.key.series_instance_uid, json_digest({"slices": named}))


def _what_tells_apart(stack: Stack) -> dict[str, object]:
    key = stack.key
    return {
        "sop_class_uid": key.sop_class_uid,
        "modality": key.modality,
        "rows": key.rows,
        "columns": key.columns,
        "samples_per_pixel": key.samples_per_pixel,
        "orientation": [round(cosine, _COSINE_DECIMALS) + 0.0 for cosine in key.orientation],
        "pixel_spacing_mm": [round(spacing, _SPACING_DECIMALS) for spacing in key.pixel_spacing_mm],
        "rescale_type": key.rescale_type,
        "is_localizer": key.is_localizer,
        "has_pixels": key.has_pixels,
        "told_apart_by": stack.told_apart_by,
    }
