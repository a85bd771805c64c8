"""A guest's WebSocket against a real server on loopback, through a real worker and supervisor: who hears what, in which
order, and what reaches the server. What needs a supervisor of its own is in supervisor/websockets/."""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import nothing_left_behind
from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import Supervisor
from peers import Answer, serve, serve_bytes
from socket_host import PLUGIN, Host, envelope, order, own_ends, start_host
from sync_server import SyncServer, reserved_port, sync_server, upgraded


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("websockets")
    for name in ("plugins", "workspace"):
        (folder / name).mkdir()
    plugins, workspace = PluginFolder(folder / "plugins", guest_cache), Workspace(folder / "workspace").grant()
    make = partial(Supervisor, plugins.path, workspace.path, state_dir=folder / "state")
    host = start_host(plugins, make, workspace)
    with host.supervisor:
        yield host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    yield shared
    shared.start_afresh()


@pytest.fixture
def server() -> Iterator[SyncServer]:
    with sync_server() as running:
        yield running


def test_a_guest_connects_sends_hears_and_answers(host: Host, server: SyncServer) -> None:
    assert host.connect(server, auth_token="t&1", session_code="s 2") == {"ok": True}
    peer = server.accept()
    assert peer.path == "/sync2"
    assert peer.query == {"workspace_id": "w1", "token": "t&1", "session": "s 2"}
    host.wait_heard("on_connected")
    assert json.loads(host.heard("on_connected")[0]) == {"workspace_id": "w1", "write_to_disk": True}
    assert host.request(type="send_text", text="Grüße") == {"ok": True}
    assert host.request(type="send_binary", data="AAH/") == {"ok": True}
    assert peer.receive() == "Grüße"
    assert peer.receive() == b"\x00\x01\xff"
    peer.send("just so", b"\x00\xffecho")
    assert peer.receive() == b"\x00\xffecho"
    assert host.heard("handle_text_message") == ["just so"]
    assert host.request(type="disconnect") == {"ok": True}
    host.wait_heard("on_connected", "handle_text_message", "handle_binary_message", "on_disconnected")
    assert host.heard("on_disconnected") == [""]
    wait_until(peer.ended.is_set)
    assert peer.close_code == 1000


# --- one connection a plugin ----------------------------------------------------------------------------------------


def test_the_same_parameters_again_are_the_same_connection(host: Host, server: SyncServer) -> None:
    for spelling in (server.url(), server.url("ws") + "/sync2/", server.url()):
        assert host.connect(spelling, auth_token="t") == {"ok": True}
    peer = server.accept()
    host.request(type="send_text", text="only one")
    assert peer.receive() == "only one"
    assert server.attempts == 1


def test_other_parameters_replace_the_connection(host: Host, server: SyncServer) -> None:
    host.connect(server, "w1")
    first = server.accept()
    host.wait_heard("on_connected")
    host.connect(server, "w2", write_to_disk=False)
    second = server.accept()
    assert first.ended.is_set()  # before the second is dialled
    host.wait_heard("on_connected", "on_disconnected", "on_connected")
    assert json.loads(host.heard("on_connected")[1]) == {"workspace_id": "w2", "write_to_disk": False}
    host.request(type="send_text", text="to the second")
    assert second.receive() == "to the second"
    assert server.most_open == 1


def test_a_guest_that_connects_in_a_loop_has_one_socket(host: Host, server: SyncServer) -> None:
    for number in range(300):
        assert host.connect(server, f"w{number}") == {"ok": True}
    wait_until(lambda: host.heard() and json.loads(host.heard("on_connected")[-1])["workspace_id"] == "w299")
    assert server.most_open == 1
    assert host.heard()[::2] == ["on_connected"] * ((len(host.heard()) + 1) // 2)
    assert host.heard()[1::2] == ["on_disconnected"] * (len(host.heard()) // 2)


def test_without_a_connection_nothing_can_be_sent(host: Host) -> None:
    assert host.request(type="disconnect") == {"ok": True}
    for request in ({"type": "send_text", "text": "x"}, {"type": "send_binary", "data": "AA=="}):
        answer = host.request(**request)
        assert answer["ok"] is False
        assert "there is no connection; send a connect request first" in answer["error"]


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"type": "send_binary", "data": "%%%"}, "data: not base64"),
        ({"type": "send_text"}, "text: Field required"),
        ({"type": "fly"}, "does not match any of the expected tags"),
        ({"type": "connect", "server_url": "ftp://x", "workspace_id": "w"}, "must begin with https://"),
        ({"type": "connect", "server_url": "https://x", "workspace_id": "w" * 2049}, "at most 2048 characters"),
        ({"type": "connect", "server_url": "https://x", "workspace_id": "w", "auth_token": 7}, "auth_token"),
    ],
)
def test_requests_that_make_no_sense_are_refused(host: Host, request_: dict[str, Any], why: str) -> None:
    answer = host.request(**request_)
    assert list(answer) == ["ok", "error"]
    assert answer["ok"] is False
    assert why in answer["error"]


