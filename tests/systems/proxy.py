"""A proxy before a server that answers 503, or nothing at all, for a while."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Hands on what clients and server say to each other; use as a context manager."""

    def __init__(self, target_port):
        self._target = ("127.0.0.1", target_port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.is_ill = False
        self.refused = 0
        self._open = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        # A listener that another thread waits at is not closed by closing it.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.fall_ill()
        self._thread.join(10)

    def fall_ill(self):
        """Break off what is under way, and answer 503 from now on."""
        self.is_ill = True
        for one in list(self._open):
            _end(one)

    def recover(self):
        self.is_ill = False

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            if self.is_ill:
                self.refused += 1
                with_error(client)
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                return
            server.settimeout(None)
            with server:
                pair = {client, server}
                self._open |= pair
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                self._open -= pair


def with_error(client):
    with suppress(OSError):
        client.settimeout(5)
        client.recv(1 << 16)
        client.sendall(UNAVAILABLE)


def _pump(source, target):
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    _end(source)
    _end(target)


def _end(one):
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
