"""Sockets that an event loop watches: each tells once, that it is readable or that its time has passed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from conftest import WAIT_SECONDS
from isoplug.supervisor.lookout import Lookout


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def run(scenario: Callable[[Lookout], Awaitable[None]]) -> None:
    async def main() -> None:
        lookout = Lookout()
        try:
            await scenario(lookout)
        finally:
            lookout.close()

    asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))


def watched(lookout: Lookout, near: socket.socket, seconds: float = WAIT_SECONDS) -> asyncio.Future[bool]:
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    lookout.watch(near.fileno(), time.monotonic() + seconds, told.set_result)  # which raises when it is told twice
    return told


def test_what_becomes_readable_is_told_once_and_can_be_watched_again(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair

    async def scenario(lookout: Lookout) -> None:
        for _ in range(3):
            told = watched(lookout, near)
            await asyncio.sleep(0)
            assert not told.done()
            far.send(b"12")
            assert await told
            near.recv(1)
            await asyncio.sleep(0.01)  # it is readable still, and nobody watches it
            near.recv(1)

    run(scenario)


def test_a_socket_whose_other_end_is_closed_is_readable(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    async def scenario(lookout: Lookout) -> None:
        told = watched(lookout, near)
        far.close()
        assert await told

    run(scenario)


def test_each_wait_ends_at_its_own_instant(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    other, far = socket.socketpair()

    async def scenario(lookout: Lookout) -> None:
        late, early = watched(lookout, near, 0.05), watched(lookout, other, 0.01)
        assert not await early
        assert not await late
        far.send(b"1")
        assert await watched(lookout, other)

    with other, far:
        run(scenario)


def test_what_was_forgotten_tells_nothing_and_its_number_may_be_anothers(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair

    async def scenario(lookout: Lookout) -> None:
        forgotten = watched(lookout, near, 0.01)
        lookout.forget(near.fileno())
        far.send(b"1")
        await asyncio.sleep(0.05)
        assert not forgotten.done()
        number = near.fileno()
        near.close()
        next_near, next_far = socket.socketpair()
        with next_near, next_far:
            assert next_near.fileno() == number
            told = watched(lookout, next_near)
            next_far.send(b"1")
            assert await told

    run(scenario)


def test_whoever_is_watched_when_it_closes_has_waited_long_enough(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair

    async def main() -> None:
        lookout = Lookout()
        told = watched(lookout, near)
        lookout.close()
        assert not await told

    asyncio.run(main())
