"""Mutated files through scan, plan and process: a short run of fuzz.py, and inputs that once failed."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pydicom
import pytest
from fuzz import try_input
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from series import small_series

INPUTS = 1200
HERE = Path(__file__).parents[1]


def rle_frame(*segments):
    """PS3.5 annex G: 64 bytes of header, then the segments."""
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


def run_of(count):
    return bytes([257 - count, 1])


def literal_of(count):
    return bytes([count - 1]) + b"\1" * count


def stack_with_pixels(encoded):
    files = {}
    small_series(files.__setitem__, count=3, rows=16, transfer_syntax_uid=RLELossless)
    name = min(files)
    dataset = pydicom.dcmread(io.BytesIO(files[name]))
    dataset.PixelData = encoded
    content = io.BytesIO()
    dataset.save_as(content)
    return {**files, name: content.getvalue()}


def panicking():
    """A run that passes the end of the frame after an odd literal: pylibjpeg-rle 2 panics."""
    frame = rle_frame(run_of(128) * 2, run_of(128) + literal_of(100) + run_of(100))
    return stack_with_pixels(encapsulate([frame], has_bot=False))


def cut_offset_table():
    """The length of the Basic Offset Table goes beyond the file (PS3.5 A.4): pydicom raises struct.error."""
    return stack_with_pixels(b"\xfe\xff\x00\xe0" + struct.pack("<I", 5636100) + b"\0" * 64)


def zip_with_an_empty_name():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        small_series(archive.writestr, count=3, rows=16)
        archive.writestr("EMPTY", b"nothing")
    return {"patient.zip": content.getvalue().replace(b"EMPTY", b"\0MPTY")}


ONCE_FAILED = {
    "a panic of the RLE decoder ended the worker": (panicking, "failed: undecodable"),
    "a cut offset table was an internal error": (cut_offset_table, "failed: truncated-pixel-data"),
    "an empty name in a zip ended the scan": (zip_with_an_empty_name, "written"),
}


def test_mutated_files_crash_nothing_hang_nothing_and_stay_within_memory():
    command = [sys.executable, str(HERE / "fuzz.py"), "--inputs", str(INPUTS), "--seed", "4", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{INPUTS} inputs; " in done.stdout
    assert "0 crashes, 0 hangs" in done.stdout
    assert "\n0 internal errors of 0 kinds" in done.stdout


@pytest.mark.parametrize("name", ONCE_FAILED)
def test_an_input_that_once_failed_does_so_no_more(tmp_path, name):
    make, expected = ONCE_FAILED[name]
    found, internal = try_input(make(), tmp_path)
    assert internal == []
    assert found[expected] == 1, found
