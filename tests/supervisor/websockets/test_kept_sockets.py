"""The embedded WebSockets with sockets that a test makes: one at a time, and an end that can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NoReturn

import pytest

from conftest import wait_until
from isoplug.supervisor.egress import NetLoop
from isoplug.supervisor.websockets import KeptSockets, Message, SocketPolicy, Target

POLICY = SocketPolicy(outbox_messages=10, outbox_bytes=1000)
TARGET = Target("ws://server.example/sync2", "server.example", "w", True)


class Silent:
    """A socket that stands and says nothing; its goodbye takes a while."""

    standing = 0
    most_standing = 0

    def __init__(self, may_end: asyncio.Event) -> None:
        self._may_end = may_end
        Silent.standing += 1
        Silent.most_standing = max(Silent.most_standing, Silent.standing)

    async def receive(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def send(self, message: Message) -> None:
        raise ValueError("a fault of ours")

    async def ping(self) -> None: ...

    async def close(self) -> None:
        await self._may_end.wait()
        Silent.standing -= 1


class Hearing:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def connected(self) -> Future[None]:
        return self._hear("connected")

    def received(self, message: Message) -> Future[None]:
        return self._hear("received")

    def disconnected(self) -> Future[None]:
        return self._hear("disconnected")

    def _hear(self, what: str) -> Future[None]:
        self.heard.append(what)
        room: Future[None] = Future()
        room.set_result(None)
        return room


@pytest.fixture
def loop() -> Iterator[NetLoop]:
    running = NetLoop()
    Silent.standing = Silent.most_standing = 0
    yield running
    running.close()


def test_a_new_connection_is_not_dialled_before_the_old_one_is_gone(loop: NetLoop) -> None:
    may_end = asyncio.Event()

    async def dial(url: str) -> Silent:
        return Silent(may_end)

    sockets, last = KeptSockets(loop, lambda: dial, POLICY), Hearing()
    first = sockets.open("a.plugin", TARGET, Hearing())
    wait_until(lambda: Silent.standing == 1)
    for _ in range(5):
        first.close()
        first = sockets.open("a.plugin", TARGET, Hearing())
    first.close(patience_seconds=0.01)  # the oldest still stands
    final = sockets.open("a.plugin", TARGET, last)
    assert Silent.standing == 1

    async def let_go() -> None:
        may_end.set()

    loop.spawn(let_go())
    wait_until(lambda: last.heard == ["connected"])
    assert Silent.most_standing == 1
    final.close(patience_seconds=10)
    assert Silent.standing == 0


def test_plugins_do_not_wait_for_each_other(loop: NetLoop) -> None:
    may_end = asyncio.Event()
    may_end.set()

    async def dial(url: str) -> Silent:
        return Silent(may_end)

    sockets = KeptSockets(loop, lambda: dial, POLICY)
    both = [sockets.open(plugin_id, TARGET, Hearing()) for plugin_id in ("a.plugin", "another.plugin")]
    wait_until(lambda: Silent.standing == 2)
    for each in both:
        each.close(patience_seconds=10)
    assert Silent.standing == 0


def test_a_fault_of_ours_is_logged_and_costs_the_connection_only(
    loop: NetLoop, caplog: pytest.LogCaptureFixture
) -> None:
    may_end = asyncio.Event()
    may_end.set()

    async def dial(url: str) -> Silent:
        return Silent(may_end)

    quick = SocketPolicy(outbox_messages=10, outbox_bytes=1000, reconnect_initial_seconds=0.01)
    listener = Hearing()
    kept = KeptSockets(loop, lambda: dial, quick).open("a.plugin", TARGET, listener)
    kept.send("this cannot be sent")
    wait_until(lambda: listener.heard == ["connected", "disconnected", "connected"])
    assert "websocket.broken" in caplog.text
    kept.close(patience_seconds=10)


def test_a_server_that_does_not_answer_in_time_is_tried_again(loop: NetLoop, caplog: pytest.LogCaptureFixture) -> None:
    attempts = []

    async def dial(url: str) -> NoReturn:
        attempts.append(url)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    quick = SocketPolicy(10, 1000, reconnect_initial_seconds=0.01, dial_seconds=0.02)
    listener = Hearing()
    kept = KeptSockets(loop, lambda: dial, quick).open("a.plugin", TARGET, listener)
    wait_until(lambda: len(attempts) >= 3)
    kept.close(patience_seconds=10)
    assert listener.heard == ["disconnected"]
    assert "it did not answer in time" in caplog.text
