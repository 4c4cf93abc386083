"""The command line ``ct-etl``: parse, call, print, exit.

Exit status: 0 everything wanted is in the store; 3 finished, but some series failed; 2 usage or configuration;
1 the run itself broke; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP. Results go to stdout, progress and errors to stderr;
a closed stdout or stderr changes neither what is written nor the status.

Heavy libraries are imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from etl import __version__
from etl.command_group import Commands, output, status_of
from etl.config import OPTIONS, build_config, flag_of, load_preset
from etl.errors import UsageError

EXIT_FAILED_SERIES = 3
INPUTS = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ct-etl")
def main() -> None:
    """Turn folders and zips of CT DICOM into one Zarr store keyed by patient ID."""
    # Identifiers come from files; a terminal that cannot show one must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Processes are the parallelism; BLAS reads these once, when numpy is first imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@main.command()
@INPUTS
@JSON_OPTION
def scan(inputs: tuple[str, ...], as_json: bool) -> None:
    """Show the series that INPUT holds and what `run` would do with each (headers only)."""
    from etl.plan.plan import make_plan
    from etl.run.tables import print_scan, scan_summary
    from etl.scan.inputs import scan_inputs
    from etl.scan.scan import Limits
    from etl.workers.pool import open_pool

    config = build_config(load_preset("head-ct"), {"workers": 0})
    with open_pool(config.workers, None) as pool:
        found = scan_inputs(list(map(os.path.expanduser, inputs)), pool, limits=Limits(), quiet=as_json)
    summary = scan_summary(found, make_plan(found, config))
    _emit(summary) if as_json else print_scan(summary)


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `Config`."""
    # click lists them in the reverse order of their decorators.
    for name, option in reversed(OPTIONS.items()):
        forms = [flag_of(name), *([f"-{option.short}"] if option.short else [])]
        kind: dict[str, Any] = {"is_flag": True, "default": None}
        if option.metavar:
            kind = {"metavar": option.metavar, "multiple": option.is_repeated}
        command = click.option(*forms, help=option.help, **kind)(command)
    return command


