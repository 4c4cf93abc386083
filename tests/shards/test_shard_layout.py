"""Bytes of shards and blosc frames; the oracle of a frame is blosc itself."""

from __future__ import annotations

import struct

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.shards.layout import join_chunks, needed_blocks, parse_index, with_checksum, without_checksum


@given(
    count=st.integers(1, 5000),
    block=st.integers(128, 3000),
    shuffle=st.integers(0, 2),
    name=st.sampled_from([b"lz4", b"lz4hc", b"zstd"]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    noise=st.sampled_from([1, 50, 30_000]),
)
def test_a_frame_of_some_blocks_gives_those_bytes(count, block, shuffle, name, ends, noise):
    values = np.random.default_rng(0).integers(0, noise, count).astype(np.int16)
    frame = numcodecs.blosc.compress(values, name, 1, shuffle, block)
    first, stop = sorted(int(end * values.nbytes) for end in ends)
    stop = max(stop, first + 1)
    if first >= values.nbytes:
        first, stop = values.nbytes - 1, values.nbytes
    part, low, high = needed_blocks(frame, values.nbytes, first, stop)
    assert low <= first < stop <= high
    assert numcodecs.blosc.decompress(part) == values.tobytes()[low:high]
    assert len(part) <= len(frame)


def test_a_frame_that_is_not_what_is_expected_is_refused():
    frame = numcodecs.blosc.compress(np.arange(100, dtype=np.int16), b"lz4", 1)
    for content, size in ((frame, 100), (frame[:-1], 200), (frame[:10], 200), (b"", 200)):
        with pytest.raises(ValueError, match="blosc frame"):
            needed_blocks(content, size, 0, 2)


def test_a_shard_is_read_back_by_its_index():
    chunks = [b"abc", b"", b"defgh"]
    shard = join_chunks(chunks)
    index = parse_index(shard[-(16 * 3 + 4) :], len(shard))
    assert [shard[offset : offset + length] for offset, length in index.tolist()] == chunks


def test_an_index_that_points_outside_is_refused():
    index = with_checksum(struct.pack("<4Q", 0, 10, 2**63, 5))
    with pytest.raises(ValueError, match="points outside the shard"):
        parse_index(index, 100)


def test_a_changed_byte_is_noticed():
    content = bytearray(with_checksum(b"0123456789"))
    assert without_checksum(bytes(content)) == b"0123456789"
    content[3] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        without_checksum(bytes(content))
