"""``ct-etl doctor``: whether this machine can run the pipeline, and how fast its disk is."""

from __future__ import annotations

import os
import sys

import click

from etl.commands.output import EXIT_FAILED_SERIES, printing


@click.command()
@click.argument("folder", metavar="[DIR]", default=".")
def command(folder: str) -> None:
    """Check Python, libraries, decoders, memory, cores, and the disk that holds DIR.

    Exit status 3 where something is missing that a run may need.
    """
    from etl.run.doctor import examine

    findings = examine(os.path.expanduser(folder))
    widest = max(len(finding.what) for finding in findings)
    with printing():
        for finding in findings:
            click.echo(f"{'ok ' if finding.is_good else 'BAD'}  {finding.what:<{widest}}  {finding.found}")
    sys.exit(0 if all(finding.is_good for finding in findings) else EXIT_FAILED_SERIES)
