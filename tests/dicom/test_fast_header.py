"""The quick reader gives what pydicom gives, or leaves the file to it."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from series import small_series

from etl.dicom.fast_header import FastHeaderReader
from etl.dicom.header_parser import CHUNK_BYTES
from etl.scan.slice_records import FREE_TAGS, HEADER_SEQUENCES, HEADER_TAGS, records_of
from etl.stack import FileState, Location

OTHER_VALUES = {
    "AS": "044Y",
    "DA": "20200101",
    "DT": "20200101120000",
    "FD": 17.0,
    "FL": 17.0,
    "TM": "120001",
    "UI": "1.2.3.4",
    "UL": 17,
    "US": 17,
}
SHARED = Path(__file__).parents[3] / "shared" / "data"


def a_slice(syntax=ExplicitVRLittleEndian, change=lambda dataset: None):
    """One slice of the phantom as bytes, changed and written by pydicom."""
    files = []
    small_series(lambda _, content: files.append(content), count=2, rows=16)
    dataset = pydicom.dcmread(io.BytesIO(files[0]))
    change(dataset)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    # pydicom's own writer is the oracle of the encodings.
    pydicom.dcmwrite(
        stream,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    return stream.getvalue()


def a_reader():
    return FastHeaderReader(HEADER_TAGS, HEADER_SEQUENCES, FREE_TAGS)


def quick(content, reader=None):
    return (reader or a_reader()).read(io.BytesIO(content))


def raw_elements(dataset):
    """All but Specific Character Set, which dcmread converts itself; of an empty value no raw form is left."""
    found = {number: dataset.get_item(tag) for number, tag in HEADER_TAGS.items() if number != 0x00080005}
    return {
        tag: (e.VR, e.length, e.value, e.value_tell, e.is_implicit_VR)
        if isinstance(e, RawDataElement)
        else (e.VR, str(e.value))
        for tag, e in found.items()
        if e is not None
    }


def assert_as_pydicom(content, reader=None):
    """Compare with pydicom; give False where the quick reader left the file to it."""
    header = quick(content, reader)
    if header is None:
        return False
    stream = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(HEADER_TAGS.values()))
    assert raw_elements(header.dataset) == raw_elements(known)
    assert header.dataset.original_encoding == known.original_encoding
    assert header.transfer_syntax_uid == known.file_meta.TransferSyntaxUID
    is_implicit = known.original_encoding[0]
    assert header.pixel_offset == stream.tell() + (8 if is_implicit else 12)
    [length] = struct.unpack("<L", content[header.pixel_offset - 4 : header.pixel_offset])
    assert header.pixel_length == (-1 if length == 0xFFFFFFFF else length)
    assert header.dataset.get("SpecificCharacterSet") == known.get("SpecificCharacterSet")
    assert header.dataset.get("PatientID") == known.get("PatientID")
    return True


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_ordinary_slice_is_read_as_pydicom_reads_it(syntax):
    assert assert_as_pydicom(a_slice(syntax))


def long_private(dataset):
    dataset.private_block(0x0009, "SOMEBODY", create=True).add_new(1, "OB", bytes(3 * CHUNK_BYTES))


def many_private(dataset):
    block = dataset.private_block(0x0011, "SOMEBODY", create=True)
    for n in range(200):
        block.add_new(n, "LT", "x" * (97 + n % 3))


def a_sequence(dataset):
    dataset.ReferencedImageSequence = [Dataset()]
    dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def empty_values(dataset):
    dataset.SliceThickness = None
    dataset.PatientID = ""


CHANGES = (long_private, many_private, a_sequence, empty_values)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_lies_between_is_passed_over(syntax, change):
    assert assert_as_pydicom(a_slice(syntax, change))


def endless_sequence(dataset):
    a_sequence(dataset)
    dataset["ReferencedImageSequence"].is_undefined_length = True


def functional_groups(dataset):
    dataset.SharedFunctionalGroupsSequence = [Dataset()]


def a_long_identifier(dataset):
    dataset.PatientID = "P" * 60_000


def no_pixels(dataset):
    del dataset.PixelData


@pytest.mark.parametrize("change", [endless_sequence, functional_groups, a_long_identifier, no_pixels])
def test_what_is_unusual_is_left_to_pydicom(change):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert quick(a_slice(change=change)) is None


def test_other_encodings_are_left_to_pydicom():
    whole = a_slice()
    assert quick(a_slice(ExplicitVRBigEndian)) is None
    assert quick(whole[132:]) is None
    assert quick(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")) is None
    assert quick(b"") is None


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_a_header_that_is_cut_off_is_left_to_pydicom(share):
    whole = a_slice()
    assert quick(whole[: int(share * quick(whole).pixel_offset)]) is None


@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_whatever_bytes_are_damaged_it_agrees_or_leaves_it(flips):
    content = bytearray(a_slice())
    end = quick(bytes(content)).pixel_offset
    for share, value in flips:
        content[min(end - 1, int(share * end))] = value
    header = quick(bytes(content))
    if header is None:
        return
    stream = io.BytesIO(bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            known = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(HEADER_TAGS.values()))
        except Exception:  # noqa: BLE001 - pydicom refuses what it converts on the way, the quick reader converts nothing
            return
    assert raw_elements(header.dataset) == raw_elements(known)


def other_number(dataset):
    dataset.InstanceNumber = 7
    dataset.SOPInstanceUID = dataset.SOPInstanceUID[:-1] + "9"


def other_position(dataset):
    dataset.ImagePositionPatient = [float(v) + 0.5 for v in dataset.ImagePositionPatient]


def other_slope(dataset):
    dataset.RescaleSlope = 2


def other_patient(dataset):
    dataset.PatientID = "P2"


def none_of_it(dataset):
    del dataset.KVP


SIBLINGS = (lambda dataset: None, other_number, other_position, other_slope, other_patient, none_of_it)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_of_a_series_are_read_as_pydicom_reads_them(syntax):
    reader, contents = a_reader(), [a_slice(syntax, change) for change in (*SIBLINGS, *SIBLINGS)]
    assert all(assert_as_pydicom(content, reader) for content in contents)
    alike = [quick(content, reader).alike for content in contents]
    plain, numbered, _, slope, patient, less = alike[: len(SIBLINGS)]
    assert plain == numbered
    assert len({plain, slope, patient, less}) == 4
    # What was seen once is known again.
    assert alike == alike[: len(SIBLINGS)] * 2


sibling = cache(lambda n: a_slice(change=SIBLINGS[n]))


def rest_of(header):
    return header.transfer_syntax_uid, header.pixel_offset, header.pixel_length


@given(
    damage=st.lists(
        st.tuples(st.sampled_from(range(len(SIBLINGS))), st.floats(0, 1), st.integers(0, 255)), max_size=20
    )
)
def test_a_reader_that_knows_other_files_reads_no_file_differently(damage):
    reader = a_reader()
    contents = [sibling(n) for n in range(len(SIBLINGS))]
    for index, share, value in damage:
        content = bytearray(contents[index])
        content[int(share * (quick(contents[index]).pixel_offset - 1))] = value
        alone, among_others = quick(bytes(content)), quick(bytes(content), reader)
        assert (alone is None) == (among_others is None)
        if alone is not None:
            assert raw_elements(among_others.dataset) == raw_elements(alone.dataset)
            assert rest_of(among_others) == rest_of(alone)
            assert among_others.dataset.original_encoding == alone.dataset.original_encoding


def a_row(dataset, sibling=None):
    return records_of(
        dataset,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        location=Location("folder", "a/1"),
        source_name="source",
        folder="a",
        pixel_offset=1000,
        pixel_length=512,
        state=FileState(2000, 0, 0, 0),
        crc32=-1,
        sibling=sibling,
    )[0]


def test_a_free_element_changes_nothing_that_siblings_share():
    whole = a_slice()
    first, differ = a_row(quick(whole).dataset), []
    for tag in sorted(FREE_TAGS):
        changed = pydicom.dcmread(io.BytesIO(whole))
        changed.add_new(tag, dictionary_VR(tag), OTHER_VALUES.get(dictionary_VR(tag), "17"))
        stream = io.BytesIO()
        changed.save_as(stream)
        dataset = quick(stream.getvalue()).dataset
        alone, with_sibling = a_row(dataset), a_row(dataset, first)
        # NaN is no number, and equal to nothing.
        if repr(replace(with_sibling, dataset=None)) != repr(replace(alone, dataset=None)):
            differ.append(keyword_for_tag(tag))
        assert with_sibling.dataset is dataset
    assert differ == []


@pytest.mark.skipif(not SHARED.exists(), reason="the shared DICOM files are not here")
def test_every_real_file_agrees_and_most_are_ordinary():
    read = left = 0
    reader = a_reader()
    for path in sorted(SHARED.rglob("*")):
        if path.is_file() and path.stat().st_size < 20_000_000:
            content = path.read_bytes()
            if content[128:132] == b"DICM":
                agreed = assert_as_pydicom(content, reader)
                read, left = read + agreed, left + (not agreed)
    assert read > 5 * left
