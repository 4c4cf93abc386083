"""``ct-etl view``: a cohort in a browser of this machine."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import nullcontext, suppress
from pathlib import Path

import click


@click.command()
@click.argument("store")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of 127.0.0.1.  [any that is free]")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--read-only", is_flag=True, help="Neither show nor take verdicts.")
@click.option("--verdicts", metavar="FILE", help="Where verdicts are kept.  [STORE.verdicts.csv]")
def command(store: str, port: int, no_browser: bool, read_only: bool, verdicts: str | None) -> None:
    """Look at the volumes of STORE in a browser of this machine, and keep verdicts about them."""
    from etl.read.patients import open_store
    from etl.read.verdicts import verdicts_path
    from etl.run.ledger import read_run
    from etl.run.run_dir import newest_run
    from etl.view.app import App
    from etl.view.server import Server
    from etl.view.verdict_file import VerdictFile

    opened = open_store(os.path.expanduser(store))
    ledger = [] if "://" in opened.path else read_run(newest_run(Path(opened.path)))[0]
    path = Path(verdicts).expanduser() if verdicts else verdicts_path(opened.path)
    with (
        nullcontext() if read_only or path is None else VerdictFile(path) as file,
        Server(App(opened, ledger=ledger, verdicts=file), port) as server,
    ):
        click.echo(server.address)
        click.echo("Open this address in a browser of this machine; Ctrl-C ends it.", err=True)
        sys.stdout.flush()
        if not no_browser:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
