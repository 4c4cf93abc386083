"""Whether each decoder decodes: a small picture there and back through the library itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from etl.transfer_syntaxes import Decoder

# JPEG 2000 halves a picture five times.
_PICTURE: NDArray[np.uint16] = (np.arange(64 * 64).reshape(64, 64) * 13 % 4096).astype(np.uint16)


def broken_decoders() -> dict[Decoder, str]:
    """Try every decoder of compressed pixels.

    Returns
    -------
    dict
        By decoder, why it does not work; empty where all do.
    """
    broken: dict[Decoder, str] = {}
    for decoder, there_and_back in _TRIALS.items():
        try:
            if not np.array_equal(there_and_back(), _PICTURE):
                broken[decoder] = "gives other values than were encoded"
        except Exception as error:  # noqa: BLE001 - a broken library raises whatever it likes
            broken[decoder] = f"{type(error).__name__}: {error}"
    return broken


def _jpeg() -> NDArray[np.integer]:
    encoded = imagecodecs.jpeg8_encode(_PICTURE, lossless=True, bitspersample=12)
    return np.asarray(imagecodecs.jpeg8_decode(encoded))


def _jpegls() -> NDArray[np.integer]:
    return np.asarray(imagecodecs.jpegls_decode(imagecodecs.jpegls_encode(_PICTURE)))


def _by_pydicom(uid: UID, encoding_plugin: str) -> NDArray[np.integer]:
    picture = Dataset()
    picture.Rows, picture.Columns = _PICTURE.shape
    picture.SamplesPerPixel, picture.PhotometricInterpretation, picture.PixelRepresentation = 1, "MONOCHROME2", 0
    picture.BitsAllocated, picture.BitsStored, picture.HighBit = 16, 12, 11
    picture.SOPClassUID, picture.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    picture.compress(uid, _PICTURE, encoding_plugin=encoding_plugin, generate_instance_uid=False)
    return np.asarray(get_decoder(uid).as_array(picture, decoding_plugin="pylibjpeg")[0])


_TRIALS: Mapping[Decoder, Callable[[], NDArray[np.integer]]] = {
    "imagecodecs-jpeg": _jpeg,
    "imagecodecs-jpegls": _jpegls,
    "openjpeg": lambda: _by_pydicom(JPEG2000Lossless, "pylibjpeg"),
    "rle": lambda: _by_pydicom(RLELossless, "pydicom"),
}
