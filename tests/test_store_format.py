"""What `docs/store-format.md` says is what is in a store: its reader reads it, its tables name all there is."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np
import pytest
from pages import Page

import etl
from etl.phantom.files import Acquisition, HeadPhantom, write_enhanced, write_series

if TYPE_CHECKING:
    # Every folder of tests has a module of this name.
    from conftest import CohortRun, Finished

PAGE = Page("docs/store-format.md")
ODD_ID = "a/b c"
COLLECTED = {
    "`config`": "config",
    "`fingerprint`": "fingerprint",
    "`geometry`": "geometry",
    "`normalization`": "normalization",
    "`resampling`": "resampling",
    "`qc`": "qc",
    "`provenance`": "provenance",
}
"""Key of the object that a table describes, by the heading over it."""


@pytest.fixture(scope="module")
def odd_store(ct_etl: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames, a lost slice, padding, sagittal slices, a patient whose ID is no key, and other options."""
    folder = tmp_path_factory.mktemp("odd")
    small = {"rows": 32, "columns": 32, "pixel_spacing_mm": (7.0, 7.0)}
    phantom = HeadPhantom.for_patient(0)
    frames = Acquisition.regular(count=12, spacing_mm=2.0, series_number=7, **small)
    write_enhanced(folder / "dicom/enhanced", phantom, frames, patient_id=ODD_ID)
    lost = Acquisition.regular(gaps_mm=[1.0] * 6 + [2.5] + [1.0] * 6, thickness_mm=1.0, series_number=8, **small)
    write_series(folder / "dicom/lost", phantom, lost, patient_id=ODD_ID)
    sagittal = Acquisition.regular(count=10, spacing_mm=3.0, orientation="sagittal", series_number=9, **small)
    write_series(folder / "dicom/sagittal", phantom, sagittal, patient_id="P2")
    store = folder / "store.zarr"
    options = ("--spacing-mm", "0.5,3,4", "--chunk", "5,9,7", "--precision-bits", "full", "--center", "volume")
    done = ct_etl("run", folder / "dicom", store, *options, "--workers", "0", "--json")
    assert done.status == 0, done.why
    return store


@pytest.fixture(scope="module")
def plain_store(odd_store: Path, ct_etl: Callable[..., Finished]) -> Path:
    """Whole steps that are not packed, of values whose unit was assumed."""
    store = odd_store.parent / "plain.zarr"
    options = ("--native", "--dtype", "int16", "--codec", "none", "--assume-hu")
    done = ct_etl("run", odd_store.parent / "dicom/sagittal", store, *options, "--workers", "0", "--json")
    assert done.status == 0, done.why
    return store


@pytest.fixture(scope="module")
def stores(cohort_run: CohortRun, odd_store: Path, plain_store: Path) -> list[Path]:
    return [cohort_run.store, odd_store, plain_store]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, cohort_run: CohortRun) -> dict[str, Any]:
    """The names that the page's reader defines, after it has read the cohort's store."""
    (code,) = [fence.text for fence in PAGE.fences if fence.language == "python"]
    names: dict[str, Any] = {}
    exec(compile(code.replace("demo/store.zarr", cohort_run.store.as_posix()), PAGE.name, "exec"), names)
    return names


def volumes(stores: list[Path]) -> Iterator[etl.Volume]:
    for store in stores:
        for patient in etl.open_store(store).values():
            yield from patient.values()


def folder_of(volume: etl.Volume) -> Path:
    return Path(volume.store_path, volume.node)


def attributes_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "zarr.json").read_bytes())["attributes"]


