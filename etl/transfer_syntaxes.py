"""The transfer syntaxes that are read, and what decodes each: one table for reading, refusing and documents.

Everything that is not in the table is refused by name before anything is read.

References
----------
DICOM PS3.5 10 and annex A; PS3.6 table A-1 (the UIDs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Decoder = Literal["numpy", "pydicom", "zlib", "imagecodecs-jpeg", "imagecodecs-jpegls", "openjpeg", "rle"]

DISTRIBUTIONS: dict[Decoder, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "pydicom": ("pydicom",),
    "zlib": (),
    "imagecodecs-jpeg": ("imagecodecs",),
    "imagecodecs-jpegls": ("imagecodecs",),
    "openjpeg": ("pylibjpeg", "pylibjpeg-openjpeg"),
    "rle": ("pylibjpeg", "pylibjpeg-rle"),
}
"""The distributions that a decoder consists of."""


@dataclass(frozen=True)
class TransferSyntax:
    """One transfer syntax.

    Parameters
    ----------
    uid, name : str
    decoder : str
        What turns the value of Pixel Data (7FE0,0010) into numbers.
    is_lossy : bool
        It cannot hold the scanner's values exactly.
    """

    uid: str
    name: str
    decoder: Decoder
    is_lossy: bool = False

    @property
    def is_native(self) -> bool:
        """Whether pixels are written as they are, in one piece, not in fragments (PS3.5 A.4)."""
        return self.decoder in {"numpy", "pydicom", "zlib"}


_ROOT = "1.2.840.10008.1.2"
IMPLICIT_LITTLE_ENDIAN = _ROOT
EXPLICIT_LITTLE_ENDIAN = f"{_ROOT}.1"
EXPLICIT_BIG_ENDIAN = f"{_ROOT}.2"
DEFLATED = f"{_ROOT}.1.99"
RLE_LOSSLESS = f"{_ROOT}.5"

# Each decoder is the fastest that was measured: imagecodecs (libjpeg-turbo 3, 12-bit and lossless JPEG too) takes
# 1.4 ms a slice where GDCM takes 6.8, its CharLS is a little quicker than pyjpegls, and pylibjpeg's RLE takes
# 0.4 ms where pydicom's takes 3.
TRANSFER_SYNTAXES: dict[str, TransferSyntax] = {
    syntax.uid: syntax
    for syntax in (
        TransferSyntax(IMPLICIT_LITTLE_ENDIAN, "Implicit VR Little Endian", "numpy"),
        TransferSyntax(EXPLICIT_LITTLE_ENDIAN, "Explicit VR Little Endian", "numpy"),
        TransferSyntax(DEFLATED, "Deflated Explicit VR Little Endian", "zlib"),
        TransferSyntax(EXPLICIT_BIG_ENDIAN, "Explicit VR Big Endian", "pydicom"),
        TransferSyntax(RLE_LOSSLESS, "RLE Lossless", "rle"),
        TransferSyntax(f"{_ROOT}.4.50", "JPEG Baseline (Process 1)", "imagecodecs-jpeg", is_lossy=True),
        TransferSyntax(f"{_ROOT}.4.51", "JPEG Extended (Process 2 and 4)", "imagecodecs-jpeg", is_lossy=True),
        TransferSyntax(f"{_ROOT}.4.57", "JPEG Lossless (Process 14)", "imagecodecs-jpeg"),
        TransferSyntax(f"{_ROOT}.4.70", "JPEG Lossless (Process 14, SV1)", "imagecodecs-jpeg"),
        TransferSyntax(f"{_ROOT}.4.80", "JPEG-LS Lossless", "imagecodecs-jpegls"),
        TransferSyntax(f"{_ROOT}.4.81", "JPEG-LS Near-Lossless", "imagecodecs-jpegls", is_lossy=True),
        TransferSyntax(f"{_ROOT}.4.90", "JPEG 2000 Lossless", "openjpeg"),
        TransferSyntax(f"{_ROOT}.4.91", "JPEG 2000", "openjpeg", is_lossy=True),
        TransferSyntax(f"{_ROOT}.4.201", "HTJ2K Lossless", "openjpeg"),
        TransferSyntax(f"{_ROOT}.4.202", "HTJ2K Lossless RPCL", "openjpeg"),
        TransferSyntax(f"{_ROOT}.4.203", "HTJ2K", "openjpeg", is_lossy=True),
    )
}

READ_AS_THEY_ARE = frozenset(
    syntax.uid for syntax in TRANSFER_SYNTAXES.values() if syntax.decoder in {"numpy", "zlib"}
)
"""Syntaxes whose words numpy takes from the file, or the inflated file, at an offset."""
