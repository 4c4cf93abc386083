"""A store of every type and codec, read by programs that know nothing of this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from etl.read.patients import open_store
from etl.store.encoding import encode_series, uid_array

ROOT = Path(__file__).parents[2]
STEP = 2.0**-13
SHAPE = (21, 60, 50)
# `make readers` puts it there; by hand: npm install --prefix .readers zarrita @zarrita/storage
NODE_MODULES = ROOT / ".readers" / "node_modules"
ZARRITA = """
import * as zarr from "zarrita";
import { FileSystemStore } from "@zarrita/storage";
const group = await zarr.open.v3(new FileSystemStore(process.argv[2]), { kind: "group" });
const array = await zarr.open.v3(group.resolve("volume"), { kind: "array" });
const { data, shape } = await zarr.get(array, [zarr.slice(3, 19), zarr.slice(20, 60), 7]);
const names = array.dimensionNames ?? null;
console.log(JSON.stringify({ data: Array.from(data), shape, attributes: array.attrs, names }));
"""


@pytest.fixture(scope="module")
def volume() -> NDArray[np.float32]:
    z, y, x = np.indices(SHAPE)
    smooth = np.sin(z / 9) * np.cos(y / 13) * np.sin(x / 11) / 3
    return (np.rint((smooth + np.random.default_rng(0).normal(0, 0.002, SHAPE)) / STEP) * STEP).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[("lz4hc", None), ("none", None), ("lz4hc", STEP), ("none", STEP), ("zstd", STEP), ("lz4", None)],
    ids=["float32", "float32-none", "int16", "int16-none", "int16-zstd", "float32-lz4"],
)
def series(request: pytest.FixtureRequest, volume: NDArray[np.float32], tmp_path_factory) -> Path:
    """The folder of one series."""
    codec, step = request.param
    keys = encode_series(
        volume=volume,
        histogram=np.arange(3001, dtype=np.uint32),
        validity=np.ones(SHAPE, np.uint8),
        source={"sop_instance_uid": uid_array(np.array(["1.2.3"] * 9, "S64")), "position_mm": np.arange(9.0)},
        attributes={"ct_etl": {}, "dicom": {}, "ome": {}},
        body=np.ones((2, 4, 4), np.uint8),
        coordinates_mm=tuple(5 + 2.0 * np.arange(n) for n in SHAPE),
        codec=codec,
        step=step,
    )
    folder: Path = tmp_path_factory.mktemp("series")
    for key, content in keys.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content.to_bytes())
    return folder


def values_of(stored: NDArray[np.generic], attributes: dict[str, float]) -> NDArray[np.float32]:
    """What anyone does who has read the metadata."""
    return np.asarray(stored) * np.float32(attributes.get("scale_factor", 1.0))


def test_zarr_python_reads_the_same_values(series, volume):
    array = zarr.open_group(series, mode="r")["volume"]
    np.testing.assert_array_equal(values_of(array[:], dict(array.attrs)), volume)
    np.testing.assert_array_equal(values_of(array[3:19, 20:, 7], dict(array.attrs)), volume[3:19, 20:, 7])


def test_tensorstore_reads_the_same_values(series, volume):
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(series / "volume")}}
    stored = tensorstore.open(spec).result()
    attributes = json.loads((series / "volume" / "zarr.json").read_text())["attributes"]
    assert stored.domain.labels == ("z", "y", "x")
    np.testing.assert_array_equal(values_of(stored.read().result(), attributes), volume)
    np.testing.assert_array_equal(
        values_of(stored[3:19, 20:, 7].read().result(), attributes), volume[3:19, 20:, 7]
    )


def test_zarrs_reads_the_same_values(series, volume):
    pytest.importorskip("zarrs", reason="zarrs is not installed")
    with (
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}),
        # What it cannot do it leaves to zarr with a warning: then nothing would be shown here.
        warnings.catch_warnings(action="error"),
    ):
        array = zarr.open_array(series / "volume", mode="r")
        np.testing.assert_array_equal(values_of(array[:], dict(array.attrs)), volume)
        np.testing.assert_array_equal(values_of(array[3:19, 20:, :9], dict(array.attrs)), volume[3:19, 20:, :9])


def test_xarray_reads_values_and_coordinates(series, volume):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    found = xarray.open_zarr(series, consolidated=False, chunks=None)
    assert found["volume"].dims == ("z", "y", "x")
    assert found["volume"].dtype.kind == "f"
    np.testing.assert_array_equal(found["volume"].to_numpy(), volume)
    np.testing.assert_array_equal(found["z"].to_numpy(), 5 + 2.0 * np.arange(SHAPE[0]))
    plane = found["volume"].sel(z=5 + 2.0 * 4, method="nearest")
    np.testing.assert_array_equal(plane.to_numpy(), volume[4])
    assert found["y"].attrs["units"] == "mm"


def test_zarrita_reads_the_same_values(series, volume, tmp_path):
    node = shutil.which("node")
    if node is None or not (NODE_MODULES / "zarrita").is_dir():
        pytest.skip("zarrita.js is not installed: make extras brings it where there is npm")
    script = tmp_path / "read.mjs"
    script.write_text(ZARRITA)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    done = subprocess.run([node, script, series], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    values = values_of(np.array(found["data"], np.float32).reshape(found["shape"]), found["attributes"])
    np.testing.assert_array_equal(values, volume[3:19, 20:, 7])
    assert found["names"] == ["z", "y", "x"]


@pytest.mark.parametrize("options", [(), ("--dtype", "int16"), ("--dtype", "int16", "--codec", "none")], ids=str)
def test_types_and_codecs_change_no_value_and_no_digest(cohort, ct_etl, cohort_run, options, tmp_path):
    path = tmp_path / "s.zarr"
    done = ct_etl("run", cohort.folder, path, "--spacing-mm", "6", "--workers", "0", "--json", *options)
    assert done.status == 0, done.why
    assert ct_etl("verify", path, "--input", cohort.folder).status == 0
    expected, found = open_store(cohort_run.store), open_store(path)
    assert list(found) == list(expected)
    for patient_id, patient in found.items():
        for key, volume in patient.items():
            other = expected[patient_id][key]
            np.testing.assert_array_equal(volume[...], other[...])
            digests = [one.attributes["provenance"]["volume_digest"] for one in (volume, other)]
            assert digests[0] == digests[1]
