"""Stored values from every layout and encoding: what was encoded must come back, or the series is refused by name.

The truth is the array that was written; encoders are pydicom's and imagecodecs'.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pairwise import each_once, pairwise
from pydicom import DataElement, Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import UID, CTImageStorage

from etl.config import Config
from etl.dicom.pixels import read_slices
from etl.dicom.sources import find_sources
from etl.entry import Entry
from etl.errors import SeriesError
from etl.plan.plan import SeriesTask, make_plan
from etl.process.read_hu import convert_task, read_hounsfield
from etl.scan.scan import merge_scans, scan_source
from etl.stack import Stack
from etl.volume.quality import Quality
from etl.volume.validity import PaddingFill

Stored = NDArray[np.integer]

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.91"
HTJ2K = "1.2.840.10008.1.2.4.201"
HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"
AS_AIR = PaddingFill(with_nearest=False)
ROOT = "1.2.826.0.1.3680043.8.498.77"


@dataclass(frozen=True)
class Layout:
    """How values lie in their words, and in which encoding."""

    syntax: str = EXPLICIT
    allocated: int = 16
    stored: int = 16
    high_bit: int | None = None
    signed: bool = True
    junk: bool = False
    """Unused bits hold anything, as overlays did."""
    slope: str = "1"
    intercept: str = "-1024"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def top(self) -> int:
        return self.stored - 1 if self.high_bit is None else self.high_bit

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")

    def values(self, shape: tuple[int, ...], seed: int = 1) -> Stored:
        """Draw stored values over the whole range, its ends included."""
        low, high = (
            (-(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1)
            if self.signed
            else (0, (1 << self.stored) - 1)
        )
        drawn = np.random.default_rng(seed).integers(low, high + 1, shape)
        # In the middle: the lowest value of all, in a corner, would be a plateau of padding.
        drawn.flat[drawn.size // 2 - 1 : drawn.size // 2 + 1] = low, high
        return drawn.astype(self.dtype)

    def words(self, values: Stored) -> Stored:
        """Place values in their words (PS3.5 8.1.1)."""
        unsigned = f"u{self.allocated // 8}"
        mask = ((1 << self.stored) - 1) << (self.top + 1 - self.stored)
        placed = (values.astype(np.int64) << (self.top + 1 - self.stored)) & mask
        if self.junk:
            free = ((1 << self.allocated) - 1) & ~mask
            placed |= np.random.default_rng(9).integers(0, 1 << self.allocated, values.shape) & free
        elif self.signed and self.top == self.stored - 1:
            # Scanners extend the sign over the unused bits.
            placed = values.astype(np.int64) & ((1 << self.allocated) - 1)
        return placed.astype(unsigned)


def ct_dataset(layout: Layout, shape: tuple[int, int], index: int = 0) -> Dataset:
    """Start a CT slice 5 mm above the one before."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(layout.syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(f"{ROOT}.3.{index + 1}")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(f"{ROOT}.1"), UID(f"{ROOT}.2")
    ds.PatientID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "BITS", "CT", 1, index + 1
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = [0, 0, 5 * index]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = ["0.5", "0.5"], "5"
    ds.RescaleSlope, ds.RescaleIntercept = layout.slope, layout.intercept
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = layout.allocated, layout.stored, layout.top
    ds.PixelRepresentation = int(layout.signed)
    for keyword, value in layout.extra.items():
        setattr(ds, keyword, value)
    return ds


Encoder = Callable[[Layout, Stored], bytes]


