"""Read the pixels of slices whose headers are known.

Native little-endian pixels are read straight from the offset that the scan remembered; everything else goes to
pydicom's decoders, which delegate to maintained libraries.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from etl.codes import FailureCode
from etl.dicom.containers import Opener
from etl.dicom.frame_size import stated_size
from etl.dicom.inflate import inflated
from etl.errors import SeriesError
from etl.stack import Location, PixelFormat, Slices, Stack
from etl.transfer_syntaxes import DEFLATED, READ_AS_THEY_ARE, RLE_LOSSLESS, TRANSFER_SYNTAXES, Decoder

BITS_ALLOCATED = (8, 16, 32)
_JPEG_DECODERS: Mapping[Decoder, Callable[[bytes], NDArray[np.integer]]] = {
    "imagecodecs-jpeg": imagecodecs.jpeg8_decode,
    "imagecodecs-jpegls": imagecodecs.jpegls_decode,
}
# pydicom asks its plugins in a fixed order, the slower first.
_PYDICOM_PLUGINS: Mapping[Decoder, str] = {"openjpeg": "pylibjpeg", "rle": "pylibjpeg"}
JPEG_END = b"\xff\xd9"
# A fragment is padded to an even length; some writers add a few zeros more.
JPEG_TAIL_BYTES = 16


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


def read_slices(stack: Stack, *, limit_bytes: int = 4 << 30) -> Iterator[NDArray[np.integer]]:
    """Read the stored values of each slice, in the order of `stack.slices`.

    Parameters
    ----------
    stack : Stack
    limit_bytes : int
        Largest size of a deflated file, inflated.

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
    with Opener() as opener:
        held = _HeldFile(opener, limit_bytes)
        for i in range(len(slices)):
            fmt = stack.formats[slices.format[i]]
            with _reported(_uid(slices, i)):
                yield (
                    _native_frame(held, fmt, slices, i) if fmt.is_native else _encoded_frame(held, fmt, slices, i)
                )


class _HeldFile:
    """Keeps what was inflated or cut into frames of the last file, for the next frame of it."""

    def __init__(self, opener: Opener, limit_bytes: int) -> None:
        self._opener, self._limit_bytes = opener, limit_bytes
        self._location: Location | None = None
        self._inflated: BinaryIO | None = None
        self._frames: list[bytes] = []

    @contextmanager
    def open(self, slices: Slices, i: int, *, deflated: bool) -> Iterator[BinaryIO]:
        """Open the file of a slice, which must still look as it did when it was scanned."""
        location = slices.locations[i]
        if location == self._location and self._inflated is not None:
            yield self._inflated
            return
        # Not the inode: some file servers number anew what they have forgotten. The time of the last change of
        # status cannot be set back, and moves when files exchange their names too.
        scanned = slices.file_bytes[i], slices.modified_ns[i], slices.changed_ns[i], slices.crc32[i]
        state = self._opener.state(location)
        if scanned != (*state[:3], self._opener.crc32(location)):
            raise OSError("the file changed while the run was going on")
        with self._opener.open(location, whole=True) as stream:
            self._location, self._inflated, self._frames = location, None, []
            if deflated:
                self._inflated = inflated(stream, limit_bytes=self._limit_bytes)
            yield self._inflated or stream

    def frames(self, slices: Slices, i: int, *, count: int) -> list[bytes]:
        """Give the encoded frames of the file of a slice."""
        if slices.locations[i] != self._location or not self._frames:
            length = int(slices.pixel_length[i])
            with self.open(slices, i, deflated=False) as stream:
                stream.seek(int(slices.pixel_offset[i]))
                content = stream.read() if length < 0 else stream.read(length)
            self._frames = list(generate_frames(content, number_of_frames=count))
        return self._frames


