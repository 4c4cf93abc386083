"""Deflated files become plain ones, within bounds; all others are left as they are."""

from __future__ import annotations

import io
import resource
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from series import small_series

from etl.dicom.inflate import inflated, inflated_member
from etl.transfer_syntaxes import DEFLATED


@pytest.fixture(scope="module")
def deflated_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deflated")
    [*files] = small_series(folder, "P", rows=32)
    dataset = pydicom.dcmread(folder / files[0].path)
    dataset.file_meta.TransferSyntaxUID = DEFLATED
    content = io.BytesIO()
    dataset.save_as(content)
    return content.getvalue()


def test_a_deflated_file_is_what_pydicom_reads_from_it(deflated_file):
    truth = pydicom.dcmread(io.BytesIO(deflated_file))
    found = pydicom.dcmread(inflated(io.BytesIO(deflated_file), limit_bytes=1 << 20))
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    for name in ("SOPInstanceUID", "PixelData", "PatientID"):
        assert found[name].value == truth[name].value
    assert found == truth


def test_any_other_file_is_given_back_at_its_start():
    others = [
     b"", b"x", b"\0" * 132, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 12,
     b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0" + b"\xff\xff\xff\xff" + b"x" * 200,
    ]  # fmt: skip
    for stream in map(io.BytesIO, others):
        assert inflated(stream, limit_bytes=100) is stream
        assert stream.tell() == 0


def test_a_plain_file_is_given_back_at_its_start(tmp_path):
    [first, *_] = small_series(tmp_path, "P")
    with (tmp_path / first.path).open("rb") as stream:
        assert inflated(stream, limit_bytes=10) is stream
        assert stream.tell() == 0


def bomb(deflated_file, megabytes):
    start = 144 + struct.unpack("<I", deflated_file[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
    return deflated_file[:start] + b"".join(parts) + packer.flush()


def test_more_than_the_limit_is_refused_and_never_held(deflated_file):
    content = bomb(deflated_file, 300)
    assert len(content) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="larger than the allowed 1000000 bytes"):
        inflated(io.BytesIO(content), limit_bytes=1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_limit_itself_is_allowed_and_one_byte_more_is_not(deflated_file, beyond):
    content = bomb(deflated_file, 3)
    limit = 3 * (1 << 20) - beyond
    if beyond:
        with pytest.raises(ValueError, match="larger"):
            inflated(io.BytesIO(content), limit_bytes=limit)
    else:
        assert len(inflated(io.BytesIO(content), limit_bytes=limit).read()) > limit


@pytest.mark.parametrize("cut", [1, 10, 500])
def test_a_stream_that_was_cut_off_gives_what_is_there(deflated_file, cut):
    """The scan, or the decoder, then finds that pixels are missing."""
    whole = inflated(io.BytesIO(deflated_file), limit_bytes=1 << 20).read()
    part = inflated(io.BytesIO(deflated_file[:-cut]), limit_bytes=1 << 20).read()
    assert whole.startswith(part)


def test_a_stream_that_is_no_deflate_raises_zlibs_error(deflated_file):
    start = 144 + struct.unpack("<I", deflated_file[140:144])[0]
    with pytest.raises(zlib.error):
        inflated(io.BytesIO(deflated_file[:start] + b"\xff" * 100), limit_bytes=1 << 20)


# --- members of zips ------------------------------------------------------------------------------------


def zipped(path, content, **options):
    with zipfile.ZipFile(path, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        archive.writestr("before", b"x" * 100)
        archive.writestr("a name/ü.dcm", content)
    archive = zipfile.ZipFile(path)
    return archive, archive.getinfo("a name/ü.dcm")


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_a_member_is_inflated_as_zipfile_does(tmp_path, size):
    content = np.random.default_rng(size).integers(0, 50, size, np.uint8).tobytes()
    archive, info = zipped(tmp_path / "z.zip", content)
    with archive:
        assert inflated_member(archive, info) == archive.read(info) == content


@pytest.mark.parametrize("options", [{"compression": zipfile.ZIP_STORED}, {"compression": zipfile.ZIP_LZMA}])
def test_other_kinds_of_members_are_left_to_zipfile(tmp_path, options):
    archive, info = zipped(tmp_path / "z.zip", b"content", **options)
    with archive:
        assert inflated_member(archive, info) is None


@pytest.mark.parametrize("at", [0, 0.3, 0.9])
def test_a_damaged_member_is_refused(tmp_path, at):
    content = np.random.default_rng(1).integers(0, 50, 50_000, np.uint8).tobytes()
    archive, info = zipped(tmp_path / "z.zip", content)
    archive.close()
    damaged = bytearray((tmp_path / "z.zip").read_bytes())
    damaged[info.header_offset + (0 if at == 0 else 60 + int(at * info.compress_size))] ^= 0x10
    (tmp_path / "z.zip").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "z.zip") as archive, pytest.raises(zipfile.BadZipFile):
        inflated_member(archive, info)


def test_a_member_that_claims_less_than_it_holds_is_refused_and_not_held(tmp_path):
    archive, info = zipped(tmp_path / "z.zip", bytes(100_000_000))
    info.file_size = 1000
    tracemalloc.start()
    try:
        with archive, pytest.raises(zipfile.BadZipFile, match="not what the zip's directory says"):
            inflated_member(archive, info)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
