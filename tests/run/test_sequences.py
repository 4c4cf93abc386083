"""Sequences of runs against a model: nothing lost, nothing poorer. Many: ``python tests/sequences.py``."""

from __future__ import annotations

import pytest
from sequences import one_sequence, quick_runs

# Seeds that found something once: time points that looked like one stack, harm that a quick run did not see.
ONCE_WRONG = (10527, 10685, 11007, 20333, 20541)


@pytest.mark.parametrize("seed", [*ONCE_WRONG, *range(12)])
def test_no_sequence_of_runs_loses_anything_or_makes_it_poorer(tmp_path, seed):
    with quick_runs():
        story, problems = one_sequence(tmp_path / "w", seed)
    assert problems == [], "\n".join(story)
