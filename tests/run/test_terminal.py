"""What `scan`, `run` and `info` say, judged on the phantom cohort and on awkward identifiers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from etl.config import build_config, load_preset
from etl.dicom.sources import find_sources
from etl.entry import Entry
from etl.plan.plan import make_plan
from etl.read.patients import open_store
from etl.run.summaries import scan_summary, store_summary
from etl.run.terminal import MAX_PATIENTS, print_info, print_run, print_scan
from etl.scan.scan import merge_scans, scan_source

ENTRY = Entry("P1", "P1", "1.2.3", 4, "0004-c47f5b18", 30, "written", seconds=0.5, bytes_in=2_000_000)
TOTALS = {
    "scanned": 1,
    "written": 1,
    "unchanged": 0,
    "excluded": 0,
    "failed": 0,
    "ignored_files": 2,
    "store": "/data/s.zarr",
    "report": "/data/s.zarr.runs/x/report.html",
}


@pytest.fixture(scope="module")
def summary(cohort):
    scan = merge_scans(scan_source(source) for source in find_sources([str(cohort.folder)]))
    return scan_summary(scan, make_plan(scan, build_config(load_preset("head-ct"), {})))


def test_the_summary_has_a_row_a_stack(summary, cohort):
    rows = {row["series_instance_uid"]: row for row in summary["series"]}
    assert len(rows) == len(summary["series"]) == len(cohort.series)
    for series in cohort.series:
        row = rows[series.series_instance_uid]
        assert row["slices"] == len(series.slices)
        assert row["size"] == [len(series.slices), 64, 64]
        assert row["outcome"] == ("excluded" if series.kind == "localizer" else "write")
        assert row["convolution_kernel"] == "SOFT"
        if series.kind != "localizer":
            assert row["spacing_mm"][1:] == pytest.approx([250 / 64] * 2)
            assert abs(row["gantry_tilt_deg"]) == pytest.approx(series.gantry_tilt_deg, abs=0.01)


def test_slice_counts_are_those_of_the_volumes_and_the_most_common_is_named(summary, cohort):
    counts = Counter(len(series.slices) for series in cohort.wanted)
    assert summary["slice_counts"] == {str(n): counts[n] for n in sorted(counts)}
    assert counts[summary["most_common_slice_count"]] == max(counts.values())


def test_each_patient_has_one_default(summary):
    defaults = Counter(row["patient_id"] for row in summary["series"] if row["is_default"])
    assert defaults == {"PHANTOM-0001": 1, "PHANTOM-0002": 1, "PHANTOM-0003": 1}


def test_the_summary_is_plain_json(summary):
    assert json.loads(json.dumps(summary)) == summary


def test_a_scan_of_nothing_is_told_too(capsys):
    scan = merge_scans([])
    summary = scan_summary(scan, make_plan(scan, build_config(load_preset("head-ct"), {})))
    assert (summary["series"], summary["slice_counts"], summary["most_common_slice_count"]) == ([], {}, None)
    print_scan(summary)
    assert "0 files" in capsys.readouterr().out


def test_print_scan_shows_every_wanted_series_the_histogram_and_the_most_common_count(summary, capsys):
    print_scan(summary)
    printed = capsys.readouterr().out
    block = ""
    for row in summary["series"]:
        lines = [line for line in printed.splitlines() if row["series_key"] in line]
        assert len(lines) == (row["outcome"] == "write")
        assert all("x".join(map(str, row["size"])) in line for line in lines)
    for patient_id in {row["patient_id"] for row in summary["series"]}:
        block = printed.partition(f"{patient_id}\n")[2].partition("PHANTOM")[0]
        assert "  left out: 1 localizer\n" in block
        assert block.count("write *") == 1
    assert f"most common slice count: {summary['most_common_slice_count']}" in printed
    bars = [line for line in printed.splitlines() if "█" in line]
    assert len(bars) == len(summary["slice_counts"])


def test_all_lists_what_was_left_out_too_and_why(summary, capsys):
    print_scan(summary, show_all=True)
    printed = capsys.readouterr().out
    for row in summary["series"]:
        [line] = [line for line in printed.splitlines() if row["series_key"] in line]
        assert line.split()[0] == row["outcome"]
    flat = " ".join(printed.split())
    assert "localizer: Image Type (0008,0008) names a localizer" in flat
    assert "default series, score" in flat


def test_print_run_shows_reasons_totals_and_places(capsys):
    failed = replace(ENTRY, series_key="0005-d").failed("missing-rescale", "slope absent in 3 of 30 slices")
    print_run([ENTRY, failed], {**TOTALS, "scanned": 2, "failed": 1}, dry_run=False)
    printed = capsys.readouterr().out
    assert "missing-rescale: slope absent in 3 of 30 slices" in printed
    assert "ct-etl explain missing-rescale\n" in printed
    assert "2 series: 1 written, 0 unchanged, 0 excluded, 1 failed" in printed
    assert "/data/s.zarr" in printed
    assert "/data/s.zarr.runs/x/report.html" in printed


def many_mixed(count):
    """Series of many patients: written, unchanged, left out, failed, with warnings and long identifiers."""
    found = []
    for n in range(count):
        entry = replace(
            ENTRY, patient_id=f"P{n // 3:04d}-{'x' * (n % 50)}", series_key=f"{n:04d}-c47f5b18b8a430e6"
        )
        if n % 5 == 0:
            entry = entry.excluded("localizer", "Image Type (0008,0008) names a localizer")
        elif n % 97 == 3:
            entry = entry.failed(
                "missing-slices", "gaps run from 5.000 to 17.500 mm; up to 10.0 mm are filled " * 3
            )
        elif n % 7 == 1:
            entry = replace(entry, warnings=("gantry-tilt", "irregular-spacing", "duplicates-dropped"))
        found.append(entry)
    return found


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_five_hundred_mixed_series_stay_readable(capsys, monkeypatch, columns):
    monkeypatch.setattr("etl.run.terminal._columns", lambda: columns)
    entries = many_mixed(500)
    failed = [entry for entry in entries if entry.outcome == "failed"]
    print_run(entries, {**TOTALS, "scanned": 500, "failed": len(failed), "run_dir": "/d"}, dry_run=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) < 150 * 80 / min(columns, 80)
    printed = " ".join(" ".join(lines).split())
    # What failed is always there, each with its reason; the rest in numbers.
    for entry in failed:
        assert entry.series_key in printed
    assert f"failed: {len(failed)} missing-slices" in printed
    assert "left out: 100 localizer" in printed
    assert "warnings: " in printed
    assert "more patients; --all lists every series" in printed
    assert "ct-etl explain missing-slices" in printed
    assert "/d/ledger.jsonl" in printed
    assert "give the same command again" in printed


def test_all_lists_five_hundred_series(capsys):
    entries = many_mixed(500)
    print_run(entries, TOTALS, dry_run=False, show_all=True)
    printed = capsys.readouterr().out
    assert all(entry.series_key in printed for entry in entries)
    assert "more patients" not in printed


def test_a_run_without_failures_asks_for_nothing(capsys):
    print_run([ENTRY], TOTALS, dry_run=False)
    printed = capsys.readouterr().out
    assert "explain" not in printed
    assert "again" not in printed


def test_few_patients_are_all_shown(capsys):
    entries = [replace(ENTRY, patient_id=f"P{n}", series_key=f"{n:04d}-a") for n in range(MAX_PATIENTS)]
    print_run(entries, TOTALS, dry_run=False)
    printed = capsys.readouterr().out
    assert all(entry.series_key in printed for entry in entries)
    assert "--all" not in printed


def test_print_run_of_a_dry_run_names_no_report(capsys):
    print_run([ENTRY], {**TOTALS, "report": None}, dry_run=True)
    printed = capsys.readouterr().out
    assert "nothing was written" in printed
    assert "report" not in printed


def test_identifiers_are_printed_as_they_are_and_not_as_markup(capsys):
    for patient_id in ("[red]x[/red]", "[/]", "[bold", "a[1]b", "\\[x]"):
        print_run([replace(ENTRY, patient_id=patient_id)], TOTALS, dry_run=False)
        assert patient_id in capsys.readouterr().out


@pytest.mark.parametrize("patient_id", ["\x1b[2Jx", "a\x07b", "two\nlines"])
def test_identifiers_cannot_steer_the_terminal(capsys, patient_id):
    print_run([replace(ENTRY, patient_id=patient_id)], TOTALS, dry_run=False)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\x07" not in printed


def test_a_path_with_brackets_and_of_any_length_is_printed_whole_on_one_line(capsys):
    place = "/data/[site]/" + "long-name/" * 30 + "s.zarr"
    print_run([ENTRY], {**TOTALS, "store": place, "report": place}, dry_run=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(place in line for line in lines) == 2


def test_info_describes_every_volume_and_the_cohort(cohort_run, capsys):
    summary = store_summary(open_store(str(cohort_run.store)))
    assert json.loads(json.dumps(summary)) == summary
    assert len(summary["volumes"]) == 6
    assert Counter(v["patient_id"] for v in summary["volumes"] if v["is_default"]) == {
        "PHANTOM-0001": 1,
        "PHANTOM-0002": 1,
        "PHANTOM-0003": 1,
    }
    for volume in summary["volumes"]:
        assert volume["spacing_mm"] == pytest.approx([6, 6, 6])
    assert summary["fingerprint"] == cohort_run.totals["fingerprint"]
    print_info(summary)
    printed = capsys.readouterr().out
    for volume in summary["volumes"]:
        assert volume["series_key"] in printed
    assert "fingerprint" in printed
