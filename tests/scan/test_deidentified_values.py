"""A name written into any technical attribute reaches no store; a key that can be guessed is refused."""

from __future__ import annotations

import errno
import json
import os
import stat
import string
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from series import small_series

from etl.dicom.attributes import ALLOWED_KEYWORDS, allowed_attributes
from etl.errors import UsageError
from etl.scan.deidentify import Pseudonyms, write_mapping
from etl.scan.known_terms import is_machine_text, known_attributes

QUICK = ("--spacing-mm", "12", "--workers", "0", "-q")
KEY = b"a key of more than sixteen bytes"
NAME = "JONES"
# What decides how pixels are read cannot be replaced by a name in a file that is still an image.
NEEDED = {"BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Modality", "PhotometricInterpretation",
          "RescaleType"}  # fmt: skip
TEXT_VRS = ("LO", "SH", "CS", "PN", "UT")


def written_as(keyword, text, vr):
    """A dataset in which an attribute holds text under a VR that may not be its own."""
    dataset = Dataset()
    dataset[keyword] = DataElement(keyword, vr, text, already_converted=True)
    return dataset


TEXTS = (NAME, "Jones^Peter", "JONES\\JONES", "19610203", "JONES 19610203", "1961-02-03")


def test_no_name_or_date_passes_as_any_attribute():
    passed = []
    for keyword, vr, text in product(ALLOWED_KEYWORDS, TEXT_VRS, TEXTS):
        allowed = allowed_attributes(written_as(keyword, text, vr))
        kept, dropped = known_attributes(allowed.values)
        if kept or keyword not in (*dropped, *allowed.dropped):
            passed.append((keyword, vr, text))
    assert passed == []


def test_text_in_the_place_of_a_number_is_dropped_also_without_a_key():
    numbers = [keyword for keyword in ALLOWED_KEYWORDS if dictionary_VR(keyword) in {"DS", "IS", "FD", "US"}]
    assert len(numbers) > 9
    for keyword, vr in product(numbers, TEXT_VRS):
        found = allowed_attributes(written_as(keyword, NAME, vr))
        assert (found.values, found.dropped) == ({}, (keyword,))


@pytest.mark.parametrize(
    ("keyword", "text", "value"),
    [
        ("KVP", "120", 120.0), ("KVP", " 1.2E2 ", 120.0), ("KVP", "120x", None), ("KVP", "nan", None),
        ("KVP", "inf", None), ("KVP", "1_2", None), ("Exposure", "250", 250), ("Exposure", "2;0", None),
        ("PatientAge", "045Y", "045Y"), ("PatientAge", "45 years", None), ("PatientSex", "F", "F"),
        ("PatientSex", "f", None), ("ScanOptions", "HELICAL MODE", "HELICAL MODE"), ("ScanOptions", "Jones", None),
        ("BodyPartExamined", "A" * 17, None), ("Manufacturer", "Any Maker GmbH", "Any Maker GmbH"),
        ("Manufacturer", "two\nlines", None), ("Manufacturer", "M" * 65, None), ("SliceThickness", "", ""),
    ],
)  # fmt: skip
def test_a_value_is_kept_where_it_parses_by_its_vr(keyword, text, value):
    found = allowed_attributes(written_as(keyword, text, "LO"))
    if value == "":
        assert found == ({}, ())
    else:
        assert found == (({}, (keyword,)) if value is None else ({keyword: value}, ()))


@given(st.text(string.ascii_letters + " ^-.", min_size=4, max_size=40))
def test_text_passes_only_if_every_word_of_it_is_one_of_the_makers(text):
    surname = f"Quentin{text}"
    assert not is_machine_text(surname)
    assert not is_machine_text(f"SIEMENS {surname}")


def test_what_scanners_write_passes():
    machines = [
     "GE MEDICAL SYSTEMS", "SIEMENS", "Siemens Healthineers", "Philips", "TOSHIBA", "Canon Medical Systems",
     "SOMATOM Definition AS+", "Sensation 64", "LightSpeed VCT", "Discovery CT750 HD", "Aquilion ONE", "iCT 256",
     "Brilliance 64", "Ingenuity CT", "B31f", "H30s", "Br40d", "Qr40", "I41s", "FC13", "FC68", "STANDARD",
     "BONEPLUS", "UB", "YA", "C",
    ]  # fmt: skip
    assert [text for text in machines if not is_machine_text(text)] == []


def test_what_may_name_somebody_does_not_pass():
    people = ["Li Wu", "Dr Lee", "J O N E S", "MÜLLER", "SIEMENS 19610203", "Name: X", "CT JONES"]
    assert list(filter(is_machine_text, people)) == []


