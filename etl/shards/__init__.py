"""How chunks lie in a shard, byte by byte: what writing and reading have in common."""
