"""`verify --input` compares all that the DICOM decides, and what it calls repairable a run makes again."""

from __future__ import annotations

import json
import shutil

import numcodecs
import numpy as np
import pytest
from tiny_ct import ROOT, day, lines, nodes, slices_of, told, write_series

from etl.digests import json_digest
from etl.store.encoding import entry_digest
from etl.store.layout import METADATA, is_own_key


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def dicom(in_process, tmp_path, store):
    """A thin and a short series of one patient, in the store."""
    write_series(tmp_path / "dicom" / "a", ks=range(12))
    write_series(tmp_path / "dicom" / "b", ks=range(5), series=f"{ROOT}.2", number=2)
    assert lines(day(in_process, tmp_path / "dicom", store)) == [("written", None)] * 2
    assert told(in_process, store, "--input", tmp_path / "dicom")[0] == 0
    return tmp_path / "dicom"


def seal(store, node, attributes):
    """Write attributes with a digest that fits, as a forger, or another version, would."""
    folder = store / node
    keys = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_file() and path.name != METADATA) or path.parent != folder
        if path.is_file() and is_own_key(path.relative_to(folder).as_posix())
    }
    attributes["ct_etl"]["provenance"].pop("entry_digest", None)
    attributes["ct_etl"]["provenance"]["entry_digest"] = entry_digest(keys, attributes)
    content = json.loads((folder / METADATA).read_bytes())
    content["attributes"] = attributes
    (folder / METADATA).write_text(json.dumps(content, separators=(",", ":")))
    root = json.loads((store / METADATA).read_bytes())
    root["consolidated_metadata"]["metadata"][node] = content
    root["attributes"]["ct_etl_digest"] = json_digest(root["attributes"]["ct_etl"])
    (store / METADATA).write_text(json.dumps(root, separators=(",", ":")))


def attributes_of(store, node):
    return json.loads((store / node / METADATA).read_bytes())["attributes"]


def change_affine(about):
    about["ct_etl"]["geometry"]["affine_lps"][0][3] += 1.0


def change_spacing(about):
    about["ct_etl"]["geometry"]["spacing_mm"][0] *= 1.5


def change_center(about):
    about["ct_etl"]["normalization"]["center"] = 0.123


def change_kernel(about):
    about["dicom"]["SliceThickness"] = 99.0


def change_scale(about):
    about["ome"]["multiscales"][0]["name"] = "other"


@pytest.mark.parametrize("change", [change_affine, change_spacing, change_center, change_kernel, change_scale])
def test_an_attribute_that_the_dicom_decides_is_compared_and_repaired(in_process, dicom, store, change):
    node = nodes(store)[0]
    attributes = attributes_of(store, node)
    change(attributes)
    seal(store, node, attributes)
    assert told(in_process, store)[0] == 0, "the forgery is not one that digests find"
    status, said = told(in_process, store, "--input", dicom)
    assert (status, f"{node}: its attribute" in said) == (3, True), said
    assert told(in_process, store, "--input", dicom, "--repair")[0] == 3
    assert ("written", None) in lines(day(in_process, dicom, store))
    assert told(in_process, store, "--input", dicom)[0] == 0


@pytest.mark.parametrize(
    ("key", "dtype"),
    [
        ("source/position_mm/c/0", "<f8"),
        ("source/instance_number/c/0", "<i4"),
        ("source/pixel_crc32/c/0", "<u4"),
        ("source/sop_instance_uid/c/0/0", "u1"),
        ("hu_histogram/c/0", "<u4"),
    ],
)
def test_an_array_that_the_dicom_decides_is_compared_and_repaired(in_process, dicom, store, key, dtype):
    node = nodes(store)[0]
    path = store / node / key
    values = np.frombuffer(numcodecs.blosc.decompress(path.read_bytes()), dtype).copy()
    values[0] += 1
    path.write_bytes(numcodecs.Blosc(cname="zstd", clevel=1).encode(values))
    seal(store, node, attributes_of(store, node))
    assert told(in_process, store)[0] == 0, "the forgery is not one that digests find"
    status, said = told(in_process, store, "--input", dicom)
    assert status == 3
    assert key.split("/c/")[0] in said
    assert told(in_process, store, "--input", dicom, "--repair")[0] == 3
    day(in_process, dicom, store, "--replace")
    assert told(in_process, store, "--input", dicom)[0] == 0


