"""Cut Pixel Data (7FE0,0010) into the bytes of single frames, as they lie in the file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from etl.codes import FailureCode
from etl.dicom.containers import Opener
from etl.dicom.encapsulated import split_frames
from etl.dicom.inflate import inflated
from etl.errors import SeriesError
from etl.stack import Location, PixelFormat, Slices, Stack
from etl.transfer_syntaxes import DEFLATED, EXPLICIT_BIG_ENDIAN

# Tag, VR, two reserved bytes, length (DICOM PS3.5 7.1.2).
_LONG_HEAD_BYTES = 12


def read_frames(stack: Stack, *, limit_bytes: int = 4 << 30) -> Iterator[bytes]:
    """Read the bytes of each slice's pixels, in the order of `stack.slices`; nothing is decoded.

    Parameters
    ----------
    stack : Stack
    limit_bytes : int
        Largest size of a deflated file, inflated.

    Yields
    ------
    bytes
        One frame: native words, or one encoded frame with its fragments joined (DICOM PS3.5 A.4).

    Raises
    ------
    SeriesError
        ``unreadable``, ``truncated-pixel-data``, ``undecodable``.
    """
    slices = stack.slices
    with Opener(expected=slices.locations) as opener:
        held = _HeldFile(opener, limit_bytes)
        for i in range(len(slices)):
            fmt = stack.formats[slices.format[i]]
            with translated_errors(uid_of(slices, i)):
                content = _native(held, fmt, slices, i) if fmt.is_native else _encoded(held, fmt, slices, i)
            yield content


def read_checksums(stack: Stack, *, limit_bytes: int = 4 << 30) -> NDArray[np.uint32]:
    """Give the checksum of each slice's pixels as they lie in the file.

    Parameters
    ----------
    stack, limit_bytes
        As for `read_frames`, which also says what it raises.

    Returns
    -------
    (n,) uint32 array
        CRC-32 (ITU-T V.42), in the order of `stack.slices`.
    """
    return np.array([checksum(content) for content in read_frames(stack, limit_bytes=limit_bytes)], np.uint32)


def checksum(content: bytes) -> int:
    """Give the CRC-32 of bytes; by ISA-L a slice of 512 x 512 takes 0.03 ms."""
    return int(isal_zlib.crc32(content))


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
                needed = int(slices.pixel_offset[i]) + int(slices.pixel_length[i])
                self._inflated = inflated(stream, limit_bytes=self._limit_bytes, kept_bytes=needed)
            yield self._inflated or stream

    def frames(self, slices: Slices, i: int, *, count: int) -> list[bytes]:
        """Give the encoded frames of the file of a slice."""
        if slices.locations[i] != self._location or not self._frames:
            length = int(slices.pixel_length[i])
            with self.open(slices, i, deflated=False) as stream:
                stream.seek(int(slices.pixel_offset[i]))
                content = stream.read() if length < 0 else stream.read(length)
            self._frames = split_frames(content, count)
        return self._frames


def _native(held: _HeldFile, fmt: PixelFormat, slices: Slices, i: int) -> bytes:
    length, frame, frame_bytes = int(slices.pixel_length[i]), int(slices.frame[i]), fmt.frame_bytes
    is_deflated = fmt.transfer_syntax_uid == DEFLATED
    with held.open(slices, i, deflated=is_deflated) as stream:
        stream.seek(int(slices.pixel_offset[i]) + frame * frame_bytes)
        content = stream.read(min(frame_bytes, max(0, length - frame * frame_bytes)))
        if fmt.transfer_syntax_uid == EXPLICIT_BIG_ENDIAN and fmt.bits_allocated == 8:
            content = _bytes_in_words(stream, content, int(slices.pixel_offset[i]), frame * frame_bytes, length)
    if len(content) < frame_bytes:
        raise SeriesError(
            FailureCode.TRUNCATED_PIXEL_DATA,
            f"Pixel Data (7FE0,0010) of slice {uid_of(slices, i)} ends after {len(content)} bytes of "
            f"{frame_bytes}",
        )
    return content


def _bytes_in_words(stream: BinaryIO, content: bytes, offset: int, start: int, length: int) -> bytes:
    """Give the bytes of a frame in their order; words of big endian hold two of them, the later first.

    VR OW says so (DICOM PS3.5 8.1.1 and annex D); in OB bytes lie as they are.
    """
    stream.seek(offset - _LONG_HEAD_BYTES + 4)
    if stream.read(2) != b"OW":
        return content
    first = start - start % 2
    stream.seek(offset + first)
    words = stream.read(min(length - first, start - first + len(content) + 1) // 2 * 2)
    swapped = np.frombuffer(words, ">u2").astype("<u2").tobytes()
    return swapped[start - first : start - first + len(content)]


def _encoded(held: _HeldFile, fmt: PixelFormat, slices: Slices, i: int) -> bytes:
    return held.frames(slices, i, count=fmt.number_of_frames)[int(slices.frame[i])]


@contextmanager
def translated_errors(uid: str) -> Iterator[None]:
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


def uid_of(slices: Slices, i: int) -> str:
    """Give the SOP Instance UID (0008,0018) of a slice, as text."""
    return bytes(slices.sop_instance_uid[i]).decode("ascii", "replace")
