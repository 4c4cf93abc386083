"""Digests: equal for equal content, different for any other, whatever the order or the memory layout."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.digests import json_digest, source_digest, volume_digest
from etl.software import software_versions


def columns() -> dict[str, np.ndarray]:
    return {
        "uid": np.array([b"1.2.1", b"1.2.2", b"1.2.3"], "S64"),
        "position": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 10.0]]),
        "padding": np.array([np.nan, -2000.0, np.nan]),
        "length": np.array([512, 512, 514], np.int64),
    }


def test_a_json_digest_is_sha256_of_canonical_json() -> None:
    canonical = b'{"a":[1,2.5,null],"b":"\\u00fc"}'
    assert json_digest({"b": "\N{LATIN SMALL LETTER U WITH DIAERESIS}", "a": [1, 2.5, None]}) == (
        hashlib.sha256(canonical).hexdigest()
    )


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False) | st.text(), max_size=6))
def test_a_json_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert json_digest(backwards) == json_digest(value) == json_digest(json.loads(json.dumps(value)))


@given(st.permutations(range(3)))
def test_a_source_digest_does_not_depend_on_the_order_of_files(order: list[int]) -> None:
    shuffled = {name: column[order] for name, column in columns().items()}
    assert source_digest(shuffled, rows=512) == source_digest(columns(), rows=512)


@pytest.mark.parametrize("name", list(columns()))
def test_a_source_digest_changes_with_every_value(name: str) -> None:
    found = {source_digest(columns())}
    for index in range(3):
        changed = columns()
        changed[name][index] = b"1.2.9" if name == "uid" else 7
        found.add(source_digest(changed))
    assert len(found) == 4


def test_a_source_digest_changes_when_two_slices_swap_one_value() -> None:
    swapped = columns()
    swapped["position"] = swapped["position"][[1, 0, 2]]
    assert source_digest(swapped) != source_digest(columns())


def test_a_source_digest_changes_with_what_the_slices_share() -> None:
    assert len({source_digest(columns()), source_digest(columns(), rows=1), source_digest(columns(), rows=2)}) == 3


def test_a_source_digest_changes_when_a_slice_is_there_twice() -> None:
    doubled = {name: column[[0, 1, 2, 2]] for name, column in columns().items()}
    assert source_digest(doubled) != source_digest(columns())


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_volume_digest_is_that_of_its_little_endian_values_in_c_order(axes: tuple[int, int, int]) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    expected = hashlib.sha256(b"".join(float32.tobytes() for float32 in values.astype("<f4").ravel())).hexdigest()
    backing = np.ascontiguousarray(values.transpose(axes))
    assert volume_digest(backing.transpose(np.argsort(axes))) == expected
    assert volume_digest(values.astype(">f4")) == expected
    assert volume_digest(values[::-1]) != expected


def test_the_software_is_what_decides_the_bytes() -> None:
    versions = software_versions()
    assert {"ct-etl", "numpy", "scipy", "pydicom", "zarr"} <= set(versions)
    assert versions["numpy"] == np.__version__ == metadata.version("numpy")
    # A store written by two workers must equal one written by none.
    assert not {"dask", "distributed"} & set(versions)
