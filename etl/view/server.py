"""Serve the viewer to this machine alone.

Python's own server is enough: one person looks, a few pictures at a time, and nothing more has to be installed. It
listens on 127.0.0.1, answers only below a random token, and only to requests that name this very host, so that
neither another user nor a page of the web (by a name that leads here) can read what is shown. The pages may load
nothing from elsewhere.
"""

from __future__ import annotations

import re
import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from etl.errors import UsageError
from etl.view.app import App
from etl.view.responses import Response
from etl.view.scene import CLIENT, EVENTS

HOST = "127.0.0.1"
TOKEN_BYTES = 16
MAX_BODY_BYTES = 64 * 1024
SILENT_AFTER_S = 60.0
SIGN_OF_LIFE_S = 5.0
_PAGES_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Neuroglancer evaluates code that it makes, decodes in workers and WebAssembly, and styles its elements in place.
_NEUROGLANCER_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Server(ThreadingHTTPServer):
    """Serves an `App` on 127.0.0.1 until it is shut down.

    Parameters
    ----------
    app : App
    port : int
        0: any that is free.

    Raises
    ------
    UsageError
        The port is taken.
    """

    daemon_threads = True

    def __init__(self, app: App, port: int = 0) -> None:
        self.app = app
        self.closing = threading.Event()
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} of {HOST}: {error.strerror}; without --port a free one is taken"
            ) from error

    def server_close(self) -> None:
        """Let go of all who listen."""
        self.closing.set()
        super().server_close()

    @property
    def address(self) -> str:
        """Where the page is, with its token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def is_own_host(self, host: str) -> bool:
        """Whether a request's Host header names this server: a name of the web that leads here does not."""
        return host in {f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let go of a browser that went away in the middle; print what is a defect."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ct-etl", ""
    timeout = SILENT_AFTER_S

    def do_GET(self) -> None:
        """Answer with what the app says, or hold the stream of events of a page that is open."""
        path = self._own_path()
        if path is None:
            return
        if path == EVENTS:
            self._hold()
            return
        host = self.headers["Host"]
        byte_range = _parse_range(self.headers.get("Range"))
        values = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        base = f"http://{host}/{self.server.token}"
        self._answer(self.server.app.get(path, values, byte_range=byte_range, base=base), path)

    def do_HEAD(self) -> None:
        """Answer as `do_GET` does, without a body."""
        self.do_GET()

    def do_POST(self) -> None:
        """Hand JSON to the app: refused where it is too long, or where another page could have sent it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        path = self._own_path()
        if path is None:
            return
        # Another page of this browser could send a form; it cannot send JSON without being asked first.
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            return
        self._answer(self.server.app.post(path, body), path)

    def log_message(self, *_: object) -> None:
        """Write no line for each request: the addresses hold the token."""

    def _own_path(self) -> str | None:
        """Give the path below the token; None where the request was refused."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not self.server.is_own_host(host) or (origin is not None and origin != f"http://{host}"):
            self._refuse(HTTPStatus.FORBIDDEN)
            return None
        if self.path == "/favicon.ico":
            # Browsers ask for it on their own, and count a refusal as an error of the page.
            self._answer(Response(b"", "image/svg+xml"), "")
            return None
        token, slash, rest = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return rest

    def _hold(self) -> None:
        """Keep a stream of events open in which nothing happens; without it, Neuroglancer misses its server."""
        self.send_response(HTTPStatus.OK)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.close_connection = True
        self.end_headers()
        # Fails as soon as the page is closed, which ends the thread.
        while not self.server.closing.wait(SIGN_OF_LIFE_S):
            self.wfile.write(b":\n\n")

    def _refuse(self, status: HTTPStatus) -> None:
        self._answer(Response(f"{status.phrase}\n".encode(), "text/plain; charset=utf-8", status), "")

    def _answer(self, response: Response, path: str) -> None:
        is_neuroglancer = path.startswith(CLIENT)
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Content-Security-Policy": _NEUROGLANCER_POLICY if is_neuroglancer else _PAGES_POLICY,
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            **response.headers,
        }
        self.send_response(response.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


def _parse_range(text: str | None) -> tuple[int, int | None] | None:
    """Read a Range header: first byte and the one behind the last, or a negative number from the end."""
    match = _RANGE.fullmatch(text or "")
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return -int(match[2]), None
    return int(match[1]), int(match[2]) + 1 if match[2] else None
