"""The size that an encoded frame claims, read before anything is decoded.

Decoders allocate what the codestream says, whatever Rows and Columns say: 65535 x 65535 pixels fit in 30 bytes.

References
----------
ITU-T T.81 B.2.2 (JPEG frame header), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ) and I.4 (JP2 boxes).
"""

from __future__ import annotations

_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  "
_JPEG_START = b"\xff\xd8"
# Start of frame: JPEG's SOF0-SOF15 without DHT, JPG and DAC, and JPEG-LS's SOF55.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})
_MAX_SEGMENTS = 1000


def stated_size(frame: bytes) -> tuple[int, int] | None:
    """Give (rows, columns) as a JPEG, JPEG-LS or JPEG 2000 codestream states them; None where it does not.

    Examples
    --------
    >>> stated_size(bytes.fromhex("ffd8 ffc3 0011 08 0200 0100"))
    (512, 256)
    """
    if frame[:8] == _JP2_START:
        frame = _codestream_in_boxes(frame)
    if frame[:4] == _J2K_START and len(frame) >= 24:
        x, y, x_offset, y_offset = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return y - y_offset, x - x_offset
    if frame[:2] != _JPEG_START:
        return None
    at = 2
    for _ in range(_MAX_SEGMENTS):
        while frame[at : at + 2] == b"\xff\xff":
            at += 1
        if at + 9 > len(frame) or frame[at] != 0xFF:
            return None
        if frame[at + 1] in _FRAMES:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _codestream_in_boxes(frame: bytes) -> bytes:
    """Give the beginning of the codestream in a JP2 file: decoders take one where the bare stream belongs."""
    at = 0
    for _ in range(_MAX_SEGMENTS):
        length, kind = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if kind == b"jp2c":
            return frame[at + head : at + head + 64]
        at += int.from_bytes(frame[at + 8 : at + 16], "big") if length == 1 else length
        if length == 0 or at + 8 > len(frame):
            break
    return b""
