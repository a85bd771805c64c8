"""Plugins that fail for ever beside one that works: at their start, in every call, while they come and go; and chains
of calls that might wait for each other."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, chaos_seconds, new_seed
from invariants import Watch
from isoplug.supervisor import PluginError, PluginQuarantined, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from load import Load, innermost, nested

pytestmark = NIGHTLY

BYSTANDER = "test.bystander"
QUICK = Restart(max_restarts=3, backoff_initial=0.01, backoff_max=0.05, backoff_jitter=0.0)


@pytest.fixture
def bystander(plugins: PluginFolder) -> str:
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    return BYSTANDER


def in_threads(*works: Callable[[], None]) -> None:
    """Run them side by side; the first error is raised."""
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(work) for work in works]:
            done.result()


def test_plugins_that_crash_at_their_start_trouble_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], bystander: str
) -> None:
    """Their sidecars turn bad once they run, so each restart traps, or spins until it is stopped."""
    ways = {"test.traps": {"init": "trap"}, "test.spins": {"init": "spin"}, "test.config": {"set_config": "trap"}}
    for plugin_id in ways:
        plugins.add(plugin_id, config={"fine": True})
    restart = QUICK.model_copy(update={"max_restarts": 1})
    supervisor = supervise(config=Config(restart=restart, calls=Calls(start_timeout=6.0, shutdown_timeout=2.0)))
    with Watch(supervisor, bystander) as watch:
        for plugin_id, config in ways.items():
            (plugins.path / plugin_id / "config.json").write_text(json.dumps(config))
            watch.command(plugin_id, "segv", {})

        def until_quarantined(plugin_id: str) -> Callable[[], None]:
            return lambda: wait_until(
                lambda: isinstance(watch.call(plugin_id, "echo", b"x", 1.0), PluginQuarantined), plugin_id
            )

        in_threads(*(until_quarantined(plugin_id) for plugin_id in ways))
        for plugin_id in ways:
            (plugins.path / plugin_id / "config.json").write_text("{}")
            supervisor.reset(plugin_id)
            wait_until(lambda plugin_id=plugin_id: watch.call(plugin_id, "echo", b"x") == b"x")


def test_plugins_that_go_in_and_out_of_quarantine_trouble_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], bystander: str
) -> None:
    ids = [f"test.p{number}" for number in range(3)]
    for plugin_id in ids:
        plugins.add(plugin_id)
    supervisor = supervise(config=Config(restart=QUICK))
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, bystander) as watch:

        def storm(plugin_id: str) -> Callable[[], None]:
            def run() -> None:
                while time.monotonic() < until:
                    unique = random.random()  # an input that kills twice is set aside
                    if isinstance(watch.command(plugin_id, "segv", unique), PluginQuarantined):
                        supervisor.reset(plugin_id)

            return run

        in_threads(*(storm(plugin_id) for plugin_id in ids for _ in range(2)))
        assert watch.answers["PluginQuarantined"] > 0
        for plugin_id in ids:
            supervisor.reset(plugin_id)
            wait_until(lambda plugin_id=plugin_id: watch.call(plugin_id, "echo", b"x") == b"x")


def test_plugins_that_come_and_go_under_load_trouble_nobody(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], bystander: str
) -> None:
    """``unload`` and ``load_plugin`` beside calls of the same plugins, from outside and from each other."""
    seed = new_seed()
    ids = ["test.a", "test.b", "test.c"]
    for plugin_id in ids:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    supervisor = supervise(config=Config(restart=QUICK, calls=Calls(shutdown_timeout=1.0)))
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, bystander) as watch:
        loads = [Load(number, watch, ids, seed, until) for number in range(4)]
        for load in loads:
            load.start()

        def change(plugin_id: str) -> Callable[[], None]:
            wasm = plugins.path / plugin_id / "plugin.wasm"

            def run() -> None:
                while time.monotonic() < until:
                    watch.attempt("unload", 1.0, lambda: supervisor.unload(plugin_id))
                    watch.attempt("load_plugin", 30.0, lambda: supervisor.load_plugin(wasm))

            return run

        in_threads(*(change(plugin_id) for plugin_id in ids))
        for load in loads:
            load.join()
        for plugin_id in ids:
            assert supervisor.call(plugin_id, "echo", b"x") == b"x"


def test_closing_under_load_answers_every_call_and_ends_within_its_time(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    ids = ["test.a", "test.b", "test.c"]
    for plugin_id in ids:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    until = time.monotonic() + chaos_seconds(1.0)
    while time.monotonic() < until:
        close_under_load(supervise(config=Config(restart=QUICK, calls=Calls(shutdown_timeout=0.5))), ids)


def close_under_load(supervisor: Supervisor, ids: Sequence[str]) -> None:
    watch = Watch(supervisor)
    loads = [Load(number, watch, ids, new_seed(), time.monotonic() + 600.0) for number in range(4)]
    spinner = threading.Thread(target=watch.command, args=("test.a", "spin", {}, 30.0))
    for thread in (*loads, spinner):
        thread.start()
    wait_until(lambda: watch.answers["answered"] > 5)
    watch.attempt("close", 0.5, supervisor.close)
    for load in loads:
        load.end()
    for thread in (*loads, spinner):
        thread.join()
    watch.check()


def test_a_chain_of_nine_plugins_ends_at_depth_8(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    ids = [f"test.p{number}" for number in range(10)]  # p8 is called at depth 8, and may not call p9
    for plugin_id in ids:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    supervisor = supervise()
    assert innermost(supervisor.command(ids[0], "call", nested(ids[1:9], "count"))) == {"success": True, "data": 1}
    refused = innermost(supervisor.command(ids[0], "call", nested(ids[1:10], "count")))
    assert refused["success"] is False
    assert "depth limit exceeded (max 8)" in refused["error"]
    assert supervisor.command(ids[9], "count") == 1  # nobody else has counted there
    assert all(plugin.restarts == 0 for plugin in supervisor.status().values())


def test_chains_that_come_back_twice_do_not_deadlock_side_by_side(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], bystander: str
) -> None:
    """A → B → A → B and B → A → B → A from eight threads, with more chains than extra instances: each ends with its
    answer or with a typed error, and soon, not at its deadline."""
    a, b = "test.a", "test.b"
    for plugin_id in (a, b):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    supervisor = supervise(config=Config(restart=QUICK, calls=Calls(max_extra_instances=3)))
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, bystander) as watch:

        def chains(first: str, second: str) -> Callable[[], None]:
            def run() -> None:
                number = 0
                while time.monotonic() < until:
                    number += 1
                    answer = watch.command(first, "call", nested([second, first, second], "echo", number), 60.0)
                    last = innermost(answer)
                    is_right = last == {"success": True, "data": number}
                    if not is_right and (isinstance(last, PluginError) or "extra instances" not in last["error"]):
                        watch.note(f"{first} → {second} → {first} → {second}: {last}")

            return run

        in_threads(*(chains(a, b) for _ in range(4)), *(chains(b, a) for _ in range(4)))
        assert set(watch.answers) == {"answered"}
        wait_until(lambda: watch.call(a, "echo", b"x") == b"x" and watch.call(b, "echo", b"x") == b"x")
