"""From DICOM to store, judged from outside: by pydicom and numpy on one side, plain zarr and JSON on the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import zarr
from scipy import ndimage
from series import small_series

from etl.phantom.files import Acquisition, write_localizer, write_series
from etl.phantom.head import AIR_HU, HeadPhantom
from etl.read.patients import open_store
from etl.report.montage import Montage
from etl.report.page import montage_of

QUICK = ("--spacing-mm", "6", "--workers", "0")
LEDGER_KEYS = [
    "patient_id",
    "patient_key",
    "series_instance_uid",
    "series_number",
    "series_key",
    "slices",
    "outcome",
    "reason",
    "detail",
    "warnings",
    "seconds",
    "bytes_in",
    "bytes_out",
    "related",
]
REGISTRY_CODECS = {"sharding_indexed", "bytes", "blosc", "zstd", "crc32c"}


def node(store, *parts):
    return json.loads(store.joinpath(*parts, "zarr.json").read_text())


def written(totals):
    return [entry for entry in totals["series"] if entry["outcome"] == "written"]


def read_hu(group):
    """Undo the normalization as the store's own attributes say."""
    normalization = group.attrs["ct_etl"]["normalization"]
    low, high = normalization["window_hu"]
    return (group["volume"][:].astype(np.float64) + normalization["center"]) * (high - low) + low


def read_dicom(files):
    """Slices in the order of their position along the normal that points up, by pydicom alone."""
    slices = [pydicom.dcmread(file) for file in files]
    cosines = np.array(slices[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    normal *= np.sign(normal[np.argmax(np.abs(normal))])
    return sorted(slices, key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, float)))


@pytest.fixture
def cohort_files(cohort, tmp_path):
    """Files of a series of the cohort as paths, its zip unpacked by the standard library."""

    def find(series):
        folder = series.container
        if folder.suffix == ".zip":
            shutil.unpack_archive(folder, tmp_path / "unpacked")
            folder = tmp_path / "unpacked"
        return [folder / one.path for one in series.slices]

    return find


@pytest.fixture(scope="module")
def three_patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "dicom"
    for n in range(3):
        small_series(folder / f"p{n}", patient_id=f"P{n}", seed=n)
    return folder


@pytest.fixture(scope="module")
def one_patient(three_patients):
    return three_patients / "p0"


# --- what is written, and what is not -------------------------------------------------------------------


def test_every_wanted_series_is_written_and_nothing_else(cohort_run):
    wanted = {(s.patient_id, s.series_instance_uid): len(s.slices) for s in cohort_run.cohort.wanted}
    found = {(e["patient_id"], e["series_instance_uid"]): e["slices"] for e in written(cohort_run.totals)}
    assert found == wanted
    assert {p for p, _ in found} == {"PHANTOM-0001", "PHANTOM-0002", "PHANTOM-0003"}
    store = zarr.open_group(cohort_run.store, mode="r")
    in_store = {
        (patient, group.attrs["ct_etl"]["series_instance_uid"])
        for patient, series in store.groups()
        for _, group in series.groups()
    }
    assert in_store == set(wanted)


def test_localizers_are_excluded(cohort_run):
    localizers = {s.series_instance_uid for s in cohort_run.cohort.series if s.kind == "localizer"}
    excluded = {
        e["series_instance_uid"]: e["reason"] for e in cohort_run.totals["series"] if e["outcome"] == "excluded"
    }
    assert excluded == dict.fromkeys(localizers, "localizer")


def test_files_that_are_no_dicom_are_counted_and_listed(cohort_run):
    folder = cohort_run.cohort.folder
    slices = sum(len(series.slices) for series in cohort_run.cohort.series)
    assert cohort_run.totals["files"] == slices + cohort_run.totals["ignored_files"]
    ignored = {str(Path(path).relative_to(folder)) for path in cohort_run.totals["ignored_paths"]}
    assert ignored == {
        "README.txt",
        "PHANTOM-0001/desktop.ini",
        "PHANTOM-0001/thin/I15",
        "PHANTOM-0002.zip/desktop.ini",
        "PHANTOM-0003/desktop.ini",
    }


def test_warnings_tell_what_the_cohort_holds(cohort_run):
    for series in cohort_run.cohort.wanted:
        warnings = cohort_run.entry(series.series_instance_uid)["warnings"]
        assert ("gantry-tilt" in warnings) == (series.gantry_tilt_deg != 0)
        assert ("irregular-spacing" in warnings) == (
            series.patient_id == "PHANTOM-0003" and series.kind == "thick"
        )


def test_source_slices_are_in_spatial_order_and_are_pydicoms(cohort_run, cohort_files):
    store = zarr.open_group(cohort_run.store, mode="r", use_consolidated=False)
    for series in cohort_run.cohort.wanted:
        entry = cohort_run.entry(series.series_instance_uid)
        source = store[f"{entry['patient_key']}/{entry['series_key']}/source"]
        truth = read_dicom(cohort_files(series))
        uids = [bytes(row).rstrip(b"\0").decode("ascii") for row in source["sop_instance_uid"][:]]
        assert uids == [ds.SOPInstanceUID for ds in truth]
        assert source["instance_number"][:].tolist() == [ds.InstanceNumber for ds in truth]
        positions = source["position_mm"][:]
        assert (np.diff(positions) > 0).all()
        normal = np.cross(*np.reshape(truth[0].ImageOrientationPatient, (2, 3)).astype(float))
        expected = [normal @ np.array(ds.ImagePositionPatient, float) for ds in truth]
        np.testing.assert_allclose(np.diff(positions), np.diff(expected), atol=1e-3)


