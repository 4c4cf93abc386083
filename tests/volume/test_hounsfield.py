"""From stored values to HU: against pydicom, against bit arithmetic, and the table of padding values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairwise import each_once
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from etl.errors import SeriesError
from etl.volume.hounsfield import padding_mask, stored_values, to_hounsfield

NAN, INF = float("nan"), float("inf")
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32]


def everything(dtype: type[np.integer]) -> np.ndarray:
    info = np.iinfo(dtype)
    return (
        np.linspace(info.min, info.max, 4097).astype(np.int64).clip(-(2**20), 2**20).astype(dtype).reshape(17, 241)
    )


@pytest.mark.parametrize(
    ("rescale", "dtype"),
    each_once([(1, -1024), (1, 0), (0.5, -1000.5), (2, 7), (-1, 0), (1.3, -2040), (1e-3, 31.4)], INTEGERS),
)
def test_the_rescale_is_that_of_pydicom(rescale: tuple[float, float], dtype: type[np.integer]) -> None:
    slope, intercept = rescale
    stored = everything(dtype)
    header = Dataset()
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    expected = apply_modality_lut(stored, header)
    hu = to_hounsfield(stored, slope=slope, intercept=intercept)
    assert hu.dtype == np.float32
    np.testing.assert_allclose(hu, expected, rtol=3e-7, atol=3e-4)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_whole_numbers_stay_exact(dtype: type[np.integer]) -> None:
    stored = everything(dtype)
    np.testing.assert_array_equal(to_hounsfield(stored, slope=1.0, intercept=-1024.0), stored.astype(int) - 1024)


def test_the_stored_values_stay_as_they_were() -> None:
    stored = everything(np.int16)
    before = stored.copy()
    hu = to_hounsfield(stored, slope=1.0, intercept=0.0)
    assert not np.shares_memory(hu, stored)
    np.testing.assert_array_equal(stored, before)


@pytest.mark.parametrize(
    ("slope", "intercept"), [(NAN, 0.0), (1.0, NAN), (0.0, -1024.0), (-0.0, 0.0), (INF, 0.0), (1.0, -INF)]
)
def test_a_rescale_that_is_absent_or_senseless_is_refused(slope: float, intercept: float) -> None:
    with pytest.raises(
        SeriesError, match=r"Rescale Slope \(0028,1053\) is .*Intercept \(0028,1052\) is"
    ) as raised:
        to_hounsfield(np.zeros((2, 2), np.int16), slope=slope, intercept=intercept)
    assert raised.value.code == "missing-rescale"


@given(data=st.data(), signed=st.booleans(), allocated=st.sampled_from([8, 16, 32]))
def test_stored_bits_are_taken_whatever_the_others_hold(data: st.DataObject, signed: bool, allocated: int) -> None:
    bits = data.draw(st.integers(1, allocated))
    high_bit = data.draw(st.integers(bits - 1, allocated - 1)) if bits < allocated else allocated - 1
    words = data.draw(st.lists(st.integers(0, 2**allocated - 1), min_size=1, max_size=8))
    raw = np.array([words], f"u{allocated // 8}").view(f"{'i' if signed else 'u'}{allocated // 8}")
    before = raw.copy()
    found = stored_values(raw, bits_stored=bits, high_bit=high_bit)
    expected = []
    for word in words:
        value = (word >> (high_bit - bits + 1)) % 2**bits
        expected.append(value - 2**bits if signed and value >= 2 ** (bits - 1) else value)
    assert found.tolist() == [expected]
    assert found.dtype == raw.dtype
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize(
    ("dtype", "value", "limit", "padded"),
    [
        (np.int16, -2000, NAN, {-2000}),
        (np.int16, 63536, NAN, {-2000}),
        (np.int16, -32768, NAN, {-32768}),
        (np.int16, 32768, NAN, {-32768}),
        (np.int16, -1500, NAN, {-1500}),
        (np.int16, 0, NAN, {0}),
        (np.uint16, 63536, NAN, {63536}),
        (np.uint16, -2000, NAN, {63536}),
        (np.uint16, 0, NAN, {0}),
        (np.uint16, 65535, NAN, {65535}),
        (np.int16, -2000, -1500, {-2000, -1501, -1500}),
        (np.int16, -1500, -2000, {-2000, -1501, -1500}),
        (np.int16, 63536, -1500, {-2000, -1501, -1500}),
        (np.int16, 63536, 64036, {-2000, -1501, -1500}),
        (np.uint16, 0, 1, {0, 1}),
        # -2000 to 1 in unsigned words: the range runs over the end.
        (np.uint16, -2000, 1, {63536, 63537, 65535, 0, 1}),
        (np.uint16, 1, 63536, {63536, 63537, 65535, 0, 1}),
        (np.int16, NAN, NAN, set()),
        (np.int16, NAN, -1500, set()),
        (np.int16, 31000, NAN, set()),
    ],
)
def test_padding_is_found_in_the_stored_domain(
    dtype: type[np.integer], value: float, limit: float, padded: set[int]
) -> None:
    signed = [-32768, -2001, -2000, -1501, -1500, -1499, -1024, -1, 0, 1, 30000, 32767]
    unsigned = [0, 1, 2, 1024, 30000, 32768, 63535, 63536, 63537, 65535]
    stored = np.array([signed if dtype is np.int16 else unsigned], dtype)
    mask = padding_mask(stored, padding_value=value, range_limit=limit)
    if padded:
        assert mask is not None
        assert mask.dtype == bool
        assert mask.tolist() == [[v in padded for v in stored[0].tolist()]]
    else:
        assert mask is None


@given(st.integers(-32768, 32767), st.booleans())
def test_a_padding_value_means_the_same_with_either_sign(value: int, wrong_sign: bool) -> None:
    stored = np.arange(-32768, 32768).astype(np.int16).reshape(256, 256)
    stated = value % 65536 if wrong_sign else value
    mask = padding_mask(stored, padding_value=float(stated))
    assert mask is not None
    assert stored[mask].tolist() == [value]


def test_no_padded_pixel_means_no_mask() -> None:
    assert padding_mask(np.zeros((3, 3), np.int16), padding_value=-2000.0) is None
