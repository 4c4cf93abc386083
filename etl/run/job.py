"""What a run is asked to do, looked at before any work; and its scan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from etl.buckets.urls import local_stand_in
from etl.config import Config
from etl.dicom.sources import find_sources, resolve_input
from etl.labels.survey import Source, find_masks
from etl.run.planning import RunPlan, plan_run
from etl.run.rerun import input_digest
from etl.run.run_dir import check_run_dir, new_run_dir
from etl.run.spool import Spool
from etl.run.spooled_scan import SpooledScan, scan_into
from etl.scan.deidentify import Pseudonyms, check_mapping, deidentify_scan, read_key
from etl.scan.scan import Limits
from etl.store.keys import Keys, open_keys, resolve_store
from etl.store.root import check_root
from etl.workers.fitness import Needs, witnesses
from etl.workers.pool import Pool, open_pool
from etl.workers.progress import say


@dataclass(frozen=True, eq=False)
class Job:
    """A run whose inputs, store and options have been looked at; nothing is written yet."""

    inputs: tuple[str, ...]
    keys: Keys
    config: Config
    pseudonyms: Pseudonyms | None
    recipe: Mapping[str, Any]
    store_exists: bool
    input_digest: str | None
    run_dir: Path
    masks: tuple[Source, ...]
    start: float


def look_before(inputs: Sequence[str], store_path: str, config: Config) -> Job:
    """Check everything that can be checked before any work; nothing is written.

    Raises
    ------
    UsageError
        The inputs, the store or the options cannot be used as given.
    """
    start = time.monotonic()
    # Workers have working folders of their own.
    inputs, store_path = (
        [resolve_input(given) for given in inputs],
        resolve_store(store_path),
    )
    pseudonyms = Pseudonyms(read_key(config.deidentify)) if config.deidentify else None
    recipe = config.recipe(key_digest=pseudonyms.key_digest if pseudonyms else None)
    keys = open_keys(store_path)
    store_exists = check_root(keys, recipe, overwrite=config.overwrite) is not None
    sources = find_sources(inputs)
    state = None if pseudonyms else input_digest(sources, config)
    run_dir = new_run_dir(store_path, config)
    check_run_dir(run_dir, local_stand_in(store_path))
    if config.deidentify_map is not None:
        check_mapping(Path(config.deidentify_map), local_stand_in(store_path))
    masks = find_masks(config.labels).sources
    return Job(tuple(inputs), keys, config, pseudonyms, recipe, store_exists, state, run_dir, masks, start)


@contextmanager
def pool_of(job: Job) -> Iterator[Pool]:
    """Open the workers of a job: see `etl.workers.pool.open_pool`."""
    config = job.config
    needs = Needs(witnesses(job.inputs), None if config.dry_run else job.keys.path)
    with open_pool(
        config.workers, config.scheduler, needs=needs, wait_s=config.wait_workers, quiet=config.quiet
    ) as pool:
        yield pool


def scan_job(job: Job, pool: Pool, spool: Spool) -> SpooledScan:
    """Scan the inputs of a job into a spool."""
    config = job.config
    limits = Limits(file_bytes=config.max_file_mb << 20, header_limit_s=config.time_limit_s)
    scan = scan_into(spool, job.inputs, pool, limits=limits, quiet=config.quiet)
    if job.pseudonyms is not None:
        # The names of stacks are replaced when they are planned.
        scan = replace(scan, rest=deidentify_scan(scan.rest, job.pseudonyms))
    if not scan.parts and not scan.rest.unreadable:
        say(f"no DICOM found among {scan.rest.files} files of the input", quiet=config.quiet)
    return scan


def plan_job(job: Job, scan: SpooledScan, pool: Pool, spool: Spool) -> RunPlan:
    """Plan what a job is to do with what was scanned."""
    key_digest = job.recipe["deidentify"]
    return plan_run(scan, job.config, pool, spool, key_digest=key_digest, pseudonyms=job.pseudonyms)
