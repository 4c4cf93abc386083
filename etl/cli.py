"""The command line ``ct-etl``: parse, call, print, exit.

Exit status: 0 everything wanted is in the store; 3 finished, but some series failed; 2 usage or configuration;
1 the run itself broke; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP. Results go to stdout, progress and errors to stderr;
a closed stdout or stderr changes neither what is written nor the status.

Heavy libraries are imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import os
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from etl import __version__
from etl.commands.output import (
    EXIT_BROKEN,
    EXIT_FAILED_SERIES,
    EXIT_USAGE,
    JSON_OPTION,
    print_json,
    printing,
    silence,
    status_of,
)
from etl.config import OPTIONS, build_config, flag_of, load_preset
from etl.errors import EtlError, UsageError
from etl.option_rules import did_you_mean

INPUTS = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
ALL_OPTION = click.option("--all", "show_all", is_flag=True, help="List every series.")


# What stands beside the main way is loaded when it is called, or listed.
FURTHER_COMMANDS = {
    "view": "etl.commands.view",
    "export": "etl.commands.export",
    "label": "etl.commands.label",
    "verify": "etl.commands.verify",
    "explain": "etl.commands.explain",
    "doctor": "etl.commands.doctor",
}


class _Commands(click.Group):
    """Turns errors into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all commands."""
        return [*super().list_commands(ctx), *FURTHER_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command by its name."""
        if cmd_name not in FURTHER_COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = import_module(FURTHER_COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}; commands are {', '.join(names)}{did_you_mean(args[0], names)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and end with its exit code: one line on the terminal for each error that is known."""
        _open_closed_streams()
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except BrokenPipeError:
            # `| head` has seen enough.
            silence(sys.stdout)
            sys.exit(0)
        except click.ClickException as error:
            _stop(f"{error.format_message()} (see --help)", EXIT_USAGE)
        except UsageError as error:
            _stop(str(error), EXIT_USAGE)
        except EtlError as error:
            _stop(str(error), EXIT_BROKEN)
        except (KeyboardInterrupt, click.Abort) as error:
            _stop("interrupted", status_of(error))
        except OSError as error:
            _stop(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_BROKEN)


def _stop(message: str, status: int) -> NoReturn:
    with printing():
        click.echo(f"ct-etl: {message}", err=True)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Write into nothing where stdout or stderr is closed; Python would print to the other one, or fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


def _print_version(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    """Print this version, and those of the libraries that decide the bytes of a volume."""
    if not is_wanted or ctx.resilient_parsing:
        return
    from etl.software import software_versions

    click.echo(f"ct-etl {__version__}")
    others = {"Python": platform.python_version(), **software_versions()}
    click.echo("\n".join(f"  {name} {version}" for name, version in others.items() if name != "ct-etl"))
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show versions."
)
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
@ALL_OPTION
def scan(inputs: tuple[str, ...], as_json: bool, show_all: bool) -> None:
    """Show the series that INPUT holds and what `run` would do with each (headers only)."""
    from etl.plan.plan import make_plan
    from etl.run.summaries import scan_summary
    from etl.run.terminal import print_scan
    from etl.scan.inputs import scan_inputs
    from etl.scan.scan import Limits
    from etl.workers.pool import open_pool

    config = build_config(load_preset("head-ct"), {"workers": 0})
    with open_pool(config.workers, None) as pool:
        found = scan_inputs(list(map(os.path.expanduser, inputs)), pool, limits=Limits(), quiet=as_json)
    summary = scan_summary(found, make_plan(found, config))
    print_json(summary) if as_json else print_scan(summary, show_all=show_all)


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
    from etl.run.terminal import print_labels, print_run

    with printing():
        if config.json:
            labels = {"masks": [entry.to_json() for entry in result.labels]} if config.labels else {}
            print_json({**result.totals, "series": [entry.to_json() for entry in result.entries], **labels})
        else:
            print_run(result.entries, result.totals, dry_run=config.dry_run, show_all=config.all)
            if result.labels:
                print_labels(result.labels, Path(result.totals["run_dir"], "labels.jsonl"))
    if result.interrupted:
        sys.exit(status_of(result.stopped))
    sys.exit(EXIT_FAILED_SERIES if result.has_failures else 0)


@main.command()
@click.argument("store")
@JSON_OPTION
@ALL_OPTION
@click.option("--csv", "as_csv", is_flag=True, help="Print a table of all volumes, with their labels.")
def info(store: str, as_json: bool, show_all: bool, as_csv: bool) -> None:
    """Show what is in STORE."""
    from etl.read.patients import open_store
    from etl.run.summaries import csv_of, store_summary
    from etl.run.terminal import print_info

    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if as_csv:
        click.echo(csv_of(open_store(os.path.expanduser(store))), nl=False)
        return
    summary = store_summary(open_store(os.path.expanduser(store)))
    print_json(summary) if as_json else print_info(summary, show_all=show_all)


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
@click.option("--labels", is_flag=True, help="Also SEG, RTSTRUCT, NIfTI and reads.csv, into DIR/labels.")
def phantom(folder: str, patients: int, seed: int, labels: bool) -> None:
    """Write a synthetic cohort as real DICOM into DIR."""
    from etl.phantom.cohort import write_cohort

    path = Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{folder!r} exists and is not an empty folder")
    series = write_cohort(path, patients=patients, seed=seed)
    click.echo(f"{len(series)} series of {patients} patients in {folder}")
    if labels:
        from etl.phantom.labels import write_labels

        click.echo(f"{len(write_labels(path / 'labels', series)) - 1} masks and reads.csv in {path / 'labels'}")
