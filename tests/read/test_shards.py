"""The shard reader, voxel for voxel against zarr-python; damaged shards are errors, never other values."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from etl.read.selection import ranges_of
from etl.read.shard_reader import open_shard
from etl.read.stored_array import ZarrArray, open_array, read_values

BLOSC = st.builds(
    BloscCodec,
    cname=st.sampled_from(["lz4", "lz4hc", "zstd", "blosclz", "zlib"]),
    clevel=st.sampled_from([0, 1, 5]),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    typesize=st.sampled_from([1, 2, 4]),
    blocksize=st.sampled_from([0, 256, 1000, 4096]),
)
TYPES = ["float32", "int16", "uint8", "float64", "uint64"]


@st.composite
def arrays(draw) -> dict[str, Any]:
    """How an array is stored: shape, chunks, codecs, values that pack well and values that do not."""
    shape = tuple(draw(st.lists(st.integers(1, 19), min_size=1, max_size=3)))
    chunk = tuple(draw(st.integers(1, 12)) for _ in shape)
    codecs = draw(st.one_of(st.none(), BLOSC))
    return {
        "shape": shape,
        "chunk": chunk,
        "dtype": draw(st.sampled_from(TYPES)),
        "codecs": [codecs] if codecs else [],
        "is_checked": draw(st.booleans()),
        "is_sharded": draw(st.booleans()),
        "noise": draw(st.sampled_from([0, 3, 30_000])),
        "writes_empty": draw(st.booleans()),
    }


def store_array(folder: Path, how: dict[str, Any]) -> np.ndarray:
    shape, chunk = how["shape"], how["chunk"]
    rng = np.random.default_rng(0)
    values = (np.arange(np.prod(shape)).reshape(shape) // 7 + rng.integers(0, how["noise"] + 1, shape)).astype(
        how["dtype"]
    )
    if how["noise"] == 0:
        values[: shape[0] // 2] = 0
    covering = tuple(-(-n // c) * c for n, c in zip(shape, chunk, strict=True))
    zarr.create_array(
        folder,
        data=values,
        chunks=chunk if how["is_sharded"] else shape,
        shards=covering if how["is_sharded"] else None,
        compressors=[*how["codecs"], *([Crc32cCodec()] if how["is_checked"] else [])] or None,
        fill_value=0,
        overwrite=True,
        config={"write_empty_chunks": how["writes_empty"]},
    )
    return values


@st.composite
def selections(draw, shape: tuple[int, ...]) -> tuple[Any, ...]:
    each = []
    for n in shape:
        low, high = sorted((draw(st.integers(-n - 2, n + 2)), draw(st.integers(-n - 2, n + 2))))
        each.append(
            draw(st.sampled_from([slice(low, high, draw(st.integers(1, 4))), draw(st.integers(-n, n - 1))]))
        )
    first = draw(st.integers(0, len(each)))
    last = draw(st.integers(first, len(each)))
    return (*each[:first], ..., *each[last:]) if draw(st.booleans()) else tuple(each[:first])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=arrays(), data=st.data())
def test_every_selection_of_every_array_is_what_zarr_reads(tmp_path, how, data):
    folder = tmp_path / "array"
    shutil.rmtree(folder, ignore_errors=True)
    values = store_array(folder, how)
    if not how["writes_empty"] and not values.any():
        # Zarr leaves out a shard of nothing but fill values; no array of ours lacks one.
        with pytest.raises(ValueError, match="its shard is lost"):
            open_shard(str(folder))
        return
    reader = open_shard(str(folder))
    assert reader is not None
    there = zarr.open_array(folder, mode="r")
    selection = data.draw(selections(how["shape"]))
    ranges, shape = ranges_of(selection, how["shape"])
    expected = np.asarray(there[selection])
    np.testing.assert_array_equal(expected, values[selection])
    got = read_values(reader, ranges)
    assert (got.dtype, got.reshape(shape).shape) == (values.dtype, expected.shape)
    np.testing.assert_array_equal(got.reshape(shape), expected)
    again = read_values(ZarrArray(there), ranges)
    np.testing.assert_array_equal(again, got)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=arrays(), data=st.data())
def test_lists_of_indices_are_read_like_numpy_takes_them(tmp_path, how, data):
    folder = tmp_path / "array"
    shutil.rmtree(folder, ignore_errors=True)
    values = store_array(folder, how | {"writes_empty": True})
    axis = data.draw(st.integers(0, len(how["shape"]) - 1))
    n = how["shape"][axis]
    index = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    wanted: list[Any] = [range(size) for size in how["shape"]]
    wanted[axis] = np.array(index)
    expected = np.take(values, index, axis)
    for array in (open_array(str(tmp_path), "array"), ZarrArray(zarr.open_array(folder, mode="r"))):
        np.testing.assert_array_equal(read_values(array, wanted), expected)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    how=arrays().map(lambda how: how | {"is_checked": True, "writes_empty": True}),
    place=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255),
    cut=st.booleans(),
)
def test_a_changed_byte_or_a_cut_shard_is_an_error_and_never_another_value(tmp_path, how, place, bits, cut):
    folder = tmp_path / "array"
    shutil.rmtree(folder, ignore_errors=True)
    values = store_array(folder, how)
    shard = folder.joinpath("c", *("0" * values.ndim))
    content = bytearray(shard.read_bytes())
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= bits
    shard.unlink()
    shard.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        read_values(open_array(str(tmp_path), "array"), [range(n) for n in values.shape])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=arrays().filter(lambda how: how["codecs"]), data=st.data())
def test_damage_of_chunks_without_checksums_crashes_nothing(tmp_path, how, data):
    folder = tmp_path / "array"
    shutil.rmtree(folder, ignore_errors=True)
    values = store_array(folder, how | {"is_checked": False, "writes_empty": True, "is_sharded": False})
    shard = folder.joinpath("c", *("0" * values.ndim))
    content = bytearray(shard.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    shard.unlink()
    shard.write_bytes(content)
    first = data.draw(st.integers(0, values.shape[0] - 1))
    wanted = [range(first, first + 1), *(range(n) for n in values.shape[1:])]
    with suppress(ValueError, RuntimeError):
        read_values(open_array(str(tmp_path), "array"), wanted)


def test_a_lost_shard_is_an_error_and_a_lost_array_is_told_apart(tmp_path):
    how = {"shape": (5, 6), "chunk": (2, 3), "dtype": "int16", "codecs": [], "is_checked": False}
    store_array(tmp_path / "array", how | {"is_sharded": True, "noise": 3, "writes_empty": True})
    (tmp_path / "array" / "c" / "0" / "0").unlink()
    with pytest.raises(ValueError, match="its shard is lost"):
        open_array(str(tmp_path), "array")
    with pytest.raises(FileNotFoundError):
        open_array(str(tmp_path), "other")


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (4, 4), "compressors": GzipCodec()},
        {"chunks": (4, 4), "shards": (8, 8), "compressors": ZstdCodec()},
        {"chunks": (4, 4), "compressors": BloscCodec()},
        {"chunks": (4, 4), "shards": (4, 8)},
        {"chunks": (8, 8), "filters": [TransposeCodec(order=(1, 0))]},
        {"chunks": (8, 8), "serializer": BytesCodec(endian="big")},
        {"chunks": (8, 8), "chunk_key_encoding": {"name": "v2", "separator": "."}},
        {
            "chunks": (8, 8),
            "serializer": ShardingCodec(chunk_shape=(4, 4), index_location="start"),
            "compressors": None,
        },
    ],
    ids=["gzip", "zstd", "many chunks", "many shards", "transposed", "big endian", "other keys", "index first"],
)
def test_what_is_not_known_is_left_to_zarr(tmp_path, options):
    values = np.arange(56, dtype=np.float32).reshape(7, 8)
    zarr.create_array(tmp_path / "array", data=values, **options)
    array = open_array(str(tmp_path), "array")
    assert isinstance(array, ZarrArray)
    np.testing.assert_array_equal(read_values(array, [range(1, 7), range(8)]), values[1:])


@pytest.mark.parametrize("fill", [float("nan"), float("-inf"), 1.5, 0])
def test_a_chunk_that_was_left_out_holds_the_fill_value(tmp_path, fill):
    array = zarr.create_array(
        tmp_path / "array",
        shape=(8, 8),
        chunks=(4, 4),
        shards=(8, 8),
        dtype="f4",
        fill_value=fill,
        compressors=BloscCodec(),
    )
    array[:4, :4] = 7
    reader = open_shard(str(tmp_path / "array"))
    assert reader is not None
    np.testing.assert_array_equal(read_values(reader, [range(8), range(8)]), np.asarray(array[:]))


def test_an_array_written_anew_is_read_anew(tmp_path):
    how = {"shape": (9, 9), "chunk": (4, 4), "dtype": "int16", "codecs": [BloscCodec()], "is_checked": True}
    for noise in (3, 30_000, 0):
        values = store_array(tmp_path / "array", how | {"is_sharded": True, "noise": noise, "writes_empty": True})
        np.testing.assert_array_equal(read_values(open_array(str(tmp_path), "array"), [range(9)] * 2), values)


def test_more_arrays_than_a_process_may_open_files_are_read(tmp_path):
    resource = pytest.importorskip("resource", reason="limits on open files are Unix's")
    how = {"shape": (3,), "chunk": (3,), "dtype": "int16", "codecs": [], "is_checked": False, "noise": 3}
    names = [f"a{n}" for n in range(150)]
    for name in names:
        store_array(tmp_path / name, how | {"is_sharded": True, "writes_empty": True})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        for name in names:
            read_values(open_array(str(tmp_path), name), [range(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_may_share_a_reader(tmp_path):
    how = {
        "shape": (40, 30, 20),
        "chunk": (9, 8, 7),
        "dtype": "float32",
        "codecs": [BloscCodec()],
        "noise": 30_000,
    }
    values = store_array(tmp_path / "array", how | {"is_checked": True, "is_sharded": True, "writes_empty": True})
    array = open_array(str(tmp_path), "array")
    with ThreadPoolExecutor(8) as pool:
        planes = list(pool.map(lambda k: read_values(array, [range(k, k + 1), range(30), range(20)]), range(40)))
    np.testing.assert_array_equal(np.concatenate(planes), values)


@pytest.mark.parametrize(
    "selection", [4, -5, (0, 0, 0), slice(None, None, -1), (..., ...), None, True, 1.5, [1, 2]], ids=str
)
def test_what_is_no_basic_selection_is_an_index_error(selection):
    with pytest.raises(IndexError):
        ranges_of(selection, (4, 5))


def test_metadata_of_a_future_zarr_are_left_to_zarr(tmp_path):
    zarr.create_array(tmp_path / "array", data=np.zeros((4, 4), np.float32), chunks=(4, 4), compressors=None)
    path = tmp_path / "array" / "zarr.json"
    about = json.loads(path.read_text())
    for change in ({"data_type": "float16"}, {"storage_transformers": [{"name": "other"}]}):
        path.unlink()
        path.write_text(json.dumps(about | change))
        assert open_shard(str(tmp_path / "array")) is None