def test_the_reader_of_the_page_reads_what_the_package_reads(reader, stores):
    count, codes = 0, set()
    for volume in volumes(stores):
        folder = folder_of(volume)
        values = reader["read_array"](folder / "volume")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, volume[...])
        assert np.isfinite(values).all()
        about = attributes_of(folder)["ct_etl"]
        bits = about["normalization"]["precision_bits"]
        assert bits == "full" or (values * 2.0**bits % 1 == 0).all()
        low, high = about["normalization"]["window_hu"]
        hu = (values + about["normalization"]["center"]) * (high - low) + low
        np.testing.assert_allclose(hu, volume.to_hu(), atol=1e-3)
        if (folder / "validity").exists():
            validity = reader["read_array"](folder / "validity")
            np.testing.assert_array_equal(validity, volume.validity())
            codes |= set(np.unique(validity))
        else:
            assert (volume.validity() == 1).all()
        histogram = reader["read_array"](folder / "hu_histogram")
        expected = np.bincount(np.rint(hu).astype(int).ravel() - low, minlength=high - low + 1)
        # Values that lie between two whole HU may fall to either side.
        assert np.abs(np.cumsum(histogram) - np.cumsum(expected)).max() <= 0.001 * values.size
        digest = hashlib.sha256(np.ascontiguousarray(values)).hexdigest()
        assert digest == about["provenance"]["volume_digest"]
        if "body" in about["arrays"]:
            np.testing.assert_array_equal(reader["read_array"](folder / "body"), shares_of_body(hu))
        for axis, centers_mm in zip("zyx", coordinates_mm(volume), strict=True):
            if axis in about["arrays"]:
                np.testing.assert_allclose(reader["read_array"](folder / axis), centers_mm)
        assert reader["is_sealed"](folder, attributes_of(folder))
        count += 1
    assert count == 10
    assert codes == {0, 1, 2}


def shares_of_body(hu: np.ndarray) -> np.ndarray:
    """255 times the share above -500 HU in each cube of 16, by brute force."""
    cubes = [range(0, n, 16) for n in hu.shape]
    shares = [(hu[k : k + 16, j : j + 16, i : i + 16] > -500).mean() for k, j, i in itertools.product(*cubes)]
    return np.ceil(np.round(255 * np.array(shares), 9)).astype(np.uint8).reshape([len(one) for one in cubes])


def coordinates_mm(volume: etl.Volume) -> list[np.ndarray]:
    return [
        origin + step * np.arange(n)
        for origin, step, n in zip(volume.affine_lps[2::-1, 3], volume.spacing_mm, volume.shape, strict=True)
    ]


def test_the_reader_of_the_page_finds_every_volume_and_every_source_slice(reader, stores):
    for store in stores:
        found = {(patient, folder.name) for patient, folder, _ in reader["series"](store)}
        assert found == {(volume.patient_id, volume.key) for volume in volumes([store])}
    for volume in volumes(stores):
        source = folder_of(volume) / "source"
        numbers = reader["read_array"](source / "instance_number")
        positions = reader["read_array"](source / "position_mm")
        assert [s.instance_number for s in volume.source_slices] == numbers.tolist()
        assert [s.position_mm for s in volume.source_slices] == positions.tolist() == sorted(positions)
        uids = reader["read_array"](source / "sop_instance_uid")
        assert (reader["read_array"](source / "pixel_crc32") != 0).all()
        assert [bytes(u).rstrip(b"\0").decode("ascii") for u in uids] == [
            s.sop_instance_uid for s in volume.source_slices
        ]


def test_positions_are_those_of_the_dicom_files_on_the_scale_of_the_planes(cohort_run):
    store = etl.open_store(cohort_run.store)
    for series in cohort_run.cohort.wanted:
        volume = store[series.patient_id][cohort_run.entry(series.series_instance_uid)["series_key"]]
        geometry = attributes_of(folder_of(volume))["ct_etl"]["geometry"]
        affine, k = np.array(geometry["affine_lps"]), geometry["slice_axis"]
        axis, origin = affine[:3, k], affine[:3, 3]
        step_mm = np.linalg.norm(axis)
        found = [source.position_mm for source in volume.source_slices]
        assert step_mm == pytest.approx(geometry["spacing_mm"][k])
        # Half a slice distance lies between the first slice and the edge of the field, where plane 0 begins.
        planes = (np.array(found) - origin @ axis / step_mm) / step_mm
        assert -0.5 <= planes[0] <= planes[-1] <= geometry["shape"][k] - 0.5
        if not geometry["gantry_tilt_deg"]:
            expected = sorted(float(axis @ source.position_lps_mm) / step_mm for source in series.slices)
            np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("heading", COLLECTED)
