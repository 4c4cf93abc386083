"""Show a volume in Neuroglancer: the state of the viewer, and the web client that its PyPI wheel carries.

Neuroglancer reads the sharded arrays over HTTP by byte ranges and decodes them in the browser. Its layers take an
affine, so that tilted and oblique grids lie where they do in the patient.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.errors import UsageError
from etl.read.catalog import list_nodes
from etl.read.patients import Volume
from etl.view.pictures import LABEL, VALIDITY, window_ends

# The client of the wheel asks for its own address to end like this, and for a stream of events beside it.
CLIENT = "v/neuroglancer/"
EVENTS = "events/neuroglancer"
_MM = (0.001, "m")
# A quarter turn about x, as a quaternion: else z goes down in its panels, and heads stand on their heads.
_UPRIGHT = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]
_SHADER = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }\n"
_VALIDITY_SHADER = """
void main() {
  uint found = toRaw(getDataValue());
  if (found == 1u) emitTransparent();
  else emitRGBA(found == 0u ? vec4(0.84, 0.24, 0.24, 0.45) : vec4(0.94, 0.67, 0.12, 0.45));
}
"""


@cache
def client_folder() -> Path | None:
    """Give the folder of the web client; None where Neuroglancer is not installed."""
    # Found, not imported: the package loads Tornado and a compiled module that nothing here needs.
    found = importlib.util.find_spec("neuroglancer")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "static" / "client"
    return folder if (folder / "index.html").is_file() else None


def read_client(name: str) -> bytes:
    """Read a file of the web client.

    Raises
    ------
    UsageError
        Neuroglancer is not installed.
    FileNotFoundError
        The client has no such file.
    """
    folder = client_folder()
    if folder is None:
        raise UsageError("Neuroglancer is not installed; pip install 'ct-etl[view]' adds it")
    # Only names that are there: none leads elsewhere.
    if name not in {path.name for path in folder.iterdir()}:
        raise FileNotFoundError(name)
    return (folder / name).read_bytes()


def scene_of(volume: Volume, store_url: str, *, window: str, overlays: list[str]) -> dict[str, Any]:
    """Give the state with which Neuroglancer shows a volume, in patient space (LPS, mm).

    Parameters
    ----------
    volume : Volume
    store_url : str
        Where the store's keys are served.
    window : str
        See `etl.view.pictures.window_ends`.
    overlays : list of str
        As of `etl.view.pictures.draw_slice`; labels are seen at once, validity when it is switched on.

    Returns
    -------
    dict
        Plain JSON values.

    Raises
    ------
    UsageError
        There is no such window.
    StoreError
        Its metadata cannot be read.
    """
    low, high = (volume.values_of(hu) for hu in window_ends(window, volume.window_hu))
    with volume.reading("volume"):
        step = volume.open("volume").scale_factor
    longest_mm = max(n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True))
    center = volume.affine_lps @ [*((n - 1) / 2 for n in volume.shape), 1]
    image = {
        "type": "image",
        "name": "CT",
        "source": _source(f"{store_url}/{volume.node}/volume", volume.affine_lps),
        "shader": _SHADER,
        "shaderControls": {"normalized": {"range": [low / step, high / step]}},
        "tab": "rendering",
    }
    laid_over = [_overlay(volume, f"{store_url}/{volume.node}", overlay) for overlay in overlays]
    return {
        "dimensions": dict.fromkeys("xyz", _MM),
        "position": center[:3].tolist(),
        "crossSectionScale": longest_mm / 400,
        "projectionScale": longest_mm * 1.6,
        "layers": [image, *laid_over],
        "crossSectionOrientation": _UPRIGHT,
        "projectionOrientation": _UPRIGHT,
        "layout": "4panel-alt",
        "showDefaultAnnotations": False,
    }


def _overlay(volume: Volume, url: str, overlay: str) -> dict[str, Any]:
    if overlay == VALIDITY:
        source = _source(f"{url}/{VALIDITY}", volume.affine_lps)
        return {
            "type": "image",
            "name": VALIDITY,
            "source": source,
            "shader": _VALIDITY_SHADER,
            "opacity": 1,
            "visible": False,
        }
    name = overlay.removeprefix(LABEL)
    source = _source(f"{url}/labels/{_label_path(volume, name)}", volume.affine_lps)
    alpha = {"selectedAlpha": 0.4, "notSelectedAlpha": 0.4}
    return {"type": "segmentation", "name": name, "source": source, **alpha}


def _source(url: str, affine_lps: NDArray[np.float64]) -> dict[str, Any]:
    # A voxel of Neuroglancer reaches from its index to the next one: its center lies at a half.
    matrix = affine_lps[:3].copy()
    matrix[:, 3] -= matrix[:, :3].sum(axis=1) / 2
    # Indices have no unit, for which it takes the steps in meters; the last column counts output units, mm.
    matrix[:, :3] *= _MM[0]
    return {
        "url": f"{url}/|zarr3:",
        "transform": {"matrix": matrix.tolist(), "outputDimensions": dict.fromkeys("xyz", _MM)},
    }


def _label_path(volume: Volume, name: str) -> str:
    is_group = f"{volume.node}/labels/{name}/0" in list_nodes(volume.store_path, f"{volume.node}/labels/{name}")
    return f"{name}/0" if is_group else name
