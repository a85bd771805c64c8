"""Whatever fails, and how often: the supervisor keeps nothing of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, chaos_seconds
from invariants import descriptors, live_objects, named_growth, wait_until_tidy
from isoplug.supervisor import PluginError, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from load import envelope, nested

pytestmark = NIGHTLY

A, B = "test.a", "test.b"
#: Python's own memory may grow by this much, by caches and by the blocks that its allocator keeps.
_FLAT_BYTES = 400_000
_ROUNDS = 2 + int(chaos_seconds(0.0))


def crash(supervisor: Supervisor, number: int) -> None:
    supervisor.command(A, "segv", number)


def trap(supervisor: Supervisor, number: int) -> None:
    supervisor.command(A, "trap", number)


def overrun(supervisor: Supervisor, number: int) -> None:
    supervisor.command(A, "spin", number, timeout=0.05)


def write_and_crash(supervisor: Supervisor, number: int) -> None:
    supervisor.call(A, "host", envelope("host_storage_set", {"key": "k", "data": "eA=="}))
    supervisor.command(B, "call", nested([A], "segv", number))


def come_back(supervisor: Supervisor, number: int) -> None:
    supervisor.command(A, "call", nested([B, A], "trap", number))


def load_again(supervisor: Supervisor, number: int) -> None:
    wasm = supervisor.plugins[A].wasm_path
    supervisor.unload(A)
    supervisor.load_plugin(wasm)


def test_failures_leave_no_object_no_descriptor_and_no_memory(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    for plugin_id in (A, B):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)
    supervisor = supervise(config=Config(restart=restart, calls=Calls(extra_idle=0.0)))
    numbers = itertools.count()

    def rounds(count: int) -> None:
        for fail in (crash, trap, overrun, write_and_crash, come_back, load_again) * count:
            with suppress(PluginError):
                fail(supervisor, next(numbers))
        wait_until(lambda: all(status.state == "ready" for status in supervisor.status().values()))
        for plugin_id in (A, B):
            supervisor.reset(plugin_id)  # what it remembers of failures, it is meant to remember
            supervisor.clear_poisoned(plugin_id)
            assert supervisor.call(plugin_id, "echo", b"x") == b"x"
        wait_until_tidy(supervisor)

    rounds(_ROUNDS)
    objects, open_before = live_objects(), descriptors()
    with named_growth(_FLAT_BYTES):
        rounds(_ROUNDS)
    wait_until(lambda: descriptors() <= open_before, f"no more descriptors than {open_before}")
    grown = {name: count for name, count in (live_objects() - objects).items() if count > 2}
    assert not grown
