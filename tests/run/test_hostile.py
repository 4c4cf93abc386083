"""What is broken or meant to harm stops no run: it is told by its code, and its neighbors are written.

Every attack lies in a folder beside a good series. Time is bounded by the suite's limit, memory by one of the
process that runs them all.
"""

from __future__ import annotations

import io
import os
import re
import resource
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from series import small_series

import etl.run.run
from etl.read.patients import open_store
from etl.store.node_names import patient_key

QUICK = ("--spacing-mm", "8", "--workers", "0", "-q", "--json")
GOOD = "GOOD"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def bounded_memory():
    """A gigabyte above what the process holds now: what claims terabytes must not be believed."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def attack(in_process, tmp_path):
    """Run over a good series and what `prepare` puts beside it; give what became of that."""

    def run(prepare, *options, status=3):
        small_series(tmp_path / "dicom" / "good", GOOD)
        bad = tmp_path / "dicom" / "bad"
        bad.mkdir()
        prepare(bad)
        start = time.monotonic()
        done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK, *options)
        assert time.monotonic() - start < 60
        assert done.status == status, done.why
        totals = done.json
        assert totals["scanned"] == sum(totals[o] for o in ("written", "unchanged", "excluded", "failed"))
        assert totals["scanned"] == len(totals["series"])
        assert [e["outcome"] for e in totals["series"] if e["patient_id"] == GOOD] == ["written"]
        assert open_store(tmp_path / "s.zarr")[GOOD].default.shape[0] > 1
        return [(e["outcome"], e["reason"]) for e in totals["series"] if e["patient_id"] != GOOD]

    return run


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def one_by_one(change):
    """Change the bytes of one file of a series."""

    def prepare(folder):
        small_series(folder, "BAD")
        path = files_of(folder)[2]
        path.write_bytes(change(path.read_bytes()))

    return prepare


def edited(**attributes):
    """Write a series whose every slice has these values, whatever DICOM says of them."""

    def edit(_, dataset):
        with pydicom.config.disable_value_validation():
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)

    return lambda folder: small_series(folder, attributes.get("PatientID", "BAD"), edit=edit)


# --- files that lie about their size --------------------------------------------------------------------


def test_a_file_that_ends_early_is_told_by_name(attack):
    [(outcome, reason)] = attack(one_by_one(lambda content: content[:-100]))
    assert (outcome, reason) == ("failed", "truncated-pixel-data")


@pytest.mark.parametrize("kept", [133, 300, 700])
def test_a_file_that_ends_in_its_header_is_told_beside_the_rest_of_its_series(attack, kept):
    found = attack(one_by_one(lambda content: content[:kept]))
    assert ("failed", "unreadable") in found


@pytest.mark.parametrize(
    "claims",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": "99999"},
        {"NumberOfFrames": "2147483647"},
        {"Rows": 0},
        {"BitsAllocated": 1024, "BitsStored": 1000},
        {"SamplesPerPixel": 65535},
    ],
    ids=str,
)
def test_claims_of_terabytes_are_not_believed(attack, claims):
    found = attack(edited(**claims), status=0 if "SamplesPerPixel" in claims else 3)
    assert found
    assert all(outcome != "written" for outcome, _ in found)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_anywhere_stop_nothing(in_process, tmp_path, seed):
    rng = np.random.default_rng(seed)
    small_series(tmp_path / "dicom" / "good", GOOD)
    for n in range(6):
        small_series(tmp_path / "dicom" / f"bad{n}", f"BAD{n}", seed=n)
        for path in files_of(tmp_path / "dicom" / f"bad{n}"):
            content = bytearray(path.read_bytes())
            for at in rng.integers(0, 1500, 4):
                content[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status in (0, 3), done.why
    assert "internal-error" not in {e["reason"] for e in done.json["series"]}
    assert [e["outcome"] for e in done.json["series"] if e["patient_id"] == GOOD] == ["written"]


def sequences_in_sequences(depth):
    """An undefined-length sequence in the item of another, thousands deep (DICOM PS3.5 7.5)."""
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    start = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    return (start + item) * depth


def test_sequences_nested_thousands_deep_overflow_nothing(attack):
    def insert(content):
        at = content.index(struct.pack("<HH", 0x0010, 0x0020))
        return content[:at] + sequences_in_sequences(20_000) + content[at:]

    assert ("failed", "unreadable") in attack(one_by_one(insert))


# --- bombs ----------------------------------------------------------------------------------------------


def deflated_bomb(folder):
    small_series(folder, "BAD")
    for path in files_of(folder):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        whole = stream.getvalue()
        meta_end = 144 + int.from_bytes(whole[140:144], "little")
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        inner = zlib.decompress(whole[meta_end:], -zlib.MAX_WBITS)
        bomb = (
            packer.compress(inner) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
        )
        path.write_bytes(whole[:meta_end] + bomb)


def test_a_deflate_bomb_is_given_up_at_the_limit(attack):
    assert set(attack(deflated_bomb, "--max-file-mb", "8")) == {("failed", "unreadable")}


def zip_of(folder, members, **options):
    with zipfile.ZipFile(folder / "bad.zip", "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_a_member_of_a_zip_that_is_too_large_is_not_inflated(attack):
    content = bytes(128) + b"DICM" + bytes(64 << 20)
    assert attack(lambda folder: zip_of(folder, [("a", content)]), "--max-file-mb", "8") == [
        ("failed", "unreadable")
    ]


def test_a_zip_in_a_zip_in_a_zip_stays_closed(attack):
    inner = b""
    for _ in range(5):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("next.zip", inner or bytes(1 << 20))
        inner = stream.getvalue()
    assert attack(lambda folder: (folder / "bad.zip").write_bytes(inner), status=0) == []


def test_a_zip_of_many_members_is_listed_and_done(attack):
    assert attack(lambda folder: zip_of(folder, ((f"{n}.txt", b"") for n in range(20_000))), status=0) == []


@pytest.mark.parametrize("name", ["/etc/passwd.dcm", "../../../escaped.dcm", "a\\..\\..\\b.dcm", "C:\\x.dcm"])
def test_names_that_lead_out_of_a_zip_lead_nowhere(attack, tmp_path, name):
    files = []
    small_series(lambda _, content: files.append(content), "ZIPPED")
    before = set(tmp_path.parent.iterdir())
    found = attack(lambda folder: zip_of(folder, [(f"{n}{name}", c) for n, c in enumerate(files)]), status=0)
    assert found == [("written", None)]
    assert set(tmp_path.parent.iterdir()) == before
    assert not list(tmp_path.rglob("*escaped*"))


def test_an_encrypted_zip_is_unreadable(attack):
    def prepare(folder):
        files = []
        small_series(lambda name, content: files.append((name, content)), "BAD")
        zip_of(folder, files)
        # The flag alone: the standard library reads encrypted members and cannot write them.
        content = bytearray((folder / "bad.zip").read_bytes())
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            for found in re.finditer(re.escape(magic), bytes(content)):
                content[found.start() + offset] |= 1
        (folder / "bad.zip").write_bytes(content)

    found = attack(prepare)
    assert found
    assert set(found) == {("failed", "unreadable")}


# --- what lies in a folder and is no file ---------------------------------------------------------------


def test_fifos_sockets_and_loops_are_passed_over(attack):
    def prepare(folder):
        os.mkfifo(folder / "fifo.dcm")
        with socket.socket(socket.AF_UNIX) as listening:
            here = os.getcwd()
            os.chdir(folder)  # the path of a socket has at most 107 bytes
            try:
                listening.bind("socket.dcm")
            finally:
                os.chdir(here)
        (folder / "loop").symlink_to(folder)
        (folder / "up").symlink_to(folder.parent)
        (folder / "device.dcm").symlink_to("/dev/zero")

    assert attack(prepare, status=0) == []


def test_links_to_nothing_are_told_a_line_a_folder(in_process, tmp_path):
    """git-annex and DataLad leave such where content was not fetched: 14 of 20 slices are no series."""
    for name in ("a", "a/deep", "b"):
        small_series(tmp_path / "dicom" / name, name.replace("/", "-"), seed=len(name))
    links = [tmp_path / "dicom" / name for name in ("a/1", "a/2", "a/deep/1", "top")]
    for link in links:
        link.symlink_to(tmp_path / "absent" / link.name)
    (tmp_path / "dicom" / "b" / "itself").symlink_to(tmp_path / "dicom" / "b" / "itself")
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 3, done.why
    lost = sorted(line["detail"].split(":")[0] for line in done.json["series"] if line["reason"] == "unreadable")
    assert lost == [*["1 link leads to nothing"] * 3, "2 links lead to nothing"]
    assert done.json["written"] == 3


def test_a_huge_file_that_is_no_dicom_is_ignored(in_process, tmp_path):
    small_series(tmp_path / "dicom" / "good", GOOD)
    with (tmp_path / "dicom" / "image.iso").open("wb") as stream:
        stream.truncate(5 << 30)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    assert done.json["ignored_files"] == 1


@pytest.mark.parametrize("swap", ["names", "contents"])
def test_files_that_exchange_contents_between_scan_and_process_are_noticed(
    monkeypatch, in_process, tmp_path, swap
):
    small_series(tmp_path / "dicom" / "good", GOOD)
    plan_job = etl.run.run.plan_job

    def plan_and_swap(*arguments, **options):
        plan = plan_job(*arguments, **options)
        first, second = files_of(tmp_path / "dicom" / "good")[:2]
        kept = [path.stat() for path in (first, second)]
        if swap == "names":
            first.rename(tmp_path / "aside")
            second.rename(first)
            (tmp_path / "aside").rename(second)
        else:
            contents = first.read_bytes(), second.read_bytes()
            first.write_bytes(contents[1])
            second.write_bytes(contents[0])
        for path, status in zip((first, second), kept, strict=True):
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return plan

    monkeypatch.setattr(etl.run.run, "plan_job", plan_and_swap)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert (done.status, done.json["series"][0]["reason"]) == (3, "unreadable")
    monkeypatch.undo()
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert (done.status, done.json["written"]) == (0, 1)


def test_many_small_and_empty_files_are_counted(in_process, tmp_path):
    small_series(tmp_path / "dicom" / "good", GOOD)
    for n in range(3000):
        (tmp_path / "dicom" / f"{n % 7}").mkdir(exist_ok=True)
        (tmp_path / "dicom" / f"{n % 7}" / f"{n}.dcm").write_bytes(b"" if n % 2 else b"x" * (n % 200))
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 0, done.why
    assert (done.json["written"], done.json["ignored_files"]) == (1, 3000)
    assert len(done.json["ignored_paths"]) == 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(attack):
    def prepare(folder):
        small_series(folder / "closed", "BAD")
        for path in files_of(folder):
            path.chmod(0)

    assert set(attack(prepare)) == {("failed", "unreadable")}


# --- identifiers ----------------------------------------------------------------------------------------

NAMES = (
    "../../x", "..", ".", "/", "zarr.json", "c", "CON", "nul.txt", "__init__", "a/b\\c", "x" * 64, "x" * 60_000,
    "\N{PILE OF POO}", "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller", "a\tb", " ", "%2e%2e", "$(rm -rf .)",
)  # fmt: skip


def test_any_patient_id_gets_a_group_of_its_own_inside_the_store(in_process, tmp_path):
    for n, name in enumerate(NAMES):
        edited(PatientID=name, SpecificCharacterSet="ISO_IR 192")(tmp_path / "dicom" / f"folder{n}")
    before = set(tmp_path.parent.iterdir())
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status in (0, 3), done.why
    written = [e for e in done.json["series"] if e["outcome"] == "written"]
    assert len(written) == len(NAMES) or {e["reason"] for e in done.json["series"]} <= {None, "unreadable"}
    keys = {e["patient_key"] for e in written}
    assert len(keys) == len(written)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", key) and key not in {".", ".."} for key in keys)
    assert {path.name for path in (tmp_path / "s.zarr").iterdir() if path.is_dir()} == keys
    assert set(tmp_path.parent.iterdir()) == before
    store = open_store(tmp_path / "s.zarr")
    assert {patient_key(patient) for patient in store} == keys


def test_a_patient_id_that_holds_nul_in_the_last_file_leaves_that_slice_out(attack):
    found = attack(one_by_one(lambda content: content.replace(b"BAD ", b"B\0D ")), status=0)
    assert sorted(found, key=str) == [("excluded", "too-few-slices"), ("written", None)]


def test_ids_that_differ_by_case_alone_are_refused_before_any_work(in_process, tmp_path):
    small_series(tmp_path / "dicom" / "a", "Patient")
    small_series(tmp_path / "dicom" / "b", "PATIENT", seed=1)
    done = in_process("run", tmp_path / "dicom", tmp_path / "s.zarr", *QUICK)
    assert done.status == 2, done.why
    assert not (tmp_path / "s.zarr").exists()


# --- numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"PixelSpacing": ["0", "0"]},
        {"PixelSpacing": ["1e-300", "1e-300"]},
        {"PixelSpacing": ["1e300", "1e300"]},
        {"PixelSpacing": ["-1", "1"]},
        {"PixelSpacing": ["nan", "nan"]},
        {"ImagePositionPatient": ["1e300", "0", "0"]},
        {"ImagePositionPatient": ["nan", "0", "0"]},
        {"ImagePositionPatient": ["inf", "0", "0"]},
        {"ImageOrientationPatient": ["0"] * 6},
        {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
        {"RescaleSlope": "0"},
        {"RescaleSlope": "1e300"},
        {"RescaleIntercept": "nan"},
        {"RescaleIntercept": "-1e300"},
        {"BitsStored": 200},
        {"HighBit": 60000},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused_by_name(attack, values):
    def prepare(folder):
        def edit(index, dataset):
            with pydicom.config.disable_value_validation():
                for keyword, value in values.items():
                    setattr(dataset, keyword, value)
                if "ImagePositionPatient" in values:
                    dataset.ImagePositionPatient = [*values["ImagePositionPatient"][:2], str(5 * index)]

        small_series(folder, "BAD", edit=edit)

    found = attack(prepare)
    assert {outcome for outcome, _ in found} == {"failed"}
    assert "internal-error" not in {reason for _, reason in found}


# --- files that change while the run goes on ------------------------------------------------------------


def vanish(path):
    path.unlink()


def become_a_fifo(path):
    path.unlink()
    os.mkfifo(path)


def become_a_folder(path):
    path.unlink()
    path.mkdir()


def grow(path):
    path.write_bytes(path.read_bytes() + bytes(1000))


def shrink(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("happens", [vanish, become_a_fifo, become_a_folder, grow, shrink])
def test_a_file_that_changes_between_scan_and_process_is_unreadable(attack, monkeypatch, tmp_path, happens):
    plan_job = etl.run.run.plan_job

    def plan_and_change(*arguments, **options):
        plan = plan_job(*arguments, **options)
        happens(files_of(tmp_path / "dicom" / "bad")[1])
        return plan

    monkeypatch.setattr(etl.run.run, "plan_job", plan_and_change)
    assert attack(lambda folder: small_series(folder, "BAD")) == [("failed", "unreadable")]


# --- the same through a worker --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_survives_them_all(ct_etl, tmp_path):
    small_series(tmp_path / "dicom" / "good", GOOD)
    prepared = {
        "cut": one_by_one(lambda content: content[:-100]),
        "claims": edited(Rows=65535, Columns=65535, PatientID="CLAIMS"),
        "bomb": deflated_bomb,
        "far": edited(ImagePositionPatient=["1e300", "0", "0"], PatientID="FAR"),
    }
    for name, prepare in prepared.items():
        (tmp_path / "dicom" / name).mkdir()
        prepare(tmp_path / "dicom" / name)
    options = ("--spacing-mm", "8", "--workers", "1", "-q", "--json", "--max-file-mb", "8")
    done = ct_etl("run", tmp_path / "dicom", tmp_path / "s.zarr", *options)
    assert done.status == 3, done.why
    assert done.json["written"] == 1
    assert "worker-died" not in {e["reason"] for e in done.json["series"]}
    assert "Traceback" not in done.stderr
