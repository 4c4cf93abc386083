"""Which stacks are wanted, judged on files that a phantom was told to write."""

from __future__ import annotations

import pytest
from series import one_stack, small_series

from etl.phantom.files import write_localizer
from etl.phantom.head import HeadPhantom
from etl.plan.selection import exclusion_of, too_few

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def write(folder, *, count=10, **changes):
    """Write a series whose attributes are then changed; None deletes one."""

    def edit(_, dataset):
        for keyword, value in changes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    small_series(folder, count=count, rows=12, edit=edit)
    return one_stack(folder)


def reason(stack, *, min_slices=8, slice_count=None):
    exclusion = exclusion_of(stack) or too_few(stack, min_slices=min_slices, slice_count=slice_count)
    return None if exclusion is None else exclusion.reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"Modality": "MR"}, "not-ct"),
        ({"Modality": "PT"}, "not-ct"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER", "CT_SOM5 TOP"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, None),
        ({"ImageType": None}, None),
        ({"SOPClassUID": SECONDARY_CAPTURE}, "secondary-capture"),
        ({"SOPClassUID": ENHANCED_CT}, None),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelData": bytes(12 * 12 * 6)},
            "secondary-capture",
        ),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "secondary-capture"),
        ({"SOPClassUID": RAW_DATA, "PixelData": None}, "no-pixels"),
        ({"SOPClassUID": PRESENTATION_STATE, "Modality": "PR", "PixelData": None}, "not-ct"),
    ],
    ids=str,
)
def test_modality_type_and_pixels_decide(tmp_path, changes, expected):
    assert reason(write(tmp_path / "p", **changes)) == expected


def test_the_scout_of_the_phantom_is_a_localizer_before_it_is_too_short(tmp_path):
    write_localizer(tmp_path / "p", HeadPhantom(), rows=16)
    assert reason(one_stack(tmp_path / "p")) == "localizer"


@pytest.mark.parametrize(
    ("count", "min_slices", "slice_count", "expected"),
    [
        (10, 10, None, None),
        (10, 11, None, "too-few-slices"),
        (10, 2, 10, None),
        (10, 2, 9, "slice-count"),
        (10, 2, 11, "slice-count"),
        (1, 2, None, "too-few-slices"),
    ],
)
def test_the_number_of_slices_decides(tmp_path, count, min_slices, slice_count, expected):
    stack = write(tmp_path / "p", count=count)
    assert reason(stack, min_slices=min_slices, slice_count=slice_count) == expected


def test_the_detail_tells_what_was_found_and_what_is_wanted(tmp_path):
    short = too_few(write(tmp_path / "p", count=4), min_slices=8, slice_count=None)
    assert "4" in short.detail
    assert "8" in short.detail
    other = exclusion_of(write(tmp_path / "q", Modality="MR"))
    assert "MR" in other.detail
    assert "(0008,0060)" in other.detail
