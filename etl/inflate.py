"""Read deflated DICOM files within bounds.

The whole data set behind the file meta group is one deflate stream (DICOM PS3.5 A.5). A kilobyte of it may claim
gigabytes, so it is inflated here, up to a limit, and handed on as the explicit little-endian file that it holds.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import BinaryIO

DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATED_UID = DEFLATED.encode("ascii")
_EXPLICIT_UID = b"1.2.840.10008.1.2.1".ljust(len(_DEFLATED_UID), b"\0")
_META_START = 132
_GROUP_LENGTH_BYTES = 12
LONGEST_META_BYTES = 64 * 1024


def inflated(stream: BinaryIO, *, limit_bytes: int) -> BinaryIO:
    """Give the file itself, or the inflated file where it is deflated.

    Parameters
    ----------
    stream : binary file at its start
    limit_bytes : int
        Largest size of the inflated data set.

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
    if head[128:132] != b"DICM" or head[132:138] != b"\x02\0\0\0UL" or length > LONGEST_META_BYTES:
        stream.seek(0)
        return stream
    meta = stream.read(length)
    if _DEFLATED_UID not in meta:
        stream.seek(0)
        return stream
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    content = decompressor.decompress(stream.read(), limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"the deflated data set is larger than the allowed {limit_bytes} bytes")
    return BytesIO(head + meta.replace(_DEFLATED_UID, _EXPLICIT_UID) + content)
