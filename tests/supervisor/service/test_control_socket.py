"""The control socket of a running service, and clients that mean no good."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import PROBE, nothing_left_behind
from conftest import wait_until
from isoplug.shared.lockdown import Layer
from isoplug.supervisor import Outcome
from isoplug.supervisor.service.client import open_client
from isoplug.supervisor.service.place import NotRunning
from isoplug.supervisor.service.protocol import Call
from service_host import RawClient, ServiceHost

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[ServiceHost]:
    host = ServiceHost(tmp_path_factory.mktemp("control"), guest_cache, '[calls]\ntimeout = "60s"\n')
    host.plugins.add()
    host.plugins.add("test.other")
    host.start()
    yield host
    host.close()


@pytest.fixture
def client(host: ServiceHost) -> Iterator[RawClient]:
    client = host.client()
    yield client
    client.close()


def state_of(host: ServiceHost, plugin_id: str) -> str:
    (found,) = [plugin["state"] for plugin in host.ask("status")["plugins"] if plugin["id"] == plugin_id]
    return str(found)


def all_are_ready(host: ServiceHost) -> bool:
    """What a test before has cost has been replaced."""
    return {plugin["state"] for plugin in host.ask("status")["plugins"]} == {"ready"}


def error_of(client: RawClient) -> dict[str, Any]:
    answer = client.read()
    assert answer is not None
    error: dict[str, Any] = answer["error"]
    return error


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_connection_takes_any_number_of_requests_and_answers_in_their_order(client: RawClient) -> None:
    for number in range(20):
        client.send("call", plugin=PROBE, command="echo", params={"number": number})
    answers = [client.read() or {} for _ in range(20)]
    assert [answer["ok"]["data"] for answer in answers] == [{"number": number} for number in range(20)]
    assert client.ask("ping")["phase"] == "running"


def test_status_has_the_service_and_its_plugins(host: ServiceHost, client: RawClient) -> None:
    wait_until(lambda: all_are_ready(host))
    report = client.ask("status")
    assert report["service"]["state_dir"] == str(host.state)
    assert report["service"]["pid"] == host.processes[0].pid
    assert {plugin["id"]: plugin["state"] for plugin in report["plugins"]} == {PROBE: "ready", "test.other": "ready"}
    assert report["load_errors"] == {}
    assert report["service"]["lockdown"]["mode"] == "best-effort"
    assert set(report["service"]["lockdown"]["missing"]) <= set(Layer)


def test_a_call_offers_files_and_has_a_deadline(client: RawClient) -> None:
    ask = {"function": "host_request_file", "input": '{"key": "archive"}'}
    fields = {"plugin": PROBE, "command": "host", "params": ask}
    assert client.ask("call", files={"archive": "Y29udGVudA=="}, **fields)["data"]["answer"] == "content"
    client.send("call", plugin=PROBE, command="spin", timeout=0.3)
    error = error_of(client)
    assert (error["code"], error["facts"]["timeout_seconds"]) == ("call_timeout", 0.3)


def test_a_call_tells_what_it_did(client: RawClient) -> None:
    ask = {"function": "host_storage_set", "input": '{"key": "k", "data": "eA=="}'}
    record = client.ask("call", plugin=PROBE, command="host", params=ask)["record"]
    assert record["attempts"] == 1
    assert record["effects"] == [{"plugin_id": PROBE, "kind": "key_set", "target": "k", "is_certain": True}]
    client.send("call", plugin=PROBE, command="segv")
    error = error_of(client)
    assert error["outcome"] == "no_effects"
    assert error["record"]["effects"] == []


def test_an_error_carries_its_code_its_words_and_its_facts(client: RawClient) -> None:
    client.send("call", plugin=PROBE, command="segv")
    error = error_of(client)
    assert error["code"] == "worker_crashed"
    assert "killed by SIGSEGV" in error["message"]
    assert error["plugin_id"] == PROBE
    assert error["facts"]["signal"] == 11
    client.send("reset", plugin="nobody")
    assert error_of(client)["code"] == "plugin_not_found"
    client.ask("reset", plugin=PROBE)
    client.ask("cancel", plugin=PROBE, token="t")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "is empty"),
        (b"hello", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[1]", "must be an object"),
        (b'{"request": "ping"}', '"v" must be 1'),
        (b'{"v": 2, "request": "ping"}', '"v" must be 1'),
        (b'{"v": 1}', "request"),
        (b'{"v": 1, "request": "dance"}', "dance"),
        (b'{"v": 1, "request": "ping", "extra": 1}', "extra"),
        (b'{"v": 1, "request": "call", "plugin": "test.probe"}', "command"),
        (b'{"v": 1, "request": "call", "plugin": 5, "command": "x"}', "plugin"),
        (b'{"v": 1, "request": "call", "plugin": "test.probe", "command": "echo", "timeout": "5"}', "timeout"),
        (b'{"v": 1, "request": "call", "plugin": "test.probe", "command": "echo", "timeout": -1}', "timeout"),
        (b'{"v": 1, "request": "call", "plugin": "test.probe", "command": "echo", "files": {"a": "%"}}', "base64"),
        (b'{"v": 1, "request": "cancel", "plugin": "test.probe"}', "token"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"v": 1, "request": "ping", "x": ' + b"9" * 400 + b"}", "too large"),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else "",
)
def test_garbage_is_refused_in_words_and_the_connection_goes_on(client: RawClient, line: bytes, words: str) -> None:
    client.send_bytes(line + b"\n")
    error = error_of(client)
    assert error["code"] == "invalid_argument"
    assert words in error["message"]
    assert client.ask("ping")["phase"] == "running"


# --- who may speak ----------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_alone(host: ServiceHost) -> None:
    status = (host.state / "control.sock").stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(host.state.stat().st_mode) == 0o700


@pytest.mark.usefixtures("needs_root")
def test_another_user_is_refused_even_with_a_connected_socket(host: ServiceHost) -> None:
    """The mode of the socket keeps others out; were it opened by mistake, the kernel's word on the peer still would."""
    script = """
import ctypes, os, socket, sys
os.chdir(sys.argv[1])
os.seteuid(65534)
if sys.argv[2:]:
    ctypes.CDLL(None).setfsuid(0)  # goes through every mode, as nobody
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect("control.sock")
except PermissionError:
    print("refused by the mode")
else:
    print(connection.makefile().readline())
"""
    command = [sys.executable, "-c", script, str(host.state)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused by the mode\n"
    answer = json.loads(subprocess.run([*command, "all"], capture_output=True, text=True, check=True).stdout)
    assert answer["error"]["code"] == "permission_denied"
    assert "user 65534 may not control" in answer["error"]["message"]


# --- clients that hang, flood and go away -----------------------------------------------------------------------------


def test_a_client_that_goes_away_in_the_middle_of_a_call_cancels_it(host: ServiceHost) -> None:
    client = host.client()
    client.send("call", plugin=PROBE, command="spin")
    wait_until(lambda: state_of(host, PROBE) == "busy")
    wait_until(lambda: host.ask("status")["service"]["calls"] == 1)  # of tests before, none is left
    client.close()
    wait_until(lambda: state_of(host, PROBE) == "ready", "the call to be cancelled")
    wait_until(lambda: host.ask("status")["service"]["calls"] == 0)  # its thread hears of it on its own


def test_a_client_that_only_stops_sending_gets_its_answers(client: RawClient) -> None:
    client.send("call", plugin=PROBE, command="busy", params={"milliseconds": 500})
    client.send("ping")
    client.socket.shutdown(socket.SHUT_WR)
    answer, pong = client.read(), client.read()
    assert answer is not None
    assert answer["ok"]["data"] is None
    assert pong is not None
    assert client.read() is None


def test_a_line_without_an_end_is_refused_and_the_memory_is_given_back(host: ServiceHost) -> None:
    client = host.client()
    try:
        with pytest.raises(OSError, match=r"[Pp]ipe|reset"):
            client.send_bytes(b"x" * (64 * MIB))
    finally:
        client.close()
    client = host.client()
    client.send_bytes(b" " * (8 * MIB))
    assert error_of(client)["message"].startswith("a request may have 8388608 bytes")
    assert client.read() is None
    client.close()
    assert host.ask("ping")["phase"] == "running"


def test_an_answer_that_is_too_long_is_an_error(client: RawClient) -> None:
    client.send("call", plugin=PROBE, command="big", params={"bytes": 9 * MIB})
    error = error_of(client)
    assert error["code"] == "resource_limit_exceeded"
    assert client.ask("ping")["phase"] == "running"


def test_an_answer_that_is_too_long_tells_what_the_call_had_done(host: ServiceHost, client: RawClient) -> None:
    """What the guest answers fits into its bound; with the record it does not fit into a line."""
    host.workspace.grant(PROBE, read_files=["all"])
    host.workspace.write("long.md", "x" * (8 * MIB - 100))
    store = {"function": "host_storage_set", "input": '{"key": "long", "data": "eA=="}'}
    read = {"function": "host_read_file", "input": '{"path": "long.md"}'}
    client.send("call", plugin=PROBE, command="host_then", params={"calls": [store, read]}, retries=5)
    error = error_of(client)
    assert (error["code"], error["outcome"], error["retryable"]) == ("resource_limit_exceeded", "effects", False)
    assert [effect["kind"] for effect in error["record"]["effects"]] == ["key_set"]


def test_a_call_whose_service_is_killed_may_have_been_made(tmp_path: Path, guest_cache: Path) -> None:
    host = ServiceHost(tmp_path, guest_cache)
    host.plugins.add()
    service = host.start()
    store = {"function": "host_storage_set", "input": '{"key": "k", "data": "eA=="}'}
    call = Call(plugin=PROBE, command="host_then", params={"calls": [store], "then": "spin"})
    with open_client(host.state) as client, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(client.ask, call)
        wait_until(lambda: state_of(host, PROBE) == "busy")
        service.kill()
        with pytest.raises(NotRunning, match="look before you repeat it") as caught:
            answer.result(30)
    assert caught.value.outcome is Outcome.EFFECTS
    host.close()


def test_text_in_any_language_may_be_as_long_as_in_english(client: RawClient) -> None:
    text = "\N{GREEK SMALL LETTER OMEGA}" * (2 * MIB)
    assert text == client.ask("call", plugin=PROBE, command="echo", params=text)["data"]


def at_rest(host: ServiceHost) -> psutil.Process:
    """The service, when it has noticed that all clients have gone, and has all of its workers."""
    process = psutil.Process(host.processes[0].pid)
    wait_until(lambda: all_are_ready(host))

    def has_only_its_listener() -> bool:
        names = [str(one.laddr) for one in process.net_connections("unix")]
        return sum(name.endswith("control.sock") for name in names) == 1

    wait_until(has_only_its_listener, "the connections to be closed")
    return process


def test_clients_that_hang_make_room_for_the_next(host: ServiceHost) -> None:
    """Silent ones, ones with half a request, and ones that send and never read, in hundreds. Of these there are fewer
    than 64: until there is no more room for their answers, they do not hang."""
    process = at_rest(host)
    before = process.num_fds()
    hanging = []
    for number in range(200):
        client = host.client()
        hanging.append(client)
        if number % 4 == 1:
            client.send_bytes(b'{"v": 1, "requ')
        if number % 4 == 2:
            client.send_bytes(b'{"v": 1, "request": "status"}\n' * 1000)
    assert host.ask("ping")["phase"] == "running"
    wait_until(lambda: process.num_fds() <= before + 64, "most of them to be closed")
    for client in hanging:
        client.close()
    wait_until(lambda: process.num_fds() <= before, "all of them to be closed")


def test_clients_that_come_at_one_instant_are_answered_or_shown_out(host: ServiceHost) -> None:
    process = at_rest(host)
    before = process.num_fds()
    process.suspend()
    try:
        clients = [host.client() for _ in range(90)]  # so that all of them are there when it goes on
        for client in clients:
            client.send("ping")
    finally:
        process.resume()
    answered = [hears_an_answer(client) for client in clients]  # each hears something
    assert any(answered)
    for client in clients:
        client.close()
    wait_until(lambda: process.num_fds() <= before, "all of them to be closed")


def hears_an_answer(client: RawClient) -> bool:
    """False when the connection was closed."""
    try:
        return client.read() is not None
    except ConnectionResetError:
        return False


def unread_bytes(client: RawClient) -> int:
    """Of what it has sent."""
    (unread,) = struct.unpack("i", fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4)))
    return int(unread)


