"""Read the pixels of slices whose headers are known.

Native little-endian pixels are read straight from the offset that the scan remembered; everything else goes to
pydicom's decoders, which delegate to maintained libraries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from etl.codes import FailureCode
from etl.dicom.frame_size import stated_size
from etl.dicom.frames import checksum, read_frames, translated_errors, uid_of
from etl.errors import SeriesError
from etl.stack import PixelFormat, Stack
from etl.transfer_syntaxes import READ_AS_THEY_ARE, RLE_LOSSLESS, TRANSFER_SYNTAXES, Decoder

BITS_ALLOCATED = (8, 16, 32)
_JPEG_DECODERS: Mapping[Decoder, Callable[[bytes], NDArray[np.integer]]] = {
    "imagecodecs-jpeg": imagecodecs.jpeg8_decode,
    "imagecodecs-jpegls": imagecodecs.jpegls_decode,
}
# pydicom asks its plugins in a fixed order, the slower first.
_PYDICOM_PLUGINS: Mapping[Decoder, str] = {"openjpeg": "pylibjpeg", "rle": "pylibjpeg"}
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"


def check_pixel_format(pixel_format: PixelFormat) -> None:
    """Refuse a format that no decoder at hand can read, before anything is read.

    Raises
    ------
    SeriesError
        ``unsupported-transfer-syntax``: naming it. ``inconsistent-slices``: Bits Allocated, Bits Stored and High
        Bit do not fit together (DICOM PS3.5 8.1.1).
    """
    uid = UID(pixel_format.transfer_syntax_uid)
    if uid not in TRANSFER_SYNTAXES:
        known = f" ({uid.name})" if uid.name != uid else ""
        raise SeriesError(
            FailureCode.UNSUPPORTED_TRANSFER_SYNTAX,
            f"Transfer Syntax UID (0002,0010) is {uid}{known}; no decoder for it is installed",
        )
    fmt = pixel_format
    if fmt.rows < 1 or fmt.columns < 1:
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES, f"Rows and Columns (0028,0010-0011) are {fmt.rows} and {fmt.columns}"
        )
    fits = 0 < fmt.bits_stored <= fmt.high_bit + 1 <= fmt.bits_allocated
    if fmt.bits_allocated not in BITS_ALLOCATED or not fits or fmt.pixel_representation not in (0, 1):
        raise SeriesError(
            FailureCode.INCONSISTENT_SLICES,
            f"Bits Allocated, Bits Stored, High Bit, Pixel Representation (0028,0100-0103) are "
            f"{fmt.bits_allocated}, {fmt.bits_stored}, {fmt.high_bit}, {fmt.pixel_representation}; allowed are "
            f"{BITS_ALLOCATED} bits, stored bits within them, and 0 or 1",
        )


def read_slices(
    stack: Stack, *, limit_bytes: int = 4 << 30, crc32: NDArray[np.uint32] | None = None
) -> Iterator[NDArray[np.integer]]:
    """Read the stored values of each slice, in the order of `stack.slices`.

    Parameters
    ----------
    stack : Stack
    limit_bytes : int
        Largest size of a deflated file, inflated.
    crc32 : (n,) uint32 array, optional
        Gets the checksum of each slice's bytes, as they lie in the file: see `etl.dicom.frames.read_frames`.

    Yields
    ------
    (rows, columns) integer array
        Pixel Data as decoded, all Bits Allocated still in place (see `etl.volume.hounsfield.stored_values`).

    Raises
    ------
    SeriesError
        ``unreadable``, ``truncated-pixel-data``, ``undecodable``, ``unsupported-transfer-syntax``.
    """
    slices = stack.slices
    for i, content in enumerate(read_frames(stack, limit_bytes=limit_bytes)):
        if crc32 is not None:
            crc32[i] = checksum(content)
        with translated_errors(uid_of(slices, i)):
            yield _decoded(content, stack.formats[slices.format[i]])


def _decoded(content: bytes, fmt: PixelFormat) -> NDArray[np.integer]:
    if fmt.transfer_syntax_uid in READ_AS_THEY_ARE:
        dtype = np.dtype(f"<{'i' if fmt.pixel_representation else 'u'}{fmt.bits_allocated // 8}")
        return np.frombuffer(content, dtype).reshape(fmt.rows, fmt.columns)
    if fmt.is_native:
        return _decode(content, fmt)
    claimed = stated_size(content) if fmt.transfer_syntax_uid != RLE_LOSSLESS else None
    if claimed is not None and claimed != (fmt.rows, fmt.columns):
        raise ValueError(f"the frame is {claimed} pixels, Rows and Columns are {(fmt.rows, fmt.columns)}")
    decode = _JPEG_DECODERS.get(TRANSFER_SYNTAXES[fmt.transfer_syntax_uid].decoder)
    if decode is not None:
        return _decode_jpeg(content, fmt, decode)
    return _decode(encapsulate([content], has_bot=False), fmt)


def _decode(content: bytes, fmt: PixelFormat) -> NDArray[np.integer]:
    """Decode the one frame of a Pixel Data value with pydicom's decoders."""
    uid = UID(fmt.transfer_syntax_uid)
    # Of words that nobody encoded pydicom would take the lower bits, wherever High Bit is.
    as_words = uid == RLE_LOSSLESS or fmt.is_native
    options: dict[str, Any] = {
        "rows": fmt.rows,
        "columns": fmt.columns,
        "samples_per_pixel": fmt.samples_per_pixel,
        "photometric_interpretation": fmt.photometric_interpretation,
        "number_of_frames": 1,
        "bits_allocated": fmt.bits_allocated,
        "bits_stored": fmt.bits_allocated if as_words else fmt.bits_stored,
        "pixel_representation": fmt.pixel_representation,
        "pixel_keyword": "PixelData",
    }
    with warnings.catch_warnings():
        # Decoders warn of fragments and of bits that disagree; what matters is checked in what they return.
        warnings.simplefilter("ignore")
        decoded, _ = get_decoder(uid).as_array(
            content,
            index=0,
            raw=True,
            decoding_plugin=_PYDICOM_PLUGINS.get(TRANSFER_SYNTAXES[uid].decoder, ""),
            **options,
        )
    return decoded


def _decode_jpeg(
    encoded: bytes, fmt: PixelFormat, decode: Callable[[bytes], NDArray[np.integer]]
) -> NDArray[np.integer]:
    # libjpeg fills in what is missing from a stream that was cut off, with no more than a warning; CharLS takes
    # seconds to find out. Coded pixels hold no end mark (T.81 B.1.1.5, T.87 A.1), but comments before them may.
    end = encoded.find(JPEG_END, max(0, encoded.rfind(JPEG_SCAN)))
    if end < 0:
        raise SeriesError(FailureCode.TRUNCATED_PIXEL_DATA, "a JPEG frame lacks its end")
    decoded = decode(encoded[: end + len(JPEG_END)])
    if decoded.shape != (fmt.rows, fmt.columns):
        raise ValueError(f"the JPEG has shape {decoded.shape}, Rows and Columns are {fmt.rows} and {fmt.columns}")
    if 8 * decoded.itemsize < fmt.bits_stored:
        raise ValueError(f"the JPEG has {8 * decoded.itemsize} bits, Bits Stored (0028,0101) is {fmt.bits_stored}")
    # JPEG knows no sign; the stored bits are read as Pixel Representation says.
    return decoded.view(f"i{decoded.itemsize}") if fmt.pixel_representation else decoded
