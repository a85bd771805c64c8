"""How many calls a second many threads make, beside round trips over sockets: what threads of one interpreter gain from
several cores at all, when each waits for a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from isoplug.supervisor.bench.blocks import Block, Candidate
from isoplug.supervisor.bench.figures import Figure, Unit
from isoplug.supervisor.bench.floor import socket_ping_pong
from isoplug.supervisor.bench.ground import PAYLOAD, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name

__all__ = ["measure", "rate"]

_CALLERS = {Name.ONE_CALLER: 1, "2 callers": 2, Name.FOUR_CALLERS: 4, "8 callers": 8, Name.MOST_CALLERS: 32}
_SOCKETS = {Name.ONE_SOCKET: 1, Name.FOUR_SOCKETS: 4, Name.MOST_SOCKETS: 32}
#: Blocks are longer here, or starting 32 threads would count.
_TIMES_AS_LONG = 10


def measure(lab: Lab) -> Sequence[Figure]:
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "ground", max(_CALLERS.values())).supervisor())

    def call(number: int) -> None:
        supervisor.call(plugin_id(number), "echo", PAYLOAD)

    round_trips = [socket_ping_pong(PAYLOAD, lab.cleanup) for _ in range(max(_SOCKETS.values()))]
    blocks = {name: rate(call, count) for name, count in _CALLERS.items()}
    blocks |= {name: rate(lambda number: round_trips[number](), count) for name, count in _SOCKETS.items()}
    return lab.interleaved([Candidate(name, block, Unit.PER_SECOND) for name, block in blocks.items()])


def rate(call: Callable[[int], None], callers: int) -> Block:
    """How often so many threads make ``call``, which gets the thread's number. Whatever ends the block, they have ended
    as well: what they call is about to be closed."""

    def block(seconds: float) -> list[float]:
        counts = [0] * callers
        start = threading.Event()
        end = 0.0

        def work(number: int) -> None:
            start.wait()
            while time.perf_counter() < end:
                call(number)
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
        try:
            for thread in threads:
                thread.start()
            begin = time.perf_counter()
            end = begin + seconds * _TIMES_AS_LONG
            start.set()
            for thread in threads:
                thread.join()
            return [sum(counts) / (time.perf_counter() - begin)]
        finally:
            end = 0.0
            start.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()

    return block
