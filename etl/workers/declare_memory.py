"""Run by Dask in each worker elsewhere as it starts: it says what memory it has, so that nobody has to.

``deploy/dask.yaml`` names it as preload. A worker that was given the resource MEMORY by hand keeps it.
"""

from __future__ import annotations

from typing import Any

MEMORY_RESOURCE = "MEMORY"


def dask_setup(worker: Any) -> None:
    """Declare the memory limit of a worker as its resource MEMORY, in bytes."""
    limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
    state = getattr(worker, "state", None)
    # A scheduler reads the same configuration and has neither.
    if limit and state is not None and MEMORY_RESOURCE not in state.total_resources:
        state.total_resources[MEMORY_RESOURCE] = state.available_resources[MEMORY_RESOURCE] = float(limit)
