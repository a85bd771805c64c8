"""The zygote is killed while it forks: every start ends with the one worker that the supervisor knows, or with none."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conftest import PluginFolder, wait_until
from faults import NIGHTLY, chaos_seconds, new_seed, workers_of, zygotes
from invariants import Watch, wait_until_tidy
from isoplug.supervisor import Supervisor, WorkerCrashed
from isoplug.supervisor.config import Calls, Config, Restart
from load import serves_again

pytestmark = NIGHTLY

IDS = ("test.a", "test.b")


def test_a_zygote_killed_while_it_forks_leaves_no_worker_that_nobody_knows(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    chance = random.Random(new_seed())
    for plugin_id in IDS:
        plugins.add(plugin_id)
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.01, backoff_jitter=0.0)
    supervisor = supervise(config=Config(restart=restart, calls=Calls(start_timeout=10.0, shutdown_timeout=2.0)))
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor) as watch, ThreadPoolExecutor(len(IDS)) as threads:
        while time.monotonic() < until:
            unique = chance.random()  # an input that kills twice is set aside
            crashes = [threads.submit(watch.command, plugin_id, "segv", unique, 20.0) for plugin_id in IDS]
            time.sleep(chance.uniform(0.0, 0.02))
            for pid in zygotes():
                os.kill(pid, signal.SIGKILL)
            # A crash that goes unnoticed ends at the deadline, as a timeout: the worker that died is not the one that
            # is watched.
            for crash in crashes:
                watch.expect(isinstance(crash.result(), WorkerCrashed), f"a crash was answered {crash.result()!r}")
        for plugin_id in IDS:
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
        wait_until_tidy(supervisor)
        for pid in workers_of(supervisor, IDS):
            os.kill(pid, signal.SIGKILL)  # those are the workers, and no others
        for plugin_id in IDS:
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
        assert {status.state for status in supervisor.status().values()} == {"ready"}
