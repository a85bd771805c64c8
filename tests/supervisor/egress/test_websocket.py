"""One WebSocket against a server that floods it: everybody shares the loop, so nobody may keep it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from conftest import WAIT_SECONDS
from isoplug.supervisor.egress import AddressPolicy, Lookups
from isoplug.supervisor.egress.websocket import AiohttpSocket, dial
from peers import SocketPeer, serve_bytes
from sync_server import upgraded

PING, PONG, EMPTY_TEXT = b"\x89\x00", b"\x8a\x00", b"\x81\x00"
MASKED_PONG_BYTES = 6


def turns_of_the_loop_during(peer: SocketPeer, talk: Callable[[AiohttpSocket], Coroutine[Any, Any, None]]) -> int:
    """How often everybody else had their turn."""

    async def work() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        policy = AddressPolicy.of(["127.0.0.1"])
        peer_end = await dial(f"ws://127.0.0.1:{peer.port}/", policy, Lookups(), 1000, 60.0)
        counting = asyncio.create_task(count())
        try:
            await talk(peer_end)
        finally:
            counting.cancel()
            await peer_end.close()
        return turns

    return asyncio.run(work())


def test_messages_that_lie_there_already_take_a_turn_each() -> None:
    async def take_all(socket: AiohttpSocket) -> None:
        for _ in range(900):
            assert await socket.receive() == ""

    with serve_bytes(lambda connection: connection.sendall(upgraded(peer.requests[-1]) + EMPTY_TEXT * 900)) as peer:
        assert turns_of_the_loop_during(peer, take_all) >= 800


def test_pings_that_lie_there_already_are_answered_one_at_a_time() -> None:
    answers = bytearray()

    def flood(connection: socket.socket) -> None:
        connection.sendall(upgraded(peer.requests[-1]) + (PING + PONG) * 30_000)
        with suppress(OSError):
            while chunk := connection.recv(65536):
                answers.extend(chunk)

    async def take(socket: AiohttpSocket) -> None:
        receiving = asyncio.create_task(socket.receive())
        async with asyncio.timeout(WAIT_SECONDS):
            while len(answers) < 20 * MASKED_PONG_BYTES:
                await asyncio.sleep(0.01)
        receiving.cancel()
        await asyncio.wait([receiving])

    with serve_bytes(flood) as peer:
        turns = turns_of_the_loop_during(peer, take)
        assert peer.closed.wait(20)
    pongs = len(answers) // MASKED_PONG_BYTES
    assert 20 <= pongs <= turns
