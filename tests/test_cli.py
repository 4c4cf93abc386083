"""The command line as a process: exit status, streams, wrong use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from series import small_series

COMMANDS = ("scan", "run", "info", "verify", "report", "phantom")
QUICK = ("--spacing-mm", "6", "--workers", "0")
HEAVY = ("dask", "distributed", "numcodecs", "pydicom", "rich", "scipy", "torch", "zarr")


@pytest.fixture(scope="module")
def one_series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "dicom"
    small_series(folder)
    return folder


@pytest.fixture(scope="module")
def with_failure(tmp_path_factory):
    """Three series; the middle one has a slice without Rescale Slope."""
    folder = tmp_path_factory.mktemp("failing") / "dicom"

    def without_slope(index, dataset):
        if index == 4:
            del dataset.RescaleSlope

    small_series(folder / "a", patient_id="GOOD-A", seed=1)
    small_series(folder / "b", patient_id="BAD", seed=2, edit=without_slope)
    small_series(folder / "c", patient_id="GOOD-C", seed=3)
    return folder


def one_line_of(done):
    """Hold that a command was refused as wrong use is; give its one line."""
    assert done.status == 2, done.why
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.why
    return lines[0]


@pytest.fixture
def refused(in_process):
    return lambda *arguments: one_line_of(in_process(*arguments))


@pytest.fixture
def refused_by_process(ct_etl):
    return lambda *arguments: one_line_of(ct_etl(*arguments))


def test_a_missing_input_is_refused(refused_by_process, tmp_path):
    for command in (["scan", tmp_path / "nothere"], ["run", tmp_path / "nothere", tmp_path / "s.zarr"]):
        line = refused_by_process(*command)
        assert str(tmp_path / "nothere") in line
        assert "does not exist" in line
    assert list(tmp_path.iterdir()) == []


def test_one_missing_input_among_several_is_refused(refused, one_series, tmp_path):
    line = refused("run", one_series, tmp_path / "nothere", tmp_path / "s.zarr", *QUICK)
    assert "nothere" in line
    assert list(tmp_path.iterdir()) == []


def test_run_with_one_argument_is_refused(refused_by_process, one_series):
    line = refused_by_process("run", one_series)
    assert "STORE" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run"], "STORE"),
        (["scan"], "INPUT"),
        (["frobnicate"], "frobnicate"),
        (["run", "a", "b", "--frobnicate"], "--frobnicate"),
        (["phantom", "d", "--patients", "none"], "none"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_is_one_line(refused, arguments, named):
    assert named in refused(*arguments)


def test_an_unknown_preset_is_refused_and_the_presets_are_named(refused, one_series, tmp_path):
    line = refused("run", one_series, tmp_path / "s.zarr", "--preset", "brain")
    assert "'brain'" in line
    assert "article" in line
    assert "head-ct" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("spacing_mm = 1\nwindow = [200, 100]\n", ("window", "200", "LO")),
        ("spacing_mm = \n", ("recipe.toml", "TOML")),
    ],
)
def test_a_bad_preset_file_is_refused_naming_key_value_and_what_is_allowed(
    refused, one_series, tmp_path, toml, named
):
    preset = tmp_path / "recipe.toml"
    preset.write_text(toml)
    line = refused("run", one_series, tmp_path / "s.zarr", "--preset", preset)
    for word in named:
        assert word in line, line
    assert list(tmp_path.iterdir()) == [preset]


def test_an_unknown_preset_key_is_refused(refused_by_process, one_series, tmp_path):
    preset = tmp_path / "recipe.toml"
    preset.write_text("spacing-mm = 1\nsmoothing = 3\n")
    assert "smoothing" in refused_by_process("run", one_series, tmp_path / "s.zarr", "--preset", preset)
    assert list(tmp_path.iterdir()) == [preset]


def test_a_bad_spacing_stops_before_any_work(refused_by_process, one_series, tmp_path):
    line = refused_by_process("run", one_series, tmp_path / "s.zarr", "--spacing-mm", "1,0,1")
    assert "--spacing-mm 1,0,1" in line
    assert "mm" in line.split("allowed", 1)[1]
    assert list(tmp_path.iterdir()) == []


def test_two_grids_are_refused(refused, one_series, tmp_path):
    line = refused("run", one_series, tmp_path / "s.zarr", "--spacing-mm", "1", "--zoom", "1,.5,.5")
    assert "--spacing-mm" in line
    assert "--zoom" in line


def test_a_store_of_another_configuration_is_refused_naming_the_keys(refused_by_process, cohort_run, stamps):
    before = stamps(cohort_run.store)
    line = refused_by_process(
        "run", cohort_run.cohort.folder, cohort_run.store, *QUICK, "--window", "-100,300", "--center", "0"
    )
    for word in ("window", "center", "-1000", "300", "--overwrite"):
        assert word in line, line
    assert "spacing_mm" not in line
    assert "precision_bits" not in line
    assert stamps(cohort_run.store) == before


def test_a_file_where_a_store_should_be_is_refused(refused_by_process, one_series, tmp_path):
    path = tmp_path / "store.zarr"
    path.write_text("a letter")
    for options in ([], ["--overwrite"]):
        line = refused_by_process("run", one_series, path, *QUICK, *options)
        assert "store.zarr" in line
        assert "file" in line
    assert path.read_text() == "a letter"


def test_a_folder_of_something_else_is_refused_even_with_overwrite(refused, one_series, tmp_path, contents):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was a dark and stormy night")
    before = contents(tmp_path)
    for options in ([], ["--overwrite"]):
        line = refused("run", one_series, tmp_path / "thesis", *QUICK, *options)
        assert "thesis" in line
    assert contents(tmp_path) == before


def test_a_zarr_hierarchy_of_something_else_is_refused_even_with_overwrite(
    refused, one_series, tmp_path, contents
):
    import zarr

    zarr.create_group(tmp_path / "theirs.zarr", attributes={"of": "someone else"})
    before = contents(tmp_path)
    for options in ([], ["--overwrite"]):
        line = refused("run", one_series, tmp_path / "theirs.zarr", *QUICK, *options)
        assert "ct-etl did not write" in line
    assert contents(tmp_path) == before


def test_an_input_is_never_taken_for_a_store(refused, one_series, tmp_path, contents):
    before = contents(one_series)
    refused("run", one_series, one_series, *QUICK, "--overwrite")
    assert contents(one_series) == before


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "smoke-signals://hill:7"])
def test_an_address_that_is_none_is_refused_at_once(refused_by_process, one_series, tmp_path, address):
    start = time.monotonic()
    line = refused_by_process("run", one_series, tmp_path / "s.zarr", "--scheduler", address)
    assert address in line
    assert time.monotonic() - start < 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "what"), [("info", "missing"), ("report", "missing"), ("info", "file"), ("report", "folder")]
)
def test_a_path_without_a_store_is_told_in_one_line(in_process, tmp_path, command, what):
    path = tmp_path / "store.zarr"
    if what == "file":
        path.write_text("a letter")
    elif what == "folder":
        path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = in_process(command, path)
    assert done.status in (1, 2), done.why
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.why
    assert "store.zarr" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(in_process, command):
    done = in_process(command, "--help")
    assert done.status == 0, done.why
    assert f"ct-etl {command}" in done.stdout
    assert done.stderr == ""


def test_the_help_lists_every_command_and_loads_no_heavy_library():
    command = [sys.executable, "-X", "importtime", "-m", "etl", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for name in COMMANDS:
        assert f"  {name}" in done.stdout
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_run_help_names_every_option_of_the_configuration(in_process):
    from dataclasses import fields

    from etl.config import Config

    done = in_process("run", "--help")
    for option in fields(Config):
        assert f"--{option.name.replace('_', '-')}" in done.stdout


def test_importing_the_package_loads_no_heavy_library():
    program = f"import sys, etl; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


def test_import_and_help_are_quick():
    def best_of_five(*arguments):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, timeout=60, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best_of_five("-c", "import etl") < 0.3
    assert best_of_five("-m", "etl", "--help") < 0.5


def test_version_is_the_distributions(in_process):
    from importlib.metadata import version

    done = in_process("--version")
    own, *others = (line.split() for line in done.stdout.splitlines())
    assert own == ["ct-etl", version("ct-etl")]
    # What decides the bytes of a volume is named with it.
    assert ["numpy", version("numpy")] in others
    assert ["pylibjpeg-openjpeg", version("pylibjpeg-openjpeg")] in others


def test_json_is_one_object_whose_totals_add_up(ct_etl, with_failure, tmp_path):
    done = ct_etl("run", with_failure, tmp_path / "s.zarr", *QUICK, "--json")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    assert found["scanned"] == found["written"] + found["unchanged"] + found["excluded"] + found["failed"]
    assert (found["scanned"], found["written"], found["failed"]) == (3, 2, 1)
    assert len(found["series"]) == found["scanned"]


def test_a_failing_series_gives_exit_3_and_its_neighbors_are_written(ct_etl, with_failure, tmp_path):
    store = tmp_path / "s.zarr"
    done = ct_etl("run", with_failure, store, *QUICK)
    assert done.status == 3, done.why
    assert "missing-rescale" in done.stdout
    assert "BAD" in done.stdout
    assert sorted(p.name for p in store.iterdir() if p.is_dir()) == ["GOOD-A", "GOOD-C"]


def test_a_failing_series_fails_again_until_the_input_is_mended(in_process, with_failure, tmp_path):
    copy, store = tmp_path / "dicom", tmp_path / "s.zarr"
    shutil.copytree(with_failure, copy)
    assert in_process("run", copy, store, *QUICK, "-q").status == 3
    again = in_process("run", copy, store, *QUICK, "--json")
    assert again.status == 3
    assert (again.json["unchanged"], again.json["failed"]) == (2, 1)
    small_series(copy / "b", patient_id="BAD", seed=2)
    mended = in_process("run", copy, store, *QUICK, "--json")
    assert mended.status == 0, mended.why
    assert (mended.json["unchanged"], mended.json["written"]) == (2, 1)


def test_excluded_series_are_no_failure(in_process, one_series, tmp_path):
    done = in_process("run", one_series, tmp_path / "s.zarr", *QUICK, "--min-slices", "100")
    assert done.status == 0, done.why
    assert "too-few-slices" in done.stdout


def test_dry_run_shows_what_would_be_done_and_writes_nothing(in_process, with_failure, tmp_path, stamps):
    before = stamps(with_failure)
    done = in_process(
        "run", with_failure, tmp_path / "s.zarr", "--dry-run", "--run-dir", tmp_path / "r", "--json", *QUICK
    )
    assert done.status == 3, done.why
    assert (done.json["scanned"], done.json["written"], done.json["failed"]) == (3, 2, 1)
    assert list(tmp_path.iterdir()) == []
    assert stamps(with_failure) == before


def test_dry_run_leaves_a_store_as_it_is(in_process, cohort_run, stamps):
    folder = cohort_run.store.parent
    before = stamps(folder)
    for options in ([], ["--overwrite", "--window", "0,100"]):
        done = in_process("run", cohort_run.cohort.folder, cohort_run.store, "--dry-run", *QUICK, *options)
        assert done.status == 0, done.why
    assert stamps(folder) == before


def test_dry_run_tells_what_is_already_there(in_process, cohort_run):
    done = in_process("run", cohort_run.cohort.folder, cohort_run.store, "--dry-run", "--json", *QUICK)
    assert (done.json["unchanged"], done.json["written"]) == (len(cohort_run.cohort.wanted), 0)


def test_quiet_leaves_stderr_empty(ct_etl, one_series, tmp_path):
    done = ct_etl("run", one_series, tmp_path / "s.zarr", "-q", *QUICK)
    assert done.status == 0, done.why
    assert done.stderr == ""
    assert "1 written" in done.stdout


def test_progress_goes_to_stderr_as_plain_lines(cohort_run):
    lines = cohort_run.stderr.splitlines()
    wanted = len(cohort_run.cohort.wanted)
    assert any(f"{wanted}/{wanted}" in line for line in lines)
    assert "\x1b" not in cohort_run.stderr
    assert "\r" not in cohort_run.stderr
    assert "Traceback" not in cohort_run.stderr
    assert "Warning" not in cohort_run.stderr


def test_run_prints_where_store_and_report_are(in_process, one_series, tmp_path):
    store = tmp_path / "a long folder name" / ("x" * 150) / "s.zarr"
    done = in_process("run", one_series, store, *QUICK)
    assert done.status == 0, done.why
    places = dict(
        line.split(":", 1) for line in done.stdout.splitlines() if line.startswith(("store:", "report:"))
    )
    assert places["store"].strip() == str(store)
    assert Path(places["report"].strip()).read_text("utf-8").startswith("<!")


def test_phantom_writes_a_cohort_that_scan_finds(in_process, tmp_path):
    done = in_process("phantom", tmp_path / "dicom", "--patients", "1", "--seed", "3")
    assert done.status == 0, done.why
    found = in_process("scan", tmp_path / "dicom", "--json").json
    assert {row["patient_id"] for row in found["series"]} == {"PHANTOM-0001"}
    assert sorted(row["outcome"] for row in found["series"]) == ["excluded", "write", "write"]


def test_phantom_keeps_away_from_folders_that_hold_something(refused, tmp_path, contents):
    (tmp_path / "thesis.tex").write_text("unsaved work")
    refused("phantom", tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"unsaved work"}


def test_info_lists_every_volume(in_process, cohort_run):
    text = in_process("info", cohort_run.store)
    assert text.status == 0, text.why
    found = in_process("info", cohort_run.store, "--json").json
    listed = {(volume["patient_id"], volume["series_key"]) for volume in found["volumes"]}
    assert listed == {
        (e["patient_id"], e["series_key"]) for e in cohort_run.totals["series"] if e["outcome"] == "written"
    }
    for patient, series in listed:
        assert patient in text.stdout
        assert series in text.stdout


def test_report_is_written_again_beside_the_newest_run(in_process, cohort_run, tmp_path):
    store = tmp_path / "store.zarr"
    shutil.copytree(cohort_run.store, store)
    runs = tmp_path / "store.zarr.runs"
    shutil.copytree(cohort_run.store.parent / "store.zarr.runs", runs)
    [run] = runs.iterdir()
    (run / "report.html").unlink()
    done = in_process("report", store)
    assert done.status == 0, done.why
    assert Path(done.stdout.strip()) == run / "report.html"
    assert "PHANTOM-0003" in (run / "report.html").read_text("utf-8")