def _native_frame(held: _HeldFile, fmt: PixelFormat, slices: Slices, i: int) -> NDArray[np.integer]:
    length, frame, frame_bytes = int(slices.pixel_length[i]), int(slices.frame[i]), fmt.frame_bytes
    is_deflated = fmt.transfer_syntax_uid == DEFLATED
    with held.open(slices, i, deflated=is_deflated) as stream:
        stream.seek(int(slices.pixel_offset[i]) + frame * frame_bytes)
        content = stream.read(min(frame_bytes, max(0, length - frame * frame_bytes)))
    if len(content) < frame_bytes:
        raise SeriesError(
            FailureCode.TRUNCATED_PIXEL_DATA,
            f"Pixel Data (7FE0,0010) of slice {_uid(slices, i)} ends after {len(content)} bytes of {frame_bytes}",
        )
    if fmt.transfer_syntax_uid not in READ_AS_THEY_ARE:
        return _decode(content, fmt)
    dtype = np.dtype(f"<{'i' if fmt.pixel_representation else 'u'}{fmt.bits_allocated // 8}")
    return np.frombuffer(content, dtype).reshape(fmt.rows, fmt.columns)


def _encoded_frame(held: _HeldFile, fmt: PixelFormat, slices: Slices, i: int) -> NDArray[np.integer]:
    frames = held.frames(slices, i, count=fmt.number_of_frames)
    frame = int(slices.frame[i])
    if frame >= len(frames):
        raise SeriesError(
            FailureCode.TRUNCATED_PIXEL_DATA,
            f"Pixel Data (7FE0,0010) holds {len(frames)} frames of {fmt.number_of_frames}",
        )
    encoded = frames[frame]
    claimed = stated_size(encoded) if fmt.transfer_syntax_uid != RLE_LOSSLESS else None
    if claimed is not None and claimed != (fmt.rows, fmt.columns):
        raise ValueError(f"the frame is {claimed} pixels, Rows and Columns are {(fmt.rows, fmt.columns)}")
    decode = _JPEG_DECODERS.get(TRANSFER_SYNTAXES[fmt.transfer_syntax_uid].decoder)
    if decode is not None:
        return _decode_jpeg(encoded, fmt, decode)
    return _decode(encapsulate([encoded], has_bot=False), fmt)


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
    # seconds to find out.
    if JPEG_END not in encoded[-JPEG_TAIL_BYTES:]:
        raise SeriesError(FailureCode.TRUNCATED_PIXEL_DATA, "a JPEG frame lacks its end")
    decoded = decode(encoded)
    if decoded.shape != (fmt.rows, fmt.columns):
        raise ValueError(f"the JPEG has shape {decoded.shape}, Rows and Columns are {fmt.rows} and {fmt.columns}")
    if 8 * decoded.itemsize < fmt.bits_stored:
        raise ValueError(f"the JPEG has {8 * decoded.itemsize} bits, Bits Stored (0028,0101) is {fmt.bits_stored}")
    # JPEG knows no sign; the stored bits are read as Pixel Representation says.
    return decoded.view(f"i{decoded.itemsize}") if fmt.pixel_representation else decoded


@contextmanager
def _reported(uid: str) -> Iterator[None]:
    """Translate what reading and decoding raise into the ledger's reasons."""
    try:
        yield
    except SeriesError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SeriesError(FailureCode.UNREADABLE, f"{type(error).__name__} while reading slice {uid}") from error
    except (
        ValueError,
        RuntimeError,
        NotImplementedError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
    ) as error:
        raise SeriesError(FailureCode.UNDECODABLE, f"Pixel Data (7FE0,0010) cannot be decoded: {error}") from error
    except BaseException as error:
        # A decoder in Rust panics with this; it derives from BaseException alone, and no module exports it.
        if type(error).__name__ != "PanicException":
            raise
        raise SeriesError(
            FailureCode.UNDECODABLE, f"Pixel Data (7FE0,0010) makes the decoder panic: {error}"
        ) from error


def _uid(slices: Slices, i: int) -> str:
    return bytes(slices.sop_instance_uid[i]).decode("ascii", "replace")
