"""Connections that need a supervisor of their own: their bounds, their ends, and a host that makes them itself."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench import ask
from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until
from isoplug.shared.errors import ServiceError
from isoplug.supervisor import CallTimeout, Supervisor
from isoplug.supervisor.config import Calls, Config, Http, Websockets
from isoplug.supervisor.websockets import Connection, Listener, Message, SocketPolicy, Target
from peers import serve_bytes
from socket_host import PLUGIN, QUICK, Host, envelope, order, own_ends, start_host
from sync_server import SyncServer, sync_server, upgraded


@pytest.fixture
def server() -> Iterator[SyncServer]:
    with sync_server() as running:
        yield running


@pytest.fixture
def start(plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace) -> Callable[..., Host]:
    return partial(start_host, plugins, supervise, workspace)


def test_what_waits_to_be_sent_is_bounded_by_number_and_bytes(start: Callable[..., Host]) -> None:
    host = start(websockets=QUICK.model_copy(update={"queue": 5, "message": 1000}))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: the port is refused, and stays nobody's
        host.connect(f"http://localhost:{nobody.getsockname()[1]}")
        assert "the limit is 1000" in host.request(type="send_text", text="x" * 1001)["error"]
        answers = [host.request(type="send_text", text="x" * 400) for _ in range(3)]
        assert [answer["ok"] for answer in answers] == [True, True, False]
        assert "no room: 2 messages with 800 bytes wait to be sent" in answers[2]["error"]
        answers = [host.request(type="send_binary", data="") for _ in range(4)]
        assert [answer["ok"] for answer in answers] == [True, True, True, False]


def test_the_wait_before_an_attempt_grows_by_half_up_to_its_bound() -> None:
    delays = SocketPolicy(outbox_messages=1, outbox_bytes=1).delays()
    assert list(islice(delays, 12)) == [min(1.5**number, 30.0) for number in range(12)]
    assert next(islice(delays, 10_000, None)) == 30.0


def test_the_wait_begins_anew_with_every_connection_that_was_made(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start(websockets=Websockets(reconnect_initial=0.01, reconnect_max=1000.0))
    host.connect(server)
    for number in range(26):  # the last wait would be 168 seconds
        peer = server.accept()
        host.wait_heard(*["on_connected", "on_disconnected"] * number, "on_connected")  # it has been made for us, too
        peer.drop()


def test_a_new_connection_waits_until_a_stubborn_one_is_gone(start: Callable[..., Host], server: SyncServer) -> None:
    done = threading.Event()
    has_given_in: list[bool] = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(upgraded(stubborn.requests[-1]))
        has_given_in.append(not done.wait(WAIT_SECONDS))  # reads nothing, so not even the goodbye gets out

    with serve_bytes(talk) as stubborn:
        host = start()
        host.connect(stubborn.url(""))
        host.wait_heard("on_connected")
        while host.request(type="send_binary", data="A" * 4_000_000)["ok"]:
            pass
        host.connect(server)
        server.accept()
        assert own_ends(stubborn.port) == []
        done.set()
        wait_until(lambda: has_given_in)
    assert has_given_in == [False]


def test_a_server_whose_certificate_nobody_trusts_is_not_connected_to(
    start: Callable[..., Host], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sync_server(tls=self_signed(tmp_path)) as server:
        host = start()
        host.connect(server.url("https"), auth_token="s3cret")
        host.wait_heard("on_disconnected")
        assert server.attempts == 0
    assert "TLS certificate is not valid" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_server_with_a_trusted_certificate_is_connected_to(tmp_path: Path) -> None:
    context = self_signed(tmp_path)
    with sync_server(tls=context) as server:
        script = f"""
import asyncio
from isoplug.supervisor.egress import AddressPolicy, Lookups
from isoplug.supervisor.egress.websocket import dial

async def main():
    peer = await dial("wss://localhost:{server.port}/x", AddressPolicy.of(["localhost"]), Lookups(), 1000, 60.0)
    await peer.send("over TLS")
    await peer.ping()
    await peer.close()

