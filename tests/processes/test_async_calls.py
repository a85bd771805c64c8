"""The same promises when the caller is a task."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until, wait_until_computing
from isoplug.supervisor import (
    AsyncSupervisor,
    CallRecord,
    CallTimeout,
    LoadProgress,
    PluginBusy,
    PoisonedInput,
    SetupError,
    SupervisorClosed,
    WorkerCrashed,
    on_loop,
)
from isoplug.supervisor.config import Calls, Config
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain

PROBE, OTHER = "test.probe", "test.other"


@pytest.fixture
def run(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> Callable[..., None]:
    plugins.add(PROBE)
    plugins.add(OTHER)

    def start(scenario: Callable[[AsyncSupervisor], Awaitable[None]], **calls: float) -> None:
        async def main() -> None:
            async with AsyncSupervisor(
                plugins_dir=plugins.path,
                workspace=workspace.path,
                state_dir=tmp_path / "state",
                config=Config(calls=Calls(**calls)),
            ) as supervisor:
                await scenario(supervisor)

        asyncio.run(asyncio.wait_for(main(), 60.0))

    return start


async def until_busy(supervisor: AsyncSupervisor, plugin_id: str = PROBE) -> None:
    await asyncio.to_thread(wait_until, lambda: supervisor.plugins[plugin_id].status.state == "busy")


def test_many_calls_at_once_each_get_their_own_answer(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        payloads = [str(number).encode() for number in range(300)]
        calls = [supervisor.call((PROBE, OTHER)[n % 2], "echo", payload) for n, payload in enumerate(payloads)]
        assert await asyncio.gather(*calls) == payloads

    run(scenario, queue=300)


def test_cancelling_a_task_ends_its_call_and_the_next_is_answered(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        before = supervisor.plugins[PROBE].status.worker_pids
        for _ in range(5):  # more often than the restart intensity: a cancel is not the plugin's fault
            task = asyncio.create_task(supervisor.command(PROBE, "spin"))
            await until_busy(supervisor)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await supervisor.call(PROBE, "echo", b"next", timeout=20.0) == b"next"
        assert supervisor.plugins[PROBE].status.worker_pids != before

    run(scenario)


def test_cancelling_a_task_that_waits_in_the_queue_costs_no_worker(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        plugin = supervisor.plugins[PROBE]
        pids = plugin.status.worker_pids
        held = plugin.pool.acquire(Chain(), Deadline.after(60.0), 0)
        waiting = asyncio.create_task(supervisor.call(PROBE, "echo", b"x"))
        await asyncio.to_thread(wait_until, lambda: plugin.pool._turns._queue)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.release()
        assert await supervisor.call(PROBE, "echo", b"x") == b"x"
        assert plugin.status.worker_pids == pids

    run(scenario)


def test_calls_that_expire_while_they_wait_for_a_thread_cost_no_worker(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        pids = supervisor.plugins[OTHER].status.worker_pids
        slow = asyncio.create_task(supervisor.command(PROBE, "spin", timeout=60.0))
        await until_busy(supervisor)
        late = [supervisor.call(OTHER, "echo", b"x", timeout=0.1) for _ in range(10)]
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {CallTimeout}
        assert all(outcome.retryable for outcome in outcomes if isinstance(outcome, CallTimeout))
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert supervisor.plugins[OTHER].status.worker_pids == pids

    run(scenario, async_threads=1)


def test_hung_calls_of_one_plugin_keep_nobody_else_from_an_answer(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        hung = [asyncio.create_task(supervisor.command(PROBE, "spin")) for _ in range(40)]
        await until_busy(supervisor)
        async with asyncio.timeout(WAIT_SECONDS):
            assert await supervisor.call(OTHER, "echo", b"x") == b"x"
            assert (await supervisor.status())[PROBE].state == "busy"
            await supervisor.cancel(PROBE, "token")
            await supervisor.reset(PROBE)
            assert await supervisor.get_config(OTHER) == {}
        for task in hung:
            task.cancel()
        assert {type(end) for end in await asyncio.gather(*hung, return_exceptions=True)} == {asyncio.CancelledError}
        assert await supervisor.call(PROBE, "echo", b"x") == b"x"

    run(scenario, async_threads=4)


def test_calls_that_wait_for_a_thread_end_by_their_deadline(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        slow = [asyncio.create_task(supervisor.command(PROBE, "spin")) for _ in range(3)]
        await until_busy(supervisor)
        with pytest.raises(CallTimeout) as caught:
            await supervisor.call(PROBE, "echo", timeout=0.1)
        assert caught.value.retryable
        assert all(not task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    run(scenario)


def test_more_calls_than_may_wait_are_refused_at_once(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        calls = [asyncio.create_task(supervisor.command(PROBE, "spin")) for _ in range(8)]
        await until_busy(supervisor)
        done, running = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert {type(call.exception()) for call in done} == {PluginBusy}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    run(scenario, queue=3)


def test_the_options_of_a_call_are_the_same_for_tasks(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        record = CallRecord()
        with pytest.raises(PoisonedInput):
            await supervisor.command(PROBE, "segv", retries=5, strict=True, record=record)
        assert record.attempts == 3
        (entry,) = await supervisor.poisoned(PROBE)
        assert await supervisor.clear_poisoned(PROBE, entry.fingerprint) == 1
        assert await supervisor.poisoned() == []

    run(scenario)


def test_closing_while_calls_run_ends_them_and_says_so(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        calls = [asyncio.create_task(supervisor.command(PROBE, "spin")) for _ in range(5)]
        await until_busy(supervisor)
        await supervisor.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {SupervisorClosed}
        with pytest.raises(SupervisorClosed):
            await supervisor.call(PROBE, "echo", b"x")

    run(scenario, shutdown_timeout=0.3)


def test_tasks_that_start_and_close_at_once_share_one_supervisor(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        before = supervisor.plugins[PROBE].status.worker_pids
        await asyncio.gather(supervisor.start(), supervisor.start())
        assert supervisor.plugins[PROBE].status.worker_pids == before
        await asyncio.gather(supervisor.close(), supervisor.close())

    run(scenario)


def test_a_start_that_is_cancelled_leaves_nothing(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> None:
    plugins.add(PROBE)
    has_loaded, may_go_on = threading.Event(), threading.Event()

    def hold_up(progress: LoadProgress) -> None:
        if progress.done:
            has_loaded.set()
            may_go_on.wait(WAIT_SECONDS)

    async def main() -> None:
        supervisor = AsyncSupervisor(
            plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state", on_progress=hold_up
        )
        task = asyncio.create_task(supervisor.start())
        assert await asyncio.to_thread(has_loaded.wait, WAIT_SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()

    asyncio.run(main())  # waits for the thread that makes it; the fixture then looks for what is left


def call_threads() -> int:
    return sum(thread.name.startswith("isoplug-async") for thread in threading.enumerate())


def test_a_short_call_takes_no_thread(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_loop, "_PATIENCE_SECONDS", WAIT_SECONDS)  # on a busy machine, short is longer

    async def scenario(supervisor: AsyncSupervisor) -> None:
        for number in range(20):
            assert await supervisor.call(PROBE, "echo", str(number).encode()) == str(number).encode()
        await supervisor.command(PROBE, "count")
        assert call_threads() == 0

    run(scenario)


@pytest.mark.parametrize(
    ("export", "data", "options"),
    [
        ("host", b'{"function":"host_get_timestamp","input":""}', {}),
        ("echo", b"x" * 1_000_000, {}),
        ("echo", b"a file comes along", {"files": {"a": b"1"}}),
        ("echo", b"it may be made again", {"retries": 1}),
    ],
)
def test_whatever_may_wait_goes_on_in_a_thread(
    run: Callable[..., None], export: str, data: bytes, options: dict[str, Any]
) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        record = CallRecord()
        output = await supervisor.call(PROBE, export, data, record=record, **options)
        assert output == data if export == "echo" else record.host_calls
        assert call_threads() == 1
        assert await supervisor.call(PROBE, "echo", b"next") == b"next"

    run(scenario)


def test_a_call_that_outlasts_the_patience_of_the_loop_is_answered(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        long = supervisor.command(PROBE, "busy", {"milliseconds": 800})
        short = [supervisor.call(OTHER, "echo", b"%d" % number) for number in range(50)]
        await asyncio.gather(long, *short)

    run(scenario)


def test_a_worker_killed_while_the_loop_waits_costs_that_call_and_no_other(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        for _ in range(2):
            other = [supervisor.call(OTHER, "echo", b"%d" % number) for number in range(50)]
            task = asyncio.create_task(supervisor.command(PROBE, "spin", timeout=30.0))
            await asyncio.to_thread(wait_until_computing, supervisor.plugins[PROBE])
            os.kill(supervisor.plugins[PROBE].status.worker_pids[0], signal.SIGKILL)
            with pytest.raises(WorkerCrashed, match="SIGKILL"):
                await task
            assert await asyncio.gather(*other) == [b"%d" % number for number in range(50)]
            assert await supervisor.call(PROBE, "echo", b"next", timeout=20.0) == b"next"

    run(scenario)


def test_an_answer_that_was_there_in_time_counts_however_late_the_loop_comes_to_it(run: Callable[..., None]) -> None:
    async def scenario(supervisor: AsyncSupervisor) -> None:
        (member,) = supervisor.plugins[PROBE].pool._crew.members
        before = member.worker.calls
        deadline = Deadline.after(3.0)
        task = asyncio.create_task(supervisor.call(PROBE, "echo", b"answer", timeout=deadline))
        while member.worker.calls == before:
            await asyncio.sleep(0)
        select.select([member.worker.link], [], [], WAIT_SECONDS)
        time.sleep(deadline.remaining_seconds())
        assert await task == b"answer"

    run(scenario)


def test_a_supervisor_that_one_loop_has_started_serves_another(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add(PROBE)
    supervisor = AsyncSupervisor(plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state")
    asyncio.run(supervisor.start())
    try:
        assert asyncio.run(supervisor.call(PROBE, "echo", b"elsewhere")) == b"elsewhere"
    finally:
        asyncio.run(supervisor.close())


def test_a_loop_that_ends_in_the_middle_of_a_call_ends_the_call(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add(PROBE)
    supervisor = AsyncSupervisor(plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state")

    async def scenario() -> None:
        await supervisor.start()
        lost = asyncio.create_task(supervisor.command(PROBE, "spin", timeout=60.0))
        await until_busy(supervisor)
        assert not lost.done()  # and nobody awaits it

    asyncio.run(scenario())
    try:
        assert asyncio.run(supervisor.call(PROBE, "echo", b"next", timeout=20.0)) == b"next"
    finally:
        asyncio.run(supervisor.close())


def test_loops_that_end_in_the_middle_of_calls_leave_all_seats_to_the_next(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add(PROBE)
    supervisor = AsyncSupervisor(plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state")

    async def scenario() -> None:
        lost = asyncio.create_task(supervisor.command(PROBE, "spin", timeout=60.0))
        while supervisor.plugins[PROBE].status.state != "busy":
            await asyncio.sleep(0.001)
        assert not lost.done()  # and nobody awaits it

    asyncio.run(supervisor.start())
    try:
        for _ in range(4):  # a plugin with one worker has two seats
            asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))
            wait_until(lambda: supervisor.plugins[PROBE].status.state == "ready")
        assert asyncio.run(supervisor.call(PROBE, "echo", b"next", timeout=20.0)) == b"next"
    finally:
        asyncio.run(supervisor.close())


def test_a_start_for_which_there_is_no_descriptor_left_is_refused_and_can_be_made_again(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add(PROBE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def use_up(progress: LoadProgress) -> None:
        if progress.done == progress.total and not taken:  # all that the supervisor itself needs is there
            resource.setrlimit(resource.RLIMIT_NOFILE, (1 + max(int(fd) for fd in os.listdir("/proc/self/fd")), hard))
            while True:
                try:
                    taken.append(os.dup(0))
                except OSError:
                    return

    async def main() -> None:
        supervisor = AsyncSupervisor(
            plugins_dir=plugins.path, workspace=workspace.path, state_dir=tmp_path / "state", on_progress=use_up
        )
        try:
            with pytest.raises(SetupError, match="free descriptors"):
                await supervisor.start()
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with supervisor:
            assert await supervisor.call(PROBE, "echo", b"there") == b"there"

    taken: list[int] = []
    asyncio.run(asyncio.wait_for(main(), 60.0))
