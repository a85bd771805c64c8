"""A plugin's connection and its workers: the one outlives the others, and each new worker hears of it first."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from conftest import PluginFolder, Workspace, wait_until, wait_until_computing
from isoplug.supervisor import CallTimeout, PoisonedInput, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Calls, Restart
from socket_host import PLUGIN, QUICK, Host, order, start_host
from sync_server import SyncServer, sync_server
from versions import put

#: For tests that kill one worker after the other.
PATIENT = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)


@pytest.fixture
def server() -> Iterator[SyncServer]:
    with sync_server() as running:
        yield running


@pytest.fixture
def start(plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace) -> Callable[..., Host]:
    return partial(start_host, plugins, supervise, workspace)


def pid(host: Host) -> int:
    (only,) = wait_until(lambda: host.supervisor.status()[PLUGIN].worker_pids)
    return int(only)


def delivering() -> bool:
    return any(thread.name.startswith("isoplug-websockets-") for thread in threading.enumerate())


def kill(host: Host) -> None:
    """The plugin's worker, and wait until there is another."""
    old = pid(host)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: host.supervisor.status()[PLUGIN].worker_pids not in ((), (old,)))


def test_a_killed_worker_keeps_the_connection_and_its_successor_hears_of_it(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start()
    host.connect(server, "w7", write_to_disk=False)
    peer = server.accept()
    host.wait_heard("on_connected")
    kill(host)
    host.wait_heard("on_connected", "on_connected")  # also when the server says nothing
    assert json.loads(host.heard("on_connected")[1]) == {"workspace_id": "w7", "write_to_disk": False}
    peer.send(b"still here")
    assert peer.receive() == b"still here"
    host.request(type="send_text", text="me too")
    assert peer.receive() == "me too"
    assert server.attempts == 1


def test_what_arrives_while_there_is_no_worker_waits_and_on_connected_comes_first(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start(restart=Restart(backoff_initial=2.0, backoff_jitter=0.0, max_restarts=10))
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    kill(host)  # the first restart is at once
    host.wait_heard("on_connected", "on_connected")
    second = pid(host)
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: host.supervisor.status()[PLUGIN].worker_pids != (second,))
    peer.send("one", "two", "three")
    host.wait_heard(*["on_connected"] * 3, *["handle_text_message"] * 3)
    assert host.heard("handle_text_message") == ["one", "two", "three"]


@pytest.mark.parametrize("how", ["killed", "trap", "spin"])
def test_the_message_that_cost_the_worker_is_not_replayed_and_those_behind_it_arrive_after_on_connected(
    start: Callable[..., Host], server: SyncServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = start(calls=Calls(timeout=2.0) if how == "spin" else Calls())
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    peer.send(order(do="trap" if how == "trap" else "spin"), "one", b"two")
    if how == "killed":
        wait_until(lambda: host.heard("handle_text_message"))
        os.kill(pid(host), signal.SIGKILL)
    assert peer.receive() == b"two"
    assert host.heard() == [
        "on_connected",
        "handle_text_message",
        "on_connected",
        "handle_text_message",
        "handle_binary_message",
    ]
    codes = {"killed": "worker_crashed", "trap": "guest_trap", "spin": "call_timeout"}
    assert caplog.text.count(f"websocket.failed plugin={PLUGIN} code={codes[how]}") == 1
    assert server.attempts == 1


def test_a_worker_that_dies_between_two_messages_is_not_given_the_second_before_on_connected(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start(restart=PATIENT)
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    for number in range(12):
        old = pid(host)
        peer.send(*[f"{number}.{part}" for part in range(20)])
        os.kill(old, signal.SIGKILL)  # somewhere among them
        wait_until(lambda old=old: host.supervisor.status()[PLUGIN].worker_pids not in ((), (old,)))
    peer.send(b"the last")
    assert peer.receive() == b"the last"
    heard = [event for event in host.events if "heard" in event]
    messages = [event["text"] for event in heard if event["heard"] == "handle_text_message"]
    numbers = [tuple(map(int, text.split("."))) for text in messages]
    assert numbers == sorted(set(numbers))  # in order, none twice
    assert len(numbers) >= 12 * 20 - 12  # at most one lost for each death
    assert {event["heard"] for event in heard if event["nth"] == 1} == {"on_connected"}
    assert server.attempts == 1


def test_a_message_that_waits_for_its_turn_in_a_worker_that_dies_comes_to_its_successor_after_on_connected(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start()
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    wait_until(lambda: not delivering())
    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(host.supervisor.call, PLUGIN, "handle_text_message", order(do="spin").encode())
        wait_until_computing(host.supervisor.plugins[PLUGIN])
        peer.send("waits")
        wait_until(delivering)
        os.kill(pid(host), signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            holding.result()
    wait_until(lambda: "waits" in host.heard("handle_text_message"))
    assert [event["heard"] for event in host.events if event["nth"] == 1] == ["on_connected"] * 2


def test_a_trap_in_on_connected_is_not_tried_again_and_messages_arrive(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start({"on_connected": {"do": "trap"}})
    host.connect(server)
    peer = server.accept()
    peer.send(b"hello")
    assert peer.receive() == b"hello"
    assert host.heard() == ["on_connected", "handle_binary_message"]
    assert host.supervisor.status()[PLUGIN].restarts == 1


def test_an_on_connected_that_always_costs_the_worker_ends_in_quarantine(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start({"on_connected": {"do": "spin"}}, calls=Calls(timeout=1.0), restart=Restart(max_restarts=1))
    host.connect(server)
    server.accept()
    wait_until(lambda: host.supervisor.status()[PLUGIN].state == "quarantined")
    host.wait_heard("on_connected", "on_connected")


def test_messages_for_a_quarantined_plugin_wait_for_its_reset(
    start: Callable[..., Host], server: SyncServer, caplog: pytest.LogCaptureFixture
) -> None:
    host = start(restart=Restart(max_restarts=0), websockets=QUICK.model_copy(update={"queue": 3}))
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    wait_until(lambda: not delivering())  # it is heard of before the call has returned
    os.kill(pid(host), signal.SIGKILL)
    wait_until(lambda: host.supervisor.status()[PLUGIN].state == "quarantined")
    calls = host.supervisor.status()[PLUGIN].calls
    for number in range(10):
        peer.start_sending(f"{number}")
    wait_until(lambda: host.supervisor.status()[PLUGIN].calls > calls and not delivering())
    host.supervisor.reset(PLUGIN)
    host.wait_heard("on_connected", "on_connected", *["handle_text_message"] * 10)
    assert host.heard("handle_text_message") == [f"{number}" for number in range(10)]
    assert "websocket.failed" not in caplog.text
    assert "websocket.dropped" not in caplog.text


def test_a_plugin_that_is_reset_after_it_gave_its_connection_up_can_have_another(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start(restart=Restart(max_restarts=0))
    host.connect(server)
    server.accept()
    host.wait_heard("on_connected")
    with ThreadPoolExecutor(1) as threads:
        gives_up = order(do="request", request={"type": "disconnect"}, then_spin=True).encode()
        holding = threads.submit(host.supervisor.call, PLUGIN, "handle_text_message", gives_up)
        wait_until(lambda: [event for event in host.events if event["heard"] == "answer"])
        os.kill(pid(host), signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            holding.result()
    wait_until(lambda: not delivering())
    host.supervisor.reset(PLUGIN)
    host.connect(server)
    peer = server.accept()
    peer.send(b"hello")
    assert peer.receive() == b"hello"
    assert host.heard() == [
        "on_connected",
        "handle_text_message",
        "on_disconnected",
        "on_connected",
        "handle_binary_message",
    ]


def test_workers_that_die_while_they_ask_for_connections_leave_one(
    start: Callable[..., Host], server: SyncServer
) -> None:
    host = start(restart=PATIENT)
    is_done = threading.Event()

    def ask() -> None:
        number = 0
        while not is_done.is_set():
            with suppress(WorkerCrashed, CallTimeout, PoisonedInput):
                host.connect(server, f"w{number % 3}")
            host.supervisor.clear_poisoned(PLUGIN)  # it is not the input that kills
            number += 1

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(10):
        kill(host)
    is_done.set()
    asking.join()
    host.connect(server, "last")
    wait_until(lambda: '"last"' in "".join(host.heard("on_connected")[-1:]))
    assert server.most_open == 1
    wait_until(lambda: server.now_open == 1)


def test_a_new_version_hears_of_the_connection_before_anything_else_and_so_does_the_old_one_after_a_roll_back(
    start: Callable[..., Host], server: SyncServer, plugins: PluginFolder
) -> None:
    host = start()
    wasm = host.supervisor.plugins[PLUGIN].wasm_path
    host.connect(server)
    peer = server.accept()
    host.wait_heard("on_connected")
    old = pid(host)
    put(wasm, wasm.read_bytes() + b"\0\2\1x")  # an empty section of its own: the same code, another module
    assert host.supervisor.reload().upgraded == (PLUGIN,)
    host.wait_heard("on_connected", "on_connected")  # also when the server says nothing
    new, standing_by = host.supervisor.status()[PLUGIN].worker_pids
    assert standing_by == old
    os.kill(new, signal.SIGKILL)
    host.wait_heard("on_connected", "on_connected", "on_connected")
    peer.send(b"still here")
    assert peer.receive() == b"still here"
    assert pid(host) == old
    assert server.attempts == 1
