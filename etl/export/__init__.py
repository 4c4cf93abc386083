"""Volumes of a store as files of other formats."""
