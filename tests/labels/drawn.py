"""Structures whose voxels are known everywhere, and the files that others would write of them.

SEG by highdicom, RTSTRUCT by pydicom, NIfTI by nibabel, NRRD by pynrrd: none of our code takes part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

Inside = Callable[[NDArray[np.float64]], NDArray[np.bool_]]


Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """A plane through a point, LPS mm, with two directions in it at right angles."""

    origin: Points
    along: Points
    down: Points

    @property
    def normal(self) -> Points:
        return np.cross(self.along, self.down)


UPRIGHT = Plane(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))


@dataclass(frozen=True)
class Shape:
    """One structure: inside or not at any point, and its closed outlines (n, 3) in any plane."""

    name: str
    inside: Inside
    outlines: Callable[[Plane], list[Points]]


def ball(name: str, center: Sequence[float], radius: float, hole: float = 0.0) -> Shape:
    middle = np.array(center, float)

    def inside(points: Points) -> NDArray[np.bool_]:
        distance = np.linalg.norm(points - middle, axis=-1)
        return (distance <= radius) & (distance >= hole)

    def outlines(plane: Plane) -> list[Points]:
        height = float((plane.origin - middle) @ plane.normal)
        foot = middle + height * plane.normal
        found = [circle(np.zeros(2), np.sqrt(r**2 - height**2)) for r in (radius, hole) if abs(height) < r]
        return [foot + one @ np.stack([plane.along, plane.down]) for one in found]

    return Shape(name, inside, outlines)


def circle(center: Points, radius: float, corners: int = 180) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return center + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def prism(name: str, inside: Inside, base: Points, ends: tuple[float, float], frame: Plane) -> Shape:
    """Of a convex base (n, 2), counterclockwise, in the coordinates of a frame, from one height to the other."""
    axes = np.stack([frame.along, frame.down, frame.normal])
    edges = np.roll(base, -1, axis=0) - base
    outwards = np.stack([edges[:, 1], -edges[:, 0], np.zeros(len(base))], axis=1)
    outwards = np.concatenate([outwards, [[0, 0, 1], [0, 0, -1]]])
    limits = np.concatenate([(outwards[:-2, :2] * base).sum(axis=1), [ends[1], -ends[0]]])

    def outlines(plane: Plane) -> list[Points]:
        foot = frame.origin + ((plane.origin - frame.origin) @ plane.normal) * plane.normal
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 1000.0
        polygon = list((foot - frame.origin + square @ np.stack([plane.along, plane.down])) @ axes.T)
        for direction, limit in zip(outwards, limits, strict=True):
            kept = []
            for one, other in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                over, next_over = one @ direction - limit, other @ direction - limit
                if over <= 0:
                    kept.append(one)
                if over * next_over < 0:
                    kept.append(one + (other - one) * over / (over - next_over))
            polygon = kept
        return [frame.origin + np.array(polygon) @ axes] if len(polygon) > 2 else []

    def within(points: Points) -> NDArray[np.bool_]:
        own = (points - frame.origin) @ axes.T
        return inside(own) & (own[..., 2] >= ends[0]) & (own[..., 2] < ends[1])

    return Shape(name, within, outlines)


def cylinder(
    name: str, center: Sequence[float], radius: float, ends: tuple[float, float], frame: Plane = UPRIGHT
) -> Shape:
    x, y = center[:2]
    return prism(
        name,
        lambda own: np.hypot(own[..., 0] - x, own[..., 1] - y) <= radius,
        circle(np.array([x, y]), radius),
        ends,
        frame,
    )


def box(name: str, low: Sequence[float], high: Sequence[float], frame: Plane = UPRIGHT) -> Shape:
    first, last = np.array(low[:2], float), np.array(high[:2], float)
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]], float)
    return prism(
        name,
        lambda own: ((own[..., :2] >= first) & (own[..., :2] < last)).all(axis=-1),
        corners,
        (low[2], high[2]),
        frame,
    )


def structures(
    ends: tuple[float, float],
    edge: tuple[float, float] = (0.0, 0.0),
    frame: Plane = UPRIGHT,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
) -> list[Shape]:
    """A ball, a cylinder, a shell, two boxes that touch, a thin sheet; none overlaps another.

    Flat ends lie at right angles to the frame's normal, flat sides on borders of its pixels, or `edge` mm beside.
    """
    low, high = ends
    axes = np.stack([frame.along, frame.down, frame.normal])

    def at(*own: float) -> list[float]:
        return (frame.origin + np.array(own) @ axes).tolist()

    def beside(x: float, y: float, z: float) -> tuple[float, float, float]:
        return (*(round(v / mm) * mm + off for v, mm, off in zip((x, y), pixel_mm, edge, strict=True)), z)  # type: ignore[return-value]

    return [
        ball("ball", at(-24, -22, 0), 18.3),
        cylinder("cylinder", (20, -22, 0), 14.2, ends, frame),
        ball("shell", at(-24, 22, 0), 19.6, 11.4),
        box("box", beside(4, 6, low), beside(18, 36, high), frame),
        box("next to it", beside(18, 6, low), beside(32, 36, high), frame),
        box("sheet", beside(38, -20, low), beside(40, 24, high), frame),
    ]


def slices_of(folder: Path) -> list[Dataset]:
    found = [dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]

    def position(one: Dataset) -> float:
        axes = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        return float(np.cross(*axes) @ np.array(one.ImagePositionPatient, float))

    return sorted(found, key=position)


def points_of(one: Dataset) -> NDArray[np.float64]:
    """LPS mm of the pixels' centers, (rows, columns, 3)."""
    axes = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
    height, width = (float(v) for v in one.PixelSpacing)
    rows, columns = np.arange(one.Rows)[:, None, None], np.arange(one.Columns)[None, :, None]
    return np.array(one.ImagePositionPatient, float) + rows * height * axes[1] + columns * width * axes[0]


