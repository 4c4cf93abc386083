"""What headers say of slices that are not there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from etl.codes import FailureCode
from etl.stack import Stack

MAX_NUMBERS = 5


def refuse_lost_frames(stack: Stack) -> Stack:
    """Refuse a stack whose files say one number of frames and hold, or describe, another.

    Pixel Data is longer or shorter by whole frames, though the file is whole; or the Per-Frame Functional Groups
    Sequence has more or fewer items.
    """
    detail = _described(stack) or _held(stack)
    if detail is None or stack.refusal is not None:
        return stack
    return replace(stack, refusal=(FailureCode.INCONSISTENT_SLICES, detail))


def _described(stack: Stack) -> str | None:
    for header, fmt in {(header, fmt) for header in stack.own_headers for fmt in stack.formats}:
        number = header.kind[-1] if header.kind else fmt.number_of_frames
        if header.frame_groups and header.frame_groups != number:
            return (
                f"Number of Frames (0028,0008) is {number}; Per-Frame Functional Groups Sequence (5200,9230) has "
                f"{header.frame_groups} items"
            )
    return None


def _held(stack: Stack) -> str | None:
    slices = stack.slices
    frame = np.array([fmt.frame_bytes if fmt.is_native else 0 for fmt in stack.formats])[slices.format]
    frames = np.array([fmt.number_of_frames for fmt in stack.formats])[slices.format]
    is_whole = (slices.pixel_offset >= 0) & (slices.pixel_offset + slices.pixel_length <= slices.file_bytes)
    with np.errstate(divide="ignore", invalid="ignore"):
        held = np.where(frame > 0, slices.pixel_length // np.maximum(frame, 1), frames)
        # An odd number of bytes is padded to an even one.
        is_even = slices.pixel_length - held * frame <= 1
    differs = is_whole & (frame > 0) & is_even & (held != frames) & (held > 0)
    if not differs.any():
        return None
    first = int(np.flatnonzero(differs)[0])
    return (
        f"Number of Frames (0028,0008) is {frames[first]}; Pixel Data (7FE0,0010) holds {held[first]} frames, in "
        f"{int(differs.sum())} of {len(slices)} slices"
    )


def lost_parts(stack: Stack) -> str | None:
    """Say which files of a concatenation (PS3.3 C.7.6.16.1.2) are lost; None where none is known to be."""
    totals: defaultdict[str, int] = defaultdict(int)
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for uid, number, total in {header.concatenation for header in stack.own_headers}:
        if uid and number > 0:
            numbers[uid].add(number)
            totals[uid] = max(totals[uid], total, number)
    for uid in sorted(numbers):
        lost = sorted(set(range(1, totals[uid] + 1)) - numbers[uid])
        if lost:
            return (
                f"In-concatenation Total Number (0020,9163) is {totals[uid]}; of the concatenation "
                f"{_listed(lost)} {'is' if len(lost) == 1 else 'are'} not there"
            )
    return None


def loss_evidence(stack: Stack) -> str:
    """Say in words what hints at lost slices; empty where nothing does."""
    hints = []
    images = max((header.images_in_acquisition for header in stack.own_headers), default=0)
    if images > len(stack.slices):
        hints.append(f"Images in Acquisition (0020,1002) is {images}, {len(stack.slices)} are there")
    numbers = np.unique(stack.slices.instance_number)
    if len(numbers) == len(stack.slices) and len(numbers) > 1 and numbers[0] >= 0:
        span = int(numbers[-1] - numbers[0]) + 1
        lost = span - len(numbers)
        # Numbers of other scans of the series leave gaps too; a few that lack are of this one.
        if 0 < lost <= len(numbers):
            missing = sorted(set(range(int(numbers[0]), int(numbers[-1]))) - set(numbers.tolist()))
            hints.append(
                f"Instance Number (0020,0013) runs from {numbers[0]} to {numbers[-1]} without {_listed(missing)}"
            )
    return "; ".join(hints)


def with_evidence(detail: str, stack: Stack) -> str:
    """Add to a detail what hints at lost slices."""
    return "; ".join(filter(None, [detail, loss_evidence(stack)]))


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_NUMBERS]))
    return shown if len(numbers) <= MAX_NUMBERS else f"{shown} and {len(numbers) - MAX_NUMBERS} more"
