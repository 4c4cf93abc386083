"""Draw slices of a stored volume: gray by a CT window, with validity or a label laid over it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etl.errors import UsageError
from etl.read.patients import Volume
from etl.read.stored_array import StoredArray, read_values
from etl.view.planes import Plane, lay_out_plane
from etl.volume.hounsfield import BRAIN_LEVEL_HU, BRAIN_WIDTH_HU

STORE_WINDOW = "store"
WINDOWS: Mapping[str, tuple[int, int]] = {
    "brain": (BRAIN_WIDTH_HU, BRAIN_LEVEL_HU),
    "subdural": (200, 75),
    "bone": (2800, 600),
    "lung": (1500, -600),
    "soft tissue": (400, 40),
}
"""Width and level in HU by name; `STORE_WINDOW` is what the store keeps."""
VALIDITY = "validity"
LABEL = "label:"
THUMBNAIL_PX = 104
# No head is wider; its series rarely show much more than it.
_WIDEST_HEAD_MM = 300.0
_SHARE = 0.45
_VALIDITY_COLORS = {0: (214, 60, 60), 2: (240, 170, 30)}
# Okabe and Ito's, which people who are color-blind tell apart; label values take them in turn.
_LABEL_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))


def window_ends(name: str, store_window: tuple[int, int]) -> tuple[float, float]:
    """Give the HU that are black and white.

    Raises
    ------
    UsageError
        There is no such window.
    """
    if name == STORE_WINDOW:
        return float(store_window[0]), float(store_window[1])
    if name not in WINDOWS:
        raise UsageError(f"window {name!r}: allowed is {', '.join(WINDOWS)}, {STORE_WINDOW}")
    width, level = WINDOWS[name]
    return level - width / 2, level + width / 2


def usual_window(volume: Volume) -> str:
    """Give the window in which a volume is seen first: brain, or soft tissue where it is wider than a head."""
    geometry = volume.geometry
    return "brain" if geometry.shape[2] * geometry.spacing_mm[2] <= _WIDEST_HEAD_MM else "soft tissue"


def draw_slice(volume: Volume, plane: Plane, index: int, *, window: str, overlay: str = "") -> bytes:
    """Draw one plane of a volume.

    Parameters
    ----------
    volume : Volume
    plane : Plane
        Of this volume.
    index : int
        Along the plane's axis.
    window : str
        A name of `WINDOWS`, or `STORE_WINDOW`.
    overlay : str
        Nothing, `VALIDITY`, or `LABEL` and the name of a label.

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    UsageError
        The window, the index or the label is not there.
    StoreError
        A chunk cannot be read.
    """
    low, high = window_ends(window, volume.window_hu)
    if not 0 <= index < volume.shape[plane.axis]:
        raise UsageError(f"slice {index} across axis {plane.axis}: allowed is 0 to {volume.shape[plane.axis] - 1}")
    picture = _gray(volume, plane, index, low, high)
    if overlay:
        picture = _tinted(picture, _overlay_values(volume, plane, index, overlay), plane, overlay)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw_thumbnail(volume: Volume) -> bytes:
    """Draw the middle axial and sagittal planes side by side, which show whether a head is upright.

    Returns
    -------
    bytes
        JPEG, 2 x `THUMBNAIL_PX` wide.

    Raises
    ------
    StoreError
        A chunk cannot be read.
    """
    sheet = Image.new("L", (2 * THUMBNAIL_PX, THUMBNAIL_PX))
    low, high = window_ends(usual_window(volume), volume.window_hu)
    for place, axis in enumerate((0, 2)):
        plane = lay_out_plane(volume.geometry, axis, max_px=2 * THUMBNAIL_PX)
        picture = _gray(volume, plane, volume.shape[axis] // 2, low, high)
        scale = THUMBNAIL_PX / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        sheet.paste(picture, (place * THUMBNAIL_PX + (THUMBNAIL_PX - width) // 2, (THUMBNAIL_PX - height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def label_array(volume: Volume, name: str) -> StoredArray:
    """Open a label of a volume: the first level of an NGFF image-label, or an array itself.

    Raises
    ------
    UsageError
        There is none of that name, or it lies on another grid.
    StoreError
        It is damaged.
    """
    for path in (f"labels/{name}/0", f"labels/{name}"):
        try:
            with volume.reading(path, but=FileNotFoundError):
                found = volume.open(path)
        except FileNotFoundError:
            continue
        if found.shape != volume.shape:
            raise UsageError(f"label {name!r} has shape {found.shape}; the volume's is {volume.shape}")
        return found
    raise UsageError(f"{volume.node} has no label {name!r}")


def _gray(volume: Volume, plane: Plane, index: int, low: float, high: float) -> Image.Image:
    [hu] = np.moveaxis(volume.hu_from(volume.planes(plane.axis, [index])), plane.axis, 0)
    gray = np.clip((hu - low) * (255 / (high - low)), 0, 255)
    # Fewer pixels than voxels: what lies between them must not be left out.
    return _placed(np.rint(gray).astype(np.uint8), plane, Image.Resampling.BILINEAR)


def _placed(values: NDArray[np.uint8], plane: Plane, how: Image.Resampling) -> Image.Image:
    """Turn, shear and scale a plane into its picture; outside it is 0."""
    coefficients = plane.to_index.ravel().tolist()
    return Image.fromarray(values).transform(
        plane.size_px, Image.Transform.AFFINE, coefficients, resample=Image.Resampling(how)
    )


def _overlay_values(volume: Volume, plane: Plane, index: int, overlay: str) -> NDArray[np.uint8]:
    """Read what is laid over a plane: (rows, columns); label values in turn from 1 to 255."""
    wanted = [range(n) for n in volume.shape]
    wanted[plane.axis] = range(index, index + 1)
    if overlay == VALIDITY:
        values = volume.validity_of(wanted)
        # 0 is nothing to see here, as of labels.
        values = np.choose(values, [1, 0, 2]).astype(np.uint8)
    elif overlay.startswith(LABEL):
        name = overlay.removeprefix(LABEL)
        array = label_array(volume, name)
        with volume.reading(f"labels/{name}"):
            found = read_values(array, wanted).astype(np.int64)
        values = np.where(found == 0, 0, (found - 1) % 255 + 1).astype(np.uint8)
    else:
        raise UsageError(f"overlay {overlay!r}: allowed is {VALIDITY} or {LABEL}NAME")
    [across] = np.moveaxis(values, plane.axis, 0)
    return np.ascontiguousarray(across)


def _tinted(picture: Image.Image, values: NDArray[np.uint8], plane: Plane, overlay: str) -> Image.Image:
    placed = np.asarray(_placed(values, plane, Image.Resampling.NEAREST))
    table = np.zeros((256, 3), np.float32)
    if overlay == VALIDITY:
        table[1], table[2] = _VALIDITY_COLORS[0], _VALIDITY_COLORS[2]
    else:
        table[1:] = [_LABEL_COLORS[n % len(_LABEL_COLORS)] for n in range(255)]
    gray = np.repeat(np.asarray(picture, np.float32)[..., None], 3, axis=2)
    tinted = np.where((placed > 0)[..., None], (1 - _SHARE) * gray + _SHARE * table[placed], gray)
    return Image.fromarray(np.rint(tinted).astype(np.uint8))
