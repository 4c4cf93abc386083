"""Keyed hashes instead of identifiers: stable, secret, complete, and what `verify` finds of a plain one."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
import zarr
from pairwise import pairwise
from series import small_series

from etl.errors import UsageError
from etl.scan.deidentify import Pseudonyms, capped_age, read_key

QUICK = ("--spacing-mm", "12", "--workers", "0", "-q")
KEY = b"a key of more than sixteen bytes"
PATIENTS = {"PAT-77001": "093Y", "MÜLLER-77002": "045Y"}


def key_file(path, content=KEY, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def write_patients(folder):
    for n, (patient, age) in enumerate(PATIENTS.items()):

        def edit(_, dataset, age=age):
            dataset.SpecificCharacterSet = "ISO_IR 192"
            dataset.PatientAge = age
            dataset.BodyPartExamined = "HEADJONES"
            dataset.ScanOptions = "JONES"
            dataset.FilterType = "JONES"
            dataset.BurnedInAnnotation = "NO"

        small_series(folder / f"p{n}", patient, seed=n, edit=edit)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ct_etl):
    base = tmp_path_factory.mktemp("deidentified")
    write_patients(base / "dicom")
    key_file(base / "key")
    options = ("--deidentify", base / "key", "--deidentify-map", base / "map.json")
    done = ct_etl("run", base / "dicom", base / "s.zarr", *QUICK, "--json", *options)
    assert done.status == 0, done.why
    return base, done.json


def identifiers(base):
    found = set(PATIENTS)
    for path in (base / "dicom").rglob("*"):
        if path.is_file():
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            found |= {str(dataset[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    return found


def attributes(store):
    return [g.attrs for _, p in zarr.open_group(store, mode="r").groups() for _, g in p.groups()]


def test_the_same_key_gives_the_same_bytes_in_every_run(in_process, finished, tmp_path, contents):
    base, _ = finished
    done = in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, "--deidentify", base / "key")
    assert done.status == 0, done.why
    assert contents(tmp_path / "s.zarr") == contents(base / "s.zarr")
    again = in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, "--json", "--deidentify", base / "key")
    assert again.json["unchanged"] == 2


def test_another_key_gives_other_patients_uids_and_keys_and_the_same_voxels(in_process, finished, tmp_path):
    base, _ = finished
    other = key_file(tmp_path / "key", b"another key of sixteen bytes or more")
    done = in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, "--deidentify", other)
    assert done.status == 0, done.why
    one, two = (zarr.open_group(s, mode="r") for s in (base / "s.zarr", tmp_path / "s.zarr"))
    assert not set(one.group_keys()) & set(two.group_keys())
    kinds = ("patient_id", "series_instance_uid", "study_instance_uid")
    stores = base / "s.zarr", tmp_path / "s.zarr"
    names = [{a["ct_etl"][kind] for a in attributes(store) for kind in kinds} for store in stores]
    assert not names[0] & names[1]
    digests = [
        sorted(a["ct_etl"]["provenance"]["volume_digest"] for a in attributes(s))
        for s in (base / "s.zarr", tmp_path / "s.zarr")
    ]
    assert digests[0] == digests[1]


def test_pseudonyms_are_hmac_sha256_of_the_key():
    """RFC 2104 by the standard library; another program can make the same ones from the key."""
    names = Pseudonyms(KEY)
    assert names.patient("PAT-1") == "p-" + hmac.new(KEY, b"patient\0PAT-1", hashlib.sha256).hexdigest()[:24]
    digest = hmac.new(KEY, b"uid\x001.2.3", hashlib.sha256).hexdigest()
    assert names.uid("1.2.3") == f"2.25.{int(digest[:32], 16)}"


def test_pseudonymous_uids_are_uids():
    for n in range(200):
        uid = Pseudonyms(KEY).uid(f"1.2.{n}")
        assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", uid)
        assert len(uid) <= 64


def test_no_plain_identifier_is_anywhere_but_in_paths_and_the_mapping(finished):
    base, totals = finished
    plain = identifiers(base)
    assert len(plain) >= 20
    places = [p for f in ("s.zarr", "s.zarr.runs") for p in (base / f).rglob("*") if p.is_file()]
    for path in places:
        text = path.read_bytes().decode("utf-8", "replace")
        unescaped = text.encode().decode("unicode_escape", "replace") if path.suffix in {".json", ".jsonl"} else ""
        assert not {name for name in plain if name in text or name in unescaped}, path
    for _, patient in zarr.open_group(base / "s.zarr", mode="r", use_consolidated=False).groups():
        for _, series in patient.groups():
            stored = {bytes(row).rstrip(b"\0").decode() for row in series["source/sop_instance_uid"][...]}
            assert not stored & plain
            assert len(stored) == 9
    assert not {name for name in plain if name in json.dumps(totals, ensure_ascii=False)}


def test_a_series_key_is_made_of_the_pseudonym(finished):
    _base, totals = finished
    for entry in totals["series"]:
        expected = hashlib.sha256(entry["series_instance_uid"].encode()).hexdigest()[:16]
        assert entry["series_key"] == f"0001-{expected}"
        assert entry["series_instance_uid"].startswith("2.25.")


def test_ages_over_89_are_capped_and_free_text_is_dropped(finished):
    base, _ = finished
    dicom = [a["dicom"] for a in attributes(base / "s.zarr")]
    assert sorted(d["PatientAge"] for d in dicom) == ["045Y", "089Y"]
    assert all(not {"BodyPartExamined", "ScanOptions", "FilterType"} & set(d) for d in dicom)
    assert b"JONES" not in b"".join(p.read_bytes() for p in (base / "s.zarr").rglob("*") if p.is_file())


def test_an_age_is_capped_or_dropped():
    # PS3.5 6.2: AS is three digits and D, W, M or Y.
    capped = {
        "089Y": "089Y", "090Y": "089Y", "999Y": "089Y", "999M": "999M", "999W": "999W", "999D": "999D",
        "000D": "000D", "1000Y": "", "45Y": "", "ninety": "", "": "", "093y": "", "093Y JONES": "",
    }  # fmt: skip
    assert {age: capped_age(age) for age in capped} == capped


# --- key and mapping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o601])
def test_a_key_that_others_can_touch_is_refused(in_process, finished, tmp_path, mode):
    base, _ = finished
    done = in_process(
        "run", base / "dicom", tmp_path / "s.zarr", *QUICK, "--deidentify", key_file(tmp_path / "k", mode=mode)
    )
    assert done.status == 2, done.why
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("content", [b" " * 40, b"fifteen bytes..\n"])
def test_a_key_that_is_too_short_is_refused(in_process, finished, tmp_path, content):
    base, _ = finished
    done = in_process(
        "run", base / "dicom", tmp_path / "s.zarr", *QUICK, "--deidentify", key_file(tmp_path / "k", content)
    )
    assert done.status == 2, done.why
    assert content.strip().decode() == "" or content.strip().decode() not in done.stderr


def test_a_key_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(str(tmp_path / "none"))


def test_the_key_is_nowhere(finished):
    base, _ = finished
    for path in [p for f in ("s.zarr", "s.zarr.runs") for p in (base / f).rglob("*") if p.is_file()]:
        assert KEY not in path.read_bytes()
    assert KEY not in (base / "map.json").read_bytes()


def test_the_mapping_is_for_its_owner_only_and_names_every_patient(finished):
    base, totals = finished
    assert stat.S_IMODE((base / "map.json").stat().st_mode) == 0o600
    mapping = json.loads((base / "map.json").read_text("utf-8"))
    assert mapping == {Pseudonyms(KEY).patient(p): p for p in PATIENTS}
    assert set(mapping) == {e["patient_id"] for e in totals["series"]}


def test_a_mapping_that_others_could_read_becomes_the_owners(in_process, finished, tmp_path):
    base, _ = finished
    (tmp_path / "map.json").write_text("{}")
    (tmp_path / "map.json").chmod(0o644)
    options = ("--deidentify", base / "key", "--deidentify-map", tmp_path / "map.json")
    assert in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, *options).status == 0
    assert stat.S_IMODE((tmp_path / "map.json").stat().st_mode) == 0o600


def test_a_mapping_inside_the_store_is_refused(in_process, finished, tmp_path):
    base, _ = finished
    options = ("--deidentify", base / "key", "--deidentify-map", tmp_path / "s.zarr" / "map.json")
    done = in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, *options)
    assert done.status == 2, done.why
    assert not (tmp_path / "s.zarr" / "map.json").exists()


def test_a_mapping_that_cannot_be_written_is_refused_before_any_work(in_process, finished, tmp_path):
    base, _ = finished
    options = ("--deidentify", base / "key", "--deidentify-map", tmp_path / "none" / "map.json")
    done = in_process("run", base / "dicom", tmp_path / "s.zarr", *QUICK, *options)
    assert done.status == 2, done.why
    assert not (tmp_path / "s.zarr").exists()


def test_a_run_over_other_patients_keeps_what_the_mapping_holds(in_process, finished, tmp_path):
    base, _ = finished
    options = ("--deidentify", base / "key", "--deidentify-map", tmp_path / "map.json")
    for n in range(2):
        assert in_process("run", base / "dicom" / f"p{n}", tmp_path / "s.zarr", *QUICK, *options).status == 0
    assert sorted(json.loads((tmp_path / "map.json").read_text("utf-8")).values()) == sorted(PATIENTS)


# --- stores do not mix ----------------------------------------------------------------------------------


def test_a_store_of_another_key_or_of_none_is_refused(in_process, finished, tmp_path, stamps):
    base, _ = finished
    before = stamps(base / "s.zarr")
    other = key_file(tmp_path / "key", b"another key of sixteen bytes or more")
    for options in (("--deidentify", other), ()):
        done = in_process("run", base / "dicom", base / "s.zarr", *QUICK, *options)
        assert done.status == 2, done.why
        assert "deidentify" in done.stderr
    assert stamps(base / "s.zarr") == before
    assert in_process("run", base / "dicom", tmp_path / "plain.zarr", *QUICK).status == 0
    done = in_process("run", base / "dicom", tmp_path / "plain.zarr", *QUICK, "--deidentify", base / "key")
    assert done.status == 2, done.why


# --- what stays out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["YES", "yes "])
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_burned_in_annotations_stay_out(in_process, finished, tmp_path, value):
    base, _ = finished

    def mark(_, dataset):
        with pydicom.config.disable_value_validation():
            dataset.BurnedInAnnotation = value

    small_series(tmp_path / "dicom" / "p", "P", edit=mark)
    small_series(tmp_path / "dicom" / "q", "Q", seed=1)
    done = in_process(
        "run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--json", "--deidentify", base / "key"
    )
    assert done.status == 0, done.why
    assert sorted((e["outcome"], e["reason"]) for e in done.json["series"]) == [
        ("excluded", "secondary-capture"), ("written", None)
    ]  # fmt: skip


def test_a_folder_that_stands_for_a_missing_patient_id_is_replaced_too(in_process, finished, tmp_path):
    base, _ = finished
    small_series(tmp_path / "dicom" / "JONES^PETER", "")
    (tmp_path / "dicom" / "JONES^MARY").mkdir()
    (tmp_path / "dicom" / "JONES^MARY" / "JONES.dcm").write_bytes(bytes(128) + b"DICM\x02\x00")
    done = in_process(
        "run",
        tmp_path / "dicom",
        tmp_path / "s.zarr",
        "--spacing-mm",
        "12",
        "--workers",
        "0",
        "--deidentify",
        base / "key",
    )
    assert done.status == 3, done.why
    assert "JONES" not in done.stdout + done.stderr
    for path in (tmp_path / "s.zarr").rglob("*"):
        assert "JONES" not in str(path.relative_to(tmp_path))
        assert path.is_dir() or b"JONES" not in path.read_bytes()
    for path in (tmp_path / "s.zarr.runs").rglob("*"):
        assert path.is_dir() or path.name == "run.json" or b"JONES" not in path.read_bytes(), path


# --- verify ---------------------------------------------------------------------------------------------


def test_a_clean_store_has_no_findings_against_its_input(in_process, finished):
    base, _ = finished
    done = in_process("verify", base / "s.zarr", "--input", base / "dicom", "--deidentify", base / "key")
    assert done.status == 0, done.why
    assert "2 volumes compared" in done.stdout


PLANTED = pairwise(
    ["PAT-77001", "MÜLLER-77002", "sop", "series", "study"], ["attribute", "name", "uids"], [True, False]
)


@pytest.mark.parametrize(
    ("which", "place", "with_key"),
    [
        pytest.param(*row, marks=[] if row[2] and row[0] not in {"series", "study"} else pytest.mark.slow)
        for row in PLANTED
    ],
)
def test_a_planted_identifier_is_found(in_process, finished, tmp_path, which, place, with_key):
    import shutil

    base, _ = finished
    store = tmp_path / "s.zarr"
    shutil.copytree(base / "s.zarr", store)
    dataset = pydicom.dcmread(next(p for p in sorted((base / "dicom").rglob("*")) if p.is_file()))
    uids = {"sop": dataset.SOPInstanceUID, "series": dataset.SeriesInstanceUID, "study": dataset.StudyInstanceUID}
    planted = str(uids.get(which, which))
    series = next(store.glob("*/*/zarr.json")).parent
    if place == "attribute":
        node = json.loads((series / "zarr.json").read_text())
        node["attributes"]["dicom"]["ConvolutionKernel"] = f"x{planted}x"
        (series / "zarr.json").write_text(json.dumps(node))
    elif place == "name":
        (series.parent / f"{planted}.txt").touch()
    else:
        array = zarr.open_array(series / "source" / "sop_instance_uid", mode="r+")
        array[0] = np.frombuffer(planted.encode().ljust(64, b"\0"), np.uint8)
    options = ("--deidentify", base / "key") if with_key else ()
    done = in_process("verify", store, "--input", base / "dicom", *options)
    assert done.status == 3, done.why
    assert any("of the input stands in it" in line for line in done.stdout.splitlines()), done.why
    assert planted not in done.stdout or place == "name"


def test_pseudonyms_are_not_told_by_the_store(finished):
    """The digest that tells two keys apart is no patient's and no UID's hash."""
    base, _ = finished
    config = json.loads(Path(base / "s.zarr" / "zarr.json").read_text())["attributes"]["ct_etl"]["config"]
    assert re.fullmatch(r"[0-9a-f]{16}", config["deidentify"])
    assert config["deidentify"] == hmac.new(KEY, b"key\0", hashlib.sha256).hexdigest()[:16]
