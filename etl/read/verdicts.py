"""What people decided about the volumes of a store: keep, reject, look again, each with a note.

They lie beside the store, in ``<store>.verdicts.csv``: a store itself never holds opinions. Each line is one
decision; of several about a volume the last counts, and one without a verdict takes it back. So a decision is
appended, never rewritten, and a writer that is killed leaves at most one line without its end.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etl.codes import VerdictCode
from etl.errors import StoreError

COLUMNS = ("node", "verdict", "note")
UNJUDGED = "none"
"""Stands for the verdict of a volume that nobody has judged, where volumes are chosen."""
VERDICTS = {str(code): code for code in VerdictCode}


@dataclass(frozen=True)
class Verdict:
    """What was decided about one volume."""

    verdict: VerdictCode
    note: str = ""


def verdicts_path(store_path: str) -> Path | None:
    """Give the file in which the verdicts of a store lie; None for a URL, beside which nothing is kept."""
    if "://" in store_path:
        return None
    store = Path(os.path.realpath(os.path.expanduser(store_path)))
    return store.with_name(f"{store.name}.verdicts.csv")


def read_verdicts(store_path: str, file: str | os.PathLike[str] | None = None) -> Mapping[str, Verdict]:
    """Read the verdicts of a store.

    Parameters
    ----------
    store_path : str
        Folder or URL.
    file : path, optional
        Where they lie, if not beside the store.

    Returns
    -------
    mapping of str to Verdict
        By node, ``<patient key>/<series key>``; nothing for a volume that nobody has judged. Empty where there is
        no file.

    Raises
    ------
    StoreError
        The file is none of verdicts, or holds a verdict that is not known.
    """
    path = verdicts_path(store_path) if file is None else Path(file)
    try:
        content = b"" if path is None else path.read_bytes()
    except FileNotFoundError:
        content = b""
    return parse_verdicts(content, str(path))


def parse_verdicts(content: bytes, name: str) -> dict[str, Verdict]:
    """Read the content of a file of verdicts.

    Parameters
    ----------
    content : bytes
        UTF-8; what follows the last line break was being written when its writer was killed, and is left out.
    name : str
        Of the file, for the error.

    Raises
    ------
    StoreError
        As `read_verdicts`.
    """
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        return {}
    try:
        # A spreadsheet may have put a mark of byte order in front.
        rows = csv.DictReader(io.StringIO(whole.decode("utf-8-sig"), newline=""))
        lines = list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{name}: not a file of verdicts ({error})") from error
    if not {"node", "verdict"} <= set(rows.fieldnames or ()):
        raise StoreError(f"{name}: columns {', '.join(rows.fieldnames or ())}; {', '.join(COLUMNS)} are needed")
    found: dict[str, Verdict] = {}
    for line in lines:
        node, said = line["node"], line["verdict"] or ""
        if not said:
            found.pop(node, None)
            continue
        try:
            found[node] = Verdict(VERDICTS[said], line.get("note") or "")
        except KeyError as error:
            raise StoreError(
                f"{name}: {node} has the verdict {said!r}; allowed is {', '.join(VerdictCode)}, or nothing"
            ) from error
    return found
