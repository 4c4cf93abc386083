"""The store's keys: read by plain zarr, only registered codecs, metadata last, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from etl.store.encoding import encode_series, ome_attributes, uid_array
from etl.volume.normalize import Normalization
from etl.volume.patient_space import Geometry

REGISTERED_CODECS = {"sharding_indexed", "bytes", "blosc", "zstd", "crc32c"}
EMPTY_CHUNK = 2**64 - 1
ATTRIBUTES = {"ct_etl": {"stack": 1}, "dicom": {"KVP": 120.0}, "ome": {"version": "0.5"}}


def random_volume(shape: tuple[int, int, int] = (9, 70, 66)) -> NDArray[np.float32]:
    values = np.random.default_rng(0).uniform(-0.25, 0.75, shape)
    return (np.rint(values * 2**13) / 2**13).astype(np.float32)


def source() -> dict[str, NDArray[Any]]:
    return {
        "sop_instance_uid": uid_array(np.array([f"1.2.840.{k}" for k in range(9)], "S64")),
        "position_mm": np.linspace(-10, 30, 9),
        "instance_number": np.arange(9, 0, -1, dtype=np.int32),
    }


def encode(volume: NDArray[np.float32], **options: Any) -> dict[str, bytes]:
    """Encode with the other arrays filled in; give bytes by key."""
    arguments = {
        "histogram": np.arange(3001, dtype=np.uint32),
        "validity": None,
        "source": source(),
        "attributes": ATTRIBUTES,
        **options,
    }
    return {key: value.to_bytes() for key, value in encode_series(volume=volume, **arguments).items()}


def written(keys: dict[str, bytes], folder: Path) -> zarr.Group:
    """Put keys into files and open them as anyone would."""
    for key, value in keys.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(value)
    return zarr.open_group(folder, mode="r", use_consolidated=False)


def inner_chunks(shard: bytes, count: int) -> list[int]:
    """Lengths of the inner chunks of a shard; its index, 16 bytes a chunk and a checksum, stands at the end."""
    numbers = struct.unpack(f"<{2 * count}Q", shard[-(16 * count + 4) : -4])
    assert EMPTY_CHUNK not in numbers
    return list(numbers[1::2])


def all_metadata(keys: dict[str, bytes]) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in keys.items() if key.endswith("zarr.json")}


def codec_names(value: Any) -> set[str]:
    """Names of codecs at any depth of array metadata."""
    if isinstance(value, list):
        return set().union(*map(codec_names, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    nested = set().union(*map(codec_names, value.values())) if value else set()
    return nested | ({value["name"]} if "name" in value and "configuration" in value else set())


def test_plain_zarr_reads_the_same_floats(tmp_path: Path) -> None:
    volume = random_volume()
    group = written(encode(volume), tmp_path)
    stored = group["volume"]
    assert isinstance(stored, zarr.Array)
    assert (stored.dtype, stored.shape) == (np.float32, volume.shape)
    np.testing.assert_array_equal(stored[:], volume)
    np.testing.assert_array_equal(stored[3:5, 60:, 7], volume[3:5, 60:, 7])
    assert stored.metadata.dimension_names == ("z", "y", "x")  # type: ignore[union-attr]
    found = json.loads(json.dumps(dict(group.attrs)))
    assert len(found["ct_etl"].pop("provenance").pop("entry_digest")) == 64
    source_arrays = ["source/sop_instance_uid", "source/position_mm", "source/instance_number"]
    assert found["ct_etl"].pop("arrays") == ["volume", "hu_histogram", *source_arrays]
    assert found == ATTRIBUTES


def test_plain_zarr_reads_histogram_and_source(tmp_path: Path) -> None:
    group = written(encode(random_volume()), tmp_path)
    histogram = group["hu_histogram"]
    assert isinstance(histogram, zarr.Array)
    assert histogram.dtype == np.uint32
    np.testing.assert_array_equal(histogram[:], np.arange(3001))
    for name, values in source().items():
        array = group[f"source/{name}"]
        assert isinstance(array, zarr.Array)
        assert array.dtype == values.dtype
        np.testing.assert_array_equal(array[:], values)


@pytest.mark.parametrize("memory", ["C", "F", "flipped", "big-endian"])
def test_the_order_of_values_in_memory_changes_no_byte(memory: str) -> None:
    volume = random_volume()
    other = {
        "C": volume,
        "F": np.asfortranarray(volume),
        "flipped": volume[::-1].copy()[::-1],
        "big-endian": volume.astype(">f4"),
    }[memory]
    assert encode(other) == encode(volume)


def test_values_of_every_kind_come_back(tmp_path: Path) -> None:
    volume = np.zeros((1, 2, 3), np.float32)
    volume.ravel()[:] = [-0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38]
    stored = written(encode(volume), tmp_path)["volume"]
    assert isinstance(stored, zarr.Array)
    assert np.asarray(stored[:]).tobytes() == volume.tobytes()


def test_only_codecs_of_the_registry_are_used() -> None:
    volume = random_volume()
    keys = encode(volume, validity=np.ones(volume.shape, np.uint8))
    metadata = all_metadata(keys)
    arrays = {key: value for key, value in metadata.items() if value["node_type"] == "array"}
    assert len(arrays) >= 6
    for key, value in metadata.items():
        assert value["zarr_format"] == 3
        assert "numcodecs." not in json.dumps(value), key
    for key, value in arrays.items():
        names = codec_names(value["codecs"])
        assert names, key
        assert names <= REGISTERED_CODECS, key
        assert value["data_type"] in {"float32", "float64", "uint8", "int32", "uint32"}
        assert value["chunk_grid"]["name"] == "regular"
        assert value["chunk_key_encoding"]["name"] == "default"
        assert not value.get("storage_transformers")


def test_metadata_comes_last_and_the_groups_very_last() -> None:
    volume = random_volume()
    keys = list(encode(volume, validity=np.ones(volume.shape, np.uint8)))
    is_metadata = [key.endswith("zarr.json") for key in keys]
    assert is_metadata == sorted(is_metadata)
    assert keys[-1] == "zarr.json"
    assert keys.count("zarr.json") == 1
    chunks = [key for key in keys if not key.endswith("zarr.json")]
    from_source = [key.startswith("source/") for key in chunks]
    assert from_source == sorted(from_source)
    assert any(from_source)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((1, 1, 1), None),
        ((2, 3, 4), (4, 16, 16)),
        ((9, 70, 66), (4, 16, 16)),
        ((65, 64, 1), (200, 200, 200)),
        ((130, 20, 20), None),
    ],
)
def test_a_volume_is_one_shard(
    shape: tuple[int, int, int], chunk: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    volume = random_volume(shape)
    keys = encode(volume, chunk=chunk)
    assert [key for key in keys if key.startswith("volume/c")] == ["volume/c/0/0/0"]
    stored = written(keys, tmp_path)["volume"]
    assert isinstance(stored, zarr.Array)
    np.testing.assert_array_equal(stored[:], volume)
    assert chunk is None or stored.chunks == tuple(min(c, n) for c, n in zip(chunk, shape, strict=True))


@pytest.mark.parametrize("shape", [(64, 64, 64), (20, 130, 65), (129, 33, 10), (16, 200, 100), (1, 1, 1)])
def test_inner_chunks_are_even_and_sized_for_crops(shape: tuple[int, int, int]) -> None:
    codecs = json.loads(encode(np.zeros(shape, np.float32))["volume/zarr.json"])["codecs"]
    inner = codecs[0]["configuration"]["chunk_shape"]
    for n, side, most in zip(shape, inner, (64, 24, 24), strict=True):
        parts = -(-n // side)
        assert side <= most
        assert parts <= -(-n // most), "no more chunks than the largest sides need"
        assert parts * side - n < 8 * parts, "less than eight planes of padding a chunk"


@pytest.mark.parametrize("codec", ["lz4hc", "lz4", "zstd", "none"])
@pytest.mark.parametrize("step", [None, 2.0**-13])
def test_every_type_and_codec_gives_the_same_values(codec: str, step: float | None, tmp_path: Path) -> None:
    volume = random_volume()
    stored = written(encode(volume, codec=codec, step=step), tmp_path)["volume"]
    assert isinstance(stored, zarr.Array)
    assert stored.dtype == (np.float32 if step is None else np.int16)
    factor = np.float32(dict(stored.attrs).get("scale_factor", 1.0))
    np.testing.assert_array_equal(np.asarray(stored[:]) * factor, volume)
    names = codec_names(json.loads((tmp_path / "volume" / "zarr.json").read_text())["codecs"])
    assert ("blosc" in names) == (codec != "none")


def test_steps_are_smaller_than_values_and_a_plain_volume_is_as_large_as_it_is() -> None:
    volume = np.cumsum(random_volume((16, 72, 72)) / 2**9, axis=1, dtype=np.float32)
    volume = (np.rint(volume * 2**13) / 2**13).astype(np.float32)
    values, steps, plain = (
        len(encode(volume, **options)["volume/c/0/0/0"])
        for options in ({}, {"step": 2.0**-13}, {"step": 2.0**-13, "codec": "none"})
    )
    assert steps < values
    assert 2 * volume.size <= plain < 2.2 * volume.size


def test_every_array_names_its_dimensions(tmp_path: Path) -> None:
    volume = random_volume()
    keys = encode(
        volume,
        validity=np.ones(volume.shape, np.uint8),
        body=np.ones((1, 5, 5), np.uint8),
        coordinates_mm=tuple(np.arange(n, dtype=np.float64) for n in volume.shape),
    )
    named = {
        key.removesuffix("/zarr.json"): value["dimension_names"]
        for key, value in all_metadata(keys).items()
        if value["node_type"] == "array"
    }
    assert named == {
        **{array: ["z", "y", "x"] for array in ("volume", "validity")},
        **{axis: [axis] for axis in "zyx"},
        "body": ["z_cell", "y_cell", "x_cell"],
        "hu_histogram": ["hu"],
        "source/sop_instance_uid": ["slice", "character"],
        "source/position_mm": ["slice"],
        "source/instance_number": ["slice"],
    }


@pytest.mark.parametrize("value", [0.0, -0.25, float("nan")])
def test_a_volume_of_air_still_has_its_chunks(value: float) -> None:
    """An omitted chunk could be air or lost."""
    volume = np.full((9, 70, 66), value, np.float32)
    keys = encode(volume, chunk=(8, 64, 64), histogram=np.zeros(3001, np.uint32))
    assert all(length > 0 for length in inner_chunks(keys["volume/c/0/0/0"], 2 * 2 * 2))
    assert keys["hu_histogram/c/0"]


def test_an_all_zero_source_still_has_its_chunks() -> None:
    keys = encode(random_volume(), source={"position_mm": np.zeros(9)})
    assert keys["source/position_mm/c/0"]


def test_the_validity_map_is_kept_where_there_is_one(tmp_path: Path) -> None:
    volume = random_volume()
    validity = np.random.default_rng(2).integers(0, 3, volume.shape).astype(np.uint8)
    assert not any(key.startswith("validity") for key in encode(volume))
    keys = encode(volume, validity=validity)
    assert [key for key in keys if key.startswith("validity/c")] == ["validity/c/0/0/0"]
    stored = written(keys, tmp_path)["validity"]
    assert isinstance(stored, zarr.Array)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[:], validity)
    outside = encode(volume, validity=np.zeros_like(validity), chunk=(8, 64, 64))
    assert all(length > 0 for length in inner_chunks(outside["validity/c/0/0/0"], 2 * 2 * 2))


def test_the_same_input_gives_the_same_bytes() -> None:
    first = encode(random_volume())
    threads = numcodecs.blosc.use_threads
    with zarr.config.set({"threading.max_workers": 4, "async.concurrency": 8}):
        again = encode(random_volume())
    assert list(again) == list(first)
    assert again == first
    assert numcodecs.blosc.use_threads == threads


def test_another_process_gives_the_same_bytes() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import hashlib, test_encoding
print(hashlib.sha256(b"".join(test_encoding.encode(test_encoding.random_volume()).values())).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(b"".join(encode(random_volume()).values())).hexdigest()


def test_rounded_values_pack_to_half_of_full_ones() -> None:
    # As in a head: smooth tissue with noise of a few HU.
    z, y, x = np.mgrid[:16, :64, :64]
    smooth = 0.3 + 0.1 * np.sin(z / 9) * np.cos(y / 13) * np.sin(x / 11)
    full = (smooth + np.random.default_rng(1).normal(0, 0.002, smooth.shape)).astype(np.float32)
    rounded = (np.rint(full * 2**13) / 2**13).astype(np.float32)
    packed, unpacked = (len(encode(volume)["volume/c/0/0/0"]) for volume in (rounded, full))
    assert packed < 0.5 * unpacked


@pytest.mark.parametrize("width", [1, 20, 64])
def test_identifiers_become_rows_of_64_bytes(width: int) -> None:
    uids = [("1.2.840.10008." + "9" * 64)[:width], "1.2", ""]
    rows = uid_array(np.array(uids, f"S{max(width, 3)}"))
    assert (rows.dtype, rows.shape) == (np.uint8, (3, 64))
    assert [bytes(row).rstrip(b"\0").decode("ascii") for row in rows] == uids


def geometry(affine: NDArray[np.float64]) -> Geometry:
    lengths = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return Geometry((2, 3, 4), (lengths[0], lengths[1], lengths[2]), affine, (2, 3, 4), (1.0, 1.0, 1.0), 0, 0.0)


def ome_of(affine: NDArray[np.float64], **options: Any) -> dict[str, Any]:
    return ome_attributes(geometry(affine), Normalization((-1000, 2000), 0.25, 13), name="P1/0002-ab", **options)


def test_an_axis_aligned_grid_has_scale_and_translation_in_ome() -> None:
    affine = np.array([[0, 0, 0.5, -110.0], [0, 0.6, 0, -90.0], [3, 0, 0, 12.5], [0, 0, 0, 1]])
    ome = ome_of(affine)
    assert ome["version"] == "0.5"
    (level,) = ome["multiscales"]
    assert [axis["name"] for axis in level["axes"]] == ["z", "y", "x"]
    assert {(axis["type"], axis["unit"]) for axis in level["axes"]} == {("space", "millimeter")}
    (dataset,) = level["datasets"]
    assert dataset["path"] == "volume"
    scale, translation = dataset["coordinateTransformations"]
    assert (scale["type"], translation["type"]) == ("scale", "translation")
    for index in ([0, 0, 0], [1, 2, 3]):
        by_ome = np.array(index) * scale["scale"] + translation["translation"]
        np.testing.assert_allclose(by_ome[::-1], (affine @ [*index, 1])[:3])


def test_a_grid_turned_by_less_than_half_a_voxel_still_has_a_translation() -> None:
    affine = np.array([[0, 0, 0.5, -110.0], [0, 0.6, 0, -90.0], [3, 0, 0, 12.5], [0, 0, 0, 1]])
    affine[0, 0] = 0.24  # one step along z, so just under half of 0.5 mm in x
    assert len(ome_of(affine)["multiscales"][0]["datasets"][0]["coordinateTransformations"]) == 2
    affine[0, 0] = 0.26
    assert len(ome_of(affine)["multiscales"][0]["datasets"][0]["coordinateTransformations"]) == 1


@pytest.mark.parametrize("is_steps", [False, True])
def test_a_viewer_is_told_what_to_show(is_steps: bool) -> None:
    ome = ome_of(np.eye(4)[[2, 1, 0, 3]], is_steps=is_steps)
    (level,) = ome["multiscales"]
    assert level["name"] == "P1/0002-ab"
    (channel,) = ome["omero"]["channels"]
    unit = 2**13 if is_steps else 1
    expected = {"min": -0.25, "max": 0.75, "start": 840 / 3000 - 0.25, "end": 1240 / 3000 - 0.25}
    assert channel["window"] == {key: pytest.approx(value * unit) for key, value in expected.items()}


@pytest.mark.parametrize("kind", ["turned", "sheared", "flipped", "permuted"])
def test_any_other_grid_has_only_a_scale_in_ome(kind: str) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    directions = {
        "turned": np.array([[0, -s, c], [0, c, s], [1, 0, 0]]),
        "sheared": np.array([[0, 0, 1], [s, 1, 0], [c, 0, 0]]),
        "flipped": np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
        "permuted": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = directions * [3.0, 0.6, 0.5]
    (level,) = ome_of(affine)["multiscales"]
    (transformation,) = level["datasets"][0]["coordinateTransformations"]
    assert transformation == {"type": "scale", "scale": pytest.approx([3.0, 0.6, 0.5])}


def test_tensorstore_reads_the_same_floats(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed: another reader's check")
    volume = random_volume()
    written(encode(volume), tmp_path)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "volume")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), volume)
