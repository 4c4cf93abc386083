"""A connection to a running scheduler, and one line that says what is wrong where there is none."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import dask
from distributed import Client, Security
from distributed.comm.core import connect
from distributed.versions import VersionMismatchWarning

from etl.errors import UsageError

CONNECT_TIMEOUT_S = 10
DASHBOARD_TIMEOUT_S = 2
CA_FILE = "distributed.comm.tls.ca-file"


@contextmanager
def connected(scheduler: str) -> Iterator[Client]:
    """Connect to a scheduler.

    Parameters
    ----------
    scheduler : str
        Its address, or the path of the file that ``dask scheduler --scheduler-file`` writes.

    Raises
    ------
    UsageError
        No scheduler answers there, or it does not speak TLS as this process does.
    """
    address = scheduler if "://" in scheduler else _address_in(Path(scheduler))
    is_tls = address.startswith("tls://")
    ca_file = dask.config.get(CA_FILE, None)
    if is_tls and not ca_file:
        raise UsageError(
            f"scheduler {address!r} wants TLS, and this process has no certificate: set TLS_DIR and read "
            "deploy/environment.sh (deploy/README.md)"
        )
    try:
        # A Client that finds nobody tries to close itself when it is collected, and prints that it cannot.
        asyncio.run(_reach(address))
        with warnings.catch_warnings():
            # Each worker is asked before it gets work.
            warnings.simplefilter("ignore", VersionMismatchWarning)
            client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"scheduler {address!r} does not answer: {_reason(error, is_tls=is_tls)}") from error
    with client:
        yield client


async def _reach(address: str) -> None:
    """Shake hands with whoever answers, and hang up."""
    arguments = Security().get_connection_args("client")
    comm = await connect(address, timeout=CONNECT_TIMEOUT_S, **arguments)
    await comm.close()


def _address_in(file: Path) -> str:
    try:
        return str(json.loads(file.read_text("utf-8"))["address"])
    except OSError as error:
        raise UsageError(f"scheduler file {str(file)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"scheduler file {str(file)!r} holds no address; a Dask scheduler writes one") from error


def _reason(error: BaseException, *, is_tls: bool) -> str:
    """Say in one line what lies at the bottom of an error of Dask's."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    said = " ".join(str(one) for one in chain)
    if any(isinstance(one, ssl.SSLError) for one in chain) or "CERTIFICATE" in said or "SSL" in said:
        return "its certificate is not of the same authority as TLS_DIR's ca.pem"
    if is_tls and isinstance(chain[-1], FileNotFoundError):
        return f"TLS_DIR: {chain[-1]}"
    first = " ".join(str(error).split())
    if not is_tls and ("closed" in said or "TimeoutError" in first or isinstance(error, TimeoutError)):
        return f"{first} (a scheduler that speaks TLS wants tls:// and TLS_DIR)"
    return first


def dashboard_of(client: Client) -> str:
    """Give an address at which the scheduler's dashboard answers, or the way to one."""
    link = urlsplit(str(client.dashboard_link))
    host, port = link.hostname or "", link.port or 8787
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(host, port, timeout=DASHBOARD_TIMEOUT_S)
        try:
            connection.request("GET", link.path)
            if connection.getresponse().status == http.client.OK:
                return link.geturl()
        finally:
            connection.close()
    return (
        f"answers on the scheduler's host alone, if at all: ssh -N -L {port}:127.0.0.1:{port} {host}, then "
        f"http://127.0.0.1:{port}/status"
    )
