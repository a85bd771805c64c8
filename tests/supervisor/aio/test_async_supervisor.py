"""The awaitable façade: the same results, cancellation that ends calls, and nothing lost when a task is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import (
    AsyncSupervisor,
    CallTimeout,
    CommandNotFound,
    PluginNotFound,
    SetupError,
    SupervisorClosed,
)
from isoplug.supervisor.config import Config

PROBE = "test.probe"


@pytest.fixture
def make(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> Callable[..., AsyncSupervisor]:
    plugins.add(config={"colour": "blue"})
    return lambda **arguments: AsyncSupervisor(
        plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state", **arguments
    )


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_every_method_does_what_its_namesake_does(make: Callable[..., AsyncSupervisor], plugins: PluginFolder) -> None:
    async def scenario() -> None:
        async with make() as supervisor:
            assert list(supervisor.plugins) == [PROBE]
            assert not supervisor.load_errors
            assert await supervisor.command(PROBE, "echo", {"ä": [1]}) == {"ä": [1]}
            assert await supervisor.call(PROBE, "echo", b"\xff\0") == b"\xff\0"
            assert await supervisor.emit("file_saved", {"path": "a.md"}) == 1
            assert await supervisor.flush_events(60.0)
            assert [entry["export"] for entry in await supervisor.command(PROBE, "events")][-1] == "on_event"
            assert await supervisor.get_config(PROBE) == {"colour": "blue"}
            await supervisor.set_config(PROBE, {"colour": "red"})
            assert await supervisor.get_config(PROBE) == {"colour": "red"}
            await supervisor.cancel(PROBE, "token")
            await supervisor.reset(PROBE)
            assert (await supervisor.status())[PROBE].state == "ready"
            await supervisor.unload(PROBE)
            with pytest.raises(PluginNotFound):
                await supervisor.command(PROBE, "echo")
            loaded = await supervisor.load_plugin(plugins.path / PROBE / "plugin.wasm")
            assert loaded.id == PROBE
            with pytest.raises(CommandNotFound):
                await supervisor.command(PROBE, "nothing")

    run(scenario())


def test_a_cancelled_task_ends_its_call_and_the_plugin_answers_again(make: Callable[..., AsyncSupervisor]) -> None:
    async def scenario() -> None:
        async with make() as supervisor:
            plugin = supervisor.plugins[PROBE]
            (pid,) = plugin.status.worker_pids
            spinning = asyncio.create_task(supervisor.command(PROBE, "spin"))
            while plugin.status.state != "busy":
                await asyncio.sleep(0.005)
            spinning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spinning
            assert await supervisor.command(PROBE, "count") == 1
            assert plugin.status.worker_pids != (pid,)

    run(scenario())


def test_the_loop_goes_on_while_plugins_spin_and_waiting_calls_keep_their_deadlines(
    make: Callable[..., AsyncSupervisor],
) -> None:
    async def scenario() -> None:
        async with make(config=Config(calls={"async_threads": 1})) as supervisor:
            with pytest.raises(CallTimeout):
                await supervisor.command(PROBE, "spin", timeout=0.5)
            await supervisor.command(PROBE, "echo")  # there is a worker again
            spinning = asyncio.create_task(supervisor.command(PROBE, "spin", timeout=60))
            waiting = asyncio.create_task(supervisor.command(PROBE, "echo", 1, timeout=0.1))
            for _ in range(3):
                await asyncio.sleep(0.01)
            with pytest.raises(CallTimeout) as caught:
                await waiting
            assert caught.value.retryable
            assert not spinning.done()
            spinning.cancel()

    run(scenario())


def test_before_start_and_after_close_everything_says_that_it_is_closed(make: Callable[..., AsyncSupervisor]) -> None:
    async def scenario() -> None:
        supervisor = make()
        with pytest.raises(SupervisorClosed):
            await supervisor.command(PROBE, "echo")
        await supervisor.start()
        await supervisor.start()
        await supervisor.close()
        await supervisor.close()
        for use in (
            supervisor.command(PROBE, "echo"),
            supervisor.call(PROBE, "echo"),
            supervisor.emit("file_saved", {"path": "a.md"}),
            supervisor.get_config(PROBE),
            supervisor.unload(PROBE),
            supervisor.status(),
        ):
            with pytest.raises(SupervisorClosed):
                await use

    run(scenario())


def test_tasks_that_start_at_the_same_time_share_one_supervisor(make: Callable[..., AsyncSupervisor]) -> None:
    async def scenario() -> None:
        supervisor = make()
        await asyncio.gather(supervisor.start(), supervisor.start(), supervisor.start())
        assert len(psutil.Process().children()) == 1  # one zygote
        await asyncio.gather(supervisor.close(), supervisor.close())

    run(scenario())


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.06])
def test_a_start_that_is_cancelled_leaves_no_supervisor_behind(
    make: Callable[..., AsyncSupervisor], seconds: float
) -> None:
    async def scenario() -> None:
        supervisor = make()
        starting = asyncio.create_task(supervisor.start())
        await asyncio.sleep(seconds)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():  # a fast machine: it had started, and is the caller's to close
            await supervisor.close()

    run(scenario())
    wait_until(lambda: not psutil.Process().children(), "the processes to end")


def test_a_folder_that_is_not_there_is_told_by_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(SetupError, match="is not a folder"):
            await AsyncSupervisor(plugins_dir=tmp_path / "nowhere").start()

    run(scenario())


def test_from_config_reads_the_file_and_takes_overrides(plugins: PluginFolder, tmp_path: Path) -> None:
    plugins.add()
    (tmp_path / "isoplug.toml").write_text('plugins_dir = "nowhere"\nstate_dir = "state"\n')

    async def scenario() -> None:
        async with AsyncSupervisor.from_config(tmp_path / "isoplug.toml", plugins_dir=plugins.path) as supervisor:
            assert await supervisor.command(PROBE, "echo", 1) == 1

    run(scenario())