@main.command(context_settings={"show_default": False})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT... STORE")
@click.option("--preset", metavar="NAME|FILE.toml", default="head-ct", help="Preset or TOML file.  [head-ct]")
@_config_options
def run(inputs: tuple[str, ...], preset: str, **options: Any) -> None:
    """Bring every CT volume of INPUT into STORE."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    config = build_config(load_preset(preset), given)
    if len(inputs) < 2:
        raise UsageError("run needs at least one INPUT and the STORE")

    from etl.run.rerun import run_again

    *sources, store = inputs
    # Masks that changed are seen by looking at them.
    result = None if config.labels else run_again(sources, store, config)
    if result is None:
        from etl.run.run import run as run_pipeline

        result = run_pipeline(sources, store, config)
    from etl.run.tables import print_labels, print_run

    with output():
        if config.json:
            labels = {"masks": [entry.to_json() for entry in result.labels]} if config.labels else {}
            _emit({**result.totals, "series": [entry.to_json() for entry in result.entries], **labels})
        else:
            print_run(result.entries, result.totals, dry_run=config.dry_run)
            if result.labels:
                print_labels(result.labels, Path(result.totals["run_dir"], "labels.jsonl"))
    if result.interrupted:
        sys.exit(status_of(result.stopped))
    sys.exit(EXIT_FAILED_SERIES if result.has_failures else 0)


@main.command()
@click.argument("store")
@JSON_OPTION
@click.option("--csv", "as_csv", is_flag=True, help="Print a table of all volumes, with their labels.")
def info(store: str, as_json: bool, as_csv: bool) -> None:
    """Show what is in STORE."""
    from etl.read.patients import open_store
    from etl.run.tables import csv_of, print_info, store_summary

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if as_csv:
        click.echo(csv_of(open_store(os.path.expanduser(store))), nl=False)
        return
    summary = store_summary(open_store(os.path.expanduser(store)))
    _emit(summary) if as_json else print_info(summary)


@main.command()
@click.argument("store")
@click.argument("out")
@click.option("--format", "form", type=click.Choice(["nifti", "nnunet", "nrrd"]), required=True)
@click.option("--hu/--normalized", default=True, help="Hounsfield units, or values as stored.  [--hu]")
@click.option("--labels", multiple=True, metavar="NAME", help="Label that is wanted too; may be given again.")
@click.option("--patients", multiple=True, metavar="ID", help="Only this Patient ID; may be given again.")
@click.option("--series", type=click.Choice(["default", "all"]), default="default", show_default=True)
@click.option("--workers", metavar="N|auto", default="auto", help="Local processes; 0: this one.  [auto]")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@JSON_OPTION
def export(store: str, out: str, workers: str, as_json: bool, **options: Any) -> None:
    """Write the volumes of STORE as files into the folder OUT; what is there already stays."""
    from etl.export.export import export as export_store

    count = build_config(load_preset("head-ct"), {"workers": workers}).workers
    result = export_store(os.path.expanduser(store), Path(out).expanduser(), workers=count, **options)
    with output():
        if as_json:
            _emit(result.to_json())
        else:
            click.echo(f"{result.volumes} volumes: {result.files_written} files written, {result.files_kept} kept")
            for node, problem in result.failed.items():
                click.echo(f"{node} failed: {problem}")
    sys.exit(EXIT_FAILED_SERIES if result.failed else 0)


@main.command()
@click.argument("store")
@click.argument("more_inputs", metavar="", nargs=-1)
@click.option("--input", "inputs", multiple=True, metavar="INPUT...", help="Compare values with this DICOM.")
@click.option("--deidentify", metavar="KEYFILE", help="Key that a de-identified store was written with.")
@click.option("--repair", is_flag=True, help="Remove what the next run can make again.")
def verify(
    store: str, more_inputs: tuple[str, ...], inputs: tuple[str, ...], deidentify: str | None, repair: bool
) -> None:
    """Check every volume of STORE: metadata, chunks, digests; with --input also values."""
    from etl.run.verify_input import verify_against_input
    from etl.run.verify_labels import verify_labels_against
    from etl.scan.deidentify import Pseudonyms, read_key
    from etl.scan.inputs import scan_inputs
    from etl.scan.scan import Limits
    from etl.store import verify as check
    from etl.store.keys import resolve_store
    from etl.store.lock import StoreLock
    from etl.workers.pool import open_pool

    if more_inputs and not inputs:
        raise UsageError(f"verify takes one STORE; {more_inputs[0]!r} beside it needs --input before it")
    # An option takes one value; the further ones of `--input A B` arrive as arguments.
    inputs += more_inputs
    store = resolve_store(store)
    with StoreLock(store) if repair else nullcontext():
        count, findings = check.verify_store(store)
        lines = [f"{count} volumes checked"]
        if inputs:
            pseudonyms = Pseudonyms(read_key(os.path.expanduser(deidentify))) if deidentify else None
            with open_pool(0, None) as pool:
                scan = scan_inputs(list(map(os.path.expanduser, inputs)), pool, limits=Limits(), quiet=True)
            compared, more = verify_against_input(store, scan, pseudonyms)
            labels, of_labels = verify_labels_against(store, inputs, pseudonyms)
            lines += [f"{compared} volumes compared with the input", f"{labels} labels compared with the input"]
            # Masks alone need no volume beside them.
            findings += [*(one for one in more if one.path or not labels), *of_labels]
        lines += [f"{finding.path}: {finding.problem}" for finding in findings]
        removed = check.repair(store, findings) if repair else []
    with output():
        click.echo("\n".join([*lines, *(f"removed {path}; the next run makes it again" for path in removed)]))
    sys.exit(EXIT_FAILED_SERIES if findings else 0)


@main.command()
@click.argument("store")
@click.option(
    "--run-dir", metavar="DIR", help="Run whose ledger is shown and where the report goes.  [the newest]"
)
def report(store: str, run_dir: str | None) -> None:
    """Write the HTML report of STORE."""
    from etl.report.page import write_report
    from etl.run.ledger import REPORT_NAME, read_run
    from etl.run.run_dir import newest_run
    from etl.store.keys import resolve_store

    store = resolve_store(store)
    folder = Path(run_dir).expanduser() if run_dir else newest_run(Path(store))
    if run_dir and not folder.is_dir():
        raise UsageError(f"run directory {run_dir!r} does not exist")
    ledger, totals = read_run(folder)
    click.echo(write_report(store, folder / REPORT_NAME, ledger=ledger, run=totals))


@main.command()
@click.argument("store")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--key", metavar="COLUMN", help="Join tables (.csv); this column names the patient or the UID.")
@click.option("--map", "mapping", metavar="TABLE.csv", help="Which file belongs to which series, and its name.")
@click.option("--name", help="Of the labels.  [seg, rtstruct or mask]")
@click.option("--deidentify", metavar="KEYFILE", help="Key that a de-identified store was written with.")
@click.option("--workers", metavar="auto|N|0", default="auto", help="Worker processes.  [auto]")
@click.option("--run-dir", metavar="DIR", help="Folder for the ledger.  [STORE.runs/TIME-labels]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@JSON_OPTION
def label(
    store: str,
    sources: tuple[str, ...],
    key: str | None,
    mapping: str | None,
    name: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put the masks of SOURCE onto the volumes of STORE: DICOM SEG and RTSTRUCT, NIfTI, NRRD; or join tables."""
    tables = [source for source in sources if source.lower().endswith(".csv")]
    if tables and key is None:
        raise UsageError("a table needs --key: the column that names the patient, study or series of a row")
    if key is not None:
        _join_tables(store, sources, key, options["deidentify"], as_json=as_json)
        return
    from etl.run.label import LabelOptions
    from etl.run.label import label as label_store
    from etl.run.tables import print_labels

    given = {option: value for option, value in options.items() if value not in (None, False)}
    config = build_config({"native": True}, given)
    result = label_store(store, sources, LabelOptions(mapping, name, config))
    with output():
        if as_json:
            _emit({**result.totals, "masks": [entry.to_json() for entry in result.entries]})
        else:
            print_labels(result.entries, Path(result.totals["run_dir"], "ledger.jsonl"))
    if result.stopped is not None:
        sys.exit(status_of(result.stopped))
    sys.exit(EXIT_FAILED_SERIES if result.has_failures else 0)


