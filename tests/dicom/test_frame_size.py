"""What a frame claims to be, told from its first bytes; judged by encoders that wrote it."""

from __future__ import annotations

import time

import imagecodecs
import numpy as np
import pytest
from pairwise import each_once

from etl.dicom.frame_size import stated_size

SIZES = [(1, 1), (7, 300), (512, 256), (64, 65)]
ENCODERS = {
    "jpeg": lambda a: imagecodecs.jpeg8_encode(a.astype(np.uint8)),
    "jpeg 12 bit": lambda a: imagecodecs.jpeg8_encode(a & 0xFFF, bitspersample=12),
    "jpeg lossless": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16),
    "jpeg-ls": imagecodecs.jpegls_encode,
    "jpeg 2000": lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0),
}


@pytest.mark.parametrize(("encoder", "size"), each_once([*ENCODERS] * 2, SIZES), ids=str)
def test_the_size_is_that_of_the_image_that_was_encoded(encoder, size):
    image = np.random.default_rng(0).integers(0, 4096, size).astype(np.uint16)
    try:
        encoded = ENCODERS[encoder](image)
    except Exception as error:  # noqa: BLE001 - a codec that this build of imagecodecs lacks
        pytest.skip(f"{encoder} cannot be encoded here: {error}")
    assert stated_size(bytes(encoded)) == size


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_pad_byte_and_comments_do_not_hide_the_size(encoder):
    image = np.zeros((20, 30), np.uint16)
    try:
        encoded = bytes(ENCODERS[encoder](image))
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"{encoder} cannot be encoded here: {error}")
    assert stated_size(encoded + b"\0") == (20, 30)
    if encoded[:2] == b"\xff\xd8":
        comments = b"".join(b"\xff\xfe\x00\x07" + b"hello" for _ in range(500))
        assert stated_size(encoded[:2] + comments + encoded[2:]) == (20, 30)
        assert stated_size(encoded[:2] + b"\xff" * 9 + encoded[2:]) == (20, 30)


def test_what_is_no_codestream_claims_nothing():
    for content in (b"", b"\xff", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd8\xff", bytes(100), b"GIF89a"):
        assert stated_size(content) is None, content


def test_any_bytes_are_told_within_a_moment():
    rng = np.random.default_rng(1)
    start = time.monotonic()
    for n in range(2000):
        content = rng.bytes(int(rng.integers(0, 300)))
        head = (b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\x4f\xff\x51")[n % 4]
        found = stated_size(head + content)
        assert found is None or all(isinstance(v, int) for v in found)
    assert stated_size(b"\xff\xd8" + b"\xff" * 1_000_000) is None
    assert stated_size(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 250_000) is None
    assert stated_size(b"\xff\xd8" + b"\xff\xfe\x00\x00" * 1000) is None
    assert time.monotonic() - start < 5


def test_the_box_format_of_jpeg_2000_claims_its_size_too():
    """Decoders read JP2 as well as the bare codestream, so its claim counts as much (T.800 I.5.3.1)."""
    image = np.zeros((20, 30), np.uint16)
    try:
        encoded = bytes(imagecodecs.jpeg2k_encode(image, codecformat="jp2", level=0))
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"JPEG 2000 cannot be encoded here: {error}")
    assert encoded[4:8] == b"jP  "
    assert stated_size(encoded) == (20, 30)
    for cut in range(len(encoded)):
        assert stated_size(encoded[:cut]) in {None, (20, 30)}
