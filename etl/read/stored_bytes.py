"""The bytes of a store's keys, whole or a part, wherever the store lies: what a viewer asks for."""

from __future__ import annotations

import os
import re

# What our own keys are made of; no part is `.` or `..`, so none leads out of the store.
_KEY = re.compile(r"(?:(?!\.\.?(?:/|$))[A-Za-z0-9._-]+/)*(?!\.\.?$)[A-Za-z0-9._-]+")


def read_range(store_path: str, key: str, start: int | None = None, stop: int | None = None) -> tuple[bytes, int]:
    """Read a key of a store, or a part of it.

    Parameters
    ----------
    store_path : str
        Folder or URL.
    key : str
        Path in the store.
    start, stop : int, optional
        Range of bytes; a negative `start` counts from the end. Everything where not given.

    Returns
    -------
    content : bytes
        Shorter where the key ends before `stop`.
    length : int
        Of the whole key.

    Raises
    ------
    FileNotFoundError
        There is no such key, or it leads out of the store.
    OSError
    """
    if not _KEY.fullmatch(key):
        raise FileNotFoundError(key)
    if "://" in store_path:
        return _read_url(f"{store_path.rstrip('/')}/{key}", start, stop)
    path = f"{store_path}/{key}"
    # A link may lead anywhere.
    if os.path.realpath(path) != f"{os.path.realpath(store_path)}/{key}" or not os.path.isfile(path):
        raise FileNotFoundError(key)
    with open(path, "rb") as stream:
        length = os.fstat(stream.fileno()).st_size
        first, last = _bounds(length, start, stop)
        stream.seek(first)
        return stream.read(last - first), length


def _read_url(url: str, start: int | None, stop: int | None) -> tuple[bytes, int]:
    import fsspec.core  # noqa: PLC0415 - folders are read without it

    files, path = fsspec.core.url_to_fs(url)
    length = int(files.size(path))
    first, last = _bounds(length, start, stop)
    content: bytes = files.cat_file(path, start=first, end=last) if last > first else b""
    return content, length


def _bounds(length: int, start: int | None, stop: int | None) -> tuple[int, int]:
    first = 0 if start is None else start if start >= 0 else max(0, length + start)
    last = length if stop is None else min(stop, length)
    return min(first, length), max(last, min(first, length))
