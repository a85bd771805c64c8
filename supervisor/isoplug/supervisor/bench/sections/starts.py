"""How long it takes until a plugin is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from isoplug.supervisor.bench.blocks import Block, Candidate, once
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.ground import Ground, lay_out, plugin_id
from isoplug.supervisor.bench.lab import Lab
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.config import Config

__all__ = ["measure"]

_MANY = 100
#: Loading a hundred takes seconds.
_EVERY = 10


def measure(lab: Lab) -> Sequence[Figure]:
    one, many = lay_out(lab.folder / "one"), lay_out(lab.folder / "many", _MANY)
    return lab.interleaved(
        [
            Candidate(Name.START, once(_start_of_a_worker(lab))),
            Candidate(Name.LOAD_ONE, _load(one)),
            Candidate(Name.LOAD_MANY, _load(many), every=_EVERY),
        ]
    )


def _load(ground: Ground) -> Block:
    """A new supervisor with its plugins; that it closes does not count. The block to warm up leaves the manifests."""

    def load() -> float:
        begin = time.perf_counter()
        supervisor = ground.supervisor()
        passed = time.perf_counter() - begin
        supervisor.close()
        return passed

    return once(load)


def _start_of_a_worker(lab: Lab) -> Callable[[], float]:
    """When a plugin calls another one that calls it back, it gets a second worker, here a new one each time. How much
    longer that takes than when the other one calls a third, whose worker is there, is the start: of the process, the
    instance, the lock-down, and the guest's ``init``."""
    config = Config.model_validate({"calls": {"extra_idle": "0s"}})
    supervisor = lab.cleanup.enter_context(lay_out(lab.folder / "three", 3).supervisor(config))
    first, second, third = map(plugin_id, range(3))

    def chain(last: str) -> float:
        back = {"plugin_id": last, "command": "echo", "params": None}
        begin = time.perf_counter()
        supervisor.command(first, "call", {"plugin_id": second, "command": "call", "params": back})
        return time.perf_counter() - begin

    return lambda: chain(first) - chain(third)
