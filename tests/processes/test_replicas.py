"""Several workers for a plugin that keeps no state in memory. The guests here count all the same, so that a test can
tell them apart."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import (
    Cancellation,
    LoadError,
    Plugin,
    PluginBusy,
    PluginQuarantined,
    Supervisor,
    WorkerCrashed,
)
from isoplug.supervisor.config import Calls, Config, Restart
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain

PROBE = "test.probe"


def config_with(workers: int, **sections: Any) -> Config:
    return Config(plugins={PROBE: {"workers": workers}}, **sections)


def all_ready(plugin: Plugin, workers: int) -> tuple[int, ...]:
    return wait_until(lambda: len(plugin.status.worker_pids) == workers and plugin.status.worker_pids)


@pytest.fixture
def replicated(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    plugins.add(PROBE, variant="probe_stateless")

    def start(workers: int = 3, **sections: Any) -> Supervisor:
        return supervise(config=config_with(workers, **sections))

    return start


@contextmanager
def spinning(supervisor: Supervisor, count: int) -> Iterator[list[Future[Any]]]:
    """Calls that occupy workers, and queue for more, until they are cancelled."""
    cancellations = [Cancellation() for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        yield [threads.submit(supervisor.command, PROBE, "spin", cancellation=one) for one in cancellations]
        for cancellation in cancellations:
            cancellation.cancel()


def test_a_plugin_with_state_gets_one_worker_and_no_more(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    supervisor = supervise(config=config_with(2))
    error = supervisor.load_errors[PROBE]
    assert isinstance(error, LoadError)
    assert "stateless" in str(error)
    assert PROBE not in supervisor.plugins


def test_as_many_calls_run_at_once_as_there_are_workers(replicated: Callable[..., Supervisor]) -> None:
    supervisor = replicated(3)
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 3)
    with spinning(supervisor, 2) as calls:
        wait_until(lambda: plugin.status.calls == 2)
        for number in range(5):
            assert supervisor.call(PROBE, "echo", b"%d" % number) == b"%d" % number
        assert plugin.status.state == "ready"
        assert not any(call.done() for call in calls)
    wait_until(lambda: plugin.status.state != "busy")


def test_the_plugin_is_busy_only_when_all_workers_are(replicated: Callable[..., Supervisor]) -> None:
    supervisor = replicated(2)
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 2)
    with spinning(supervisor, 2):
        wait_until(lambda: plugin.status.state == "busy")


def test_each_worker_was_configured_and_initialised(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE, variant="probe_stateless", config={"colour": "blue"})
    supervisor = supervise(config=config_with(3))
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 3)
    for _ in range(3):
        life = supervisor.command(PROBE, "events")
        assert [entry["export"] for entry in life[:2]] == ["set_config", "init"]
        before = plugin.status.worker_pids
        os.kill(before[0], signal.SIGKILL)  # the first free one is who was asked
        wait_until(lambda before=before: before[0] not in plugin.status.worker_pids)
        all_ready(plugin, 3)
        supervisor.reset(PROBE)


def test_a_crash_costs_one_worker_and_the_others_serve_on(replicated: Callable[..., Supervisor]) -> None:
    supervisor = replicated(2, restart=Restart(backoff_initial=600.0, backoff_max=600.0))
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 2)
    for number in range(2):  # the first restart comes at once, the second not while this test runs
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv", number)
        wait_until(lambda: plugin.status.state == "ready")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wait_until(lambda: len(plugin.status.worker_pids) == 1)
    assert plugin.status.state == "ready"
    supervisor.reset(PROBE)
    all_ready(plugin, 2)


def test_all_workers_spend_one_budget_and_end_together(replicated: Callable[..., Supervisor]) -> None:
    supervisor = replicated(3, restart=Restart(max_restarts=1))
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 3)
    for number in range(2):  # twice the same input would be the input's fault
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv", number)
    with pytest.raises(PluginQuarantined):
        supervisor.call(PROBE, "echo", b"x")
    wait_until(lambda: not plugin.status.worker_pids)
    supervisor.reset(PROBE)
    all_ready(plugin, 3)
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_after_a_change_of_configuration_no_call_is_served_with_the_old_one(
    replicated: Callable[..., Supervisor],
) -> None:
    supervisor = replicated(3)
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 3)
    for colour in ("blue", "red"):
        supervisor.set_config(PROBE, {"colour": colour})
        with ThreadPoolExecutor(6) as threads:
            seen = list(threads.map(lambda _: supervisor.get_config(PROBE), range(30)))
        assert seen == [{"colour": colour}] * 30
    all_ready(plugin, 3)
    assert plugin.status.restarts == 0


def test_closing_ends_every_worker_after_its_farewell(replicated: Callable[..., Supervisor]) -> None:
    supervisor = replicated(3)
    plugin = supervisor.plugins[PROBE]
    all_ready(plugin, 3)
    supervisor.close()
    assert plugin.status.worker_pids == ()
    request = {"function": "host_storage_get", "input": '{"key":"shutdown"}'}
    assert replicated(1).command(PROBE, "host", request)["answer"] == '{"data":"ZG9uZQ=="}'


def test_a_section_for_a_plugin_that_is_not_there_is_told(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    supervise(config=Config(plugins={"test.prode": {"workers": 2}}))
    assert "config.plugin_not_loaded plugin=test.prode" in caplog.text


def test_the_queue_is_bounded_and_one_too_many_is_refused_at_once(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    supervisor = supervise(config=Config(calls=Calls(queue=2)))
    plugin = supervisor.plugins[PROBE]
    with spinning(supervisor, 3):
        wait_until(lambda: waiting_calls(plugin) == 2)
        with pytest.raises(PluginBusy) as caught:
            supervisor.call(PROBE, "echo", b"x")
        assert caught.value.bound == 2
        assert caught.value.retryable
        assert "calls.queue" in str(caught.value)


def test_waiting_is_first_come_first_served(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add(PROBE)
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    held = plugin.pool.acquire(Chain(), Deadline.after(60.0), 0)
    with ThreadPoolExecutor(8) as threads:
        calls = []
        for number in range(8):
            calls.append(threads.submit(supervisor.command, PROBE, "count"))
            wait_until(lambda number=number: waiting_calls(plugin) == number + 1)
        held.release()
        assert [call.result() for call in calls] == list(range(1, 9))


def waiting_calls(plugin: Plugin) -> int:
    return len(plugin.pool._turns._queue)


A, B = "test.a", "test.b"


@pytest.fixture(params=[(1, 2), (2, 2), (2, 3), (1, 3)])
def ring(
    request: pytest.FixtureRequest, plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> Supervisor:
    sizes = dict(zip((A, B), request.param, strict=True))
    for plugin_id in sizes:
        plugins.add(plugin_id, variant="probe_stateless")
        workspace.grant(plugin_id, execute_commands=["all"])
    sections = {plugin_id: {"workers": workers} for plugin_id, workers in sizes.items()}
    return supervise(config=Config(plugins=sections, calls=Calls(max_extra_instances=32)))


def test_chains_that_cross_each_other_on_several_workers_do_not_deadlock(ring: Supervisor) -> None:
    def crossing(first: str, hops: int) -> Any:
        request: dict[str, Any] = {"plugin_id": A if first == B else B, "command": "count"}
        for hop in range(hops):
            target = first if hop % 2 == 0 else (A if first == B else B)
            request = {"plugin_id": target, "command": "call", "params": request}
        return ring.command(request["plugin_id"], "call", request["params"], timeout=60.0)

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(crossing, A if n % 2 else B, 1 + 2 * (n % 2)) for n in range(48)]
        answers = [call.result() for call in calls]
    assert all(answer["success"] for answer in answers)
