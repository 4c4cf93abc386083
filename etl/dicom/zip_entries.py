"""Names for the entries of a zip, each of which is a file of its own."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable


def entries_by_name(entries: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Name every entry of a zip's directory: archives that were flattened hold a name more than once.

    The first has its own name, the next ``name#2``, ``name#3`` …, or the next number that no other has.
    """
    # `ZipInfo.is_dir` of Python 3.11 fails on an empty name.
    files = [entry for entry in entries if entry.filename and entry.filename[-1] != "/"]
    taken = {entry.filename for entry in files}
    named: dict[str, zipfile.ZipInfo] = {}
    last: dict[str, int] = {}
    for entry in files:
        name = entry.filename
        while name in named or (name != entry.filename and name in taken):
            last[entry.filename] = last.get(entry.filename, 1) + 1
            name = f"{entry.filename}#{last[entry.filename]}"
        named[name] = entry
    return named
