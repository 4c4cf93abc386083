"""Progress where nobody watches a terminal: a line now and then, and what is left by bytes."""

from __future__ import annotations

import pytest

from etl.workers import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_what_is_left_is_told_by_bytes_where_they_are_known(clock, capsys):
    with progress.metered("series", 3, quiet=False, total_bytes=100_000_000) as meter:
        clock[0] = 10.0
        meter.advance(byte_count=80_000_000)
        clock[0] = 20.0
        meter.advance(byte_count=10_000_000, failed=True)
    assert lines(capsys) == [
        "series: 1/3, 8 MB/s, 2 s left, 0 failed",
        "series: 2/3, 4 MB/s, 2 s left, 1 failed",
    ]


def test_without_bytes_it_is_told_by_pieces(clock, capsys):
    with progress.metered("scan", 4, quiet=False) as meter:
        clock[0] = 10.0
        meter.advance()
    assert lines(capsys) == ["scan: 1/4, -, 30 s left, 0 failed"]


def test_a_line_comes_every_ten_seconds_and_at_the_end(clock, capsys):
    with progress.metered("series", 30, quiet=False) as meter:
        for second in range(1, 31):
            clock[0] = float(second)
            meter.advance()
    assert [line.split()[1] for line in lines(capsys)] == ["10/30,", "20/30,", "30/30,"]


def test_quiet_is_quiet(clock, capsys):
    with progress.metered("series", 1, quiet=True) as meter:
        clock[0] = 100.0
        meter.advance()
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar_with_count_rate_and_failures(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with progress.metered("series", 2, quiet=False, total_bytes=2_000_000) as meter:
        meter.advance(byte_count=1_500_000)
        meter.advance(byte_count=500_000, failed=True)
    printed = capsys.readouterr().err
    assert "2/2" in printed
    assert "MB/s" in printed
    assert "1 failed" in printed