# --- permission and addresses ---------------------------------------------------------------------------------------


def test_connecting_needs_the_permission_for_the_servers_host(host: Host, server: SyncServer) -> None:
    answer = host.connect("https://evil.example/localhost")
    assert answer["ok"] is False
    assert all(word in answer["error"] for word in (PLUGIN, "http_requests", "evil.example"))
    assert server.attempts == 0


def test_a_permission_that_is_taken_back_ends_the_sending(
    host: Host, server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    host.connect(server)
    peer = server.accept()
    host.workspace.grant(PLUGIN, http_requests={"include": ["all"], "exclude": ["localhost"]})
    answer = host.request(type="send_text", text="x")
    assert answer["ok"] is False
    assert "http_requests" in answer["error"]
    peer.send(b"no echo")
    wait_until(lambda: "websocket.not_sent" in caplog.text)
    assert not peer.has_received


def test_a_private_address_that_the_host_has_not_opened_is_not_connected_to(
    host: Host, server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    host.workspace.grant(PLUGIN, http_requests=["all"])
    for number, name in enumerate(("127.0.0.2", "[::ffff:127.0.0.1]", "localhost.localdomain"), 1):
        assert host.connect(server.url(host=name)) == {"ok": True}
        # A moment after the log, and who connects anew in between does not hear it.
        host.wait_heard(*["on_disconnected"] * number)
        assert f"host={name.strip('[]').replace('127.0.0.1', '7f00:1')}" in caplog.text
    assert server.attempts == 0


# --- losing and making it again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drop", "close"])
def test_a_lost_connection_is_made_again_and_the_guest_hears_both(host: Host, server: SyncServer, how: str) -> None:
    host.connect(server)
    for _ in range(3):
        getattr(server.accept(), how)()
    peer = server.accept()
    host.wait_heard(*["on_connected", "on_disconnected"] * 3, "on_connected")
    host.request(type="send_text", text="again")
    assert peer.receive() == "again"
    assert server.most_open == 1


def test_a_server_that_comes_later_is_found_and_gets_what_was_sent_meanwhile_in_order(
    host: Host,
) -> None:
    with reserved_port() as port:
        assert host.connect(f"http://localhost:{port}") == {"ok": True}
        host.wait_heard("on_disconnected")
        sent = [f"message {number}" for number in range(20)]
        assert all(host.request(type="send_text", text=text) == {"ok": True} for text in sent)
        with sync_server(port) as server:
            peer = server.accept()
            assert [peer.receive() for _ in sent] == sent
            host.wait_heard("on_disconnected", "on_connected")  # one for all attempts that failed
            assert host.request(type="disconnect") == {"ok": True}


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500])
def test_a_refused_upgrade_is_tried_again_told_once_and_logged_without_the_token(
    host: Host, server: SyncServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = status
    host.connect(server, auth_token="s3cret", session_code="c0de")
    wait_until(lambda: server.attempts >= 4)
    host.wait_heard("on_disconnected")
    assert caplog.text.count("websocket.down") == 1
    assert f"reason=the server answered with status {status}" in caplog.text.replace("'", "").replace('"', "")
    server.status = 101
    server.accept()
    host.wait_heard("on_disconnected", "on_connected")
    assert "s3cret" not in caplog.text
    assert "c0de" not in caplog.text


def test_a_redirect_to_another_host_is_not_followed(
    host: Host, server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    with serve({"/sync2": Answer(302, (("Location", server.url(host="127.0.0.1")),))}) as elsewhere:
        host.connect(elsewhere.url(""))
        host.wait_heard("on_disconnected")
    assert server.attempts == 0
    assert "is not followed" in caplog.text


def test_disconnecting_ends_the_attempts(host: Host, server: SyncServer) -> None:
    server.status = 503
    host.connect(server)
    wait_until(lambda: server.attempts >= 2)
    assert host.request(type="disconnect") == {"ok": True}
    assert host.request(type="send_text", text="x")["ok"] is False
    wait_until(lambda: own_ends(server.port) == [])
    server.status = 101
    host.connect(server, "w2")
    assert server.accept().query["workspace_id"] == "w2"
    assert not server.has_another


# --- what guests answer ---------------------------------------------------------------------------------------------


def test_the_actions_of_an_answer_are_carried_out_in_order(host: Host, server: SyncServer) -> None:
    host.connect(server)
    peer = server.accept()
    actions = [(1, b"eins"), (0, b"\x00\xff"), (2, b'{"type":"sync", "n":1}'), (3, b"ws-1"), (1, b"last")]
    peer.send(order(do="answer", envelope=envelope(*actions)))
    assert [peer.receive() for _ in range(3)] == ["eins", b"\x00\xff", "last"]
    wait_until(lambda: [event for event in host.events if "heard" not in event])
    told = [event for event in host.events if "heard" not in event]
    assert told == [{"type": "sync", "n": 1}, {"type": "download_snapshot", "workspace_id": "ws-1"}]


@pytest.mark.parametrize(
    "malformed",
    [
        base64.b64encode(b"\1").decode(),
        envelope((1, b"sent?"), (7, b"")),
        envelope((1, b"sent?"), (1, b"\xff")),
        envelope((1, b"sent?"), (2, b"{]")),
        base64.b64encode(base64.b64decode(envelope((1, b"sent?"))) + b"!").decode(),
    ],
)
def test_of_a_malformed_answer_nothing_is_carried_out(
    host: Host, server: SyncServer, malformed: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.connect(server)
    peer = server.accept()
    before = host.supervisor.status()[PLUGIN]
    peer.send(order(do="answer", envelope=malformed), b"next")
    assert peer.receive() == b"next"
    after = host.supervisor.status()[PLUGIN]
    assert after.failures == before.failures + 1
    assert after.worker_pids == before.worker_pids
    assert "answered no action envelope" in caplog.text
    assert "sent?" not in caplog.text


def test_a_guest_that_fails_a_message_hears_the_next(
    host: Host, server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    host.connect(server)
    peer = server.accept()
    peer.send(order(do="fail"), b"next")
    assert peer.receive() == b"next"
    assert "websocket.failed plugin=test.socket code=command_error" in caplog.text


# --- servers that mean harm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\xff" * 64,
        b"\xc1\x01x",  # compressed, which was not agreed upon
        b"\x83\x00",  # an opcode that does not exist
        b"\x80\x01x",  # the continuation of nothing
        b"\x81\x02\xff\xfe",  # text that is not UTF-8
        b"\x89\x7e\x01\x00" + b"x" * 256,  # a ping that is too long
        b"\x82\x7f" + b"\xff" * 8,  # a message of 16 EiB
        b"\x88\x01\x03",  # a close with half a code
        b"\x02\x01x" * 3,  # a message within a message
    ],
)
def test_garbage_ends_the_connection_and_it_is_made_again(host: Host, garbage: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(upgraded(peer.requests[-1]) + garbage)

    with serve_bytes(talk) as peer:
        host.connect(peer.url(""))
        wait_until(lambda: len(peer.requests) >= 2)
        wait_until(lambda: len(host.heard()) >= 3)
        assert set(host.heard()) == {"on_connected", "on_disconnected"}
        host.start_afresh()


def test_a_server_that_goes_away_right_after_the_upgrade_is_tried_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
        connection.sendall(upgraded(peer.requests[-1]))
        connection.close()

    with serve_bytes(talk) as peer:
        host.connect(peer.url(""))
        wait_until(lambda: len(peer.requests) >= 8)
        host.start_afresh()
    assert "websocket.broken" not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01\x02garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 101 X\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 101 X\r\nX: " + b"y" * 100_000,
        b"",
    ],
)
def test_a_server_that_answers_the_upgrade_with_nonsense_is_no_server(
    host: Host, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)

    with serve_bytes(talk) as peer:
        host.connect(peer.url(""), auth_token="s3cret")
        wait_until(lambda: len(peer.requests) >= 3)
        host.wait_heard("on_disconnected")
        host.start_afresh()
    assert "websocket.broken" not in caplog.text
    assert "s3cret" not in caplog.text
