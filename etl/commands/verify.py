"""``ct-etl verify``: whether a store still is what was written, and what its DICOM decides."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import click

from etl.commands.output import EXIT_FAILED_SERIES, printing
from etl.errors import UsageError


@click.command()
@click.argument("store")
@click.argument("more_inputs", metavar="", nargs=-1)
@click.option("--input", "inputs", multiple=True, metavar="INPUT...", help="Compare values with this DICOM.")
@click.option("--deidentify", metavar="KEYFILE", help="Key that a de-identified store was written with.")
@click.option("--repair", is_flag=True, help="Remove what the next run can make again.")
def command(
    store: str, more_inputs: tuple[str, ...], inputs: tuple[str, ...], deidentify: str | None, repair: bool
) -> None:
    """Check every volume of STORE: metadata, chunks, digests; with --input also values."""
    from etl.buckets.urls import is_bucket_url
    from etl.run.verify_input import verify_against_input
    from etl.run.verify_labels import verify_labels_against
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
            # Masks are looked for in folders of this machine.
            local = [os.path.expanduser(one) for one in inputs if not is_bucket_url(one)]
            labels, of_labels = verify_labels_against(store, local, pseudonyms) if local else (0, [])
            lines.append(f"{compared} volumes compared with the input")
            lines += [f"{labels} labels compared with the input"] if labels else []
            # Masks alone need no volume beside them.
            findings += [*(one for one in more if one.path or not labels), *of_labels]
        lines += [f"{finding.path}: {finding.problem}" for finding in findings]
        repaired = check.repair(store, findings) if repair else []
    with printing():
        click.echo("\n".join([*lines, *repaired]))
    sys.exit(EXIT_FAILED_SERIES if findings else 0)