def test_a_binary_zero_is_a_value():
    dataset = written_as("PixelRepresentation", 0, "US")
    assert allowed_attributes(dataset) == ({"PixelRepresentation": 0}, ())


def spoil(index, dataset):
    """Write the name into every attribute of the list that a reader can do without."""
    del index
    dataset.BurnedInAnnotation = "NO"
    for keyword in ALLOWED_KEYWORDS:
        if keyword not in NEEDED:
            value = f"ORIGINAL\\PRIMARY\\{NAME}" if keyword == "ImageType" else NAME
            dataset[keyword] = DataElement(keyword, "LO", value, already_converted=True)


def test_a_name_in_every_attribute_reaches_no_store(tmp_path, in_process):
    small_series(tmp_path / "dicom" / "p", "PAT-1", seed=1, edit=spoil)
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--json", "--deidentify", key)
    assert done.status == 0, done.why
    assert done.json["written"] == 1
    for path in [p for p in tmp_path.rglob("*") if p.is_file() and "dicom" not in p.parts]:
        assert NAME.encode() not in path.read_bytes(), path
    # Each is counted, by its keyword.
    assert set(done.json["dropped_attributes"]) == set(ALLOWED_KEYWORDS) - NEEDED
    [(_, patient)] = zarr.open_group(tmp_path / "s.zarr", mode="r").groups()
    [(_, series)] = patient.groups()
    assert series.attrs["dicom"]["ImageType"] == ["ORIGINAL", "PRIMARY"]


@pytest.mark.parametrize("keyword", ["Modality", "RescaleType"])
def test_a_name_where_the_ledger_quotes_an_attribute_is_not_quoted(tmp_path, in_process, keyword):
    small_series(tmp_path / "dicom" / "p", "PAT-1", seed=1, edit=lambda _, ds: setattr(ds, keyword, NAME))
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--json", "--deidentify", key)
    assert done.json["written"] == 0
    assert "OTHER" in done.json["series"][0]["detail"]
    assert NAME not in done.stdout + done.stderr


def test_a_key_that_can_be_guessed_is_refused(tmp_path, in_process):
    patterns = (b"\0", b"a", b"\xff", b"ab", b"1234", b"abcdefgh", b"secret12")
    for key in (bytes(16), *(pattern * (32 // len(pattern)) for pattern in patterns), b"abcdefgh" * 2):
        with pytest.raises(UsageError, match="whoever guesses it"):
            Pseudonyms(key)
    file = tmp_path / "key"
    file.write_bytes(b"secret12" * 4)
    file.chmod(0o600)
    (tmp_path / "dicom").mkdir()
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, "--deidentify", file)
    assert done.status == 2
    assert not (tmp_path / "s.zarr").exists()


@given(st.integers(0, 2**32 - 1))
def test_a_random_key_is_never_refused(seed):
    rng = np.random.default_rng(seed)
    for length in (16, 24, 32):
        Pseudonyms(rng.bytes(length))
        Pseudonyms(rng.bytes(length).hex().encode())


def test_a_full_disk_loses_no_pseudonym_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, path = Pseudonyms(KEY), tmp_path / "map.json"
    first = names.patient("PAT-1")
    write_mapping(path, names)
    names.patient("PAT-2")
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot be written"):
        write_mapping(path, names)
    monkeypatch.setattr(os, "fsync", real)
    assert json.loads(path.read_text()) == {first: "PAT-1"}
    assert [p.name for p in tmp_path.iterdir()] == ["map.json"]


def test_the_mapping_is_replaced_as_a_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    names, path = Pseudonyms(KEY), tmp_path / "map.json"
    names.patient("PAT-1")
    write_mapping(path, names)
    before = path.stat()
    path.chmod(0o644)
    names.patient("PAT-2")
    old = path.open()
    write_mapping(path, names)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert stat.S_IMODE(after.st_mode) == 0o600
    # Who had it open reads what was there, whole.
    assert set(json.load(old).values()) == {"PAT-1"}
    old.close()
    assert set(json.loads(path.read_text()).values()) == {"PAT-1", "PAT-2"}


def test_a_mapping_behind_a_link_stays_behind_it(tmp_path: Path) -> None:
    names = Pseudonyms(KEY)
    names.patient("PAT-1")
    (tmp_path / "real").mkdir()
    (tmp_path / "map.json").symlink_to(tmp_path / "real" / "map.json")
    write_mapping(tmp_path / "map.json", names)
    assert (tmp_path / "map.json").is_symlink()
    assert (tmp_path / "real" / "map.json").is_file()
