"""Who was scanned, where and by whom stays out of the store, the report and the terminal."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
import zarr
from pydicom import DataElement, Dataset
from pydicom.sequence import Sequence
from series import small_series

import etl.run.run

QUICK = ("--spacing-mm", "12", "--workers", "0")
TEXTS = {
    "PatientName": "PN", "OtherPatientNames": "PN", "PatientBirthName": "PN", "PatientMotherBirthName": "PN",
    "ReferringPhysicianName": "PN", "OperatorsName": "PN", "PerformingPhysicianName": "PN",
    "NameOfPhysiciansReadingStudy": "PN", "RequestingPhysician": "PN", "ConsultingPhysicianName": "PN",
    "OtherPatientIDs": "LO", "IssuerOfPatientID": "LO", "PatientAddress": "LO", "PatientTelephoneNumbers": "SH",
    "MedicalRecordLocator": "LO", "InsurancePlanIdentification": "LO", "Occupation": "SH", "EthnicGroup": "SH",
    "PatientComments": "LT", "AdditionalPatientHistory": "LT", "ImageComments": "LT", "AccessionNumber": "SH",
    "StudyID": "SH", "StudyDescription": "LO", "SeriesDescription": "LO", "ProtocolName": "LO",
    "RequestedProcedureDescription": "LO", "PerformedProcedureStepDescription": "LO", "InstitutionName": "LO",
    "InstitutionAddress": "ST", "InstitutionalDepartmentName": "LO", "StationName": "SH",
    "DeviceSerialNumber": "LO", "PlateID": "LO", "AdmissionID": "LO", "CurrentPatientLocation": "LO",
    "DerivationDescription": "ST", "ContrastBolusAgent": "LO", "RequestedContrastAgent": "LO",
    "AcquisitionComments": "LT",
}  # fmt: skip
DATES = {
    "PatientBirthDate": "19310713", "StudyDate": "19871103", "SeriesDate": "19871104",
    "AcquisitionDate": "19871105", "ContentDate": "19871106", "StudyTime": "231759.117",
    "SeriesTime": "231803.211", "AcquisitionTime": "231811.313", "ContentTime": "231821.717",
    "AcquisitionDateTime": "19871107231823.219",
}  # fmt: skip
MARKERS = {keyword: f"ZQ{n:02d}{keyword[:6].upper()}" for n, keyword in enumerate(TEXTS)}
ELSEWHERE = ["ZQPRIVATE", "ZQINSEQ", "ZQDEEPER", "ZQUNKNOWN", "ZQPREAMBLE"]
PLACES = ["ZQFOLDER", "ZQFILE", "ZQZIP", "ZQMEMBER"]


def identify(_, dataset):
    """Put a marker into everything that tells who, where and when."""
    for keyword, vr in TEXTS.items():
        value = f"{MARKERS[keyword]}^X" if vr == "PN" else MARKERS[keyword]
        tag = pydicom.datadict.tag_for_keyword(keyword)
        dataset[tag] = DataElement(tag, vr, value)
    for keyword, value in DATES.items():
        setattr(dataset, keyword, value)
    dataset.private_block(0x0009, "ZQPRIVATE MAKER", create=True).add_new(1, "LO", "ZQPRIVATE")
    dataset.private_block(0x0029, "ZQPRIVATE CSA", create=True).add_new(0x10, "OB", b"ZQPRIVATE HEADER")
    dataset.add_new(0x00204000 + 0x10000, "LT", "ZQUNKNOWN")
    deeper = Dataset()
    deeper.PersonName = "ZQDEEPER^X"
    inner = Dataset()
    inner.PatientID = inner.PatientName = "ZQINSEQ"
    inner.PersonIdentificationCodeSequence = Sequence([deeper])
    dataset.OtherPatientIDsSequence = Sequence([inner])
    dataset.RequestAttributesSequence = Sequence([inner])
    dataset.ReferencedStudySequence = Sequence([inner])


def test_forty_markers_are_planted(tmp_path):
    small_series(tmp_path, "P", edit=identify)
    content = next(tmp_path.iterdir()).read_bytes()
    planted = {*MARKERS.values(), *DATES.values(), *ELSEWHERE[:4]}
    assert len(planted) >= 40
    assert {marker for marker in planted if marker.encode() not in content} == set()


def preamble(path):
    content = bytearray(path.read_bytes())
    content[:10] = b"ZQPREAMBLE"
    path.write_bytes(content)


def fail_in_every_way(folder):
    """One patient a way to fail; all carry all markers, in the files and in their names."""

    def series(name, *, edit=identify, **options):
        place = folder / f"ZQFOLDER-{name}"
        for one in small_series(place, name.upper(), edit=edit, seed=len(name), **options):
            (place / one.path).rename(place / f"ZQFILE-{one.path}.dcm")
        return sorted(place.iterdir())

    def with_(**values):
        def edit(index, dataset):
            identify(index, dataset)
            with pydicom.config.disable_value_validation():
                for keyword, value in values.items():
                    setattr(dataset, keyword, value)

        return edit

    series("good")
    preamble(series("preamble")[0])
    series("norescale", edit=with_(RescaleSlope=None))
    series("units", edit=with_(RescaleType="ZQ00PATIEN"[:2] + "US"))
    series("nogeometry", edit=with_(ImagePositionPatient=None))
    series("huge", edit=with_(Rows=65535, Columns=65535))
    series("few", count=3)
    series("localizer", edit=with_(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    series("gap")[4].unlink()
    cut = series("cut")[3]
    cut.write_bytes(cut.read_bytes()[:-300])
    half = series("half")[3]
    half.write_bytes(half.read_bytes()[:700])
    for path in series("syntax"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.53"
        dataset.PixelData = pydicom.encaps.encapsulate([b"ZQ07NAMEOF" * 4])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.save_as(path)
    for syntax in ("50", "70", "80", "90"):
        for path in series(f"codec{syntax}"):
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
            dataset.PixelData = pydicom.encaps.encapsulate([b"ZQ07NAMEOF" * 40])
            dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
            dataset.save_as(path)
    # A checksum that is wrong is met when the pixels are read, and zipfile's own message quotes the member.
    loose = folder / "loose"
    names = [loose / one.path for one in small_series(loose, "CRC", edit=identify, seed=77)]
    with zipfile.ZipFile(folder / "ZQZIP-crc.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in names:
            archive.write(path, f"ZQMEMBER/{path.name}")
    shutil.rmtree(loose)
    content = bytearray((folder / "ZQZIP-crc.zip").read_bytes())
    for signature, at in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        start = content.find(signature)
        while start >= 0:
            content[start + at] ^= 0xFF
            start = content.find(signature, start + 4)
    (folder / "ZQZIP-crc.zip").write_bytes(content)
    (folder / "ZQFOLDER-text").mkdir()
    (folder / "ZQFOLDER-text" / "ZQFILE-notes.txt").write_text("ZQ00PATIEN")


@pytest.fixture(scope="module", params=["plain", "key"])
def finished(request, ct_etl, tmp_path_factory):
    """A run over all of it, once plain and once de-identified: what it wrote and what it said."""
    base = tmp_path_factory.mktemp("private")
    fail_in_every_way(base / "dicom")
    options = []
    if request.param == "key":
        (base / "keyfile").write_bytes(b"0123456789abcdef0123456789abcdef")
        (base / "keyfile").chmod(0o600)
        options = ["--deidentify", base / "keyfile", "--deidentify-map", base / "map.json"]
    run = ct_etl("run", base / "dicom", base / "s.zarr", *QUICK, *options)
    said = [run.stdout, run.stderr]
    assert run.status == 3, run.why
    again = ct_etl("run", base / "dicom", base / "s.zarr", *QUICK, *options, "--dry-run")
    others = [again, ct_etl("info", base / "s.zarr"), ct_etl("verify", base / "s.zarr", *(options[:2] or []))]
    said += [text for done in others for text in (done.stdout, done.stderr)]
    assert "Traceback" not in "".join(said)
    return base, said, request.param


def markers_in(text):
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    wanted = [*MARKERS.values(), *DATES.values(), *ELSEWHERE, *PLACES]
    compact = b"".join(content.split())  # a table may break a long word over lines
    return {m for m in wanted if m.encode() in content or m.encode() in compact}


def decoded(store):
    """Every attribute and every value of a store, as bytes, by name."""

    def visit(node, name):
        yield name, json.dumps(dict(node.attrs), ensure_ascii=False).encode()
        for key, member in node.members():
            if isinstance(member, zarr.Group):
                yield from visit(member, f"{name}/{key}")
            else:
                yield f"{name}/{key}", np.asarray(member[...]).tobytes()

    return visit(zarr.open_group(store, mode="r"), "")


def test_no_marker_is_in_the_store_as_it_lies_on_the_disk(finished):
    base, _, _ = finished
    for path in sorted((base / "s.zarr").rglob("*")):
        name = path.relative_to(base).as_posix()
        assert markers_in(name) <= set(), name
        if path.is_file():
            assert markers_in(path.read_bytes()) == set(), name


def test_no_marker_is_in_the_store_as_it_is_read(finished):
    base, _, _ = finished
    found = {name: markers_in(content) for name, content in decoded(base / "s.zarr")}
    assert len(found) >= 10
    assert {name: marks for name, marks in found.items() if marks} == {}


def test_no_marker_is_in_the_report(finished):
    base, _, kind = finished
    [page] = (base / "s.zarr.runs").glob("*/report.html")
    found = markers_in(page.read_bytes())
    # A file that cannot be read names no patient; its folder or zip stands in for one, but for de-identified runs.
    assert found <= ({"ZQFOLDER", "ZQZIP"} if kind == "plain" else set())


def test_no_marker_is_on_the_terminal(finished):
    _, said, kind = finished
    found = set().union(*map(markers_in, said))
    assert found <= ({"ZQFOLDER", "ZQZIP"} if kind == "plain" else set())


def test_the_run_directory_holds_paths_and_nothing_else_of_it(finished):
    base, _, kind = finished
    for path in sorted((base / "s.zarr.runs").rglob("*")):
        if path.is_file() and path.suffix != ".html":
            found = markers_in(path.read_bytes())
            allowed = set(PLACES) if path.name == "run.json" or kind == "plain" else set()
            assert found <= allowed, path.name


def test_every_way_to_fail_was_met(finished):
    """Else the tests above would hold for nothing."""
    base, _, _ = finished
    lines = [
        json.loads(t) for p in (base / "s.zarr.runs").glob("*/ledger.jsonl") for t in p.read_text().splitlines()
    ]
    reasons = {line["reason"] for line in lines}
    assert {
        "missing-rescale", "missing-geometry", "too-large", "too-few-slices", "localizer", "missing-slices",
        "truncated-pixel-data", "unreadable", "unsupported-transfer-syntax", "undecodable",
    } <= reasons  # fmt: skip
    assert {line["outcome"] for line in lines} == {"written", "excluded", "failed"}


def test_scan_prints_no_marker_but_the_folder_of_an_unreadable_file(ct_etl, finished):
    base, _, _ = finished
    for options in ([], ["--json"]):
        done = ct_etl("scan", base / "dicom", *options)
        assert done.status == 0, done.why
        assert markers_in(done.stdout + done.stderr) <= {"ZQFOLDER", "ZQZIP"}


def test_files_that_vanish_are_not_named_in_report_or_terminal(in_process, tmp_path, monkeypatch):
    """The message of an OSError holds the path, which often is a name."""
    folder = tmp_path / "dicom" / "ZQFOLDER"
    for one in small_series(folder, "P", edit=identify):
        (folder / one.path).rename(folder / f"ZQFILE-{one.path}")
    plan_job = etl.run.run.plan_job

    def plan_and_lose(*arguments, **options):
        plan = plan_job(*arguments, **options)
        shutil.rmtree(folder)
        return plan

    monkeypatch.setattr(etl.run.run, "plan_job", plan_and_lose)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 3, done.why
    assert "unreadable" in done.stdout
    assert markers_in(done.stdout + done.stderr) == set()
    [page] = (tmp_path / "s.zarr.runs").glob("*/report.html")
    assert markers_in(page.read_bytes()) == set()


def test_patient_ids_are_the_only_identifiers_in_a_plain_store(finished):
    base, _, kind = finished
    patients = {p.name for p in (base / "s.zarr").iterdir() if p.is_dir()}
    if kind == "plain":
        assert patients == {"GOOD", "PREAMBLE"}
    else:
        assert all(name.startswith("p-") for name in patients)
        everything = b"".join(
            p.read_bytes() for p in (base / "s.zarr.runs").rglob("*") if p.is_file() and p.name != "run.json"
        )
        assert b'"GOOD"' not in everything
