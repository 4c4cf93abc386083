"""Tests with whole systems: batch systems, orchestrators. `make test-systems` installs what they need."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them elsewhere, with the reason."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.systems)
            if os.environ.get("CT_ETL_SYSTEMS") != "yes":
                item.add_marker(pytest.mark.skip(reason="installs and starts whole systems: make test-systems"))
