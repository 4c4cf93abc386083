"""What all commands share: an error is one line and an exit status, and a closed stream changes neither."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

import click

from etl.errors import EtlError, TerminatedError, UsageError

EXIT_BROKEN, EXIT_USAGE = 1, 2


class Commands(click.Group):
    """Turns errors into one line and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; what goes wrong ends the process with a line and a status."""
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
            _stop("interrupted", status_of(error))
        except OSError as error:
            _stop(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_BROKEN)


def _stop(message: str, status: int) -> NoReturn:
    with output():
        click.echo(f"ct-etl: {message}", err=True)
    sys.exit(status)


def status_of(stopped: BaseException | None) -> int:
    """Give the exit status of a process that a signal ended, as a shell would."""
    number = stopped.signal_number if isinstance(stopped, TerminatedError) else signal.SIGINT
    return 128 + number


def _open_closed_streams() -> None:
    """Write into nothing where stdout or stderr is closed; Python would print to the other one, or fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


@contextmanager
def output() -> Iterator[None]:
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
