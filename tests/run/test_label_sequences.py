"""Sequences of runs and labels against a model: nothing lost. Many: ``python tests/label_sequences.py``."""

from __future__ import annotations

import pytest
from label_sequences import one_sequence
from sequences import quick_runs

# A damaged label took its volume out of the store's metadata; a label was taken back before the new one was there.
ONCE_WRONG = (30, 101)
SEEDS = [*ONCE_WRONG, *range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(102, 142))]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_sequence_of_labels_loses_one_or_mixes_two(tmp_path, seed):
    with quick_runs():
        story, problems = one_sequence(tmp_path / "w", seed)
    assert problems == [], "\n".join(story)
