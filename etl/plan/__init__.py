"""Stage 2: from stacks to tasks, by rules and geometry, no pixels."""
