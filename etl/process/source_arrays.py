"""The source map of a volume: which slices it was made of, as arrays of the store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.plan.task import SeriesTask
from etl.store.encoding import uid_array
from etl.store.layout import FRAME_NUMBER, INSTANCE_NUMBER, PIXEL_CRC32, POSITION_MM, SOP_INSTANCE_UID
from etl.volume.convert import Converted


def source_arrays(
    task: SeriesTask, converted: Converted, pixel_crc32: NDArray[np.uint32]
) -> dict[str, NDArray[Any]]:
    """Give the arrays of the group ``source``, one row a slice, by increasing position.

    Parameters
    ----------
    task : SeriesTask
    converted : Converted
    pixel_crc32 : (slices,) uint32 array
        In the order of the task.
    """
    slices = task.stack.slices
    # The volume's axes grow to Superior, Posterior and Left; the source map follows its slice axis.
    forward = np.argsort(converted.position_mm, kind="stable")
    source: dict[str, NDArray[Any]] = {
        SOP_INSTANCE_UID.name: uid_array(slices.sop_instance_uid[forward]),
        POSITION_MM.name: converted.position_mm[forward],
        INSTANCE_NUMBER.name: slices.instance_number[forward],
        PIXEL_CRC32.name: pixel_crc32[forward],
    }
    if slices.frame.any():
        source[FRAME_NUMBER.name] = slices.frame[forward] + 1
    return source
