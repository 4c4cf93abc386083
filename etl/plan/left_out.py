"""Series of which some slices became no part of any volume: the volume of the others must say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from etl.codes import ExclusionCode
from etl.entry import Entry
from etl.stack import Stack

CT_IMAGES = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage; with a suffix, the enhanced and the legacy converted ones."""
# What lies beside a volume by its nature.
BESIDE = frozenset({ExclusionCode.LOCALIZER, ExclusionCode.SECONDARY_CAPTURE, ExclusionCode.NO_PIXELS})


def series_left_out(stacks: Iterable[tuple[Entry, Stack]], settled: Sequence[Entry]) -> frozenset[str]:
    """Give the Series Instance UIDs of which CT slices were excluded or failed.

    Another patient's slices, and those whose Modality is another, count: an edited header is why they are apart.

    Parameters
    ----------
    stacks : iterable of (Entry, Stack)
        Everything that was found.
    settled : sequence of Entry
        What was excluded or failed.
    """
    reasons = {entry.node: entry.reason for entry in settled if entry.series_key}
    return frozenset(
        stack.key.series_instance_uid
        for entry, stack in stacks
        if entry.node in reasons and reasons[entry.node] not in BESIDE and _is_ct(stack)
    )


def _is_ct(stack: Stack) -> bool:
    key = stack.key
    return (
        key.has_pixels
        and not key.is_localizer
        and (key.modality == "CT" or key.sop_class_uid.startswith(CT_IMAGES))
    )
