"""One image as the bytes of a NIfTI or NRRD file, and the mark by which a finished file is known again.

The mark is a digest of all that decides the file's content; it stands in the header, where other programs leave it
alone. A file gets its name when it is whole, so that what has the mark need not be read.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.read.optional_library import optional_library
from etl.read.patients import Volume

NIFTI, NRRD = ".nii.gz", ".nrrd"
MARK = "ct_etl_digest"
INSTALL = "ct-etl[labels]"
# Level 1 takes a sixth of the time of level 6, and the files are 3 % larger: noise packs badly.
LEVEL = 1
# Of the header of a NIfTI-1 file: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
_DESCRIP = slice(148, 228)
_HEADER_BYTES = 4096


def image_bytes(volume: Volume, values: NDArray[Any], ending: str, mark: str) -> bytes:
    """Give a file.

    Parameters
    ----------
    volume : Volume
        On whose grid the values lie.
    values : (z, y, x) float32, uint8 or uint16 array
    ending : {".nii.gz", ".nrrd"}
    mark : str
        64 hexadecimal digits.

    Raises
    ------
    UsageError
        The library for it is not installed; a NRRD of a grid whose axes are not at right angles.
    """
    return _nifti(volume, values, mark) if ending == NIFTI else _nrrd(volume, values, mark)


def mark_of(path: Path) -> str | None:
    """Give the mark of a file that was exported before; None where there is none, or another program's."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(_HEADER_BYTES)
    except OSError:
        return None
    if path.name.endswith(NIFTI):
        try:
            header = zlib.decompressobj(wbits=31).decompress(begin, _DESCRIP.stop)
        except zlib.error:
            return None
        return header[_DESCRIP].rstrip(b"\0").decode("ascii", "replace")
    opening = f"{MARK}:=".encode()
    lines = [line for line in begin.split(b"\n") if line.startswith(opening)]
    return lines[0].removeprefix(opening).decode("ascii", "replace") if lines else None


def _nifti(volume: Volume, values: NDArray[Any], mark: str) -> bytes:
    image = volume.nifti_of(values)
    image.header["descrip"] = mark
    # A time in the header of gzip would make the same file another one every time.
    return gzip.compress(image.to_bytes(), LEVEL, mtime=0)


def _nrrd(volume: Volume, values: NDArray[Any], mark: str) -> bytes:
    nrrd = optional_library("nrrd", wanted_for="export to NRRD", install=INSTALL)
    origin, spacing, direction = volume.rectangular("a NRRD file")
    header = {
        "space": "left-posterior-superior",
        "space directions": (direction * spacing).T,
        "space origin": origin,
        "kinds": ["domain", "domain", "domain"],
        "encoding": "gzip",
        MARK: mark,
    }
    content = io.BytesIO()
    nrrd.write(content, np.asfortranarray(values.T), header, compression_level=LEVEL)
    # pynrrd writes when it was; the same volume gives the same bytes.
    lines, end, data = content.getvalue().partition(b"\n\n")
    return b"\n".join(line for line in lines.split(b"\n") if not line.startswith(b"#")) + end + data
