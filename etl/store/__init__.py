"""What is on the disk: names, metadata, chunks, locks, and how each key is put there."""
