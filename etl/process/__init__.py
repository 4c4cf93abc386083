"""Stage 3: from one task to one published volume, in one worker."""
