"""A run over work that is finished: nothing is parsed, nothing is written into the store.

Parsing headers again to find that nothing has changed takes as long as parsing them the first time. The record of
the last run says what the input looked like, file by file, and what the store's root was when the run ended; where
both are still so, what it found is what would be found again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from etl.buckets.urls import is_bucket_url, local_stand_in
from etl.config import Config
from etl.dicom.containers import open_container
from etl.dicom.sources import Source, find_sources
from etl.digests import json_digest
from etl.entry import Entry
from etl.errors import StoreError
from etl.run import input_files
from etl.run.finish import RunResult, finish_unchanged
from etl.run.ledger import read_lines, read_totals
from etl.run.run_dir import check_run_dir, new_run_dir, newest_run
from etl.software import software_versions
from etl.stack import FileState
from etl.store.keys import Keys, open_keys, resolve_store
from etl.store.layout import METADATA
from etl.store.lock import store_lock
from etl.store.publish import is_whole, published
from etl.store.root import check_root, root_digest
from etl.workers.progress import say

LISTS_AT_ONCE = 32


def run_again(inputs: Iterable[str], store_path: str, config: Config) -> RunResult | None:
    """Give the result of a run that has nothing to do; None where there may be something.

    Parameters
    ----------
    inputs : iterable of str
        Folders, zips, single files.
    store_path : str
    config : Config

    Raises
    ------
    UsageError
        As `etl.run.run.run`.
    """
    if config.overwrite or config.dry_run or config.deidentify:
        return None
    start = time.monotonic()
    keys = open_keys(resolve_store(store_path))
    if check_root(keys, config.recipe(), overwrite=False) is None:
        return None
    sources = find_sources(map(os.path.expanduser, inputs))
    check_run_dir(new_run_dir(keys.path, config), local_stand_in(keys.path))
    run_dir = newest_run(local_stand_in(keys.path)) if config.run_dir is None else Path(config.run_dir)
    state = input_digest(sources, config)
    with store_lock(keys.path, partial(say, quiet=config.quiet)):
        found = _finished_work(run_dir, state, keys)
        return None if found is None else finish_unchanged(*found, keys, config, start)


def input_digest(sources: Iterable[Source], config: Config) -> str | None:
    """Give a digest of what every file of the input looks like from outside, and of how it is looked at.

    Names, sizes, inode numbers and times of change (of content and of status, which nobody can set back); options
    and software too, because others may see other series in the same files.

    Returns
    -------
    str or None
        None where it would prove nothing: a file is too new, or a folder cannot be listed.
    """
    decisive = {"software": software_versions(), "options": config.result_options()}
    digest = hashlib.sha256(json_digest(decisive).encode())
    newest_ns = time.time_ns() - int(input_files.SETTLED_S * 1e9)
    problems: list[tuple[str, str]] = []
    try:
        for source, states in _states_of(sources, problems):
            digest.update(_bytes(source.container))
            # An object is replaced in one step, and then has another ETag: no tick of a clock hides it.
            may_be_new = not is_bucket_url(source.container)
            for name, state in states:
                if may_be_new and max(state.modified_ns, state.changed_ns) > newest_ns:
                    return None
                digest.update(b"\0%s\0%d %d %d %d" % (_bytes(name), *state))
    except OSError:
        return None
    return None if problems else digest.hexdigest()


def _states_of(
    sources: Iterable[Source], problems: list[tuple[str, str]]
) -> Iterator[tuple[Source, Iterable[tuple[str, FileState]]]]:
    """Look at the files of each source; buckets are asked for many lists at once, each of which takes long."""

    def states(source: Source) -> Iterator[tuple[str, FileState]]:
        container = open_container(source.container)
        return container.states(source.list_members(container, problems))

    listed = list(sources)
    if not any(is_bucket_url(source.container) for source in listed):
        yield from ((source, states(source)) for source in listed)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - it loads `logging`

    with ThreadPoolExecutor(LISTS_AT_ONCE) as threads:
        yield from zip(listed, threads.map(lambda source: list(states(source)), listed), strict=True)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _finished_work(run_dir: Path, state: str | None, keys: Keys) -> tuple[list[Entry], Mapping[str, Any]] | None:
    try:
        totals = read_totals(run_dir)
        if state is None or totals is None or totals.get("input_digest") != state:
            return None
        if totals.get("failed") or totals.get("pending") or totals.get("damaged") or totals.get("interrupted"):
            return None
        if totals.get("store_digest") != root_digest(keys):
            return None
        entries = [_unchanged(line) for line in read_lines(run_dir)]
    except (OSError, ValueError):
        return None
    there = {entry.node for entry in entries if entry.outcome == "unchanged"}
    # Those of earlier inputs too: what is damaged is told by every run.
    return (entries, totals) if all(_is_there(node, keys) for node in there | _nodes(keys)) else None


def _unchanged(line: Mapping[str, Any]) -> Entry:
    entry = Entry.from_json(line)
    return replace(entry, outcome="unchanged", seconds=0.0, bytes_out=0) if entry.outcome == "written" else entry


def _nodes(keys: Keys) -> set[str]:
    """List what has metadata at the place of a series."""
    places = (f"{patient}/{series}" for patient in keys.groups("") for series in keys.groups(patient))
    return {node for node in places if keys.size(f"{node}/{METADATA}") is not None}


def _is_there(node: str, keys: Keys) -> bool:
    try:
        attributes = published(keys, node)
        return attributes is not None and is_whole(keys, node, attributes)
    except (StoreError, OSError, ValueError):
        return False