def painted(slices: Sequence[Dataset], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
    """(slices, rows, columns, shapes) 0 or 1."""
    return np.stack([np.stack([s.inside(points_of(one)) for s in shapes], -1) for one in slices]).astype(np.uint8)


def write_seg(
    path: Path,
    slices: Sequence[Dataset],
    shapes: Sequence[Shape],
    kind: str = "BINARY",
    pixels: NDArray[Any] | None = None,
    **more: Any,
) -> Path:
    """Write a DICOM Segmentation by highdicom; frames without pixels are left out."""
    masks = painted(slices, shapes) if pixels is None else pixels
    if kind == "LABELMAP":
        masks = (masks * np.arange(1, len(shapes) + 1, dtype=np.uint8)).max(axis=-1)
    if kind == "FRACTIONAL":
        masks = masks.astype(np.float32)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=shape.name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
            display_color=CIELabColor.from_rgb(200, 100, 50),
        )
        for number, shape in enumerate(shapes, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation = highdicom.seg.Segmentation(
            list(slices),
            masks,
            kind,
            described,
            series_instance_uid=highdicom.UID(),
            series_number=100,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="a maker",
            manufacturer_model_name="a model",
            software_versions="1",
            device_serial_number="1",
            **more,
        )
    segmentation.save_as(path)
    return path


def write_rtstruct(
    path: Path,
    slices: Sequence[Dataset],
    rois: Sequence[tuple[str, Sequence[tuple[str, NDArray[np.float64]]]]],
) -> Path:
    """Write an RT Structure Set: of each ROI its name and contours, each a type and (n, 3) points."""
    one = slices[0]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = highdicom.UID()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Modality, found.PatientID, found.PatientName = "RTSTRUCT", one.PatientID, one.PatientName
    found.StudyInstanceUID, found.SeriesInstanceUID = one.StudyInstanceUID, highdicom.UID()
    series = Dataset()
    series.SeriesInstanceUID = one.SeriesInstanceUID
    study = Dataset()
    study.RTReferencedSeriesSequence = [series]
    space = Dataset()
    space.FrameOfReferenceUID = one.FrameOfReferenceUID
    space.RTReferencedStudySequence = [study]
    found.ReferencedFrameOfReferenceSequence = [space]
    found.StructureSetROISequence, found.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois, start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, one.FrameOfReferenceUID
        found.StructureSetROISequence.append(roi)
        row = Dataset()
        row.ReferencedROINumber, row.ROIDisplayColor, row.ContourSequence = number, [10, 20, 30], []
        for kind, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.3f}" for value in np.asarray(points).ravel()]
            row.ContourSequence.append(contour)
        found.ROIContourSequence.append(row)
    found.save_as(path, enforce_file_format=True)
    return path


def contours_of(shape: Shape, planes: Sequence[Plane]) -> list[tuple[str, Points]]:
    return [("CLOSED_PLANAR", outline) for plane in planes for outline in shape.outlines(plane)]


def upright(z_mm: Sequence[float]) -> list[Plane]:
    return [Plane(np.array([0, 0, z]), UPRIGHT.along, UPRIGHT.down) for z in z_mm]


def image_planes(slices: Sequence[Dataset]) -> list[Plane]:
    """The slices' own planes, which lean where the gantry did."""
    axes = [np.array(one.ImageOrientationPatient, float) for one in slices]
    return [
        Plane(np.array(one.ImagePositionPatient, float), axis[:3], axis[3:])
        for one, axis in zip(slices, axes, strict=True)
    ]


def truth_on(volume: Any, shape: Shape) -> NDArray[np.bool_]:
    """The structure at the centers of a volume's voxels."""
    index = np.stack(np.indices(volume.shape), axis=-1)
    return shape.inside(index @ volume.affine_lps[:3, :3].T + volume.affine_lps[:3, 3])


def label_of(volume: Any, name: str) -> NDArray[Any]:
    array = volume.label(name)
    found = np.empty(volume.shape, array.dtype)
    array.read([range(n) for n in volume.shape], found)
    return found


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def apart_mm(volume: Any, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Largest distance of two centroids along an axis."""
    centers = [np.argwhere(mask).mean(axis=0) @ volume.affine_lps[:3, :3].T for mask in (one, other)]
    return float(np.abs(centers[0] - centers[1]).max())
