"""One call of 100 bytes, side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from isoplug.supervisor.aio import AsyncSupervisor
from isoplug.supervisor.bench.blocks import Block, Candidate, timed
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.floor import in_process, pair_ping_pong, socket_ping_pong
from isoplug.supervisor.bench.ground import MODULE, PAYLOAD, Ground, ask, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.bench.others import POOLS, Pool, RayActor, advice

__all__ = ["measure"]

_PLUGIN = plugin_id(0)
_ASK_ONCE = ask("host_file_exists", 1, {"path": "a.md"})
_ASK_TEN_TIMES = ask("host_file_exists", 10, {"path": "a.md"})


def measure(lab: Lab) -> Sequence[Figure]:
    return lab.interleaved([*_floor(lab), *_isoplug(lab), *_pools(lab)])


def _floor(lab: Lab) -> list[Candidate]:
    plugin = in_process(MODULE.read_bytes(), {"host_file_exists": lambda: b"true"})
    return [
        Candidate("bare socket ping-pong", timed(socket_ping_pong(PAYLOAD, lab.cleanup))),
        Candidate(Name.PAIR, timed(pair_ping_pong(PAYLOAD, lab.cleanup))),
        Candidate(Name.IN_PROCESS, timed(lambda: plugin("echo", PAYLOAD))),
        Candidate("in-process call, 1 host call", timed(lambda: plugin("ask", _ASK_ONCE))),
        Candidate("in-process call, 10 host calls", timed(lambda: plugin("ask", _ASK_TEN_TIMES))),
    ]


def _isoplug(lab: Lab) -> list[Candidate]:
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "sync").supervisor())
    return [
        Candidate(Name.CALL, timed(lambda: supervisor.call(_PLUGIN, "echo", PAYLOAD))),
        Candidate("isoplug call, 1 host call", timed(lambda: supervisor.call(_PLUGIN, "ask", _ASK_ONCE))),
        Candidate(Name.CALL_TEN, timed(lambda: supervisor.call(_PLUGIN, "ask", _ASK_TEN_TIMES))),
        Candidate(Name.CALL_ASYNC, _async_block(lab, lay_out(lab.folder / "async"))),
    ]


def _async_block(lab: Lab, ground: Ground) -> Block:
    """All awaits of a block in one run of the event loop, as in a program that lives in one."""
    runner = lab.cleanup.enter_context(asyncio.Runner())
    supervisor = AsyncSupervisor(ground.plugins, ground.journal, state_dir=ground.state)
    lab.cleanup.callback(lambda: runner.run(supervisor.close()))
    runner.run(supervisor.start())

    async def calls(seconds: float) -> list[float]:
        samples = []
        end = time.perf_counter() + seconds
        while True:
            begin = time.perf_counter()
            await supervisor.call(_PLUGIN, "echo", PAYLOAD)
            done = time.perf_counter()
            samples.append(done - begin)
            if done >= end:
                return samples

    return lambda seconds: runner.run(calls(seconds))


def _pools(lab: Lab) -> list[Candidate]:
    candidates = []
    kinds: list[type[Pool]] = [*POOLS, RayActor]
    for kind in kinds:
        if kind.is_installed():
            pool = lab.cleanup.enter_context(kind())
            candidates.append(Candidate(kind.name, timed(partial(pool.echo, PAYLOAD))))
        else:
            lab.missing[kind.name] = advice(kind)
    return candidates
