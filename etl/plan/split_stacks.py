"""From what was scanned to stacks that cover each place once: copies dropped, time points apart, all numbered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.plan.checks import is_cut_short
from etl.plan.repeats import drop_copies, split_repeats
from etl.stack import Stack
from etl.transfer_syntaxes import READ_AS_THEY_ARE
from etl.volume.geometry import MAX_POSITION_MM, slice_axes


def separate(stacks: Sequence[Stack]) -> list[Stack]:
    """Drop copies, part time points, and give the stacks of each series their numbers.

    Parameters
    ----------
    stacks : sequence of Stack
        In any order.

    Returns
    -------
    list of Stack
        By patient and series, then by number.
    """
    return _numbered([part for whole in stacks for part in _split(whole)])


def check_origin(stack: Stack) -> None:
    """Refuse a stack of files that do not name their series and come from several places of one name.

    Raises
    ------
    SeriesError
        ``inconsistent-slices``
    """
    if _has_several_origins(stack):
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            "files without Series Instance UID (0020,000E) come from several folders or zips of one name and "
            "would be taken for one series; rename these, or run them into stores of their own",
        )


def check_repeats(stack: Stack) -> None:
    """Refuse a stack whose positions repeat with nothing to tell them apart.

    Raises
    ------
    SeriesError
        ``duplicate-positions``; ``missing-geometry``: there is no orientation.
    """
    split_repeats(_along_mm(stack), stack.slices.repeat, stack.slices.thickness_mm)


def _split(stack: Stack) -> list[Stack]:
    """Drop copies and part time points; a stack whose positions repeat all the same is refused later."""
    if _has_several_origins(stack):
        return [stack]
    slices = stack.slices
    takes_decoding = np.array([fmt.transfer_syntax_uid not in READ_AS_THEY_ARE for fmt in stack.formats])
    # A copy that was cut off must not stand for a whole one.
    is_short = is_cut_short(stack)
    keep, dropped = drop_copies(slices, 2 * is_short.astype(np.int64) + takes_decoding[slices.format])
    copies = dropped[~is_short[dropped]]
    once = stack
    if len(dropped):
        once = replace(stack, slices=slices.take(keep), copies=slices.take(copies))
    parts = _repeats(once)
    return [once.with_slices(once.slices.take(part)) for part in parts] if len(parts) > 1 else [once]


def _repeats(stack: Stack) -> list[NDArray[np.intp]]:
    """Part the slices of a stack into time points; all in one where that cannot be done."""
    try:
        return split_repeats(_along_mm(stack), stack.slices.repeat, stack.slices.thickness_mm)
    except SeriesError:
        return [np.arange(len(stack.slices))]


def _along_mm(stack: Stack) -> NDArray[np.float64]:
    # What a broken file says may be so large that products overflow; such places are refused later.
    near = np.clip(stack.slices.position_lps_mm, -10 * MAX_POSITION_MM, 10 * MAX_POSITION_MM)
    return np.asarray(near @ slice_axes(stack.key.orientation)[0])


def _has_several_origins(stack: Stack) -> bool:
    """Whether files that do not name their series come from several folders or zips of one name."""
    return stack.key.series_uid_from_path and len({where.container for where in stack.slices.locations}) > 1


def _numbered(stacks: Sequence[Stack]) -> list[Stack]:
    """Give the stacks of each series their numbers, whatever order the files were found in."""
    series: defaultdict[tuple[str, str], list[Stack]] = defaultdict(list)
    for stack in stacks:
        series[stack.key.patient_id, stack.key.series_instance_uid].append(stack)
    numbered = []
    for key in sorted(series):
        for number, stack in enumerate(sorted(series[key], key=_stack_order), start=1):
            numbered.append(stack.with_slices(stack.slices, number=number))
    return numbered


def _stack_order(stack: Stack) -> tuple[object, ...]:
    slices = stack.slices
    # Volumes before localizers and captures, so that these do not take the first number.
    beside = stack.key.is_localizer or not stack.key.has_pixels or stack.key.samples_per_pixel != 1
    repeat = tuple(np.nan_to_num(slices.repeat, nan=-1.0).min(axis=0))
    return (
        beside,
        -len(slices),
        repeat,
        int(slices.instance_number.min()),
        min(slices.sop_instance_uid.tolist()),
    )