asyncio.run(main())
"""
        # OpenSSL reads the variable when aiohttp is imported, so this takes a process of its own.
        environment = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT_SECONDS, env=environment)
        assert server.accept().receive() == "over TLS"


def self_signed(folder: Path) -> ssl.SSLContext:
    """For localhost; the certificate is left in ``certificate.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def test_pings_keep_it_alive(start: Callable[..., Host], server: SyncServer) -> None:
    host = start(websockets=QUICK.model_copy(update={"ping": 0.05}))
    host.connect(server)
    peer = server.accept()
    wait_until(lambda: peer.pings >= 3)
    host.wait_heard("on_connected")


@pytest.mark.parametrize("export", ["on_connected", "on_disconnected"])
def test_the_exports_without_a_message_answer_in_actions_too(
    start: Callable[..., Host], server: SyncServer, export: str
) -> None:
    host = start({export: {"do": "answer", "envelope": envelope((1, export.encode()))}})
    host.connect(server)
    peer = server.accept()
    if export == "on_disconnected":  # what is sent then waits for the next connection
        host.wait_heard("on_connected")
        peer.drop()
        peer = server.accept()
    assert peer.receive() == export


def test_a_guest_without_these_exports_is_left_in_peace(
    start: Callable[..., Host], server: SyncServer, plugins: PluginFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add()
    host = start()
    host.workspace.grant(http_requests=["localhost"])
    connect = {"type": "connect", "server_url": server.url(), "workspace_id": "w"}
    assert ask(host.supervisor, "host_ws_request", connect) == b'{"ok":true}'
    peer = server.accept()
    peer.send("text", b"binary")
    assert ask(host.supervisor, "host_ws_request", {"type": "send_text", "text": "hello"}) == b'{"ok":true}'
    assert peer.receive() == "hello"
    wait_until(lambda: host.supervisor.status()["test.probe"].calls >= 5)
    assert host.supervisor.status()["test.probe"].failures == 0
    assert "websocket.failed" not in caplog.text


def test_a_guest_may_send_while_it_hears_a_message(start: Callable[..., Host], server: SyncServer) -> None:
    host = start(websockets=QUICK.model_copy(update={"queue": 1}))
    host.connect(server)
    peer = server.accept()
    for number in range(5):
        peer.start_sending(order(do="request", request={"type": "send_text", "text": f"while {number}"}))
    assert [peer.receive() for _ in range(5)] == [f"while {number}" for number in range(5)]


def test_a_flood_waits_in_the_network_and_nothing_of_it_is_lost(start: Callable[..., Host], server: SyncServer) -> None:
    host = start(websockets=QUICK.model_copy(update={"queue": 10}))
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    host.listens.clear()
    count, filler = 300, "x" * 100_000  # 30 MB are more than ten messages and the buffers of both kernels
    sending = [peer.start_sending(f"{number} {filler}") for number in range(count)]
    wait_until(lambda: sending[10].done())
    assert not threading.Event().wait(0.3)  # as much as it takes
    assert not sending[-1].done()
    host.listens.set()
    for each in sending:
        each.result(WAIT_SECONDS)
    wait_until(lambda: len(host.heard("handle_text_message")) == count)
    assert [int(text.split()[0]) for text in host.heard("handle_text_message")] == list(range(count))
    assert server.attempts == 1


def test_a_message_of_the_bound_is_delivered_and_one_beyond_it_ends_the_connection(
    start: Callable[..., Host], server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    host = start(websockets=QUICK.model_copy(update={"message": 2000}))
    host.connect(server)
    peer = server.accept()
    peer.send("x" * 2000)
    wait_until(lambda: host.heard("handle_text_message") == ["x" * 2000])
    peer.start_sending("x" * 2001)
    wait_until(peer.ended.is_set)
    assert peer.close_code == 1009
    server.accept()
    host.wait_heard("on_connected", "handle_text_message", "on_disconnected", "on_connected")
    assert "websockets.message" in caplog.text


def test_a_server_that_takes_nothing_any_more_counts_as_gone(start: Callable[..., Host]) -> None:
    done = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(upgraded(peer.requests[-1]))
        done.wait(WAIT_SECONDS)  # reads nothing

    with serve_bytes(talk) as peer:
        host = start(websockets=QUICK.model_copy(update={"ping": 0.3}))
        host.connect(peer.url(""))
        host.wait_heard("on_connected")
        while host.request(type="send_binary", data="A" * 4_000_000)["ok"]:
            pass  # until the kernels' buffers and the outbox are full
        wait_until(lambda: "on_disconnected" in host.heard())
        done.set()
        host.supervisor.unload(PLUGIN)


def test_unloading_closes_the_connection_and_the_guest_gets_no_other(
    start: Callable[..., Host], server: SyncServer
) -> None:
    again = {"type": "connect", "server_url": server.url(), "workspace_id": "w2"}
    host = start({"request_in_shutdown": again})
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    host.supervisor.unload(PLUGIN)
    wait_until(peer.ended.is_set)
    assert peer.close_code == 1000
    (answer,) = [event["text"] for event in host.events if event["heard"] == "answer"]
    assert "being unloaded" in answer
    assert server.attempts == 1


def test_a_guest_gets_no_connection_from_a_supervisor_that_is_closing(
    start: Callable[..., Host], server: SyncServer
) -> None:
    again = {"type": "connect", "server_url": server.url(), "workspace_id": "w2"}
    host = start({"request_in_shutdown": again})
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    host.supervisor.close()
    wait_until(peer.ended.is_set)
    assert peer.close_code == 1000
    (answer,) = [event["text"] for event in host.events if event["heard"] == "answer"]
    assert json.loads(answer)["ok"] is False
    assert server.attempts == 1


@pytest.mark.parametrize("ending", ["unload", "close"])
def test_what_a_guest_sends_from_shutdown_still_arrives(
    start: Callable[..., Host], server: SyncServer, ending: str
) -> None:
    host = start({"request_in_shutdown": {"type": "send_text", "text": "goodbye"}})
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    if ending == "unload":
        host.supervisor.unload(PLUGIN)
    else:
        host.supervisor.close()
    assert peer.receive() == "goodbye"
    wait_until(peer.ended.is_set)
    assert peer.close_code == 1000


def test_what_a_guest_sends_before_it_disconnects_still_arrives(start: Callable[..., Host], server: SyncServer) -> None:
    host = start()
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    for number in range(50):
        host.request(type="send_text", text=str(number))
    host.request(type="disconnect")
    assert [peer.receive() for _ in range(50)] == [str(number) for number in range(50)]
    wait_until(peer.ended.is_set)


def test_a_plugin_that_is_loaded_again_may_connect_again(start: Callable[..., Host], server: SyncServer) -> None:
    host = start()
    wasm = host.supervisor.plugins[PLUGIN].wasm_path
    for _ in range(2):
        host.connect(server)
        peer = server.accept()
        host.supervisor.unload(PLUGIN)
        wait_until(peer.ended.is_set)
        host.supervisor.load_plugin(wasm)


def test_a_guest_may_connect_in_init_and_hears_of_it_afterwards(start: Callable[..., Host], server: SyncServer) -> None:
    connect = {"type": "connect", "server_url": server.url(), "workspace_id": "w"}
    host = start({"request_in_init": connect})
    server.accept()
    host.wait_heard("on_connected")


def test_a_guest_that_connects_in_init_and_then_fails_to_load_leaves_no_socket(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace, server: SyncServer
) -> None:
    connect = {"type": "connect", "server_url": server.url(), "workspace_id": "w"}
    plugins.add(PLUGIN, variant="socket", config={"request_in_init": connect, "init": {"do": "spin"}})
    workspace.grant(PLUGIN, http_requests=["localhost"])
    settings = Config(http=Http(allow_private=("localhost",)), calls=Calls(start_timeout=5.0))
    supervisor = supervise(config=settings)
    assert PLUGIN in supervisor.load_errors
    wait_until(server.accept().ended.is_set)
    assert server.attempts == 1


@pytest.mark.parametrize("reads", [True, False])
def test_closing_does_not_wait_for_a_server_that_never_says_goodbye(start: Callable[..., Host], reads: bool) -> None:
    done = threading.Event()
    has_given_in: list[bool] = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(upgraded(peer.requests[-1]))
        while reads and connection.recv(65536):
            pass
        has_given_in.append(not done.wait(WAIT_SECONDS))

    with serve_bytes(talk) as peer:
        host = start()
        host.connect(peer.url(""))
        host.wait_heard("on_connected")
        while not reads and host.request(type="send_binary", data="A" * 4_000_000)["ok"]:
            pass
        host.supervisor.close()
        assert own_ends(peer.port) == []
        done.set()
        wait_until(lambda: has_given_in)
    assert has_given_in == [False]


def test_closing_while_the_server_has_not_answered_the_upgrade(start: Callable[..., Host]) -> None:
    with serve_bytes(lambda _connection: None) as peer:
        host = start()
        host.connect(peer.url(""))
        wait_until(lambda: peer.requests)
        host.supervisor.close()
        assert own_ends(peer.port) == []
        assert host.heard() == []


class Recorded:
    """A host's own WebSockets: nothing leaves the process."""

    def __init__(self) -> None:
        self.opened: list[Target] = []
        self.sent: list[Message] = []
        self.closed = 0

    def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
        self.opened.append(target)
        self.listener = listener
        listener.connected()
        return self

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self, patience_seconds: float = 0.0) -> None:
        self.closed += 1


def test_a_host_replaces_them_in_a_few_lines(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add(PLUGIN, variant="socket")
    workspace.grant(PLUGIN, http_requests=["server.example"])
    own, host = Recorded(), Host(None, workspace)  # type: ignore[arg-type]
    host.supervisor = supervise(events=host, websockets=own)
    assert host.connect("https://server.example", auth_token="t") == {"ok": True}
    host.request(type="send_text", text="hello")
    own.listener.received(b"echo")
    wait_until(lambda: len(own.sent) == 2)
    assert own.sent == ["hello", b"echo"]
    assert [target.url for target in own.opened] == ["wss://server.example/sync2?workspace_id=w1&token=t"]
    own.listener.disconnected()
    host.wait_heard("on_connected", "handle_binary_message", "on_disconnected")
    host.supervisor.unload(PLUGIN)
    assert own.closed
    own.listener.received("too late")
    assert len(host.heard()) == 3


def test_a_transport_that_does_not_return_from_open_does_not_keep_the_supervisor_from_closing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    class Slow(Recorded):
        def __init__(self) -> None:
            super().__init__()
            self.is_asked, self.may_return = threading.Event(), threading.Event()

        def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
            self.is_asked.set()
            self.may_return.wait(WAIT_SECONDS)
            return super().open(plugin_id, target, listener)

    plugins.add(PLUGIN, variant="socket")
    workspace.grant(PLUGIN, http_requests=["all"])
    slow, host = Slow(), Host(None, workspace)  # type: ignore[arg-type]
    host.supervisor = supervise(events=host, websockets=slow, call_timeout=0.5)
    while not slow.is_asked.is_set():  # a slow machine may take all of the time before the guest has asked
        with pytest.raises(CallTimeout):
            host.connect("https://server.example")
    host.supervisor.close()
    assert not slow.opened, "closing has waited for the transport"
    slow.may_return.set()
    wait_until(lambda: slow.closed)
    assert host.heard() == []


def test_a_transport_that_cannot_open_is_an_answer_to_the_guest(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    class Broken:
        def open(self, plugin_id: str, target: Target, listener: Listener) -> Connection:
            raise ServiceError("no line")

    plugins.add(PLUGIN, variant="socket")
    workspace.grant(PLUGIN, http_requests=["all"])
    host = Host(None, workspace)  # type: ignore[arg-type]
    host.supervisor = supervise(events=host, websockets=Broken())
    assert host.connect("https://server.example") == {"ok": False, "error": "host_ws_request: no line"}
    assert "there is no connection" in host.request(type="send_text", text="x")["error"]
