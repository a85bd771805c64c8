"""Who may have a thread. No threads, no processes: an event loop and futures."""

from __future__ import annotations

import asyncio

import pytest

from isoplug.supervisor import CallTimeout, PluginBusy
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.seats import Seats

LONG = 20.0


async def seated(seats: Seats, plugin_id: str, bound: int = 2) -> None:
    await seats.take(plugin_id, bound, Deadline.after(LONG))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_plugin_gets_no_more_seats_than_it_can_use_and_others_get_theirs() -> None:
    async def scenario() -> None:
        seats = Seats(10, queue=10)
        calls = [asyncio.create_task(seated(seats, "hung")) for _ in range(5)]
        await settle()
        assert [call.done() for call in calls] == [True, True, False, False, False]
        await seated(seats, "other")
        seats.give_back("hung")
        await settle()
        assert [call.done() for call in calls] == [True, True, True, False, False]
        for call in calls:
            call.cancel()

    asyncio.run(scenario())


def test_seats_go_round_among_plugins_and_in_order_within_one() -> None:
    async def scenario() -> None:
        seats = Seats(1, queue=10)
        await seated(seats, "a")
        served: list[str] = []

        async def call(plugin_id: str, name: str) -> None:
            await seated(seats, plugin_id)
            served.append(name)

        calls = [asyncio.create_task(call(name[0], name)) for name in ("a1", "a2", "b1", "b2", "c1")]
        await settle()
        last = "a"
        for _ in calls:
            seats.give_back(last)
            await settle()
            last = served[-1][0]
        assert [name for name in served if name[0] == "a"] == ["a1", "a2"]
        assert [name for name in served if name[0] == "b"] == ["b1", "b2"]
        assert {name[0] for name in served[:3]} == {"a", "b", "c"}

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        seats = Seats(1, queue=2)
        await seated(seats, "a")
        waiting = [asyncio.create_task(seated(seats, "a")) for _ in range(2)]
        await settle()
        with pytest.raises(PluginBusy):
            await seated(seats, "a")
        for task in waiting:
            task.cancel()

    asyncio.run(scenario())


def test_who_gives_up_waiting_takes_no_seat_along() -> None:
    async def scenario() -> None:
        seats = Seats(1, queue=10)
        await seated(seats, "a")
        with pytest.raises(CallTimeout):
            await seats.take("b", 1, Deadline.after(0.001))
        waiting = asyncio.create_task(seated(seats, "c"))
        await settle()
        waiting.cancel()
        seats.give_back("a")  # goes to nobody
        await settle()
        await seated(seats, "d")
        late = asyncio.create_task(seated(seats, "e"))
        await settle()
        seats.give_back("d")  # gives it to ``e``, which is cancelled before it has noticed
        late.cancel()
        await settle()
        await seated(seats, "f")
        assert vars(seats)["_taken"] == {"f": 1}
        assert not vars(seats)["_waiting"]
        assert not vars(seats)["_bounds"]

    asyncio.run(scenario())
