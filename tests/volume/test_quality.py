"""What is odd about the content of a series is flagged, and nothing is changed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from etl.phantom.head import HeadPhantom
from etl.volume.quality import Quality, find_plateau

Hu = NDArray[np.float32]


@pytest.fixture(scope="module")
def head() -> Hu:
    """One noisy slice of a head in air."""
    hu = HeadPhantom().hu_on_plane((-127, -127, 10), (0, 2, 0), (2, 0, 0), (128, 128))
    return np.asarray(hu + np.random.default_rng(1).normal(0, 6, hu.shape), np.float32)


def codes(*slices: Hu, padded: NDArray[np.bool_] | None = None, implicit: bool = False) -> tuple[str, ...]:
    quality = Quality()
    for hu in slices:
        before = hu.copy()
        quality.add(hu, padded, implicit=implicit)
        np.testing.assert_array_equal(hu, before)
    return quality.warnings()


def test_a_head_in_air_is_not_odd(head: Hu) -> None:
    assert codes(head, head, head) == ()


def test_an_air_peak_that_is_elsewhere_or_nowhere_is_flagged(head: Hu) -> None:
    assert codes(head + 1024) == ("no-air-peak",)
    assert codes(head + 200) == ("no-air-peak",)
    assert codes(np.maximum(head, -300)) == ("no-air-peak",)


def test_a_little_air_is_enough(head: Hu) -> None:
    inside = np.maximum(head, -300)
    inside[:8] = -1000 + head[:8] % 5
    assert codes(inside) == ()


def test_a_constant_slice_is_flagged(head: Hu) -> None:
    assert codes(head, np.zeros_like(head), head) == ("constant-slice",)


def test_a_slice_of_nothing_but_padding_is_flagged(head: Hu) -> None:
    assert "constant-slice" in codes(head, padded=np.ones(head.shape, bool))


def test_values_that_passed_4095_and_began_again_are_flagged(head: Hu) -> None:
    stored = (head + 1024).astype(np.int64)
    implant = stored.copy()
    implant[60:72, 60:72] = 3900 + 40 * np.arange(12)
    assert codes(np.clip(implant, 0, 4095).astype(np.float32) - 1024) == ()
    rng = np.random.default_rng(2)
    implant[60:72, 60:72] = 4040 + rng.integers(0, 110, (12, 12))
    assert codes((implant & 0xFFF).astype(np.float32) - 1024) == ("wrap-around",)


@pytest.mark.parametrize("value", [-1500.0, 5000.0, 20000.0])
def test_values_beyond_what_tissue_or_metal_can_have_are_flagged(value: float, head: Hu) -> None:
    odd = head.copy()
    odd[40:60, 40:60] = value
    assert "implausible-hu" in codes(odd)


def test_a_few_noisy_pixels_are_not_implausible(head: Hu) -> None:
    odd = head.copy()
    odd[48, 48] = 5000
    assert "implausible-hu" not in codes(odd, head, head, head)


def test_padding_does_not_count(head: Hu) -> None:
    padded = np.zeros(head.shape, bool)
    padded[:, :30] = True
    odd = head.copy()
    odd[padded] = -3024
    assert codes(odd, padded=padded) == ()
    assert codes(odd, padded=padded, implicit=True) == ("implicit-padding",)
    assert "implausible-hu" in codes(odd)


def test_the_figures_behind_the_codes_are_kept(head: Hu) -> None:
    quality = Quality()
    quality.add(head, None)
    quality.add(np.full_like(head, 7), None)
    found = quality.to_attributes()
    sample = head[::4, ::4]
    assert found["lowest_hu"] == pytest.approx(sample.min())
    assert found["highest_hu"] == pytest.approx(sample.max())
    air = np.mean((sample >= -1060) & (sample <= -940)) / 2
    assert found["air_share"] == pytest.approx(air, abs=1e-5)
    assert found["constant_slices"] == 1


def test_of_no_slices_there_is_nothing_to_say() -> None:
    assert Quality().to_attributes() == {
        "lowest_hu": None,
        "highest_hu": None,
        "air_share": 0.0,
        "constant_slices": 0,
    }


# --- plateaus -------------------------------------------------------------------------------------------


def framed(inside: NDArray[np.integer], value: int, *, margin: int = 6) -> NDArray[np.integer]:
    out = np.full(inside.shape, value, inside.dtype)
    cut = slice(margin, -margin)
    out[cut, cut] = inside[cut, cut]
    return out


def stored(dtype: type[np.integer] = np.int16) -> NDArray[np.integer]:
    return np.random.default_rng(5).integers(0, 2500, (64, 64)).astype(dtype)


@pytest.mark.parametrize(
    ("value", "slope", "intercept"),
    [(-2000, 1.0, -1024.0), (-2000, 1.0, 0.0), (-976, 1.0, -1024.0), (-1500, 2.0, 0.0), (-32768, 1.0, 0.0)],
)
def test_a_plateau_below_air_around_the_field_is_found(value: int, slope: float, intercept: float) -> None:
    assert find_plateau(framed(stored(), value), slope=slope, intercept=intercept) == value


def test_a_plateau_is_found_where_a_negative_slope_turns_high_values_low() -> None:
    upside_down = framed((2500 - stored()).astype(np.int16), 4000)
    assert find_plateau(upside_down, slope=-1.0, intercept=1476.0) == 4000


def test_air_is_no_plateau() -> None:
    assert find_plateau(framed(stored(), 0), slope=1.0, intercept=-1024.0) is None


def test_low_values_that_are_few_or_not_in_a_corner_are_no_plateau() -> None:
    few = stored()
    few[0, 0] = -2000
    assert find_plateau(few, slope=1.0, intercept=-1024.0) is None
    inner = stored()
    inner[20:40, 20:40] = -2000
    assert find_plateau(inner, slope=1.0, intercept=-1024.0) is None


def test_one_corner_is_enough() -> None:
    quarter = stored()
    quarter[-20:, -20:] = -2000
    assert find_plateau(quarter, slope=1.0, intercept=-1024.0) == -2000
