"""Pictures of slices, against the Hounsfield units that a store was written with."""

from __future__ import annotations

import io

import numpy as np
import pytest
import zarr
from handmade_store import Series, damage_all_but_first_chunk, head, write_store
from PIL import Image

from etl.errors import StoreError, UsageError
from etl.read.patients import Volume, open_store
from etl.view.pictures import (
    STORE_WINDOW,
    THUMBNAIL_PX,
    WINDOWS,
    draw_slice,
    draw_thumbnail,
    usual_window,
    window_ends,
)
from etl.view.planes import lay_out_plane

SHAPE = (9, 10, 11)


def volume_of(tmp_path, **options) -> Volume:
    series = Series(options.pop("hu", head(SHAPE)), spacing_mm=(1.0, 1.0, 1.0), **options)
    return open_store(write_store(tmp_path / "s.zarr", [series]))[series.patient_id].default


def drawn(volume, axis, index, window="brain", overlay="") -> np.ndarray:
    content = draw_slice(volume, lay_out_plane(volume.geometry, axis), index, window=window, overlay=overlay)
    return np.asarray(Image.open(io.BytesIO(content)), np.float64)


@pytest.mark.parametrize("window", [*WINDOWS, STORE_WINDOW])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pixels_are_the_hounsfield_units_in_the_window(tmp_path, axis, window):
    hu = head(SHAPE)
    volume = volume_of(tmp_path, hu=hu)
    low, high = window_ends(window, (-1000, 2000))
    plane = np.take(np.clip(hu, -1000, 2000), 4, axis)
    if axis:  # superior is up
        plane = plane[::-1]
    expected = 255 * np.clip((plane - low) / (high - low), 0, 1)
    # Half a gray and half a step of 2^-13 of 3000 HU.
    assert np.abs(drawn(volume, axis, 4, window) - expected).max() <= 0.51 + 0.19 * 255 / (high - low)


@pytest.mark.parametrize(
    ("name", "ends"), [("brain", (0, 80)), ("bone", (-800, 2000)), ("lung", (-1350, 150)), ("store", (-160, 240))]
)
def test_windows_are_those_of_the_reading_room(name, ends):
    assert window_ends(name, (-160, 240)) == ends


def test_validity_is_red_outside_and_amber_in_gaps_and_measured_stays_gray(tmp_path):
    validity = np.ones(SHAPE, np.uint8)
    validity[4, :3], validity[4, 5:7] = 0, 2
    volume = volume_of(tmp_path, validity=validity)
    plain, tinted = drawn(volume, 0, 4), drawn(volume, 0, 4, overlay="validity")
    assert (tinted[3:5] == plain[3:5, :, None]).all()
    assert (tinted[7:] == plain[7:, :, None]).all()
    red, green, blue = np.moveaxis(tinted, 2, 0)
    assert (red[:3] > green[:3]).all()
    assert (green[:3] - blue[:3] == 0).all()
    assert (red[5:7] > green[5:7]).all()
    assert (green[5:7] > blue[5:7]).all()


@pytest.mark.parametrize("name", ["lesion", "lesion/0"])
def test_a_label_is_laid_over_where_it_is_as_an_array_or_an_ngff_image_label(tmp_path, name):
    volume = volume_of(tmp_path)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 5, 6] = 1
    mask[2, 1, 1] = 7
    zarr.create_array(tmp_path / "s.zarr" / volume.node / "labels" / name, data=mask)
    sagittal = drawn(volume, 2, 6, overlay="label:lesion")
    is_gray = (sagittal == sagittal[..., :1]).all(axis=2)
    assert np.argwhere(~is_gray).tolist() == [[5, 5], [6, 5]]
    axial = drawn(volume, 0, 2, overlay="label:lesion")
    assert not (axial[5, 6] == axial[5, 6, 0]).all()
    assert not (axial[1, 1] == axial[1, 1, 0]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": "kidney"}, "window 'kidney': allowed is brain, subdural"),
        ({"index": 9}, "slice 9 across axis 0: allowed is 0 to 8"),
        ({"overlay": "label:none"}, "has no label 'none'"),
        ({"overlay": "body"}, "overlay 'body': allowed is"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        drawn(volume_of(tmp_path), 0, **{"index": 4, **options})


def test_a_label_on_another_grid_is_refused(tmp_path):
    volume = volume_of(tmp_path)
    zarr.create_array(tmp_path / "s.zarr" / volume.node / "labels/x", data=np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(UsageError, match="the volume's is"):
        drawn(volume, 0, 4, overlay="label:x")


def test_a_damaged_chunk_is_an_error_and_no_picture(tmp_path):
    one = Series(head(SHAPE), spacing_mm=(1.0, 1.0, 1.0))
    store = write_store(tmp_path / "s.zarr", [one])
    damage_all_but_first_chunk(store, one)
    with pytest.raises(StoreError, match="cannot be read"):
        draw_thumbnail(open_store(store)[one.patient_id].default)


def test_a_thumbnail_shows_the_middle_axial_and_sagittal_planes_to_scale(tmp_path):
    hu = np.full((20, 10, 10), -1000, np.float32)
    hu[10:, :, :] = 80  # the upper half is bright
    picture = np.asarray(Image.open(io.BytesIO(draw_thumbnail(volume_of(tmp_path, hu=hu)))))
    assert picture.shape == (THUMBNAIL_PX, 2 * THUMBNAIL_PX)
    axial, sagittal = picture[:, :THUMBNAIL_PX], picture[:, THUMBNAIL_PX:]
    middle = THUMBNAIL_PX // 2
    assert (axial[5:-5, 5:-5] > 240).all()
    assert (sagittal[5 : middle - 5, middle - 20 : middle + 20] > 240).all()
    assert (sagittal[middle + 5 :] < 15).all()
    # Half as wide as high: what lies beside it is empty.
    assert (sagittal[:, : middle - 30] < 15).all()


@pytest.mark.parametrize(("spacing_mm", "window"), [(1.0, "brain"), (40.0, "soft tissue")])
def test_what_is_wider_than_a_head_is_first_seen_in_soft_tissue(tmp_path, spacing_mm, window):
    one = Series(head(SHAPE), spacing_mm=(1.0, 1.0, spacing_mm))
    assert usual_window(open_store(write_store(tmp_path / "s.zarr", [one]))[one.patient_id].default) == window