def test_one_client_more_than_can_be_answered_hears_so(host: ServiceHost) -> None:
    process = at_rest(host)
    before = process.num_fds()
    clients = [host.client() for _ in range(63)]
    for number, client in enumerate(clients):
        client.send("call", plugin=(PROBE, "test.other")[number % 2], command="spin")
    watcher = host.client()
    wait_until(lambda: watcher.ask("status")["service"]["calls"] == 63, "all calls to be made")
    watcher.send("call", plugin=PROBE, command="spin")
    wait_until(lambda: unread_bytes(watcher) == 0)  # or it would be idle, and make room
    one_more = host.client()  # says nothing: it is refused, and perhaps gone, before it could
    error = error_of(one_more)
    assert error["message"] == "64 clients wait for answers already; try again when one has its own"
    assert error["retryable"]
    for client in (*clients, watcher, one_more):
        client.close()
    wait_until(lambda: process.num_fds() <= before, "all of them to be closed")
    wait_until(lambda: state_of(host, PROBE) == state_of(host, "test.other") == "ready")


def test_a_flood_of_requests_from_many_harms_nobody(host: ServiceHost) -> None:
    def flood(seed: int) -> None:
        for number in range(10):
            client = host.client()
            with suppress(BrokenPipeError, ConnectionResetError):  # it had to make room for another
                client.send_bytes(os.urandom(5000).replace(b"\n", b"") + b"\n" + bytes([seed, number]) * 1000)
            client.close()

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(flood, range(10)))

    def is_answered() -> bool:
        """Not while 64 of the flood's still wait for their answers."""
        client = host.client()
        with suppress(BrokenPipeError, ConnectionResetError):
            client.send("call", plugin="test.other", command="echo", params=5)
            answer = client.read()
            client.close()
            return answer is not None and answer.get("ok", {}).get("data") == 5
        client.close()
        return False

    wait_until(is_answered)


def test_calls_of_several_clients_run_at_the_same_time(host: ServiceHost) -> None:
    slow, quick = host.client(), host.client()
    slow.send("call", plugin=PROBE, command="spin", timeout=30)
    wait_until(lambda: state_of(host, PROBE) == "busy")
    assert quick.ask("call", plugin="test.other", command="echo", params=1)["data"] == 1
    slow.close()
    quick.close()
    wait_until(lambda: state_of(host, PROBE) == "ready")
