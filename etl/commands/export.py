"""``ct-etl export``: volumes and labels as files for other tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from etl.commands.output import EXIT_FAILED_SERIES, JSON_OPTION, print_json, printing
from etl.config import build_config, load_preset


@click.command()
@click.argument("store")
@click.argument("out")
@click.option("--format", "form", type=click.Choice(["nifti", "nnunet", "nrrd"]), required=True)
@click.option("--hu/--normalized", default=True, help="Hounsfield units, or values as stored.  [--hu]")
@click.option("--labels", multiple=True, metavar="NAME", help="Label that is wanted too; may be given again.")
@click.option("--patients", multiple=True, metavar="ID", help="Only this Patient ID; may be given again.")
@click.option("--series", type=click.Choice(["default", "all"]), default="default", show_default=True)
@click.option("--rejected", "with_rejected", is_flag=True, help="Also volumes that were rejected in ct-etl view.")
@click.option("--workers", metavar="N|auto", default="auto", help="Local processes; 0: this one.  [auto]")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@JSON_OPTION
def command(store: str, out: str, workers: str, as_json: bool, **options: Any) -> None:
    """Write the volumes of STORE as files into the folder OUT; what is there already stays."""
    from etl.export.export import export as export_store

    count = build_config(load_preset("head-ct"), {"workers": workers}).workers
    result = export_store(os.path.expanduser(store), Path(out).expanduser(), workers=count, **options)
    with printing():
        if as_json:
            print_json(result.to_json())
        else:
            click.echo(f"{result.volumes} volumes: {result.files_written} files written, {result.files_kept} kept")
            if result.rejected:
                click.echo(f"{result.rejected} rejected volumes left out; --rejected exports them too")
            for node, problem in result.failed.items():
                click.echo(f"{node} failed: {problem}")
    sys.exit(EXIT_FAILED_SERIES if result.failed else 0)
