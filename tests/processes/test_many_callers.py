"""Many threads, many plugins, random kills: every call is answered once, in turn, and nothing leaks."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from conftest import PluginFolder, wait_until, wait_until_computing
from faults import templates, workers, workers_of
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import CallTimeout, PluginQuarantined, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Restart
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.plugins.table import Plugin
from isoplug.supervisor.pool import Chain

PROBE = "test.probe"
THREADS, CALLS, KILLS = 8, 60, 20


def test_under_random_kills_every_call_is_answered_once_and_rightly(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ids = [f"test.p{number}" for number in range(4)]
    for plugin_id in ids:
        plugins.add(plugin_id)
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.01, backoff_jitter=0.0)
    supervisor = supervise(config=Config(restart=restart))

    def caller(number: int) -> Counter[str]:
        own, seen = random.Random(seed + number), Counter[str]()
        while (call := seen.total()) < CALLS or not killing.done():
            payload = f"{number}-{call}".encode() * own.choice([1, 100, 10_000])
            try:
                answer = supervisor.call(own.choice(ids), "echo", payload, timeout=30.0)
            except (WorkerCrashed, CallTimeout, PluginQuarantined) as error:
                seen[type(error).__name__] += 1
            else:
                assert answer == payload
                seen["answered"] += 1
        return seen

    def killer() -> list[int]:
        killed: list[int] = []
        while len(killed) < KILLS:
            time.sleep(chance.uniform(0.0, 0.1))
            pids = supervisor.plugins[chance.choice(ids)].status.worker_pids
            if pids:
                try:
                    os.kill(pids[0], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(pids[0])
        return killed

    with ThreadPoolExecutor(THREADS + 1) as threads:
        killing = threads.submit(killer)
        totals = Counter[str]()
        for seen in [threads.submit(caller, number) for number in range(THREADS)]:
            totals.update(seen.result(100))
    assert totals["answered"] > totals.total() / 2
    wait_until(lambda: not set(workers_of(supervisor, ids)) & set(killing.result()), "the last killed one to be missed")
    for plugin_id in ids:
        assert supervisor.call(plugin_id, "echo", b"alive") == b"alive"
    wait_until(lambda: len(workers()) == len(templates()) == len(ids), "dead workers to be reaped")


def test_callers_are_served_in_the_order_in_which_they_came(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    held = plugin.pool.acquire(Chain(), Deadline.after(60.0), 0)
    with ThreadPoolExecutor(8) as threads:
        calls = []
        for number in range(8):
            calls.append(threads.submit(supervisor.command, PROBE, "count"))
            wait_until(lambda n=number: waiting_calls(plugin) == n + 1)
        held.release()
        assert [call.result() for call in calls] == list(range(1, 9))


def waiting_calls(plugin: Plugin) -> int:
    return len(plugin.pool._turns._queue)


def test_the_order_holds_across_a_crash(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        calls = []
        for number in range(4):
            calls.append(threads.submit(supervisor.command, PROBE, "count"))
            wait_until(lambda n=number: waiting_calls(plugin) == n + 1)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        assert isinstance(first.exception(), WorkerCrashed)
        assert [call.result() for call in calls] == [1, 2, 3, 4]


def test_a_slow_plugin_holds_up_nobody_but_its_own_callers(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.slow")
    plugins.add("test.quick")
    supervisor = supervise()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(supervisor.command, "test.slow", "spin", timeout=100.0)
        wait_until_computing(supervisor.plugins["test.slow"])
        for _ in range(100):
            assert supervisor.call("test.quick", "echo", b"x") == b"x"
        assert not slow.done()
        os.kill(supervisor.plugins["test.slow"].status.worker_pids[0], signal.SIGKILL)
        assert isinstance(slow.exception(), WorkerCrashed)


def test_many_restarts_leak_no_descriptor_and_no_thread(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    """Thirty of them: a leak of one each would show. Only root may look into a template that is locked."""
    plugins.add()
    supervisor = supervise(config=Config(lockdown=Lockdown.BEST_EFFORT if os.geteuid() == 0 else Lockdown.OFF))

    def crash() -> None:
        with pytest.raises(CallTimeout):
            supervisor.command(PROBE, "spin", timeout=0.01)
        assert supervisor.call(PROBE, "echo", b"x") == b"x"

    me, (template,) = psutil.Process(), map(psutil.Process, templates())
    crash()
    before = (me.num_fds(), me.num_threads(), template.num_fds())
    for _ in range(30):
        crash()
    wait_until(
        lambda: all(
            now <= then + 2
            for now, then in zip((me.num_fds(), me.num_threads(), template.num_fds()), before, strict=True)
        ),
        f"what was before: {before}",
    )
