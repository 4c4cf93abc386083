"""From what was scanned to stacks that are one scan each: copies dropped, scans told apart, all numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.errors import SeriesError
from etl.plan.checks import is_cut_short
from etl.plan.labels import read_columns
from etl.plan.numbering import number_stacks
from etl.plan.repeats import copy_keys, drop_copies, find_export_copies
from etl.plan.tell_apart import Part, Slab, alternating, tell_apart
from etl.plan.weaving import complete_each_other
from etl.scan.distinctions import DISTINCTIONS
from etl.stack import MAX_UID_CHARACTERS, Slices, Stack
from etl.transfer_syntaxes import READ_AS_THEY_ARE
from etl.volume.geometry import MAX_POSITION_MM, slice_axes

_ROW = {row.keyword: k for k, row in enumerate(DISTINCTIONS)}
_STUDY, _DATE, _NUMBER = _ROW["StudyInstanceUID"], _ROW["StudyDate"], _ROW["SeriesNumber"]
_SPACE = _ROW["FrameOfReferenceUID"]


def frame_of_reference(stack: Stack) -> str:
    """Give Frame of Reference UID (0020,0052) of a stack that `separate` gave, whose slices have it in common."""
    if not stack.mark_values:
        return ""
    return stack.mark_values[_SPACE][int(stack.slices.marks[0, _SPACE])]


def separate(stacks: Sequence[Stack]) -> list[Stack]:
    """Drop copies, tell scans apart, and give the stacks of each series their numbers.

    Parameters
    ----------
    stacks : sequence of Stack
        In any order.

    Returns
    -------
    list of Stack
        By patient and series, then by number.
    """
    return number_stacks([part for whole in stacks for part in _split(whole)])


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


def along_mm(stack: Stack) -> NDArray[np.float64]:
    """Give the positions of slices along their normal.

    Raises
    ------
    SeriesError
        ``missing-geometry``: there is no orientation.
    """
    # What a broken file says may be so large that products overflow; such places are refused later.
    near = np.clip(stack.slices.position_lps_mm, -10 * MAX_POSITION_MM, 10 * MAX_POSITION_MM)
    return np.asarray(near @ slice_axes(stack.key.orientation)[0])


def _split(stack: Stack) -> list[Stack]:
    """Drop copies and tell scans apart; a stack that cannot be told apart carries its refusal."""
    if _has_several_origins(stack):
        return [stack]
    once = _without_copies(stack)
    rows = (_SPACE, _DATE) if stack.key.series_uid_from_path else (_SPACE,)
    spaces = [once]
    for row in rows:
        spaces = [part for space in spaces for part in _spaces(space, row)]
    return [part for space in spaces for part in _scans(space)]


def _without_copies(stack: Stack) -> Stack:
    slices = stack.slices
    takes_decoding = np.array([fmt.transfer_syntax_uid not in READ_AS_THEY_ARE for fmt in stack.formats])
    # A copy that was cut off must not stand for a whole one.
    is_short = is_cut_short(stack)
    keep, dropped = drop_copies(slices, 2 * is_short.astype(np.int64) + takes_decoding[slices.format])
    if not len(dropped):
        return stack
    copies = slices.take(dropped[~is_short[dropped]])
    return replace(stack, slices=slices.take(keep), copies=copies, copied=tuple(copy_keys(copies)))


def _spaces(stack: Stack, row: int) -> list[Stack]:
    """Part slices that differ in what no volume may differ in; those that do not say go with the only value."""
    if stack.slices.marks.size == 0:
        return [stack]
    codes = stack.slices.marks[:, row]
    names = stack.mark_values[row]
    named = [code for code in np.unique(codes) if names[code]]
    if len(named) < 2:
        return [stack]
    name, keyword = DISTINCTIONS[row].name, DISTINCTIONS[row].keyword
    cut = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    parts = [_part(stack, Part(index, f"{keyword}={names[codes[index[0]]]}")) for index in cut]
    if are_torn(parts):
        detail = (
            f"{name} has {len(parts)} values in {len(codes)} slices that lie between each other as those of one "
            "scan; one value is needed"
        )
        parts = [replace(part, refusal=(FailureCode.INCONSISTENT_SLICES, detail)) for part in parts]
    return parts


def are_torn(parts: Sequence[Stack]) -> bool:
    """Whether stacks of one plane are what one scan was torn into."""
    try:
        orders = [np.argsort(along_mm(part), kind="stable") for part in parts]
        along = [along_mm(part)[order] for part, order in zip(parts, orders, strict=True)]
    except SeriesError:
        return False
    thickness = [part.slices.thickness_mm[order] for part, order in zip(parts, orders, strict=True)]
    return all(np.isfinite(own).all() for own in along) and complete_each_other(along, thickness)


def _scans(stack: Stack) -> list[Stack]:
    try:
        along = along_mm(stack)
    except SeriesError:
        return [stack]
    if stack.refusal is not None or not np.isfinite(along).all():
        return [stack]
    whole = stack
    slab = Slab(along, stack.slices.thickness_mm, read_columns(stack))
    parts = tell_apart(slab)
    if parts is None:
        detail = _repeats_detail(stack, slab)
        stack = _without_export_copies(stack, slab)
        parts = tell_apart(Slab(along_mm(stack), stack.slices.thickness_mm, read_columns(stack)))
        if parts is None:
            return [replace(whole, refusal=(FailureCode.DUPLICATE_POSITIONS, detail))]
    scans = [_part(stack, part) for part in parts] if len(parts) > 1 else [stack]
    return [_refuse_alternating(scan) for scan in scans]


def _refuse_alternating(stack: Stack) -> Stack:
    """Refuse a scan that goes to and fro between two values, neither of which can stand alone."""
    column = alternating(Slab(along_mm(stack), stack.slices.thickness_mm, read_columns(stack)))
    if column is None:
        return stack
    detail = (
        f"{column.row.name} changes to and fro along {len(stack.slices)} slices, and no value of it has a whole "
        "scan; one value, or one for each region, is needed"
    )
    return replace(stack, refusal=(FailureCode.INCONSISTENT_SLICES, detail))


def _without_export_copies(stack: Stack, slab: Slab) -> Stack:
    """Drop slices that only their SOP Instance UID and what an export writes anew tell from another one.

    Whether the pixels are the same is seen when they are read.
    """
    keep, dropped, originals = find_export_copies(stack.slices, slab.places)
    copies, kept = stack.slices.take(dropped), copy_keys(stack.slices.take(originals))
    if stack.copies is not None:
        copies, kept = Slices.concatenate([stack.copies, copies]), [*stack.copied, *kept]
    once = stack.with_slices(stack.slices.take(keep))
    return replace(once, copies=copies, copied=tuple(kept), compared=_compared(stack))


def _repeats_detail(stack: Stack, slab: Slab) -> str:
    count = len(slab.places)
    repeated = count - len(np.unique(slab.places))
    head = f"{repeated} of {count} slices lie at a position that another one has; "
    return head + _none_of(_compared(stack))


def _none_of(compared: str) -> str:
    return f"none of {compared} tells them apart" if compared else "nothing in their headers tells them apart"


def _compared(stack: Stack) -> str:
    """Name the attributes that the slices have and that were compared, those that differ first."""
    slices = stack.slices
    if not slices.marks.size:
        return ""
    used = [np.unique(slices.marks[:, k]) for k in range(len(DISTINCTIONS))]
    there = [k for k, codes in enumerate(used) if any(stack.mark_values[k][code] for code in codes)]
    return ", ".join(DISTINCTIONS[k].name for k in sorted(there, key=lambda k: len(used[k]) < 2))


def _part(stack: Stack, part: Part) -> Stack:
    """Give a part of a stack, with the study and number that its own slices name."""
    slices = stack.slices.take(part.index)
    told = ", ".join(filter(None, (stack.told_apart_by, part.told)))
    own = replace(stack, slices=slices, told_apart_by=told)
    if not slices.marks.size:
        return own
    return replace(
        own,
        key=replace(
            own.key,
            study_instance_uid=min(_own_values(stack, own, _STUDY), default=own.key.study_instance_uid),
            series_number=min(map(_whole, _own_values(stack, own, _NUMBER)), default=own.key.series_number),
        ),
    )


def _own_values(whole: Stack, part: Stack, row: int) -> set[str]:
    """Give what slices of a part say, where the whole says several things."""
    if len(np.unique(whole.slices.marks[:, row])) < 2:
        return set()
    values = {part.mark_values[row][code] for code in np.unique(part.slices.marks[:, row])}
    return {value for value in values if 0 < len(value) <= MAX_UID_CHARACTERS}


def _whole(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def _has_several_origins(stack: Stack) -> bool:
    """Whether files that do not name their series come from several folders or zips of one name."""
    return stack.key.series_uid_from_path and len({where.container for where in stack.slices.locations}) > 1