def test_the_default_series_is_the_one_with_most_slices(cohort_run):
    for patient in ("PHANTOM-0001", "PHANTOM-0002", "PHANTOM-0003"):
        of_patient = [e for e in written(cohort_run.totals) if e["patient_id"] == patient]
        most = max(of_patient, key=lambda e: e["slices"])
        assert node(cohort_run.store, patient)["attributes"]["ct_etl"] == {
            "patient_id": patient,
            "default_series": most["series_key"],
        }


# --- layout of the store --------------------------------------------------------------------------------


def test_the_root_holds_what_the_layout_says(cohort_run):
    root = node(cohort_run.store)
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    ours = root["attributes"]["ct_etl"]
    assert set(ours) == {"format_version", "config", "config_digest", "software", "fingerprint"}
    assert ours["format_version"] == "1.1"
    assert ours["config"]["spacing_mm"] == [6.0, 6.0, 6.0]
    assert ours["config"]["window"] == [-1000, 2000]


def test_a_series_holds_what_the_layout_says(cohort_run):
    for entry in written(cohort_run.totals):
        group = node(cohort_run.store, entry["patient_key"], entry["series_key"])
        assert set(group["attributes"]) == {"ct_etl", "dicom", "ome"}
        ours = group["attributes"]["ct_etl"]
        assert set(ours) == {
            "arrays",
            "patient_id",
            "study_instance_uid",
            "frame_of_reference_uid",
            "series_instance_uid",
            "stack",
            "geometry",
            "normalization",
            "resampling",
            "qc",
            "provenance",
        }
        assert ours["series_instance_uid"] == entry["series_instance_uid"]
        assert ours["stack"] == 1
        assert {
            "affine_lps",
            "spacing_mm",
            "source_shape",
            "source_spacing_mm",
            "gantry_tilt_deg",
        } <= set(ours["geometry"])
        assert ours["geometry"]["spacing_mm"] == pytest.approx([6, 6, 6])
        assert ours["geometry"]["source_shape"] == [entry["slices"], 64, 64]
        assert ours["normalization"] == {"window_hu": [-1000, 2000], "center": 0.25, "precision_bits": 13}
        assert {"config_digest", "source_digest", "volume_digest"} <= set(ours["provenance"])
        assert ours["qc"]["warnings"] == entry["warnings"]


def test_the_ome_metadata_is_one_level_in_millimeters(cohort_run):
    for series in cohort_run.cohort.wanted:
        entry = cohort_run.entry(series.series_instance_uid)
        attributes = node(cohort_run.store, entry["patient_key"], entry["series_key"])["attributes"]
        affine = np.array(attributes["ct_etl"]["geometry"]["affine_lps"])
        assert attributes["ome"]["version"] == "0.5"
        [multiscale] = attributes["ome"]["multiscales"]
        assert [(a["name"], a["unit"]) for a in multiscale["axes"]] == [(n, "millimeter") for n in "zyx"]
        [dataset] = multiscale["datasets"]
        assert dataset["path"] == "volume"
        scale, *translation = dataset["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": pytest.approx([6, 6, 6])}
        if series.gantry_tilt_deg:
            assert translation == []
        else:
            [moved] = translation
            assert moved["translation"] == pytest.approx(affine[:3, 3][::-1].tolist())


