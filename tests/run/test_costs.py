"""What the work costs, counted and not timed: opens, parses, bytes read, bytes held."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

import etl.run.input_files
import etl.scan.scan
from etl.config import build_config, load_preset
from etl.dicom.fast_header import FastHeaderReader
from etl.dicom.sources import find_sources
from etl.phantom.cohort import write_benchmark
from etl.plan.plan import make_plan
from etl.process.read_hu import convert_task
from etl.scan.scan import scan_source

SLICES, SERIES = 40, 2
QUICK = ("--spacing-mm", "8", "--workers", "0", "-q")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs") / "dicom"
    write_benchmark(folder, SERIES, SLICES, rows=256)
    return folder


@contextmanager
def opened_files(below):
    """Count how often each file below a folder is opened; an audit hook stays, and is switched off."""
    counts, on = Counter(), [True]

    def hook(event, arguments):
        if on and event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(str(below)):
            counts[arguments[0]] += 1

    sys.addaudithook(hook)
    try:
        yield counts
    finally:
        on.clear()


def test_a_file_is_opened_once_for_its_header_and_once_for_its_pixels(in_process, folder, tmp_path, monkeypatch):
    parsed = Counter()
    read = FastHeaderReader.read

    def counted(reader, stream):
        parsed[stream.name] += 1
        return read(reader, stream)

    def slow(*_, **__):
        raise AssertionError("an ordinary file needs no second parser")

    monkeypatch.setattr(FastHeaderReader, "read", counted)
    monkeypatch.setattr(etl.scan.scan, "dcmread", slow)
    with opened_files(folder) as opened:
        assert in_process("run", folder, tmp_path / "s.zarr", *QUICK).status == 0
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    assert len(files) == SERIES * SLICES
    assert parsed == dict.fromkeys(files, 1)
    assert {opened[name] for name in files} == {2}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel's count of bytes read is Linux's")
def test_no_more_is_read_than_the_files_and_their_headers_once_more(in_process, folder, tmp_path):
    def bytes_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    warm = tmp_path / "warm"
    write_benchmark(warm, 1, 10, rows=16)
    in_process("run", warm, tmp_path / "w.zarr", *QUICK)
    before = bytes_read()
    assert in_process("run", folder, tmp_path / "s.zarr", *QUICK).status == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    # A buffer of 8 kB for a header, another where the pixels begin within it.
    assert bytes_read() - before < sum(path.stat().st_size for path in files) + 20_000 * len(files) + 2_000_000


@pytest.mark.parametrize("preset", ["head-ct", "article"])
def test_the_full_size_stack_is_never_in_memory(folder, preset):
    [source, *_] = find_sources([str(folder)])
    config = build_config(load_preset(preset), {})
    [task] = make_plan(scan_source(source), config).tasks
    convert_task(task, config)  # imports and caches
    tracemalloc.start()
    try:
        converted, *_ = convert_task(task, config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one_slice = 256 * 256
    scratch = 40 * one_slice + (1 << 20)
    assert peak < 1.5 * converted.volume.nbytes + scratch
    assert peak < task.memory_bytes


def test_a_second_run_opens_no_input(in_process, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(etl.run.input_files, "SETTLED_S", 0.0)
    assert in_process("run", folder, tmp_path / "s.zarr", *QUICK).status == 0
    with opened_files(folder) as opened:
        assert in_process("run", folder, tmp_path / "s.zarr", *QUICK).status == 0
    assert not {name for name in opened if os.path.isfile(name)}
