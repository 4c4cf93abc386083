"""Masks onto volumes: read what others drew, find the series, put it onto its grid, publish it."""
