"""Errors cross process borders and carry the ledger's codes."""

from __future__ import annotations

import pickle

import pytest

from etl.errors import (
    EtlError,
    SeriesError,
    StoreConflictError,
    StoreError,
    UsageError,
)


def test_a_series_error_survives_the_way_from_a_worker() -> None:
    error = SeriesError("missing-slices", "gaps run from 5.000 to 10.000 mm")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is SeriesError
        assert back.code == "missing-slices"
        assert str(back) == "gaps run from 5.000 to 10.000 mm"


@pytest.mark.parametrize("kind", [EtlError, UsageError, StoreConflictError, StoreError])
def test_the_other_errors_survive_it_too(kind: type[EtlError]) -> None:
    back = pickle.loads(pickle.dumps(kind("a store of another configuration")))
    assert type(back) is kind
    assert str(back) == "a store of another configuration"
