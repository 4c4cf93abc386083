"""The viewer over the network: who may reach it, and what it never does."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest
from ledger_lines import LEDGER

from etl.errors import UsageError
from etl.view.server import MAX_BODY_BYTES, Server


@pytest.fixture
def server(app):
    with Server(app) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, path="", method="GET", body=None, token=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/{server.token if token is None else token}/{path}", body, given)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_it_listens_on_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_every_address_holds_a_token_that_nobody_guesses(server, app):
    assert len(server.token) >= 20
    for token in ("", "x", server.token[:-1], server.token.lower() + "x"):
        answer, content = ask(server, "api/volumes", token=token)
        assert answer.status == 404
        assert b"P1" not in content
    with Server(app) as other:
        assert other.token != server.token


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_a_name_of_the_web_that_leads_here_gets_nothing(server, host):
    assert ask(server, Host=host)[0].status == 403


def test_the_own_host_gets_the_page_by_either_name(server):
    for name in ("127.0.0.1", "localhost"):
        assert ask(server, Host=f"{name}:{server.server_port}")[0].status == 200


def test_another_page_of_the_browser_can_change_nothing(server, store):
    body = json.dumps({"node": "P1/0002-aaaaaaaa", "verdict": "keep"})
    assert ask(server, "api/verdict", "POST", body, Origin="https://evil.example")[0].status == 403
    assert ask(server, "api/verdict", "POST", body, Content_Type="text/plain")[0].status == 415
    assert not store.with_name("cohort.zarr.verdicts.csv").exists()
    own = {"Origin": f"http://127.0.0.1:{server.server_port}", "Content_Type": "application/json"}
    assert ask(server, "api/verdict", "POST", body, **own)[0].status == 200


def test_a_body_has_an_end(server):
    answer, _ = ask(server, "api/verdict", "POST", b"x" * (MAX_BODY_BYTES + 1), Content_Type="application/json")
    assert answer.status == 413


def test_pages_may_load_nothing_from_elsewhere_and_name_nothing_elsewhere(server):
    for path in ("", "volume?node=P1/0002-aaaaaaaa", "v/neuroglancer/"):
        answer, content = ask(server, path)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert not re.search(r"https?:|\*", policy)
        assert not re.search(rb"(?:src|href)=\"?https?://", content)
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_part_of_a_key_and_a_head_are_answered(server, store):
    content = (store / "zarr.json").read_bytes()
    answer, part = ask(server, "store/zarr.json", Range="bytes=3-9")
    assert (answer.status, part) == (206, content[3:10])
    answer, nothing = ask(server, "store/zarr.json", "HEAD")
    assert (answer.headers["Content-Length"], nothing) == (str(len(content)), b"")


def test_looking_and_judging_changes_nothing_in_the_store(server, store, stamps, contents):
    before, bytes_before = stamps(store), contents(store)
    node = "P1/0002-aaaaaaaa"
    for path in ("", f"volume?node={node}", f"thumbnail?node={node}", f"api/hu?node={node}&k=1&j=1&i=1"):
        assert ask(server, path)[0].status == 200
    body = json.dumps({"node": node, "verdict": "reject"})
    assert ask(server, "api/verdict", "POST", body, Content_Type="application/json")[0].status == 200
    assert (stamps(store), contents(store)) == (before, bytes_before)


def test_a_port_that_is_taken_is_said_so(server, app):
    with pytest.raises(UsageError, match="without --port a free one is taken"):
        Server(app, server.server_port)


def test_the_command_prints_its_address_serves_and_ends_with_ctrl_c(store):
    for name, lines in (("20260101T000000Z", LEDGER[:2]), ("20260102T000000Z", LEDGER)):
        folder = store.with_name("cohort.zarr.runs") / name
        folder.mkdir(parents=True)
        (folder / "ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, "-m", "etl", "view", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)
        connection.request("GET", f"{address.path}api/volumes")
        found = json.loads(connection.getresponse().read())
        connection.request("GET", f"{address.path}api/left-out")
        left_out = json.loads(connection.getresponse().read())
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert found["total"] == 4
    # The newest run's.
    assert left_out["total"] == 3


def test_a_folder_that_is_no_store_is_an_error_in_one_line(in_process, tmp_path):
    done = in_process("view", tmp_path)
    assert (done.status, done.stderr.count("\n")) == (1, 1)
