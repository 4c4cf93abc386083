"""The processes of a run know each other, whatever becomes of the clock of their machine."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta

import pytest

from etl.workers import certificate


def shake_hands(security):
    """Let a worker call a scheduler, without a network between them."""
    called, calling = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = security.get_listen_args("scheduler")["ssl_context"].wrap_bio(called, calling, server_side=True)
    client = security.get_connection_args("worker")["ssl_context"].wrap_bio(calling, called)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return server.getpeercert(binary_form=True)


@pytest.mark.parametrize("set_back", [timedelta(0), timedelta(hours=1), timedelta(days=-300)], ids=str)
def test_processes_reach_each_other_after_their_clock_was_set(monkeypatch, set_back):
    class Before(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + set_back

    monkeypatch.setattr(certificate, "datetime", Before)
    assert shake_hands(certificate.temporary_security())


def test_one_run_does_not_know_another():
    own, other = certificate.temporary_security(), certificate.temporary_security()
    own.tls_ca_file = other.tls_ca_file
    with pytest.raises(ssl.SSLError, match="verif"):
        shake_hands(own)