def test_a_table_names_the_keys_that_are_there_and_no_others(stores, heading):
    found = set()
    for root in map(attributes_of, stores):
        found |= set(root["ct_etl"].get(COLLECTED[heading], {}))
    for volume in volumes(stores):
        found |= set(attributes_of(folder_of(volume))["ct_etl"].get(COLLECTED[heading], {}))
    assert set(PAGE.names(heading)) == found


def test_the_tables_of_root_patient_and_volume_are_complete(stores):
    for store in stores:
        root = json.loads((store / "zarr.json").read_bytes())
        assert set(root) == {"zarr_format", "node_type", "attributes", "consolidated_metadata"}
        assert set(root["attributes"]) == {"ct_etl", "ct_etl_digest"}
        assert list(root["attributes"]["ct_etl"]) == PAGE.names("The root")
        assert set(root["consolidated_metadata"]) == {"kind", "must_understand", "metadata"}
    for volume in volumes(stores):
        folder = folder_of(volume)
        arrays = {
            path.parent.relative_to(folder).as_posix()
            for path in folder.rglob("zarr.json")
            if json.loads(path.read_bytes())["node_type"] == "array"
        }
        assert set(attributes_of(folder)["ct_etl"]["arrays"]) == arrays
        assert list(attributes_of(folder.parent)["ct_etl"]) == PAGE.names("A patient")
        assert set(attributes_of(folder)) == {"ct_etl", "dicom", "ome"}
        assert list(attributes_of(folder)["ct_etl"]) == PAGE.names("A volume")


