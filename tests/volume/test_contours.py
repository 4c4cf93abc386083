"""Filled contours: the oracle counts crossings point by point, in whole numbers where it can."""

from __future__ import annotations

import numpy as np
import pytest

from etl.volume.contours import contour_normal, fill_even_odd


def counted(polygons, shape):
    """Even-odd by a ray to the right of each center, an edge at a time."""
    found = np.zeros(shape, bool)
    for row, column in np.ndindex(shape):
        crossings = 0
        for points in polygons:
            for (r0, c0), (r1, c1) in zip(points, np.roll(points, -1, axis=0), strict=True):
                if (r0 >= row) != (r1 >= row) and c0 + (row - r0) * (c1 - c0) / (r1 - r0) > column:
                    crossings += 1
        found[row, column] = crossings % 2 == 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_any_contours_are_filled_as_counting_crossings_says(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-3, 23, (rng.integers(3, 12), 2)) for _ in range(3)]
    np.testing.assert_array_equal(fill_even_odd(polygons, (20, 21)), counted(polygons, (20, 21)))


def test_polygons_that_touch_share_no_center_and_miss_none():
    left = np.array([[0.0, 0], [0, 5], [8, 5], [8, 0]])
    right = left + np.array([0, 5])
    masks = [fill_even_odd([one], (9, 11)) for one in (left, right)]
    assert not (masks[0] & masks[1]).any()
    np.testing.assert_array_equal(masks[0] | masks[1], fill_even_odd([left * np.array([1, 2])], (9, 11)))
    assert masks[0].sum() == masks[1].sum() == 40


def test_a_circle_has_its_area():
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    polygon = 60.3 + 50 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    assert fill_even_odd([polygon], (121, 121)).sum() == pytest.approx(np.pi * 50**2, rel=2e-3)


def test_the_normal_of_contours_is_that_of_their_plane_whichever_way_they_run():
    normal = np.array([0.1, -0.3, 0.9])
    normal /= np.linalg.norm(normal)
    one = np.cross(normal, [1, 0, 0])
    two = np.cross(normal, one)
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)[:, None]
    ring = np.array([5, 6, 7]) + 9 * np.cos(angle) * one + 4 * np.sin(angle) * two
    np.testing.assert_allclose(contour_normal([ring, ring[::-1] + normal]), normal, atol=1e-12)
    assert not contour_normal([np.zeros((1, 3))]).any()


def test_contours_of_an_oblique_plane_do_not_cancel_whichever_component_is_largest():
    normals = np.array([[1.0, -1.0 - 1e-5, 0.2], [1.0 + 1e-5, -1.0, 0.2]])
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False)[:, None]
    rings = []
    for normal in normals / np.linalg.norm(normals, axis=1, keepdims=True):
        one = np.cross(normal, [0, 0, 1]) / np.linalg.norm(np.cross(normal, [0, 0, 1]))
        rings.append(9 * (np.cos(angle) * one + np.sin(angle) * np.cross(normal, one)))
    expected = np.array([1.0, -1.0, 0.2]) / np.sqrt(2.04)
    assert abs(contour_normal(rings) @ expected) > 1 - 1e-9
