"""What goes to the workers: bounded messages, bounded memory, and every item once."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections import Counter

import pytest
from distributed import Client

import etl.workers.calls
import etl.workers.local_cluster
from etl.config import build_config, load_preset
from etl.dicom.sources import find_sources
from etl.entry import Entry
from etl.phantom.cohort import write_benchmark
from etl.plan.plan import make_plan
from etl.process.series import Receipt
from etl.run.run import run
from etl.run.spool import Spool
from etl.run.tickets import Ticket, planned
from etl.scan.packed_scan import scan_packed
from etl.scan.scan import scan_source
from etl.workers.pool import SerialPool, open_pool

MAX_MESSAGE = 64 << 10
# Together two are more than the memory that the tests let there be.
LARGE = {"share": lambda _: 1.0, "memory_bytes": lambda _: 500}


def double(item, offset):
    return 2 * item + offset


def start_and_end(_):
    start = time.monotonic()
    time.sleep(0.2)
    return start, time.monotonic()


@pytest.fixture(scope="module")
def pool():
    with open_pool(2, None) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 7, 700])
def test_every_item_is_called_once_whether_alone_or_with_others(pool, count):
    found = list(pool.map(double, range(count), 1, share=lambda _: 1 / 16, memory_bytes=lambda _: 0))
    assert sorted(found) == [(item, 2 * item + 1) for item in range(count)]


@pytest.mark.slow
def test_items_that_would_not_fit_into_memory_together_do_not_run_together(pool, monkeypatch):
    monkeypatch.setattr(etl.workers.calls, "MEMORY_LIMIT", 1000)
    spans = [span for _, span in pool.map(start_and_end, range(4), **LARGE)]
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.slow
def test_an_item_that_needs_more_than_there_is_runs_alone_all_the_same(pool, monkeypatch):
    monkeypatch.setattr(etl.workers.calls, "MEMORY_LIMIT", 10)
    assert sorted(pool.map(double, range(3), 0, **LARGE)) == [(0, 0), (1, 2), (2, 4)]


def environment(_):
    return dict(os.environ)


@pytest.mark.slow
def test_workers_have_one_blas_thread_and_an_allocator_that_may_learn(pool):
    # Dask's trim threshold, wherever it is set, tripled the time that workers spend in the kernel.
    [(_, found)] = pool.map(environment, [None], share=lambda _: 1.0, memory_bytes=lambda _: 0)
    assert {found[name] for name in etl.workers.local_cluster.BLAS_THREADS} == {"1"}
    assert "MALLOC_TRIM_THRESHOLD_" not in found


def test_a_run_says_what_memory_each_series_needs(tmp_path, monkeypatch):
    write_benchmark(tmp_path / "dicom", 3, 16, rows=32)
    needs, whole = [], SerialPool.map

    def recorded(pool, function, items, *shared, memory_bytes, **options):
        needs.extend(memory_bytes(item) for item in items if isinstance(item, Ticket))
        return whole(pool, function, items, *shared, memory_bytes=memory_bytes, **options)

    monkeypatch.setattr(SerialPool, "map", recorded)
    config = build_config(load_preset("head-ct"), {"workers": 0, "quiet": True})
    assert not run([str(tmp_path / "dicom")], str(tmp_path / "store.zarr"), config).has_failures
    # A volume of float32 at the least.
    assert len(needs) == 3
    assert min(needs) > 32 * 32 * 16 * 4


@pytest.mark.slow
@pytest.mark.parametrize(("count", "share", "most"), [(700, 0.3, 3), (700, 0.001, 700), (3, 5.0, 1)])
def test_messages_hold_everything_in_order_and_keep_their_bound(pool, monkeypatch, count, share, most):
    sent, whole = [], Client.submit

    def recorded(client, call, function, batch, *shared, **options):
        sent.append(batch)
        return whole(client, call, function, batch, *shared, **options)

    monkeypatch.setattr(Client, "submit", recorded)
    assert len(list(pool.map(double, range(count), 1, share=lambda _: share, memory_bytes=lambda _: 0))) == count
    assert [item for batch in sent for item in batch] == list(range(count))
    assert max(map(len, sent)) <= most
    # Many items go together, and leave enough messages for both workers.
    assert count < 100 or 20 <= len(sent) < count


def test_a_task_of_256_slices_and_its_answer_are_small_messages(tmp_path):
    write_benchmark(tmp_path, 1, 256, rows=32)
    [source] = find_sources([str(tmp_path)])
    [task] = make_plan(scan_source(source), build_config(load_preset("head-ct"), {})).tasks
    assert task.entry.slices == 256
    sent = planned(task)
    with Spool(tmp_path) as spool:
        again = pickle.loads(pickle.dumps(sent.kept(spool).load(spool))).unpacked()
    assert Counter(again.stack.slices.locations) == Counter(task.stack.slices.locations)
    assert (again.stack.slices.position_lps_mm == task.stack.slices.position_lps_mm).all()
    sizes = [len(pickle.dumps(message)) for message in (sent, Receipt(task.entry), scan_packed(source))]
    assert max(sizes) < MAX_MESSAGE / 2, sizes
    assert isinstance(task.entry, Entry)