@main.command()
@click.argument("folder", metavar="DIR")
@click.option("--patients", type=click.IntRange(1, 10_000), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def phantom(folder: str, patients: int, seed: int) -> None:
    """Write a synthetic cohort as real DICOM into DIR."""
    from etl.phantom.cohort import write_cohort

    path = Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{folder!r} exists and is not an empty folder")
    series = write_cohort(path, patients=patients, seed=seed)
    click.echo(f"{len(series)} series of {patients} patients in {folder}")


def _join_tables(store: str, sources: tuple[str, ...], key: str, deidentify: str | None, *, as_json: bool) -> None:
    from etl.labels.tables import join_table
    from etl.run.tables import print_join
    from etl.scan.deidentify import Pseudonyms, read_key

    for source in sources:
        if not source.lower().endswith(".csv"):
            raise UsageError(f"source {source!r}: with --key, allowed is a table, whose name ends in .csv")
    pseudonyms = Pseudonyms(read_key(os.path.expanduser(deidentify))) if deidentify else None
    joined = [join_table(store, Path(source).expanduser(), key, pseudonyms=pseudonyms) for source in sources]
    with output():
        if as_json:
            _emit({"tables": [one.to_json() for one in joined]})
        else:
            for one in joined:
                print_join(one)


def _emit(value: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))
