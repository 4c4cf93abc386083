"""DICOM RT Structure Set to contours.

References
----------
DICOM PS3.3 C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour; C.8.8.6.3: a keyhole makes a hole).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from etl.codes import LabelCode
from etl.labels.read_seg import code_of
from etl.labels.source_mask import Contour, ContourMask, LabelError
from etl.store.label_encoding import MAX_VALUE, Segment

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
FEWEST_POINTS = 3


def read_rtstruct(dataset: Dataset) -> ContourMask:
    """Read the closed contours of every ROI.

    The value of a segment is its ROI Number (3006,0022); where one is beyond 1 to 65535, all are numbered anew.

    Parameters
    ----------
    dataset : Dataset

    Raises
    ------
    LabelError
        ``unreadable-mask``: the coordinates of a contour are no triples of numbers.
    AttributeError, KeyError, ValueError, TypeError, IndexError
        Something is missing or damaged.
    """
    names = {int(row.ROINumber): str(row.get("ROIName", "")) for row in dataset.StructureSetROISequence}
    codes = {
        int(row.ReferencedROINumber): code_of(row, "RTROIIdentificationCodeSequence")
        for row in dataset.get("RTROIObservationsSequence") or ()
    }
    rows = {int(row.ReferencedROINumber): row for row in dataset.get("ROIContourSequence") or ()}
    fits = all(0 < number <= MAX_VALUE for number in names)
    ignored, segments = 0, []
    for place, number in enumerate(sorted(names), start=1):
        row = rows.get(number, Dataset())
        contours = []
        for contour in row.get("ContourSequence") or ():
            points = _points(contour, number)
            if str(contour.get("ContourGeometricType", "")) in CLOSED and len(points) >= FEWEST_POINTS:
                contours.append(points)
            else:
                ignored += 1
        about = Segment(number if fits else place, names[number], codes.get(number), _color(row))
        segments.append(Contour(about, tuple(contours)))
    return ContourMask(tuple(segments), ignored)


def _points(contour: Dataset, number: int) -> NDArray[np.float64]:
    values = np.array([float(value) for value in contour.get("ContourData") or ()])
    if len(values) % 3 or not np.isfinite(values).all():
        raise LabelError(
            LabelCode.UNREADABLE_MASK,
            f"Contour Data (3006,0050) of ROI {number} has {len(values)} values; allowed are finite (x, y, z)",
        )
    return values.reshape(-1, 3)


def _color(row: Any) -> tuple[int, int, int] | None:
    shown = row.get("ROIDisplayColor")
    if shown is None or len(shown) != 3:
        return None
    red, green, blue = (min(max(int(value), 0), 255) for value in shown)
    return red, green, blue