def test_arrays_have_the_types_and_shapes_of_the_layout(cohort_run):
    store = zarr.open_group(cohort_run.store, mode="r", use_consolidated=False)
    for entry in written(cohort_run.totals):
        group = store[f"{entry['patient_key']}/{entry['series_key']}"]
        geometry, slices = group.attrs["ct_etl"]["geometry"], entry["slices"]
        found = {name: (a.dtype.name, a.shape) for name, a in group.arrays()}
        # Written only where not every voxel was measured.
        assert found.pop("validity", ("uint8", tuple(geometry["shape"]))) == ("uint8", tuple(geometry["shape"]))
        coordinates = {axis: ("float64", (n,)) for axis, n in zip("zyx", geometry["shape"], strict=True)}
        is_tilted = geometry["affine_lps"] != np.round(geometry["affine_lps"], 9).tolist()
        if not is_tilted or "z" in found:
            assert {axis: found.pop(axis) for axis in "zyx"} == coordinates
        assert found == {
            "volume": ("float32", tuple(geometry["shape"])),
            "hu_histogram": ("uint32", (3001,)),
            "body": ("uint8", tuple(-(-n // 16) for n in geometry["shape"])),
        }
        assert [name for name, _ in group.groups()] == ["source"]
        assert {name: (a.dtype.name, a.shape) for name, a in group["source"].arrays()} == {
            "sop_instance_uid": ("uint8", (slices, 64)),
            "position_mm": ("float64", (slices,)),
            "instance_number": ("int32", (slices,)),
            "pixel_crc32": ("uint32", (slices,)),
        }
        described = node(cohort_run.store, entry["patient_key"], entry["series_key"], "volume")
        assert described["dimension_names"] == ["z", "y", "x"]


def test_only_codecs_of_the_registry_are_used_and_a_volume_is_one_shard(cohort_run):
    for entry in written(cohort_run.totals):
        folder = cohort_run.store / entry["patient_key"] / entry["series_key"]
        for path in folder.rglob("zarr.json"):
            text = path.read_text()
            assert "numcodecs." not in text
            described = json.loads(text)
            if described["node_type"] == "array":
                assert _codec_names(described["codecs"]) <= REGISTRY_CODECS
        assert [c["name"] for c in node(folder, "volume")["codecs"]] == ["sharding_indexed"]
        assert len([p for p in (folder / "volume" / "c").rglob("*") if p.is_file()]) == 1


def _codec_names(codecs):
    names = set()
    for codec in codecs:
        names.add(codec["name"])
        configuration = codec.get("configuration", {})
        for inner in ("codecs", "index_codecs"):
            names |= _codec_names(configuration.get(inner, []))
    return names


def test_the_inner_chunk_is_sized_for_crops_or_what_is_asked_for(in_process, one_patient, tmp_path):
    for options, expected in (([], None), (["--chunk", "11,30,40"], [11, 30, 40])):
        store = tmp_path / f"{len(options)}.zarr"
        done = in_process("run", one_patient, store, "--spacing-mm", "2", "--workers", "0", *options)
        assert done.status == 0, done.why
        [path] = store.glob("*/*/volume/zarr.json")
        described = json.loads(path.read_text())
        inner = described["codecs"][0]["configuration"]["chunk_shape"]
        assert expected is None or inner == expected
        assert expected or all(c <= most for c, most in zip(inner, (64, 24, 24), strict=True))
        assert expected or np.prod(inner) * 4 >= 0.03e6
        shard = described["chunk_grid"]["configuration"]["chunk_shape"]
        assert all(s >= n and s % c == 0 for s, n, c in zip(shard, described["shape"], inner, strict=True))


def test_values_are_multiples_of_the_rounding_step_unless_full_precision_is_asked_for(
    cohort_run, in_process, one_patient, tmp_path
):
    def is_rounded(store, bits):
        group = zarr.open_group(store, mode="r")
        values = [
            v[:] for p in dict(group.groups()).values() for s in dict(p.groups()).values() for v in [s["volume"]]
        ]
        return all((np.ldexp(v.astype(float), bits) % 1 == 0).all() for v in values)

    assert is_rounded(cohort_run.store, 13)
    assert not is_rounded(cohort_run.store, 12)
    done = in_process("run", one_patient, tmp_path / "f.zarr", *QUICK, "--precision-bits", "full")
    assert done.status == 0, done.why
    assert not is_rounded(tmp_path / "f.zarr", 13)


def test_the_histogram_counts_the_voxels_of_the_volume(cohort_run):
    store = zarr.open_group(cohort_run.store, mode="r")
    for entry in written(cohort_run.totals):
        group = store[f"{entry['patient_key']}/{entry['series_key']}"]
        hu, counts = read_hu(group), group["hu_histogram"][:].astype(np.int64)
        assert counts.sum() == hu.size
        # Rounding moves a voxel by 0.19 HU at most, so by no more than one bin.
        seen = np.cumsum(np.bincount(np.rint(hu).astype(int).ravel() + 1000, minlength=3001))
        counted = np.cumsum(counts)
        assert (counted[1:] >= seen[:-1]).all()
        assert (counted[:-1] <= seen[1:]).all()
        assert counts[0] > hu.size / 100  # air below the window is clipped into the first bin


def test_the_fingerprint_is_that_of_the_voxels_in_the_store(cohort_run):
    store = zarr.open_group(cohort_run.store, mode="r")
    hu = np.concatenate(
        [read_hu(store[f"{e['patient_key']}/{e['series_key']}"]).ravel() for e in written(cohort_run.totals)]
    )
    found = store.attrs["ct_etl"]["fingerprint"]
    body = hu[hu > -500]
    assert (found["volumes"], found["voxels"]) == (6, hu.size)
    assert found["mean_hu"] == pytest.approx(body.mean(), abs=1)
    assert found["std_hu"] == pytest.approx(body.std(), abs=1)
    percentiles = np.percentile(body, [0.5, 50, 99.5])
    names = ("percentile_00_5_hu", "percentile_50_0_hu", "percentile_99_5_hu")
    assert [found[name] for name in names] == pytest.approx(percentiles.tolist(), abs=3)


def test_consolidated_metadata_is_the_metadata_of_every_node_that_is_read_by_cohort(cohort_run):
    root = node(cohort_run.store)
    walked = {
        path.parent.relative_to(cohort_run.store).as_posix(): json.loads(path.read_text())
        for path in cohort_run.store.rglob("zarr.json")
        if path.parent != cohort_run.store and "source" not in path.parts
    }
    assert root["consolidated_metadata"]["metadata"] == walked
    assert len(walked) >= 3 + 6 * 4


def test_plain_zarr_opens_a_volume_by_its_path_with_and_without_consolidated_metadata(cohort_run):
    for entry in written(cohort_run.totals):
        path = f"{entry['patient_key']}/{entry['series_key']}/volume"
        volumes = [
            zarr.open_group(cohort_run.store, mode="r", use_consolidated=use)[path][:]
            for use in (None, True, False)
        ]
        assert volumes[0].dtype == np.float32
        assert np.isfinite(volumes[0]).all()
        assert -0.25 <= volumes[0].min() < volumes[0].max() <= 0.75
        assert np.array_equal(volumes[0], volumes[1])
        assert np.array_equal(volumes[0], volumes[2])


def test_axes_grow_to_superior_posterior_and_left(cohort_run):
    store = zarr.open_group(cohort_run.store, mode="r")
    for entry in written(cohort_run.totals):
        geometry = store[f"{entry['patient_key']}/{entry['series_key']}"].attrs["ct_etl"]["geometry"]
        affine = np.array(geometry["affine_lps"])
        assert (affine[[2, 1, 0], [0, 1, 2]] > 0).all()
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), geometry["spacing_mm"])


# --- privacy and determinism ----------------------------------------------------------------------------


def test_no_time_host_or_path_is_anywhere_in_the_store(cohort_run, cohort, tmp_path):
    host = socket.gethostname()
    year = time.strftime("%Y")
    for path in cohort_run.store.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for place in (cohort_run.store.parent, cohort.folder, tmp_path.parent, Path.home()):
            assert str(place).encode() not in content
        if path.name == "zarr.json":
            text = content.decode()
            assert not re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", text)
            assert not re.search(rf"(?<![0-9a-zA-Z.]){year}(?![0-9a-zA-Z.])", text)
            assert not re.search(r"\d\d:\d\d", text)
            assert not re.search(r"(?<![\d.])(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])(?!\d)", text)


def test_nothing_that_names_a_person_or_place_reaches_store_ledger_or_report(in_process, tmp_path):
    secrets = {
        "PatientName": "SECRET^NAME",
        "PatientBirthDate": "19631122",
        "PatientAddress": "SECRET STREET",
        "OtherPatientIDs": "SECRET-OTHER",
        "PatientComments": "SECRET COMMENT",
        "ReferringPhysicianName": "SECRET^DOCTOR",
        "OperatorsName": "SECRET^OPERATOR",
        "InstitutionName": "SECRET HOSPITAL",
        "InstitutionAddress": "SECRET TOWN",
        "StationName": "SECRETSTATION",
        "DeviceSerialNumber": "SECRET77",
        "AccessionNumber": "SECRETACC",
        "StudyID": "SECRETSTUDY",
        "StudyDate": "19991231",
        "StudyTime": "235959",
        "StudyDescription": "SECRET STUDY",
        "SeriesDescription": "SECRET SERIES",
        "ProtocolName": "SECRET PROTOCOL",
        "ImageComments": "SECRET IMAGE",
    }

    def tell(_, dataset):
        for keyword, value in secrets.items():
            setattr(dataset, keyword, value)
        dataset.private_block(0x0009, "SECRET MAKER", create=True).add_new(1, "LO", "SECRET PRIVATE")

    small_series(tmp_path / "dicom", edit=tell)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    for path in [*(tmp_path / "s.zarr").rglob("*"), *(tmp_path / "s.zarr.runs").rglob("*")]:
        content = path.read_bytes() if path.is_file() else b""
        for secret in (b"SECRET", b"19631122", b"19991231", b"235959"):
            assert secret not in content, path


def test_the_same_input_elsewhere_with_other_file_times_gives_the_same_bytes(
    ct_etl, cohort_run, tmp_path, contents
):
    copy = tmp_path / "moved" / "elsewhere"
    shutil.copytree(cohort_run.cohort.folder, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    done = ct_etl("run", "elsewhere", "../again.zarr", *QUICK, "-q", cwd=copy.parent)
    assert done.status == 0, done.why
    assert contents(tmp_path / "again.zarr") == contents(cohort_run.store)


def test_inputs_given_apart_or_in_another_order_give_the_same_bytes(in_process, cohort_run, tmp_path, contents):
    parts = sorted((p for p in cohort_run.cohort.folder.iterdir() if p.name != "README.txt"), reverse=True)
    done = in_process("run", *parts, tmp_path / "s.zarr", *QUICK, "-q")
    assert done.status == 0, done.why
    assert contents(tmp_path / "s.zarr") == contents(cohort_run.store)


# --- runs after the first -------------------------------------------------------------------------------


def test_a_second_run_finds_everything_unchanged_and_touches_no_file(
    ct_etl, cohort_run, tmp_path, stamps, contents
):
    before = stamps(cohort_run.store), contents(cohort_run.store)
    done = ct_etl("run", cohort_run.cohort.folder, cohort_run.store, *QUICK, "--json", "--run-dir", tmp_path)
    assert done.status == 0, done.why
    assert {e["outcome"] for e in done.json["series"]} == {"unchanged", "excluded"}
    assert (done.json["unchanged"], done.json["written"], done.json["excluded"]) == (6, 0, 3)
    assert done.json["fingerprint"] == cohort_run.totals["fingerprint"]
    assert (stamps(cohort_run.store), contents(cohort_run.store)) == before


def test_a_changed_slice_makes_its_series_new_and_no_other(in_process, three_patients, tmp_path, stamps):
    folder, store = tmp_path / "dicom", tmp_path / "s.zarr"
    shutil.copytree(three_patients, folder)
    assert in_process("run", folder, store, *QUICK).status == 0
    before = {p: stamps(store / p) for p in ("P0", "P1", "P2")}
    old = zarr.open_group(store, mode="r")["P1"]
    [old_volume] = [group["volume"][:] for _, group in old.groups()]

    def brighter(_, dataset):
        dataset.RescaleIntercept = float(dataset.RescaleIntercept) + 100

    small_series(folder / "p1", patient_id="P1", seed=1, edit=brighter)
    done = in_process("run", folder, store, *QUICK, "--json")
    assert {e["patient_id"]: e["outcome"] for e in done.json["series"]} == {
        "P0": "unchanged",
        "P1": "written",
        "P2": "unchanged",
    }
    assert stamps(store / "P0") == before["P0"]
    assert stamps(store / "P2") == before["P2"]
    [new_volume] = [group["volume"][:] for _, group in zarr.open_group(store, mode="r")["P1"].groups()]
    assert (new_volume - old_volume).max() == pytest.approx(100 / 3000, abs=2**-12)


def test_more_input_is_added_to_what_is_there(in_process, three_patients, tmp_path, contents):
    for names in (["p2"], ["p0"], ["p1"]):
        done = in_process("run", *(three_patients / n for n in names), tmp_path / "grown.zarr", *QUICK)
        assert done.status == 0, done.why
    assert in_process("run", three_patients, tmp_path / "whole.zarr", *QUICK).status == 0
    assert contents(tmp_path / "grown.zarr") == contents(tmp_path / "whole.zarr")


def test_overwrite_leaves_nothing_of_the_old_store(in_process, three_patients, tmp_path, contents):
    store = tmp_path / "s.zarr"
    assert in_process("run", three_patients, store, *QUICK).status == 0
    other = ("--spacing-mm", "8", "--workers", "0")
    done = in_process("run", three_patients / "p0", store, *other, "--overwrite", "--json")
    assert done.status == 0, done.why
    assert done.json["written"] == 1
    assert in_process("run", three_patients / "p0", tmp_path / "fresh.zarr", *other).status == 0
    assert contents(store) == contents(tmp_path / "fresh.zarr")
    assert {p.name for p in tmp_path.iterdir()} == {"s.zarr", "s.zarr.runs", "fresh.zarr", "fresh.zarr.runs"}


# --- selection ------------------------------------------------------------------------------------------


def test_series_default_writes_one_series_a_patient(in_process, cohort, tmp_path):
    done = in_process("run", cohort.folder, tmp_path / "s.zarr", *QUICK, "--series", "default", "--json")
    assert done.status == 0, done.why
    thick = {s.series_instance_uid for s in cohort.series if s.kind == "thick"}
    assert {e["series_instance_uid"] for e in written(done.json)} == thick
    reasons = [e["reason"] for e in done.json["series"] if e["outcome"] == "excluded"]
    assert sorted(reasons) == ["localizer"] * 3 + ["not-selected"] * 3


@pytest.mark.parametrize(
    ("options", "reason"), [(["--slice-count", "30"], "slice-count"), (["--min-slices", "15"], "too-few-slices")]
)
def test_series_of_other_lengths_are_excluded(in_process, cohort, tmp_path, options, reason):
    done = in_process("run", cohort.folder, tmp_path / "s.zarr", *QUICK, *options, "--json")
    assert done.status == 0, done.why
    assert {e["slices"] for e in written(done.json)} == {30}
    assert done.json["written"] == 3
    thin = {s.series_instance_uid for s in cohort.series if s.kind == "thin"}
    assert {e["series_instance_uid"] for e in done.json["series"] if e["reason"] == reason} == thin


@pytest.mark.parametrize("kept_bytes", [200, 303, 1000])
def test_a_file_cut_off_in_its_header_is_a_failure_and_its_neighbors_are_written(
    in_process, three_patients, tmp_path, kept_bytes
):
    folder = tmp_path / "dicom"
    shutil.copytree(three_patients, folder)
    shutil.copy(folder / "p0" / "I1", folder / "p2" / "J1")
    cut = folder / "p2" / "J1"
    cut.write_bytes(cut.read_bytes()[:kept_bytes])
    done = in_process("run", folder, tmp_path / "s.zarr", *QUICK, "--json")
    assert done.status == 3, done.why
    assert [e["reason"] for e in done.json["series"] if e["outcome"] == "failed"] == ["unreadable"]
    assert sorted(e["patient_id"] for e in written(done.json)) == ["P0", "P1", "P2"]


# --- the run directory ----------------------------------------------------------------------------------


def test_the_run_directory_lies_beside_the_store_and_is_named_for_the_time(cohort_run):
    [run] = (path for path in (cohort_run.store.parent / "store.zarr.runs").iterdir() if path.is_dir())
    assert re.match(r"20\d{6}T\d{6}", run.name)
    assert {"ledger.jsonl", "run.json", "report.html"} <= {p.name for p in run.iterdir()}
    assert cohort_run.totals["run_dir"] == str(run)


@pytest.mark.parametrize("reached", [True, False], ids=["drawn by the worker", "folder out of reach"])
def test_the_report_shows_the_volumes_of_the_store(in_process, one_patient, tmp_path, monkeypatch, reached):
    drawn = []
    save = Montage.save

    def recorded(picture, path):
        drawn.append(path)
        # As on a host that does not share the driver's folders.
        save(picture, path if reached else path.parent / "elsewhere" / path.name)

    monkeypatch.setattr(Montage, "save", recorded)
    assert in_process("run", one_patient, tmp_path / "s.zarr", *QUICK).status == 0
    [run] = (tmp_path / "s.zarr.runs").iterdir()
    volumes = [volume for patient in open_store(tmp_path / "s.zarr").values() for volume in patient.values()]
    page = (run / "report.html").read_text()
    assert len(drawn) == len(volumes) > 0
    assert re.findall(r'class="slices" src="([^"]*)"', page) == [montage_of(volume).uri for volume in volumes]
    assert {path.name for path in run.iterdir()} == {"ledger.jsonl", "run.json", "report.html"}


def test_each_run_has_a_directory_of_its_own(in_process, one_patient, tmp_path):
    for _ in range(2):
        assert in_process("run", one_patient, tmp_path / "s.zarr", *QUICK).status == 0
    assert len([p for p in (tmp_path / "s.zarr.runs").iterdir() if p.is_dir()]) == 2
    assert in_process("run", one_patient, tmp_path / "s.zarr", *QUICK, "--run-dir", tmp_path / "mine").status == 0
    assert (tmp_path / "mine" / "ledger.jsonl").is_file()
    assert len([p for p in (tmp_path / "s.zarr.runs").iterdir() if p.is_dir()]) == 2


def test_the_ledger_has_one_line_a_stack_with_exactly_the_fields_of_the_contract(cohort_run):
    [run] = (path for path in (cohort_run.store.parent / "store.zarr.runs").iterdir() if path.is_dir())
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == len(cohort_run.cohort.series)
    for line in lines:
        assert list(line) == LEDGER_KEYS
        truth = next(s for s in cohort_run.cohort.series if s.series_instance_uid == line["series_instance_uid"])
        assert (line["patient_id"], line["patient_key"]) == (truth.patient_id, truth.patient_id)
        assert (line["series_number"], line["slices"]) == (truth.series_number, len(truth.slices))
        assert re.fullmatch(rf"{truth.series_number:04d}-[0-9a-f]{{16}}", line["series_key"])
        if line["outcome"] == "written":
            assert line["reason"] is None
            folder = cohort_run.store / line["patient_key"] / line["series_key"]
            assert line["bytes_out"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            assert line["seconds"] > 0
    assert lines == cohort_run.totals["series"]


def test_bytes_in_are_the_bytes_of_the_files(cohort_run, cohort_files):
    for series in cohort_run.cohort.wanted:
        files = cohort_files(series)
        assert cohort_run.entry(series.series_instance_uid)["bytes_in"] == sum(f.stat().st_size for f in files)


def test_run_json_holds_the_totals(cohort_run):
    [run] = (path for path in (cohort_run.store.parent / "store.zarr.runs").iterdir() if path.is_dir())
    totals = json.loads((run / "run.json").read_text("utf-8"))
    assert {k: totals[k] for k in ("scanned", "written", "unchanged", "excluded", "failed")} == {
        "scanned": 9,
        "written": 6,
        "unchanged": 0,
        "excluded": 3,
        "failed": 0,
    }
    assert totals["ignored_files"] == 5
    assert totals["fingerprint"] == node(cohort_run.store)["attributes"]["ct_etl"]["fingerprint"]
    assert totals == {k: v for k, v in cohort_run.totals.items() if k != "series"}


# --- truth: HU at points of patient space ---------------------------------------------------------------

ORIENTATIONS = {
    "AXIAL": (1, 0, 0, 0, 1, 0),
    "CORONAL": (1, 0, 0, 0, 0, -1),
    "SAGITTAL": (0, 1, 0, 0, 0, -1),
    "FEET-FIRST": (-1, 0, 0, 0, 1, 0),
    "ROTATED": (0, 1, 0, -1, 0, 0),
    "UPWARD-SAGITTAL": (0, -1, 0, 0, 0, 1),
}
PIXEL_MM, SLICE_MM = 1.6, 1.8
# Large enough inside that points far from any edge lie in it.
HEAD = HeadPhantom(
    bleed_semi_axes_mm=(20, 22, 18), ventricle_scale=1.6, turn_deg=(3, -4, 5), shift_mm=(2, -3, 1.5)
)
TISSUES_HU = {-1000.0, 28.0, 37.0, 40.0, 70.0}


@pytest.fixture(scope="module")
def oriented(tmp_path_factory):
    """The same head scanned in every direction, one patient each, and once from vertex to base."""
    folder = tmp_path_factory.mktemp("oriented")
    for number, (name, cosines) in enumerate(ORIENTATIONS.items()):
        acquisition = Acquisition.regular(
            count=108,
            spacing_mm=-SLICE_MM if name == "ROTATED" else SLICE_MM,
            orientation=cosines,
            rows=128,
            columns=116,
            pixel_spacing_mm=(PIXEL_MM, PIXEL_MM + 0.1),
            thickness_mm=SLICE_MM,
        )
        write_series(folder / name, HEAD, acquisition, patient_id=name, seed=number)
    return folder


@pytest.mark.parametrize(
    ("options", "margin_mm"),
    [
        # The cubic spline rings: 0.27 to the power of six source samples is below 2 HU of a 2000 HU edge.
        (["--preset", "head-ct"], 6 * SLICE_MM),
        (["--preset", "article"], 6 * SLICE_MM),
        (["--native"], 0.01),
    ],
    ids=["head-ct", "article", "native"],
)
def test_hu_at_points_of_patient_space_are_the_phantoms(ct_etl, oriented, tmp_path, options, margin_mm):
    store = tmp_path / "s.zarr"
    done = ct_etl("run", oriented, store, "--workers", "0", *options, "--json")
    assert done.status == 0, done.why
    assert done.json["written"] == len(ORIENTATIONS)
    group = zarr.open_group(store, mode="r")
    for number, patient in enumerate(ORIENTATIONS):
        [(_, series)] = group[patient].groups()
        points, read = _sample(series, margin_mm, np.random.default_rng([20, number]))
        truth = HEAD.hu(points)
        assert np.abs(read - truth).max() < 2, patient
        assert len(points) >= 1000
        body = truth > AIR_HU
        assert body.sum() >= 300
        assert set(truth.tolist()) >= TISSUES_HU, patient
        affine = np.array(series.attrs["ct_etl"]["geometry"]["affine_lps"])
        assert (affine[[2, 1, 0], [0, 1, 2]] > 0).all()
        _assert_covered(series, oriented / patient)


def _sample(series, margin_mm, rng):
    """Voxel centers nearest to random points of patient space, away from edges, and the HU stored there."""
    affine = np.array(series.attrs["ct_etl"]["geometry"]["affine_lps"])
    hu = read_hu(series)
    drawn = rng.uniform(-110, 110, (60_000, 3))
    index = np.rint((drawn - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    index = index[((index >= 0) & (index < hu.shape)).all(axis=1)]
    centers = index @ affine[:3, :3].T + affine[:3, 3]
    smooth = HEAD.is_smooth(centers, margin_mm)
    return centers[smooth], hu[tuple(index[smooth].T)]


def _assert_covered(series, folder):
    """Hold that the first and the last slice and the outer pixels are inside, to a voxel and a half."""
    geometry = series.attrs["ct_etl"]["geometry"]
    affine = np.array(geometry["affine_lps"])
    corners = np.array([[0, 0, 0], np.array(series["volume"].shape) - 1]) @ affine[:3, :3].T + affine[:3, 3]
    reach = 1.5 * np.array(geometry["spacing_mm"])[::-1]
    low, high = corners.min(axis=0) - reach, corners.max(axis=0) + reach
    for path in folder.iterdir():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        row, column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        position = np.array(ds.ImagePositionPatient, float)
        down = (ds.Rows - 1) * float(ds.PixelSpacing[0]) * column
        along = (ds.Columns - 1) * float(ds.PixelSpacing[1]) * row
        for corner in (position, position + down + along):
            assert (low <= corner).all()
            assert (corner <= high).all()


# --- real data ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_run(shared_data, ct_etl, tmp_path_factory):
    store = tmp_path_factory.mktemp("real") / "store.zarr"
    inputs = [shared_data / "head_phantom_philips" / "S21570", shared_data / "lung_lidc", shared_data / "junk"]
    done = ct_etl("run", *inputs, store, "--min-slices", "8", "--workers", "0", "--json", timeout_s=300)
    assert done.status == 0, done.why
    return store, done.json


def test_real_series_are_written_and_what_lies_beside_them_is_excluded(real_run):
    store, totals = real_run
    assert {(e["patient_id"], e["slices"]) for e in written(totals)} == {
        ("PLASTIC", 28),
        ("LIDC-IDRI-0001", 16),
        ("LIDC-IDRI-0002", 12),
        ("LIDC-IDRI-0003", 11),
    }
    reasons = [(e["reason"], e["slices"]) for e in totals["series"] if e["outcome"] == "excluded"]
    assert ("localizer", 1) in reasons
    assert sum(n for reason, n in reasons if reason == "secondary-capture") == 6
    assert totals["failed"] == 0
    assert totals["ignored_files"] >= 3  # the pointer files of junk/
    assert {p.name for p in store.iterdir() if p.is_dir()} == {
        "PLASTIC",
        "LIDC-IDRI-0001",
        "LIDC-IDRI-0002",
        "LIDC-IDRI-0003",
    }


def test_real_slices_are_in_spatial_order_though_file_names_are_not(real_run, shared_data):
    store, _ = real_run
    folder = shared_data / "head_phantom_philips" / "S21570" / "S2010"
    files = sorted(p for p in folder.iterdir() if p.name != "DIRFILE")
    truth = read_dicom(files)
    by_name = [pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in files]
    [(_, series)] = zarr.open_group(store, mode="r", use_consolidated=False)["PLASTIC"].groups()
    uids = [bytes(row).rstrip(b"\0").decode() for row in series["source/sop_instance_uid"][:]]
    assert uids == [ds.SOPInstanceUID for ds in truth]
    assert uids not in (by_name, by_name[::-1])
    np.testing.assert_allclose(
        series["source/position_mm"][:], [float(ds.ImagePositionPatient[2]) for ds in truth], atol=1e-3
    )


def test_padding_read_with_the_wrong_sign_is_air(real_run, shared_data):
    """LIDC-IDRI-0001 pads with -2000, and its header says 63536: outside the circle there must be no -3024 HU."""
    store, _ = real_run
    [(_, series)] = zarr.open_group(store, mode="r")["LIDC-IDRI-0001"].groups()
    hu = read_hu(series)
    assert hu[:, 0, 0] == pytest.approx(np.full(len(hu), -1000), abs=0.5)
    files = list((shared_data / "lung_lidc" / "LIDC-IDRI-0001").rglob("*.dcm"))
    middle = read_dicom(files)[8]
    inside = middle.pixel_array[200:300, 200:300] * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    normal_position = float(middle.ImagePositionPatient[2])
    affine = np.array(series.attrs["ct_etl"]["geometry"]["affine_lps"])
    k = round((normal_position - affine[2, 3]) / affine[2, 0])
    j, i = (
        np.rint(float(middle.ImagePositionPatient[a]) + 250 * float(middle.PixelSpacing[0]) - affine[a, 3]).astype(
            int
        )
        for a in (1, 0)
    )
    half = int(50 * float(middle.PixelSpacing[0]))
    block = hu[k, j - half : j + half, i - half : i + half]
    assert block.mean() == pytest.approx(np.clip(inside, -1000, 2000).mean(), abs=15)


def test_the_article_recipe_is_scipys_zoom_window_and_mean(ct_etl, shared_data, tmp_path):
    folder = shared_data / "head_phantom_philips" / "S21570"
    done = ct_etl("run", folder, tmp_path / "s.zarr", "--preset", "article", "--workers", "0", timeout_s=300)
    assert done.status == 0, done.why
    slices = [pydicom.dcmread(p) for p in (folder / "S2010").iterdir() if p.name != "DIRFILE"]
    slices.sort(key=lambda ds: ds.ImagePositionPatient[2])
    hu = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    expected = ndimage.zoom(hu, (1, 0.5, 0.5), order=3, mode="nearest")
    expected = np.clip((expected + 1000) / 3000, 0, 1)
    expected -= expected.mean()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")["PLASTIC"]
    [(_, series)] = group.groups()
    stored = series["volume"][:]
    assert stored.shape == expected.shape == (28, 256, 256)
    assert np.abs(stored - expected).max() * 3000 <= 3000 / 2**14 + 1e-3


def test_scan_of_real_data_tells_slice_counts_and_reasons(in_process, shared_data):
    found = in_process("scan", shared_data / "head_phantom_philips", shared_data / "lung_lidc", "--json").json
    by_count = {row["slices"]: row for row in found["series"] if row["outcome"] == "write"}
    assert set(by_count) == {28, 54, 16, 12, 11}
    assert by_count[54]["gantry_tilt_deg"] == pytest.approx(-18.5, abs=0.1)
    assert by_count[28]["size"] == [28, 512, 512]
    assert by_count[28]["spacing_mm"][0] == pytest.approx(5, abs=0.01)
    assert "localizer" in {row["reason"] for row in found["series"]}


def test_a_lone_localizer_gives_an_empty_store_and_success(in_process, tmp_path):
    write_localizer(tmp_path / "dicom", HeadPhantom(), rows=24)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--json")
    assert done.status == 0, done.why
    assert (done.json["scanned"], done.json["excluded"]) == (1, 1)
    assert dict(zarr.open_group(tmp_path / "s.zarr", mode="r").groups()) == {}


def test_what_a_worker_says_it_wrote_and_the_driver_does_not_find_is_a_failure(in_process, tmp_path, monkeypatch):
    """As of a worker that sees another disk under the same path."""
    small_series(tmp_path / "dicom")
    monkeypatch.setattr("etl.process.series.publish", lambda *_, **__: 1000)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--json")
    assert done.status == 3, done.why
    [entry] = done.json["series"]
    assert (entry["outcome"], entry["reason"]) == ("failed", "internal-error")
    assert "another file system" in entry["detail"]
    assert not list((tmp_path / "s.zarr").glob("*/*/zarr.json"))
