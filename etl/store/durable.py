"""What a crash, a power cut or a full disk does to files, and what is done against it."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from etl.errors import DiskFullError

_PARTIAL = re.compile(r".*\.[0-9a-f]{32}\.partial")
# Not EFBIG: a file system that takes no file of that size takes the next, smaller series.
DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def write_durably(path: Path, content: bytes | bytearray | memoryview, *, mode: int | None = None) -> None:
    """Write a file as `write_parts_durably` does, from one piece of memory."""
    write_parts_durably(path, (content,), mode=mode)


def write_parts_durably(
    path: Path, parts: Iterable[bytes | bytearray | memoryview], *, mode: int | None = None
) -> None:
    """Write a file under another name, bring it to the disk, then give it its name.

    The name itself is on the disk once `flush_folders` has been there.

    Parameters
    ----------
    path : Path
    parts : iterable of bytes-like
        Its content, in order: more than memory should hold may be written.
    mode : int, optional
        Of the file from its first byte on; as the process makes files where not given.

    Raises
    ------
    DiskFullError
    OSError
    """
    unnamed = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unnamed, "wb", opener=None if mode is None else partial(os.open, mode=mode)) as stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        unnamed.replace(path)
    except OSError as error:
        unnamed.unlink(missing_ok=True)
        if error.errno in DISK_IS_FULL:
            raise DiskFullError(f"the disk takes nothing more ({error.strerror}); make room, run again") from error
        raise


def flush_folders(files: Iterable[Path], top: Path) -> None:
    """Bring the names of files to the disk: their folders, innermost first, up to `top`."""
    folders = {folder for path in files for folder in path.parents if folder == top or top in folder.parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_partial(name: str) -> bool:
    """Whether a file is one that was being written: by `write_durably`, or by zarr's LocalStore alike."""
    return _PARTIAL.fullmatch(name) is not None


def read_if_there(path: str | Path) -> bytes | None:
    """Read a file; None where there is no file of that name.

    Not by zarr's store: its event loop takes 0.4 ms a key, of which the end of a run reads ten a series. Making a
    `Path` of each takes a third of reading it.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