def write(
    folder: Path,
    layout: Layout,
    values: Stored,
    *,
    index: int = 0,
    encode: Encoder | None = None,
    elements: Mapping[str, tuple[str, Any]] | None = None,
) -> Path:
    """Write one slice; `encode` gives the frame's bytes where pydicom has no encoder.

    `elements` are more attributes, each with a VR of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ds = ct_dataset(layout, (values.shape[0], values.shape[1]), index)
    for keyword, (vr, value) in (elements or {}).items():
        ds.add_new(keyword, vr, value)
    words = layout.words(values)
    if encode is not None:
        ds.PixelData = encapsulate([encode(layout, values)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    elif UID(layout.syntax).is_compressed and layout.syntax != DEFLATED:
        compress(ds, layout, values)
    else:
        content = words.astype(
            words.dtype.newbyteorder("big" if layout.syntax == BIG_ENDIAN else "little")
        ).tobytes()
        ds.add_new("PixelData", "OB" if layout.allocated == 8 else "OW", content + b"\0" * (len(content) % 2))
    path = folder / f"I{index}"
    ds.save_as(path, enforce_file_format=True)
    return path


def compress(ds: Dataset, layout: Layout, values: Stored) -> None:
    ds.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    plugin = {RLE: "pydicom", JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg"}[layout.syntax]
    described = {name: ds[name].value for name in ("BitsStored", "HighBit", "PixelRepresentation")}
    content = np.ascontiguousarray(values)
    if layout.syntax == RLE:
        # RLE keeps words as they are, also what lies beside the stored bits.
        content = layout.words(values)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = layout.allocated, layout.allocated - 1, 0
    ds.compress(UID(layout.syntax), content, encoding_plugin=plugin, generate_instance_uid=False)
    for name, value in described.items():
        setattr(ds, name, value)


def scanned(path: Path) -> Stack:
    [stack] = merge_scans(map(scan_source, find_sources([str(path)]))).stacks
    return stack


def hounsfield(path: Path) -> NDArray[np.float32]:
    [(hu, padded)] = read_hounsfield(scanned(path), Quality())
    return hu if padded is None else AS_AIR(hu, padded)


def run(folder: Path, **options: Any) -> Entry | SeriesTask:
    """Give the one entry that the plan settles, or its one task."""
    given = {"native": True, "min_slices": 2, "precision_bits": "full", "window": (-32768, 32767), **options}
    config = Config(**given)
    plan = make_plan(merge_scans(map(scan_source, find_sources([str(folder)]))), config)
    everything: list[Entry | SeriesTask] = [*plan.settled, *plan.tasks]
    [found] = everything
    if isinstance(found, SeriesTask):
        try:
            convert_task(found, config)
        except SeriesError as error:
            return found.entry.failed(error.code, str(error))
    return found


def failure(folder: Path) -> tuple[str | None, str]:
    found = run(folder)
    assert isinstance(found, Entry), "it was written"
    assert found.outcome == "failed"
    return found.reason, str(found.detail)


def expected_hu(layout: Layout, values: Stored) -> NDArray[np.float64]:
    return values.astype(float) * float(layout.slope) + float(layout.intercept)


# --- words and bits -------------------------------------------------------------------------------------

PLACES = [(16, 16, 15), (16, 12, 11), (16, 12, 15), (16, 12, 13), (8, 8, 7)]
"""Bits Allocated, Bits Stored, High Bit."""
NATIVE = [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE]
"""Syntaxes that keep words as they are."""


@pytest.mark.parametrize(
    ("syntax", "place", "signed", "junk", "rescale"),
    pairwise(NATIVE, PLACES, [True, False], [True, False], [("1", "-1024"), ("0.25", "-500.5")]),
    ids=str,
)
def test_stored_bits_become_hu_whatever_lies_beside_them(
    syntax: str, place: tuple[int, int, int], signed: bool, junk: bool, rescale: tuple[str, str], tmp_path: Path
) -> None:
    allocated, stored, high_bit = place
    slope, intercept = rescale
    layout = Layout(
        syntax, allocated, stored, high_bit, signed=signed, junk=junk, slope=slope, intercept=intercept
    )
    values = layout.values((7, 9))
    np.testing.assert_allclose(hounsfield(write(tmp_path, layout, values)), expected_hu(layout, values), rtol=1e-6)


@pytest.mark.parametrize(("syntax", "shape"), each_once(NATIVE, [(1, 7), (5, 1), (3, 3), (13, 11)]), ids=str)
def test_odd_matrices_of_bytes_are_padded_to_an_even_length_and_read(
    syntax: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    layout = Layout(syntax=syntax, allocated=8, stored=8, signed=False)
    values = layout.values((shape[0], shape[1] + 1))[:, :-1]
    np.testing.assert_array_equal(hounsfield(write(tmp_path, layout, values)), expected_hu(layout, values))


@pytest.mark.parametrize(
    "extra",
    [
        {"BitsStored": 17},
        {"HighBit": 16},
        {"BitsStored": 12, "HighBit": 10},
        {"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11},
        {"BitsAllocated": 0, "BitsStored": 0, "HighBit": 0},
        {"PixelRepresentation": 2},
        {"HighBit": None},
        {"BitsStored": None},
        {"PixelRepresentation": None},
    ],
)
def test_bits_that_are_absent_or_do_not_fit_together_are_refused(extra: dict[str, int], tmp_path: Path) -> None:
    layout = Layout(extra=extra)
    for index in range(3):
        write(tmp_path / "in", layout, Layout().values((4, 4)), index=index)
    reason, detail = failure(tmp_path / "in")
    assert reason == "inconsistent-slices"
    assert "0028,0100" in detail


# --- padding --------------------------------------------------------------------------------------------


def padded_slice(layout: Layout, padding: int) -> tuple[Stored, NDArray[np.bool_]]:
    values = layout.values((33, 34), seed=4) // 8
    where = np.zeros(values.shape, bool)
    where[:, :5] = where[28:] = True
    values[values == padding] += 1
    values[where] = padding
    return values, where


def masked(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[str, ...]]:
    quality = Quality()
    [(hu, padded)] = read_hounsfield(scanned(path), quality)
    if padded is None:
        return hu, np.zeros(hu.shape, bool), quality.warnings()
    return AS_AIR(hu, padded), padded, quality.warnings()


@pytest.mark.parametrize(
    ("syntax", "declared", "signed"), pairwise([*NATIVE, JPEG_LS, JPEG_2000], ["SS", "US"], [True, False])
)
def test_padding_is_found_whatever_signedness_it_is_declared_with(
    signed: bool, declared: str, syntax: str, tmp_path: Path
) -> None:
    layout = Layout(syntax=syntax, signed=signed)
    values, where = padded_slice(layout, -2000 if signed else 63536)
    number = (declared, -2000 if declared == "SS" else 63536)
    hu, padded, _ = masked(write(tmp_path, layout, values, elements={"PixelPaddingValue": number}))
    np.testing.assert_array_equal(padded, where)
    assert (hu[where] == -1024).all()
    np.testing.assert_array_equal(hu[~where], expected_hu(layout, values)[~where])


@pytest.mark.parametrize("junk", [False, True])
@pytest.mark.parametrize("signed", [True, False])
def test_padding_is_found_below_junk_bits(signed: bool, junk: bool, tmp_path: Path) -> None:
    padding = -2000 if signed else 4095
    layout = Layout(stored=12, signed=signed, junk=junk, extra={"PixelPaddingValue": padding})
    values, where = padded_slice(layout, padding)
    hu, padded, _ = masked(write(tmp_path, layout, values))
    np.testing.assert_array_equal(padded, where)
    np.testing.assert_array_equal(hu[~where], expected_hu(layout, values)[~where])


@pytest.mark.parametrize("declared", [63536, -2000])
def test_padding_above_the_stored_bits_is_found_in_the_word(declared: int, tmp_path: Path) -> None:
    layout = Layout(stored=12, signed=False, extra={"PixelPaddingValue": 63536})
    values, where = padded_slice(layout, 0)
    path = write(tmp_path, layout, values)
    ds = pydicom.dcmread(path)
    words = np.frombuffer(ds.PixelData, "<u2").reshape(values.shape).copy()
    words[where] = 63536
    ds.PixelData = words.tobytes()
    ds["PixelPaddingValue"] = DataElement(0x00280120, "SS" if declared < 0 else "US", declared)
    ds.save_as(path)
    hu, padded, _ = masked(path)
    np.testing.assert_array_equal(padded, where)
    assert (hu[where] == -1024).all()


def test_a_value_that_only_looks_like_padding_before_it_is_shifted_stays(tmp_path: Path) -> None:
    layout = Layout(stored=12, high_bit=15, intercept="0", extra={"PixelPaddingValue": -2000})
    values, where = padded_slice(layout, -2000)
    # -125 in the upper twelve bits is the word -2000; padding is stated in stored values (PS3.3 C.7.5.1.1.2).
    values[3, 8:] = -125
    hu, padded, _ = masked(write(tmp_path, layout, values))
    np.testing.assert_array_equal(padded, where)
    np.testing.assert_array_equal(hu[~where], expected_hu(layout, values)[~where])


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1500), (-1500, -2000), (63536, 64036)])
def test_the_range_up_to_the_padding_limit_is_masked(value: int, limit: int, tmp_path: Path) -> None:
    layout = Layout()
    values, where = padded_slice(layout, -2000)
    values[~where] = np.abs(values[~where])
    values[0, :5], values[1, :5] = -1500, -1777
    values[4, 10], values[4, 11] = -1499, -2001
    numbers = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
    elements = {keyword: ("SS" if number < 0 else "US", number) for keyword, number in numbers.items()}
    hu, padded, _ = masked(write(tmp_path, layout, values, elements=elements))
    np.testing.assert_array_equal(padded, where)
    assert (hu[4, 10], hu[4, 11]) == (-2523, -3025)


@pytest.mark.parametrize(("value", "intercept"), [(-2000, "0"), (-976, "-1024")])
def test_a_plateau_that_no_attribute_declares_is_masked_and_flagged(
    value: int, intercept: str, tmp_path: Path
) -> None:
    layout = Layout(intercept=intercept, extra={"PixelPaddingValue": -32768})
    values, where = padded_slice(layout, value)
    values[~where] = np.abs(values[~where]) % 900
    hu, padded, warnings = masked(write(tmp_path, layout, values))
    assert "implicit-padding" in warnings
    np.testing.assert_array_equal(padded, where)
    assert (hu[where] == -1024).all()
    np.testing.assert_array_equal(hu[~where], expected_hu(layout, values)[~where])


def test_air_in_the_corners_is_no_plateau(tmp_path: Path) -> None:
    layout = Layout(signed=False)
    values, _ = padded_slice(layout, 0)
    _, padded, warnings = masked(write(tmp_path, layout, values))
    assert not padded.any()
    assert "implicit-padding" not in warnings


# --- transfer syntaxes ----------------------------------------------------------------------------------

ENCODED = {
    "16-signed": Layout(),
    "16-unsigned": Layout(signed=False),
    "12-unsigned": Layout(stored=12, signed=False),
    "12-signed": Layout(stored=12),
    "14-signed": Layout(stored=14),
    "8-unsigned": Layout(allocated=8, stored=8, signed=False),
}


@pytest.mark.parametrize(
    ("name", "syntax", "shape"), pairwise([*ENCODED], [RLE, JPEG_LS, JPEG_2000], [(64, 48), (37, 41)]), ids=str
)
def test_what_pydicom_encodes_without_loss_comes_back(
    name: str, syntax: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    layout = replace(ENCODED[name], syntax=syntax)
    values = layout.values(shape)
    path = write(tmp_path, layout, values)
    np.testing.assert_array_equal(hounsfield(path), expected_hu(layout, values))
    assert not scanned(path).lossy


def _jpeg_lossless(layout: Layout, values: Stored) -> bytes:
    unsigned = (values.astype(np.int64) & ((1 << layout.stored) - 1)).astype(f"u{layout.allocated // 8}")
    return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, bitspersample=layout.stored))


@pytest.mark.parametrize(("name", "syntax"), each_once([*ENCODED], [JPEG_LOSSLESS, JPEG_LOSSLESS_SV1]))
def test_jpeg_lossless_comes_back(name: str, syntax: str, tmp_path: Path) -> None:
    layout = replace(ENCODED[name], syntax=syntax)
    values = layout.values((17, 13))
    path = write(tmp_path, layout, values, encode=_jpeg_lossless)
    np.testing.assert_array_equal(hounsfield(path), expected_hu(layout, values))


def _htj2k(layout: Layout, values: Stored) -> bytes:
    return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(values), reversible=True))


@pytest.mark.skipif(not imagecodecs.HTJ2K.available, reason="no encoder of HTJ2K is installed to make the input")
@pytest.mark.parametrize(
    ("name", "syntax"), each_once(["16-signed", "16-unsigned", "8-unsigned"], [HTJ2K, HTJ2K_RPCL])
)
def test_high_throughput_jpeg_2000_comes_back(name: str, syntax: str, tmp_path: Path) -> None:
    layout = replace(ENCODED[name], syntax=syntax)
    values = layout.values((40, 36))
    path = write(tmp_path, layout, values, encode=_htj2k)
    np.testing.assert_array_equal(hounsfield(path), expected_hu(layout, values))
    assert not scanned(path).lossy


def _smooth(shape: tuple[int, int], high: int) -> Stored:
    j, i = np.indices(shape)
    return np.rint(high * (0.5 + 0.4 * np.sin(j / 9) * np.cos(i / 7))).astype(np.uint16)


def _lossy_jpeg(layout: Layout, values: Stored) -> bytes:
    narrow = values.astype(f"u{layout.allocated // 8}")
    return bytes(imagecodecs.jpeg8_encode(narrow, level=95, bitspersample=layout.stored))


@pytest.mark.parametrize(("syntax", "bits"), [(JPEG_BASELINE, 8), (JPEG_EXTENDED, 8), (JPEG_EXTENDED, 12)])
def test_lossy_jpeg_is_read_closely_and_flagged(syntax: str, bits: int, tmp_path: Path) -> None:
    layout = Layout(syntax=syntax, allocated=16 if bits > 8 else 8, stored=bits, signed=False)
    values = _smooth((48, 40), (1 << bits) - 1)
    path = write(tmp_path, layout, values, encode=_lossy_jpeg)
    assert scanned(path).lossy
    assert np.abs(hounsfield(path) - expected_hu(layout, values)).max() <= (1 << bits) / 50


@pytest.mark.parametrize("syntax", [JPEG_LS_NEAR, JPEG_2000_LOSSY])
def test_lossy_jpeg_ls_and_jpeg_2000_are_read_closely_and_flagged(syntax: str, tmp_path: Path) -> None:
    layout = Layout(syntax=syntax, signed=False)
    values = _smooth((64, 48), 4000)
    ds = ct_dataset(replace(layout, syntax=EXPLICIT), (64, 48))
    options: dict[str, Any] = {"jls_error": 3} if syntax == JPEG_LS_NEAR else {"j2k_psnr": [80]}
    ds.compress(UID(syntax), values, generate_instance_uid=False, **options)
    ds.save_as(tmp_path / "I0", enforce_file_format=True)
    assert scanned(tmp_path / "I0").lossy
    assert np.abs(hounsfield(tmp_path / "I0") - expected_hu(layout, values)).max() <= 100


def test_pixels_that_were_lossy_once_are_flagged_in_any_syntax(tmp_path: Path) -> None:
    layout = Layout(extra={"LossyImageCompression": "01"})
    assert scanned(write(tmp_path, layout, layout.values((4, 4)))).lossy


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection"),
        ("1.2.840.10008.1.2.4.100", "MPEG2"),
    ],
)
def test_a_syntax_without_a_decoder_is_refused_by_its_name_and_uid(syntax: str, name: str, tmp_path: Path) -> None:
    for index in range(3):
        layout = Layout(syntax=syntax)
        write(tmp_path / "in", layout, layout.values((4, 4)), index=index, encode=lambda *_: b"\xff\xd8\xff\xd9")
    reason, detail = failure(tmp_path / "in")
    assert reason == "unsupported-transfer-syntax"
    assert syntax in detail
    assert name in detail


# --- several frames -------------------------------------------------------------------------------------


def _multi_frame(folder: Path, layout: Layout, values: Stored, content: bytes, **extra: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ds = ct_dataset(layout, (values.shape[1], values.shape[2]))
    del ds.ImagePositionPatient
    ds.NumberOfFrames = len(values)
    ds.PerFrameFunctionalGroupsSequence = []
    for k in range(len(values)):
        item, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 5 * k]
        item.PlanePositionSequence = [position]
        ds.PerFrameFunctionalGroupsSequence.append(item)
    for keyword, value in extra.items():
        setattr(ds, keyword, value)
    compressed = UID(layout.syntax).is_compressed and layout.syntax != DEFLATED
    ds.add_new("PixelData", "OB" if compressed or layout.allocated == 8 else "OW", content)
    ds["PixelData"].is_undefined_length = compressed
    ds.save_as(folder / "multi", enforce_file_format=True)
    return folder / "multi"


@pytest.mark.parametrize(
    ("syntax", "bits"), [(IMPLICIT, 8), (EXPLICIT, 16), (DEFLATED, 8), (BIG_ENDIAN, 8), (BIG_ENDIAN, 16)]
)
def test_frames_lie_one_behind_the_other_without_gaps(bits: int, syntax: str, tmp_path: Path) -> None:
    layout = Layout(syntax=syntax, allocated=bits, stored=bits, signed=False)
    values = layout.values((3, 5, 7))
    content = values.astype(values.dtype.newbyteorder("big" if syntax == BIG_ENDIAN else "little")).tobytes()
    stack = scanned(_multi_frame(tmp_path, layout, values, content + b"\0" * (len(content) % 2)))
    assert stack.slices.frame.tolist() == [0, 1, 2]
    for found, expected in zip(read_slices(stack), values, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("table", "fragments"), [("basic", 1), ("basic", 3), ("none", 1), ("none", 3), ("extended", 1)]
)
def test_frames_in_fragments_are_found_with_any_offset_table(table: str, fragments: int, tmp_path: Path) -> None:
    layout = Layout(syntax=JPEG_LOSSLESS_SV1, signed=False)
    values = layout.values((3, 16, 16))
    encoded = [_jpeg_lossless(layout, frame) for frame in values]
    extra: dict[str, Any] = {}
    if table == "extended":
        content, extra["ExtendedOffsetTable"], extra["ExtendedOffsetTableLengths"] = encapsulate_extended(encoded)
    else:
        content = encapsulate(encoded, fragments_per_frame=fragments, has_bot=table == "basic")
    stack = scanned(_multi_frame(tmp_path, layout, values, content, **extra))
    for found, expected in zip(read_slices(stack), values, strict=True):
        np.testing.assert_array_equal(found, expected)


# --- broken files ---------------------------------------------------------------------------------------


def series(folder: Path, layout: Layout, *, count: int = 4, encode: Encoder | None = None) -> list[Path]:
    smooth = [_smooth((64, 64), 4000).astype(layout.dtype) + index for index in range(count)]
    return [write(folder, layout, values, index=k, encode=encode) for k, values in enumerate(smooth)]


WHOLE = ["rle", "jpeg-ls", "jpeg-2000", "jpeg-lossless", "jpeg-extended", "htj2k"]


@pytest.mark.parametrize("name", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, *WHOLE])
def test_a_whole_series_is_read_in_every_syntax(name: str, tmp_path: Path) -> None:
    layout, encode = CUT.get(name, (Layout(syntax=name), None))
    if name == "htj2k" and not imagecodecs.HTJ2K.available:
        pytest.skip("no encoder of HTJ2K is installed to make the input")
    series(tmp_path / "in", layout, encode=encode)
    found = run(tmp_path / "in")
    assert isinstance(found, SeriesTask), found
    assert found.entry.slices == 4


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_file_that_ends_before_its_pixels_do_is_refused(syntax: str, tmp_path: Path) -> None:
    paths = series(tmp_path / "in", Layout(syntax=syntax))
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    reason, detail = failure(tmp_path / "in")
    assert reason == "truncated-pixel-data"
    assert "7FE0,0010" in detail


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_pixel_data_shorter_than_rows_and_columns_say_is_refused(syntax: str, tmp_path: Path) -> None:
    series(tmp_path / "in", Layout(syntax=syntax, extra={"Rows": 70}))
    assert failure(tmp_path / "in")[0] in {"truncated-pixel-data", "undecodable"}


CUT = {
    "rle": (Layout(syntax=RLE), None),
    "jpeg-ls": (Layout(syntax=JPEG_LS), None),
    "jpeg-2000": (Layout(syntax=JPEG_2000), None),
    "jpeg-lossless": (Layout(syntax=JPEG_LOSSLESS_SV1, signed=False), _jpeg_lossless),
    "jpeg-extended": (Layout(syntax=JPEG_EXTENDED, stored=12, signed=False), _lossy_jpeg),
    "htj2k": (Layout(syntax=HTJ2K, signed=False), _htj2k),
}


# The JPEG-LS decoder takes seconds to give up; once is enough.
@pytest.mark.parametrize(
    ("name", "share"),
    [(name, share) for name in CUT for share in (0.4, 0.97) if (name, share) != ("jpeg-ls", 0.97)],
)
def test_a_cut_encoded_file_is_refused_and_never_filled_in(name: str, share: float, tmp_path: Path) -> None:
    layout, encode = CUT[name]
    if name == "htj2k" and not imagecodecs.HTJ2K.available:
        pytest.skip("no encoder of HTJ2K is installed to make the input")
    paths = series(tmp_path / "in", layout, encode=encode)
    whole = paths[2].read_bytes()
    start = whole.find(struct.pack("<HH", 0x7FE0, 0x0010)) + 12
    paths[2].write_bytes(whole[: int(start + share * (len(whole) - start))])
    reason, _ = failure(tmp_path / "in")
    assert reason in {"truncated-pixel-data", "undecodable", "unreadable"}


@pytest.mark.parametrize("name", [name for name in CUT if name != "jpeg-ls"])
def test_an_encoded_frame_that_lost_its_end_is_refused_and_never_filled_in(name: str, tmp_path: Path) -> None:
    layout, encode = CUT[name]
    if name == "htj2k" and not imagecodecs.HTJ2K.available:
        pytest.skip("no encoder of HTJ2K is installed to make the input")
    paths = series(tmp_path / "in", layout, encode=encode)
    ds = pydicom.dcmread(paths[1])
    [frame] = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: len(frame) * 6 // 10]])
    ds.save_as(paths[1])
    reason, _ = failure(tmp_path / "in")
    assert reason in {"truncated-pixel-data", "undecodable"}


@pytest.mark.parametrize("name", CUT)
def test_noise_instead_of_an_encoded_frame_is_refused(name: str, tmp_path: Path) -> None:
    layout, encode = CUT[name]
    if name == "htj2k" and not imagecodecs.HTJ2K.available:
        pytest.skip("no encoder of HTJ2K is installed to make the input")
    paths = series(tmp_path / "in", layout, encode=encode)
    ds = pydicom.dcmread(paths[0])
    ds.PixelData = encapsulate([np.random.default_rng(3).bytes(600)])
    ds.save_as(paths[0])
    reason, _ = failure(tmp_path / "in")
    assert reason in {"truncated-pixel-data", "undecodable"}


# RLE does not know its own shape.
@pytest.mark.parametrize("name", [name for name in CUT if name != "rle"])
def test_a_frame_of_another_shape_than_rows_and_columns_is_refused(name: str, tmp_path: Path) -> None:
    layout, encode = CUT[name]
    for path in series(tmp_path / "in", layout, encode=encode):
        ds = pydicom.dcmread(path)
        ds.Rows, ds.Columns = 32, 128
        ds.save_as(path)
    assert failure(tmp_path / "in")[0] in {"undecodable", "inconsistent-slices"}


def test_a_jpeg_with_fewer_bits_than_the_header_says_is_refused(tmp_path: Path) -> None:
    def narrow(_: Layout, values: Stored) -> bytes:
        return bytes(imagecodecs.jpeg8_encode((values >> 4).astype(np.uint8), lossless=True))

    series(tmp_path / "in", Layout(JPEG_LOSSLESS_SV1, stored=12, signed=False), encode=narrow)
    assert failure(tmp_path / "in")[0] == "undecodable"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_deflated_file_is_told_and_nothing_is_written_without_it(share: float, tmp_path: Path) -> None:
    paths = series(tmp_path / "in", Layout(syntax=DEFLATED), count=8)
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[: int(share * len(whole))])
    config = Config(native=True, min_slices=2)
    plan = make_plan(merge_scans(map(scan_source, find_sources([str(tmp_path / "in")]))), config)
    told = {entry.reason for entry in plan.settled if entry.outcome == "failed"}
    for task in plan.tasks:
        with pytest.raises(SeriesError) as raised:
            convert_task(task, config)
        told.add(raised.value.code)
    assert told & {"truncated-pixel-data", "undecodable", "unreadable"}


@pytest.mark.parametrize("where", ["folder", "zip"])
def test_a_file_that_changed_after_the_scan_is_refused(where: str, tmp_path: Path) -> None:
    paths = series(tmp_path / "in", Layout())
    source = tmp_path / "in"
    if where == "zip":
        source = tmp_path / "in.zip"
        _zip(paths, source)
    stack = scanned(source)
    with paths[1].open("ab") as stream:
        stream.write(bytes(64))
    if where == "zip":
        _zip(paths, source)
    with pytest.raises(SeriesError) as raised:
        list(read_slices(stack))
    assert raised.value.code == "unreadable"
    # Of an archive that changed no member is trusted.
    changed = 1 if where == "folder" else 0
    assert stack.slices.sop_instance_uid[changed].decode() in str(raised.value)


@pytest.mark.parametrize("where", ["folder", "zip"])
def test_a_file_that_is_gone_after_the_scan_is_refused(where: str, tmp_path: Path) -> None:
    paths = series(tmp_path / "in", Layout())
    source = tmp_path / "in"
    if where == "zip":
        source = tmp_path / "in.zip"
        _zip(paths, source)
    stack = scanned(source)
    if where == "zip":
        _zip(paths[:2], source)
    else:
        paths[1].unlink()
    with pytest.raises(SeriesError) as raised:
        list(read_slices(stack))
    assert raised.value.code == "unreadable"


def _zip(paths: list[Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)


def test_slices_in_a_zip_are_those_of_the_folder(tmp_path: Path) -> None:
    for syntax in (EXPLICIT, JPEG_LS, DEFLATED):
        folder = tmp_path / UID(syntax).name
        _zip(series(folder, Layout(syntax=syntax)), tmp_path / "z.zip")
        shutil.move(tmp_path / "z.zip", folder.with_suffix(".zip"))
        for one, other in zip(
            read_slices(scanned(folder)), read_slices(scanned(folder.with_suffix(".zip"))), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    paths = series(tmp_path / "in", Layout())
    stack = scanned(tmp_path / "in")
    paths[0].chmod(0)
    with pytest.raises(SeriesError) as raised:
        list(read_slices(stack))
    assert raised.value.code == "unreadable"
