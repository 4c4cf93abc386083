"""Every error this package raises on purpose.

::

    EtlError
    ├── UsageError            the person changes the command or the configuration   (exit 2)
    │   └── StoreConflictError    the store was written with another configuration
    ├── ClusterError          the scheduler went away; a rerun goes on              (exit 1)
    ├── StoreError            the store is missing, unreadable or not ours          (exit 1)
    └── SeriesError           this series is given up, the run goes on              (exit 3)

A `SeriesError` carries the ledger's reason code; the message carries the numbers.
"""

from __future__ import annotations

from etl.codes import FailureCode


class EtlError(Exception):
    """Base of every error raised on purpose."""


class UsageError(EtlError):
    """The command line, the configuration or the input cannot be used as given."""


class StoreConflictError(UsageError):
    """The store exists and was written with another configuration."""


class ClusterError(EtlError):
    """The Dask cluster went away while the run was going on."""


class DiskFullError(EtlError):
    """The disk of the store takes nothing more, or its bucket; what comes next would fail too."""


class StoreError(EtlError):
    """The store cannot be read, or holds something else than this package writes."""


class TerminatedError(KeyboardInterrupt):
    """A signal asked the process to end; like Ctrl-C, not an ordinary error.

    Parameters
    ----------
    signal_number : int
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class SeriesError(EtlError):
    """One stack of slices cannot become a volume.

    Parameters
    ----------
    code : FailureCode
        The ledger's stable reason code.
    message : str
        Attribute, value found, value allowed. Never a name or a birth date.
    """

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code

    def __reduce__(self) -> tuple[type[SeriesError], tuple[FailureCode, str]]:
        # Exceptions with two arguments do not unpickle by default; workers send them.
        return type(self), (self.code, str(self))