def test_consolidated_metadata_is_the_metadata_of_every_node_but_the_sources(stores):
    for store in stores:
        nodes = json.loads((store / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
        files = {p.parent.relative_to(store).as_posix(): p for p in store.rglob("zarr.json") if p.parent != store}
        assert nodes == {
            n: json.loads(path.read_bytes()) for n, path in files.items() if "source" not in n.split("/")
        }


def test_every_key_of_a_store_is_in_the_list_of_keys(stores):
    listed = next(fence for fence in PAGE.fences if fence.text.startswith("STORE/")).text
    inside = {word for line in listed.splitlines()[5:] for word in line.split() if "/" in word} | {"zarr.json"}
    found = set()
    for volume in volumes(stores):
        folder = folder_of(volume)
        found |= {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {key for key in inside if key != "<series key>/"}


def test_the_table_of_arrays_has_names_types_and_shapes(stores):
    rows = {row[0].strip("`"): row for row in PAGE.table("The arrays")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in rows}
    for volume in volumes(stores):
        for path in folder_of(volume).rglob("zarr.json"):
            node = json.loads(path.read_bytes())
            if node["node_type"] == "array":
                found[path.parent.relative_to(folder_of(volume)).as_posix()].append(node)
    for name, nodes in found.items():
        assert {node["data_type"] for node in nodes} == set(rows[name][1].split(", "))
        is_grid = name in {"volume", "validity"}
        codecs = ["sharding_indexed"] if is_grid else ["bytes", "blosc"]
        for node in nodes:
            assert [codec["name"] for codec in node["codecs"]] == codecs
            assert is_grid or node["chunk_grid"]["configuration"]["chunk_shape"] == node["shape"]
            assert len(rows[name][2].split(", ")) == len(node["shape"]) == len(node["dimension_names"])
            assert all(f"`{axis}`" in PAGE.prose for axis in node["dimension_names"])
            assert set(node["attributes"]) == (
                {"scale_factor"}
                if node["data_type"] == "int16"
                else {"units", "long_name"}
                if len(name) == 1
                else set()
            )


def test_a_shard_is_as_the_page_says(stores):
    for folder in (folder_of(volume) / name for volume in volumes(stores) for name in ("volume", "validity")):
        if not folder.exists():
            continue
        node = json.loads((folder / "zarr.json").read_bytes())
        (sharding,) = node["codecs"]
        codecs = [codec["name"] for codec in sharding["configuration"]["codecs"]]
        assert codecs == (["bytes"] if node["data_type"] == "int16" else ["bytes", "blosc", "crc32c"])
        assert [codec["name"] for codec in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
        assert sharding["configuration"]["index_location"] == "end"
        inner = sharding["configuration"]["chunk_shape"]
        counts = [-(-whole // part) for whole, part in zip(node["shape"], inner, strict=True)]
        whole = [n * part for n, part in zip(counts, inner, strict=True)]
        assert node["chunk_grid"]["configuration"]["chunk_shape"] == whole
        content = (folder / "c/0/0/0").read_bytes()
        index = content[-16 * int(np.prod(counts)) - 4 : -4]
        entries = list(struct.iter_unpack("<QQ", index))
        assert sum(length for _, length in entries) + len(index) + 4 == len(content), "nothing else is in the file"
        for at, (offset, length) in zip(itertools.product(*map(range, counts)), entries, strict=True):
            packed = content[offset : offset + length]
            values = numcodecs.blosc.decompress(packed[:-4]) if "blosc" in codecs else packed
            chunk = np.frombuffer(values, node["data_type"]).reshape(inner)
            inside = [min(n, end - i * n) for i, n, end in zip(at, inner, node["shape"], strict=True)]
            beyond = np.ones(inner, bool)
            beyond[tuple(slice(n) for n in inside)] = False
            expected = np.float32("nan") if node["fill_value"] == "NaN" else node["fill_value"]
            np.testing.assert_array_equal(chunk[beyond], np.full(int(beyond.sum()), expected, chunk.dtype))


def test_keys_of_patients_and_series_are_made_as_the_page_says(odd_store):
    digest = hashlib.sha256(ODD_ID.encode()).hexdigest()[:8]
    patient = odd_store / f"a_b_c-{digest}"
    assert attributes_of(patient)["ct_etl"]["patient_id"] == ODD_ID
    for number, folder in zip((7, 8), sorted(path for path in patient.iterdir() if path.is_dir()), strict=True):
        uid = attributes_of(folder)["ct_etl"]["series_instance_uid"]
        assert folder.name == f"{number:04d}-{hashlib.sha256(uid.encode()).hexdigest()[:16]}"


def test_the_page_lists_every_dicom_attribute_that_a_store_may_hold(stores):
    from etl.dicom.attributes import ALLOWED_KEYWORDS

    section = PAGE.prose.split("### `dicom`\n")[1].split("\n#")[0]
    listed = section.split(":\n", 1)[1].replace("`", "").replace(".", "").replace("\n", " ")
    assert [word.strip() for word in listed.split(",")] == list(ALLOWED_KEYWORDS)
    for volume in volumes(stores):
        assert set(volume.dicom) <= set(ALLOWED_KEYWORDS)


def test_ome_attributes_are_as_the_page_says(stores):
    seen = set()
    for volume in volumes(stores):
        ((level,),) = [m["datasets"] for m in attributes_of(folder_of(volume))["ome"]["multiscales"]]
        (image,) = attributes_of(folder_of(volume))["ome"]["multiscales"]
        (channel,) = attributes_of(folder_of(volume))["ome"]["omero"]["channels"]
        unit, window, kwargs = (
            image["metadata"]["kwargs"]["value_of_one"],
            channel["window"],
            image["metadata"]["kwargs"],
        )
        ends_hu = volume.normalization.to_hu(
            np.array([window["min"], window["max"]], np.float32) * np.float32(unit)
        )
        assert ends_hu == pytest.approx([kwargs["low"], kwargs["high"]], abs=1e-2)
        assert image["name"] == volume.node
        scale, *rest = level["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": list(volume.spacing_mm)}
        assert all(one["translation"] == volume.affine_lps[:3, 3][::-1].tolist() for one in rest)
        ideal, last = np.diag(volume.spacing_mm)[::-1], np.array(volume.shape) - 1
        off_mm = np.abs(volume.affine_lps[:3, :3] - ideal) @ last
        assert bool(rest) == bool((off_mm < np.array(volume.spacing_mm[::-1]) / 2).all())
        is_there = {axis in attributes_of(folder_of(volume))["ct_etl"]["arrays"] for axis in "zyx"}
        assert is_there == {bool(rest)}
        seen.add(bool(rest))
    assert seen == {True, False}
