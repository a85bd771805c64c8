"""Closing: what is in progress finishes or is ended, everybody hears why, and nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest

from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until, wait_until_computing
from isoplug.supervisor import InvalidArgument, Supervisor, SupervisorClosed
from isoplug.supervisor.config import Calls, Config

PROBE = "test.probe"
#: Far above what closing takes, far below a call's timeout of 30 s.
SOON_SECONDS = 20.0


def config(shutdown_timeout: float) -> Config:
    return Config(calls=Calls(shutdown_timeout=shutdown_timeout))


def is_busy(supervisor: Supervisor, plugin_id: str = PROBE) -> bool:
    return supervisor.plugins[plugin_id].status.state == "busy"


class Sink:
    """A host that takes its time over an event."""

    def __init__(self) -> None:
        self.is_in, self.may_go_on = threading.Event(), threading.Event()

    def emit(self, plugin_id: str, event_json: str) -> None:
        self.is_in.set()
        self.may_go_on.wait(60.0)


#: What gets a guest there.
EMIT = {"function": "host_emit_event", "input": "{}"}


def test_a_call_in_progress_finishes_before_its_worker_ends(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    sink = Sink()
    supervisor = supervise(config=config(60.0), events=sink)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(supervisor.command, PROBE, "host", EMIT)
        assert sink.is_in.wait(WAIT_SECONDS)
        closing = threads.submit(supervisor.close)
        wait_until(lambda: supervisor._runner.gate.is_closing)
        sink.may_go_on.set()
        assert call.result()["answer"] == ""
        closing.result()


def test_a_call_that_does_not_finish_is_ended_and_its_caller_hears_why(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(0.3))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin")
        wait_until(lambda: is_busy(supervisor))
        started = time.monotonic()
        supervisor.close()
        assert time.monotonic() - started < SOON_SECONDS
        assert isinstance(call.exception(), SupervisorClosed)


def test_a_nested_call_that_does_not_finish_is_ended_with_its_caller(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.a")
    plugins.add("test.b")
    workspace.grant("test.a", execute_commands=["all"])
    supervisor = supervise(config=config(0.3))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, "test.a", "call", {"plugin_id": "test.b", "command": "spin"})
        wait_until(lambda: is_busy(supervisor, "test.b"))
        supervisor.close()
        assert isinstance(call.exception(), SupervisorClosed)


def test_callers_in_the_queue_are_answered_or_refused_and_none_is_forgotten(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(0.3))
    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(supervisor.command, PROBE, "spin") for _ in range(6)]
        wait_until(lambda: supervisor.plugins[PROBE].status.calls == 6)
        supervisor.close()
        assert {type(call.exception()) for call in calls} == {SupervisorClosed}


def test_closing_is_idempotent_and_each_thread_that_closes_waits_until_all_is_over(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(0.3))
    with ThreadPoolExecutor(5) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin")
        wait_until(lambda: is_busy(supervisor))

        def close() -> list[psutil.Process]:
            supervisor.close()
            return psutil.Process().children(recursive=True)

        assert [closing.result() for closing in [threads.submit(close) for _ in range(4)]] == [[]] * 4
        assert isinstance(call.exception(), SupervisorClosed)
    supervisor.close()


@pytest.mark.parametrize("shutdown_timeout", [0.2, 20.0])
def test_closing_during_a_load_ends_or_awaits_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], shutdown_timeout: float
) -> None:
    supervisor = supervise(config=config(shutdown_timeout))
    how = {"init": "spin"} if shutdown_timeout < 1 else None
    wasm = plugins.add(config=how)
    with ThreadPoolExecutor(1) as threads:
        loading: Future[object] = threads.submit(supervisor.load_plugin, wasm)
        wait_until(lambda: PROBE in supervisor.plugins or loading.done())
        supervisor.close()
        wait_until(loading.done, "the load to end")
    assert psutil.Process().children(recursive=True) == []


def test_closing_at_any_moment_of_a_load_leaves_nothing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(folder="late")
    for number in range(10):
        supervisor = supervise(plugins_dir=None, config=config(0.05))
        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(supervisor.load_plugin, wasm)
            time.sleep(number * 0.03)
            supervisor.close()
            loading.exception(20.0)
        assert psutil.Process().children(recursive=True) == []


def test_closing_during_a_restart_leaves_nothing(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    for number in range(5):
        supervisor = supervise(config=config(0.05))
        plugin = supervisor.plugins[PROBE]
        (pid,) = plugin.status.worker_pids
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda plugin=plugin: plugin.status.restarts == 1)
        time.sleep(number * 0.04)
        supervisor.close()
        assert psutil.Process().children(recursive=True) == []


def test_after_closing_every_method_says_so(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    supervisor.close()
    for attempt in (
        lambda: supervisor.call(PROBE, "echo", b"x"),
        lambda: supervisor.command(PROBE, "echo"),
        lambda: supervisor.emit("file_saved", {"path": "a.md"}),
        lambda: supervisor.flush_events(),
        lambda: supervisor.get_config(PROBE),
        lambda: supervisor.set_config(PROBE, {}),
        lambda: supervisor.cancel(PROBE, "token"),
        lambda: supervisor.reset(PROBE),
        lambda: supervisor.unload(PROBE),
        lambda: supervisor.load_plugin(wasm),
    ):
        with pytest.raises(SupervisorClosed):
            attempt()
    assert supervisor.plugins[PROBE].status.state == "stopped"  # what can be looked at still can


def test_an_interrupt_in_the_middle_of_a_call_returns_the_lease(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]

    def interrupt() -> None:
        wait_until_computing(plugin)  # any other place is one of test_interrupts.py
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(3):
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            supervisor.command(PROBE, "spin")
        interrupter.join()
        assert supervisor.call(PROBE, "echo", b"next") == b"next"
    assert plugin.status.state == "ready"


def test_a_service_that_does_not_return_does_not_hold_up_closing_for_ever(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    sink = Sink()
    supervisor = supervise(config=config(0.2), events=sink)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "host", EMIT)
        assert sink.is_in.wait(WAIT_SECONDS)
        started = time.monotonic()
        supervisor.close()
        assert time.monotonic() - started < SOON_SECONDS
        sink.may_go_on.set()
        assert isinstance(call.exception(), SupervisorClosed)


def test_closing_at_once_ends_calls_and_cuts_a_drain_of_another_thread_short(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(600.0))
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin", timeout=900.0)
        wait_until(lambda: is_busy(supervisor))
        draining = threads.submit(supervisor.close)
        wait_until(lambda: supervisor._runner.gate.is_closing)
        started = time.monotonic()
        supervisor.close(timeout=0)
        assert time.monotonic() - started < SOON_SECONDS
        assert isinstance(call.exception(), SupervisorClosed)
        draining.result()
    assert psutil.Process().children(recursive=True) == []


def test_closing_at_once_ends_a_goodbye_that_another_thread_waits_for(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"shutdown": "spin"})
    supervisor = supervise(config=config(600.0))
    plugin = supervisor.plugins[PROBE]
    (worker,) = map(psutil.Process, plugin.status.worker_pids)
    before = worker.cpu_times().user
    with ThreadPoolExecutor(1) as threads:
        draining = threads.submit(supervisor.close)
        wait_until(lambda: worker.cpu_times().user > before + 0.1, "the guest to spin in its shutdown")
        started = time.monotonic()
        supervisor.close(timeout=0)
        draining.result()
        assert time.monotonic() - started < SOON_SECONDS


def test_closing_at_once_tells_guests_nothing(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add(config={"shutdown": "spin"})
    supervisor = supervise(config=config(600.0))
    started = time.monotonic()
    supervisor.close(timeout=0)
    assert time.monotonic() - started < SOON_SECONDS


def test_closing_may_be_given_less_time_than_is_configured(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(config=config(600.0))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin", timeout=900.0)
        wait_until(lambda: is_busy(supervisor))
        supervisor.close(timeout=0.3)
        assert isinstance(call.exception(), SupervisorClosed)
    with pytest.raises(InvalidArgument):
        supervise(config=config(0.3)).close(timeout=-1)


def test_unloading_waits_for_the_call_in_progress_and_frees_the_id(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    sink = Sink()
    supervisor = supervise(config=config(60.0), events=sink)
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(supervisor.command, PROBE, "host", EMIT)
        assert sink.is_in.wait(WAIT_SECONDS)
        unloading = threads.submit(supervisor.unload, PROBE)
        wait_until(lambda: plugin.status.state == "stopped")
        sink.may_go_on.set()
        assert call.result()["answer"] == ""
        unloading.result()
    assert PROBE not in supervisor.plugins
    assert supervisor.load_plugin(wasm).id == PROBE
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