def test_a_default_series_that_is_not_the_best_is_told(in_process, dicom, store):
    patient = store / "P" / METADATA
    content = json.loads(patient.read_bytes())
    best = content["attributes"]["ct_etl"]["default_series"]
    [other] = {node.split("/")[1] for node in nodes(store)} - {best}
    content["attributes"]["ct_etl"]["default_series"] = other
    patient.write_text(json.dumps(content, separators=(",", ":")))
    status, said = told(in_process, store, "--input", dicom)
    assert (status, "default" in said) == (3, True)
    day(in_process, dicom, store, "--run-dir", store.parent / "record")
    assert json.loads(patient.read_bytes())["attributes"]["ct_etl"]["default_series"] == best


def test_a_configuration_that_is_not_the_roots_is_told(in_process, dicom, store):
    node = nodes(store)[0]
    attributes = attributes_of(store, node)
    attributes["ct_etl"]["provenance"]["config_digest"] = "0" * 64
    seal(store, node, attributes)
    status, said = told(in_process, store)
    assert (status, f"{node}: it was made with another configuration" in said) == (3, True)
    told(in_process, store, "--repair")
    day(in_process, dicom, store)
    assert told(in_process, store, "--input", dicom)[0] == 0


def test_the_limits_are_those_of_the_run(in_process, tmp_path, store):
    """What was too large for the run is no finding, and what was not is compared."""
    write_series(tmp_path / "dicom" / "a")
    write_series(tmp_path / "dicom" / "b", "Q", series=f"{ROOT}.2", rows=800, ks=range(8))
    done = day(in_process, tmp_path / "dicom", store, "--max-volume-mb", "8")
    assert lines(done) == [("failed", "too-large"), ("written", None)]
    assert told(in_process, store, "--input", tmp_path / "dicom") == (
        0,
        "1 volumes checked\n1 volumes compared with the input\n",
    )


@pytest.mark.parametrize("count", [5, 11])
def test_repair_against_an_input_that_lacks_slices_removes_nothing(in_process, dicom, store, count, contents):
    for path in sorted((dicom / "a").iterdir())[count:]:
        path.unlink()
    shutil.rmtree(dicom / "b")
    before = contents(store / "P")
    status, said = told(in_process, store, "--input", dicom, "--repair")
    assert (status, f"lacks {12 - count}" in said) == (3, True), said
    assert contents(store / "P") == before
    day(in_process, dicom, store)
    assert max(len(slices_of(store, node)) for node in nodes(store)) == 12


def test_what_is_left_of_two_time_points_takes_no_volumes_place(in_process, tmp_path, store, contents):
    """Slices 1 to 4 of one and 5 to 6 of the other look like one stack."""
    for point, ks in ((1, range(4)), (2, range(6))):
        write_series(tmp_path / f"t{point}", TemporalPositionIdentifier=point, ks=ks, hu=100 * point)
    both = [tmp_path / "t1", tmp_path / "t2"]
    assert lines(day(in_process, both, store)) == [("written", None)] * 2
    before = contents(store)
    for path in sorted((tmp_path / "t2").iterdir())[:4]:
        path.unlink()
    done = day(in_process, both, store)
    assert (done.status, lines(done)) == (3, [("failed", "fewer-slices")])
    assert contents(store) == before
    told(in_process, store, "--input", tmp_path / "t1", tmp_path / "t2", "--repair")
    assert contents(store) == before


def test_an_input_without_any_of_the_volumes_is_told(in_process, dicom, store, tmp_path):
    shutil.rmtree(dicom)
    write_series(tmp_path / "other", "Q", series=f"{ROOT}.9")
    assert told(in_process, store, "--input", tmp_path / "other")[0] == 3
