"""Plugins that nobody calls fall asleep: no process is left of them, and whoever calls them does not notice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import PluginFolder, Workspace, wait_until, wait_until_computing
from isoplug.supervisor import CallCancelled, Cancellation, Plugin, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart, Sleep
from socket_host import PLUGIN, start_host
from sync_server import sync_server
from versions import build, put

PROBE, OTHER = "test.probe", "test.other"
SOON = Sleep(after=0.2)
#: For tests in which it is awake first: long enough for a few lines of them on a busy machine.
LATER = Sleep(after=1.5)


@pytest.fixture
def wasm(plugins: PluginFolder) -> Path:
    return plugins.add(PROBE)


@pytest.fixture
def sleepy(wasm: Path, supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    def start(**sections: Any) -> Supervisor:
        return supervise(config=Config(**({"sleep": SOON} | sections)))

    return start


def sleeps(plugin: Plugin) -> bool:
    return plugin.status.state == "asleep"


def processes_of(plugin: Plugin) -> list[psutil.Process]:
    """Its worker, and the one that it was forked from."""
    (pid,) = plugin.status.worker_pids
    worker = psutil.Process(pid)
    parent = worker.parent()
    assert parent is not None
    return [worker, parent]


def test_a_plugin_that_nobody_calls_falls_asleep_and_leaves_no_process(
    sleepy: Callable[..., Supervisor],
) -> None:
    plugin = sleepy(sleep=LATER).plugins[PROBE]
    processes = processes_of(plugin)
    wait_until(lambda: sleeps(plugin))
    wait_until(lambda: not any(process.is_running() for process in processes))
    assert plugin.status.worker_pids == ()
    assert (plugin.status.restarts, plugin.status.failures, plugin.status.last_failure) == (0, 0, None)


def test_by_default_nobody_sleeps(wasm: Path, plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add(OTHER)
    supervisor = supervise(config=Config(plugins={OTHER: {"sleep": {"after": 0.2}}}))
    wait_until(lambda: sleeps(supervisor.plugins[OTHER]))
    assert supervisor.plugins[PROBE].status.state == "ready"


def test_the_next_call_wakes_it_with_shutdown_said_before_and_init_afterwards(
    wasm: Path, sleepy: Callable[..., Supervisor]
) -> None:
    wasm.with_name("config.json").write_text('{"colour": "blue"}')
    supervisor = sleepy()
    plugin = supervisor.plugins[PROBE]
    assert supervisor.command(PROBE, "count") == 1
    wait_until(lambda: sleeps(plugin))
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["set_config", "init"]
    assert supervisor.command(PROBE, "count") == 1  # what it kept in memory is gone
    # The new worker did not wait for the old one's goodbye.
    wait_until(lambda: supervisor._services.storage.get(PROBE, "shutdown") == b"done")
    assert (plugin.status.restarts, plugin.status.failures) == (0, 0)


def test_it_falls_asleep_and_wakes_again_and_again(sleepy: Callable[..., Supervisor]) -> None:
    supervisor = sleepy()
    for _ in range(3):
        wait_until(lambda: sleeps(supervisor.plugins[PROBE]))
        assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_many_who_call_a_sleeping_plugin_at_once_are_all_answered(sleepy: Callable[..., Supervisor]) -> None:
    supervisor = sleepy()
    wait_until(lambda: sleeps(supervisor.plugins[PROBE]))
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda n: supervisor.call(PROBE, "echo", b"%d" % n), range(64)))
    assert answers == [b"%d" % n for n in range(64)]


def test_who_calls_just_when_it_falls_asleep_loses_no_call(sleepy: Callable[..., Supervisor]) -> None:
    """Callers whose pauses are about as long as it takes to fall asleep: they come at every moment of it."""
    supervisor = sleepy(sleep=Sleep(after=0.05))

    def call(pause_seconds: float) -> None:
        for _ in range(60):
            assert supervisor.call(PROBE, "echo", b"x") == b"x"
            time.sleep(pause_seconds)

    with ThreadPoolExecutor(3) as callers:
        for caller in [callers.submit(call, pause) for pause in (0.05, 0.051, 0.11)]:
            caller.result()
    status = supervisor.plugins[PROBE].status
    assert (status.failures, status.restarts, status.last_failure) == (0, 0, None)
    wait_until(lambda: sleeps(supervisor.plugins[PROBE]))


def test_an_event_wakes_it(sleepy: Callable[..., Supervisor]) -> None:
    supervisor = sleepy(sleep=LATER)
    wait_until(lambda: sleeps(supervisor.plugins[PROBE]))
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.flush_events(60.0)
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["init", "on_event"]


def test_a_command_of_another_plugin_wakes_it(
    plugins: PluginFolder, workspace: Workspace, sleepy: Callable[..., Supervisor]
) -> None:
    plugins.add(OTHER)
    workspace.grant(PROBE, execute_commands={"include": ["all"]})
    supervisor = sleepy()
    wait_until(lambda: sleeps(supervisor.plugins[OTHER]) and sleeps(supervisor.plugins[PROBE]))
    request = {"function": "host_plugin_command", "input": f'{{"plugin_id":"{OTHER}","command":"count"}}'}
    assert '"data":1' in supervisor.command(PROBE, "host", request)["answer"]


def test_a_configuration_that_is_set_while_it_sleeps_is_known_when_it_wakes(sleepy: Callable[..., Supervisor]) -> None:
    supervisor = sleepy()
    plugin = supervisor.plugins[PROBE]
    wait_until(lambda: sleeps(plugin))
    supervisor.set_config(PROBE, {"colour": "red"})
    assert supervisor.get_config(PROBE) == {"colour": "red"}
    wait_until(lambda: sleeps(plugin))
    plugin.config_path.write_text('{"colour": "green"}')  # a person, with an editor
    assert supervisor.reload().configured == ()
    assert sleeps(plugin)  # a reload wakes nobody
    assert supervisor.get_config(PROBE) == {"colour": "green"}


def test_a_new_version_takes_over_from_a_sleeping_one(
    wasm: Path, plugins: PluginFolder, sleepy: Callable[..., Any]
) -> None:
    supervisor = sleepy()
    plugin = supervisor.plugins[PROBE]
    wait_until(lambda: sleeps(plugin))
    put(wasm, build(plugins))
    assert supervisor.reload().upgraded == (PROBE,)
    assert plugin.status.version == "2.0.0"
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wait_until(lambda: sleeps(plugin))
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_version_that_is_rolled_back_to_may_have_been_asleep(
    wasm: Path, plugins: PluginFolder, sleepy: Callable[..., Any]
) -> None:
    supervisor = sleepy(sleep=LATER, restart=Restart(trial_calls=3, healthy_after=600.0))
    plugin = supervisor.plugins[PROBE]
    wait_until(lambda: sleeps(plugin))
    put(wasm, build(plugins))
    supervisor.reload()
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: plugin.status.version == "1.0.0")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_worker_that_is_killed_after_it_woke_is_replaced_as_ever(sleepy: Callable[..., Supervisor]) -> None:
    supervisor = sleepy(sleep=LATER)
    plugin = supervisor.plugins[PROBE]
    wait_until(lambda: sleeps(plugin))
    supervisor.call(PROBE, "echo", b"x")
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: plugin.status.restarts == 1)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_call_in_progress_keeps_it_awake(sleepy: Callable[..., Supervisor], plugins: PluginFolder) -> None:
    plugins.add(OTHER)
    supervisor = sleepy(sleep=Sleep(after=0.05))
    plugin, cancellation = supervisor.plugins[PROBE], Cancellation()
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(supervisor.command, PROBE, "spin", timeout=60.0, cancellation=cancellation)
        wait_until_computing(plugin)
        worker = plugin.status.worker_pids
        wait_until(lambda: sleeps(supervisor.plugins[OTHER]))
        plugin.pool.tend()  # as the keeper does, now that others sleep
        assert (plugin.status.state, plugin.status.worker_pids) == ("busy", worker)
        cancellation.cancel()
        with pytest.raises(CallCancelled):
            call.result()


def test_a_goodbye_that_takes_long_holds_up_no_other_plugin(
    wasm: Path, plugins: PluginFolder, sleepy: Callable[..., Supervisor]
) -> None:
    plugins.add(OTHER)
    wasm.with_name("config.json").write_text('{"shutdown": "spin"}')
    supervisor = sleepy(calls=Calls(shutdown_timeout=60.0), plugins={OTHER: {"sleep": {"after": LATER.after}}})
    slow, other = supervisor.plugins[PROBE], supervisor.plugins[OTHER]
    processes = processes_of(other)
    wait_until(lambda: sleeps(slow))
    (leaving,) = slow.status.worker_pids
    assert supervisor.command(PROBE, "count") == 1  # by another worker
    wait_until(lambda: sleeps(other) and not any(process.is_running() for process in processes))
    assert leaving in slow.status.worker_pids
    supervisor.close(0)


def test_an_open_connection_keeps_it_awake(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add(OTHER)
    with sync_server() as server:
        host = start_host(plugins, supervise, workspace, sleep=Sleep(after=0.05))
        host.connect(server)
        peer = server.accept()
        host.wait_heard("on_connected")
        socket, other = host.supervisor.plugins[PLUGIN], host.supervisor.plugins[OTHER]
        worker = socket.status.worker_pids
        for _ in range(3):
            wait_until(lambda: sleeps(other))
            host.supervisor.call(OTHER, "echo", b"x")
        assert socket.status.worker_pids == worker
        peer.send("still here")
        host.wait_heard("on_connected", "handle_text_message")
        host.request(type="disconnect")
        wait_until(lambda: sleeps(socket))


def test_closing_and_unloading_a_sleeping_plugin_says_nothing_to_anybody(
    plugins: PluginFolder, sleepy: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(OTHER)
    supervisor = sleepy()
    wait_until(lambda: all(sleeps(plugin) for plugin in supervisor.plugins.values()))
    supervisor.unload(OTHER)
    assert set(supervisor.plugins) == {PROBE}
    supervisor.close()
    assert "failed" not in caplog.text


def test_closing_while_plugins_fall_asleep_leaves_nothing_behind(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    for number in range(4):
        plugins.add(f"test.p{number}")
    for _ in range(5):
        supervisor = supervise(config=Config(sleep=Sleep(after=0.05)))
        wait_until(lambda: any(sleeps(plugin) for plugin in supervisor.plugins.values()))  # noqa: B023  waits here
        supervisor.close()


def test_its_extra_instances_go_with_it(
    plugins: PluginFolder, workspace: Workspace, sleepy: Callable[..., Supervisor]
) -> None:
    plugins.add(OTHER)
    for each in (PROBE, OTHER):
        workspace.grant(each, execute_commands={"include": ["all"]})
    supervisor = sleepy(sleep=LATER, calls=Calls(extra_idle=600.0))
    plugin = supervisor.plugins[PROBE]
    back = f'{{"plugin_id":"{PROBE}","command":"count"}}'
    inner = {"function": "host_plugin_command", "input": back}
    there = json.dumps({"plugin_id": OTHER, "command": "host", "params": inner})
    supervisor.command(PROBE, "host", {"function": "host_plugin_command", "input": there})
    assert len(plugin.status.worker_pids) == 2
    wait_until(lambda: sleeps(plugin))
    wait_until(lambda: not plugin.status.worker_pids)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
