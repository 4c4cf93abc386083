"""Import a library that only some users need, or say in one line how to get it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from etl.errors import UsageError


def optional_library(name: str, *, wanted_for: str, install: str) -> Any:
    """Import a library.

    Parameters
    ----------
    name : str
        Of the module.
    wanted_for : str
        What needs it, for the message.
    install : str
        What pip installs to have it.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(f"{wanted_for} needs {name}: pip install '{install}' ({error})") from error
