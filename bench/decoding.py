"""Print, as JSON, the CPU seconds of reading a folder's slices and of its frames' decoders alone.

``decoding.py FOLDER ROUNDS``: the slices as the pipeline reads them (`etl.dicom.pixels.read_slices`: open, read,
cut into frames, decode, check), and a bare loop of each decoder at hand over the same frames, held in memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import imagecodecs
from openjpeg.utils import decode_pixel_data
from pydicom import dcmread
from pydicom.encaps import get_frame

from etl.dicom.pixels import read_slices
from etl.dicom.sources import find_sources
from etl.scan.scan import scan_source

Decoder = Callable[[bytes], object]
DECODERS: dict[str, dict[str, Decoder]] = {
    "1.2.840.10008.1.2.4.70": {
        "imagecodecs jpeg8 (libjpeg-turbo)": imagecodecs.jpeg8_decode,
        "imagecodecs ljpeg (liblj92)": imagecodecs.ljpeg_decode,
    },
    "1.2.840.10008.1.2.4.80": {
        "imagecodecs jpegls (CharLS)": imagecodecs.jpegls_decode,
    },
    "1.2.840.10008.1.2.4.90": {
        "pylibjpeg-openjpeg": lambda frame: decode_pixel_data(frame, version=2),
        "imagecodecs jpeg2k (OpenJPEG)": imagecodecs.jpeg2k_decode,
    },
}


def measure_folder(folder: Path, rounds: int) -> dict[str, Any]:
    """Take turns between the stage and the decoders."""
    [source] = find_sources([str(folder)])
    [stack] = scan_source(source).stacks
    encoded = [_frame(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    candidates = DECODERS[stack.formats[0].transfer_syntax_uid]
    usable = {name: decode for name, decode in candidates.items() if _works(decode, encoded[0])}
    stage: list[float] = []
    decoders: dict[str, list[float]] = {name: [] for name in usable}
    # The first pass loads what is loaded lazily, for both.
    for turn in range(rounds + 1):
        seconds = {"": _cpu_s(read_slices(stack)), **{name: _cpu_s(map(d, encoded)) for name, d in usable.items()}}
        if turn:
            stage.append(seconds.pop(""))
            for name, value in seconds.items():
                decoders[name].append(value)
    return {
        "frames": len(encoded),
        "bytes": sum(map(len, encoded)),
        "stage_cpu_s": stage,
        "decoder_cpu_s": decoders,
    }


def _frame(path: Path) -> bytes:
    return get_frame(dcmread(path).PixelData, 0, number_of_frames=1)


def _works(decode: Decoder, frame: bytes) -> bool:
    try:
        decode(frame)
    except Exception:  # noqa: BLE001 - a decoder that cannot is left out, however it says so
        return False
    return True


def _cpu_s(steps: Iterable[object]) -> float:
    start = time.process_time()
    deque(steps, maxlen=0)
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(measure_folder(Path(sys.argv[1]), int(sys.argv[2]))))
