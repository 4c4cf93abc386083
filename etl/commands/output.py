"""What commands print, and the status that they end with."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from etl.errors import TerminatedError

EXIT_BROKEN, EXIT_USAGE, EXIT_FAILED_SERIES = 1, 2, 3
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextmanager
def printing() -> Iterator[None]:
    """Print what a reader that has gone need not see; the status stays what it is."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, OSError):
        for stream in (sys.stdout, sys.stderr):
            silence(stream)


def silence(stream: TextIO) -> None:
    """Lead a stream into nothing, so that the interpreter can flush it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def status_of(stopped: BaseException | None) -> int:
    """Give the exit status of a process that a signal ended, as a shell would."""
    number = stopped.signal_number if isinstance(stopped, TerminatedError) else signal.SIGINT
    return 128 + number


def print_json(value: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))
