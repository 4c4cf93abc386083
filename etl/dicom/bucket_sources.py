"""Buckets and manifests as units of scanning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from etl.buckets.bucket import Bucket
from etl.buckets.urls import join_url, parse_url
from etl.dicom.zip_archive import starts_as_zip
from etl.errors import UsageError

MANIFEST_SUFFIXES = (".s5cmd", ".csv", ".tsv", ".txt", ".manifest")
_URL = re.compile(r"(?:s3|gs|az)://[^\s,;\"']+")
Unit = tuple[str, str, tuple[str, ...] | None]
"""Container, name and members of an `etl.dicom.sources.Source`."""


def units_below(url: str) -> list[Unit]:
    """Split what a URL names: prefixes and zips directly below it, the objects beside them, or one object.

    Raises
    ------
    UsageError
        There is nothing, or it cannot be listed.
    """
    url = join_url(parse_url(url))
    name = PurePosixPath(parse_url(url).path or parse_url(url).bucket).name
    try:
        groups, objects = Bucket(url).level()
        if not groups and not objects:
            return [_one_object(url)]
        names = [found.name for found in objects if found.name]
        zips = [found for found in names if _is_zip(f"{url}/{found}")]
    except FileNotFoundError as error:
        raise UsageError(f"input {url!r} does not exist") from error
    except OSError as error:
        raise UsageError(f"input cannot be listed: {error}") from error
    loose = tuple(found for found in names if found not in zips)
    units: list[Unit] = [(f"{url}/", name, loose)] if loose else []
    inside: list[Unit] = [
        *((f"{url}/{group}/", group, None) for group in groups),
        *((f"{url}/{found}", PurePosixPath(found).stem, None) for found in zips),
    ]
    return units + sorted(inside)


def units_of_manifest(path: Path) -> list[Unit] | None:
    """Read a manifest: each line that names a URL is one unit.

    Lines are those of s5cmd, ``cp s3://bucket/series/* .``, as the Imaging Data Commons gives them, or rows of a
    table with a URL in each. What ends with a slash or ``*``, or has no suffix, is a prefix.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Unit or None
        None where the file is no manifest: another suffix, or no URL in its first lines.

    Raises
    ------
    UsageError
        A line names no URL, or one with a wildcard that is not its end.
    """
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        return None
    lines = path.read_text("utf-8", errors="replace").splitlines()
    rows = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not any(_URL.search(line) for _, line in rows[:2]):
        return None
    # The first row of a table may name its columns.
    rows = rows if _URL.search(rows[0][1]) else rows[1:]
    return list(dict.fromkeys(_units_of_rows(path, rows)))


def _units_of_rows(path: Path, rows: list[tuple[int, str]]) -> Iterator[Unit]:
    for number, line in rows:
        found = _URL.search(line)
        if found is None:
            raise UsageError(f"manifest {str(path)!r}: line {number} names no s3://, gs:// or az:// URL")
        given = found[0]
        url = join_url(parse_url(given.rstrip("*")))
        name = PurePosixPath(parse_url(url).path or parse_url(url).bucket)
        if "*" in url or (given.endswith("*") and not given.rstrip("*").endswith("/")):
            raise UsageError(
                f"manifest {str(path)!r}: line {number}: {given!r}; allowed is one * after the last slash"
            )
        if given.endswith(("/", "*")) or not name.suffix[1:].isalpha():
            yield f"{url}/", name.name, None
        elif name.suffix.lower() == ".zip":
            yield url, name.stem, None
        else:
            yield f"{url.rpartition('/')[0]}/", name.stem, (name.name,)


def _one_object(url: str) -> Unit:
    folder, _, name = url.rpartition("/")
    Bucket(folder).head(name)
    if _is_zip(url):
        return url, PurePosixPath(name).stem, None
    return f"{folder}/", PurePosixPath(folder).name, (name,)


def _is_zip(url: str) -> bool:
    if not url.lower().endswith(".zip"):
        return False
    folder, _, name = url.rpartition("/")
    bucket = Bucket(folder)
    return starts_as_zip(bucket.get_range(bucket.head(name), 0, 4))
