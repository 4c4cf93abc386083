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
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from etl import __version__
from etl.config import OPTIONS, build_config, flag_of, load_preset
from etl.errors import EtlError, TerminatedError, UsageError

EXIT_BROKEN, EXIT_USAGE, EXIT_FAILED_SERIES = 1, 2, 3
INPUTS = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class _Commands(click.Group):
    """Turns errors into one line and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_closed_streams()
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except BrokenPipeError:
            # `| head` has seen enough.
            _silence(sys.stdout)
            sys.exit(0)
        except click.ClickException as error:
            _stop(f"{error.format_message()} (see --help)", EXIT_USAGE)
        except UsageError as error:
            _stop(str(error), EXIT_USAGE)
        except EtlError as error:
            _stop(str(error), EXIT_BROKEN)
        except (KeyboardInterrupt, click.Abort) as error:
            _stop("interrupted", _status_of(error))
        except OSError as error:
            _stop(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_BROKEN)


def _stop(message: str, status: int) -> NoReturn:
    with _output():
        click.echo(f"ct-etl: {message}", err=True)
    sys.exit(status)


def _status_of(stopped: BaseException | None) -> int:
    """Give the exit status of a process that a signal ended, as a shell would."""
    number = stopped.signal_number if isinstance(stopped, TerminatedError) else signal.SIGINT
    return 128 + number


def _open_closed_streams() -> None:
    """Write into nothing where stdout or stderr is closed; Python would print to the other one, or fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


@contextmanager
def _output() -> Iterator[None]:
    """Print what a reader that has gone need not see; the status stays what it is."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OSError):
        for stream in (sys.stdout, sys.stderr):
            _silence(stream)


def _silence(stream: TextIO) -> None:
    """Lead a stream into nothing, so that the interpreter can flush it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
        kind: dict[str, Any] = (
            {"metavar": option.metavar} if option.metavar else {"is_flag": True, "default": None}
        )
        command = click.option(*forms, help=option.help, **kind)(command)
    return command


@main.command(context_settings={"show_default": False})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT... STORE")
@click.option("--preset", metavar="NAME|FILE.toml", default="head-ct", help="Preset or TOML file.  [head-ct]")
@_config_options
def run(inputs: tuple[str, ...], preset: str, **options: Any) -> None:
    """Bring every CT volume of INPUT into STORE."""
    given = {name: value for name, value in options.items() if value is not None}
    config = build_config(load_preset(preset), given)
    if len(inputs) < 2:
        raise UsageError("run needs at least one INPUT and the STORE")

    from etl.run.rerun import run_again

    *sources, store = inputs
    result = run_again(sources, store, config)
    if result is None:
        from etl.run.run import run as run_pipeline

        result = run_pipeline(sources, store, config)
    from etl.run.tables import print_run

    with _output():
        if config.json:
            _emit({**result.totals, "series": [entry.to_json() for entry in result.entries]})
        else:
            print_run(result.entries, result.totals, dry_run=config.dry_run)
    if result.interrupted:
        sys.exit(_status_of(result.stopped))
    sys.exit(EXIT_FAILED_SERIES if result.has_failures else 0)


@main.command()
@click.argument("store")
@JSON_OPTION
def info(store: str, as_json: bool) -> None:
    """Show what is in STORE."""
    from etl.read.patients import open_store
    from etl.run.tables import print_info, store_summary

    summary = store_summary(open_store(os.path.expanduser(store)))
    _emit(summary) if as_json else print_info(summary)


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
    from etl.scan.deidentify import Pseudonyms, read_key
    from etl.scan.inputs import scan_inputs
    from etl.scan.scan import Limits
    from etl.store import verify as check
    from etl.store.keys import open_keys, resolve_store
    from etl.store.lock import store_lock
    from etl.workers.pool import open_pool

    if more_inputs and not inputs:
        raise UsageError(f"verify takes one STORE; {more_inputs[0]!r} beside it needs --input before it")
    # An option takes one value; the further ones of `--input A B` arrive as arguments.
    inputs += more_inputs
    store = resolve_store(store)
    with store_lock(store, lambda line: click.echo(f"ct-etl: {line}", err=True)) if repair else nullcontext():
        if repair:
            # A replacement that a killed run had ready is finished, not removed.
            open_keys(store).clear_leftovers()
        count, findings = check.verify_store(store)
        lines = [f"{count} volumes checked"]
        if inputs:
            pseudonyms = Pseudonyms(read_key(os.path.expanduser(deidentify))) if deidentify else None
            with open_pool(0, None) as pool:
                scan = scan_inputs(list(map(os.path.expanduser, inputs)), pool, limits=Limits(), quiet=True)
            compared, more = verify_against_input(store, scan, pseudonyms)
            lines.append(f"{compared} volumes compared with the input")
            findings += more
        lines += [f"{finding.path}: {finding.problem}" for finding in findings]
        removed = check.repair(store, findings) if repair else []
    with _output():
        click.echo("\n".join([*lines, *(f"removed {path}; the next run makes it again" for path in removed)]))
    sys.exit(EXIT_FAILED_SERIES if findings else 0)


@main.command()
@click.argument("store")
@click.option(
    "--run-dir", metavar="DIR", help="Run whose ledger is shown and where the report goes.  [the newest]"
)
def report(store: str, run_dir: str | None) -> None:
    """Write the HTML report of STORE."""
    from etl.buckets.urls import local_stand_in
    from etl.report.page import write_report
    from etl.run.ledger import REPORT_NAME, read_run
    from etl.run.run_dir import newest_run
    from etl.store.keys import resolve_store

    store = resolve_store(store)
    folder = Path(run_dir).expanduser() if run_dir else newest_run(local_stand_in(store))
    if run_dir and not folder.is_dir():
        raise UsageError(f"run directory {run_dir!r} does not exist")
    ledger, totals = read_run(folder)
    click.echo(write_report(store, folder / REPORT_NAME, ledger=ledger, run=totals))


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


def _emit(value: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))
