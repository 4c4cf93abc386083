"""Read deflated DICOM files and members of zips within bounds.

A member that is wanted whole is inflated by ISA-L (`isal`, Intel's library), in a third of the time of `zipfile`.

In a deflated file the whole data set behind the file meta group is one deflate stream (DICOM PS3.5 A.5). A
kilobyte of it may claim gigabytes, so it is inflated here, up to a limit, and handed on as the explicit
little-endian file that it holds.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, cast

from isal import isal_zlib

from etl.transfer_syntaxes import DEFLATED, EXPLICIT_LITTLE_ENDIAN

_DEFLATED_UID = DEFLATED.encode("ascii")
_EXPLICIT_UID = EXPLICIT_LITTLE_ENDIAN.encode("ascii").ljust(len(_DEFLATED_UID), b"\0")
_META_START = 132
_GROUP_LENGTH_BYTES = 12
_PIECE_BYTES = 1 << 20
HEADER_BYTES = 64 << 20
"""More than any header has in front of its pixels; a scan keeps no more of a deflated file."""
MAX_META_BYTES = 64 * 1024
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 0x1
# Its stubs call the class an instance.
_ISAL_ERROR = cast(type[Exception], isal_zlib.error)


def inflated(stream: BinaryIO, *, limit_bytes: int, kept_bytes: int | None = None) -> BinaryIO:
    """Give the file itself, or the inflated file where it is deflated.

    Parameters
    ----------
    stream : binary file at its start
    limit_bytes : int
        Largest size of the inflated data set.
    kept_bytes : int, optional
        How much of the file is needed; the rest is measured and let go.

    Returns
    -------
    binary file at its start
        In an inflated file, Transfer Syntax UID (0002,0010) says explicit little endian, which its bytes now are.

    Raises
    ------
    ValueError
        The data set is larger than the limit.
    """
    head = stream.read(_META_START + _GROUP_LENGTH_BYTES)
    length = int.from_bytes(head[-4:], "little")
    if head[128:132] != b"DICM" or head[132:138] != b"\x02\0\0\0UL" or length > MAX_META_BYTES:
        stream.seek(0)
        return stream
    meta = stream.read(length)
    if _DEFLATED_UID not in meta:
        stream.seek(0)
        return stream
    whole = BytesIO()
    whole.write(head + meta.replace(_DEFLATED_UID, _EXPLICIT_UID))
    size = 0
    for piece in _pieces(stream):
        size += len(piece)
        if size > limit_bytes:
            raise ValueError(f"the deflated data set is larger than the allowed {limit_bytes} bytes")
        if kept_bytes is None or whole.tell() < kept_bytes:
            whole.write(piece)
    whole.seek(0)
    return whole


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """Inflate the rest of a file, a piece at a time."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    while not decompressor.eof:
        packed = decompressor.unconsumed_tail or stream.read(_PIECE_BYTES)
        piece = decompressor.decompress(packed, _PIECE_BYTES)
        if not packed and not piece:
            return
        yield piece


def inflated_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    """Give all bytes of a member of a zip; None where only `zipfile` can: encrypted, or not deflated.

    Raises
    ------
    zipfile.BadZipFile
        The member is not as long as the zip's directory says, or its checksum differs.
    """
    stream = archive.fp
    if stream is None or info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & _ENCRYPTED:
        return None
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER_BYTES)
    if header[:4] != b"PK\3\4" or len(header) < _LOCAL_HEADER_BYTES:
        raise zipfile.BadZipFile("a member's own header is damaged")
    # Name and extra field of the local header may be longer than those in the directory (APPNOTE 4.3.7).
    stream.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    decompressor = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content: bytes = decompressor.decompress(stream.read(info.compress_size), info.file_size + 1)
    except _ISAL_ERROR as error:
        raise zipfile.BadZipFile("a member cannot be inflated") from error
    if len(content) != info.file_size or isal_zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile("a member is not what the zip's directory says")
    return content
