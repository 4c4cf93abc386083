"""``ct-etl label``: masks onto the volumes of a store, tables onto its patients."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from etl.commands.output import EXIT_FAILED_SERIES, JSON_OPTION, print_json, printing, status_of
from etl.config import build_config
from etl.errors import UsageError


@click.command()
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
def command(
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
    from etl.run.terminal import print_labels

    given = {option: value for option, value in options.items() if value not in (None, False)}
    config = build_config({"native": True}, given)
    result = label_store(store, sources, LabelOptions(mapping, name, config))
    with printing():
        if as_json:
            print_json({**result.totals, "masks": [entry.to_json() for entry in result.entries]})
        else:
            ledger = Path(result.totals["run_dir"], "ledger.jsonl")
            print_labels(result.entries, ledger, ignored_files=result.totals["ignored_files"])
    if result.stopped is not None:
        sys.exit(status_of(result.stopped))
    sys.exit(EXIT_FAILED_SERIES if result.has_failures else 0)


def _join_tables(store: str, sources: tuple[str, ...], key: str, deidentify: str | None, *, as_json: bool) -> None:
    from etl.labels.tables import join_table
    from etl.run.terminal import print_join
    from etl.scan.deidentify import Pseudonyms, read_key

    for source in sources:
        if not source.lower().endswith(".csv"):
            raise UsageError(f"source {source!r}: with --key, allowed is a table, whose name ends in .csv")
    pseudonyms = Pseudonyms(read_key(os.path.expanduser(deidentify))) if deidentify else None
    joined = [join_table(store, Path(source).expanduser(), key, pseudonyms=pseudonyms) for source in sources]
    with printing():
        if as_json:
            print_json({"tables": [one.to_json() for one in joined]})
        else:
            for one in joined:
                print_join(one)
