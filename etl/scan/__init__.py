"""Stage 1: from files to stacks of slices, headers only."""
