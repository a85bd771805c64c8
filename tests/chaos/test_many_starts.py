"""Workers, and now and then their templates, are killed and started again on a machine that is busy: no start fails.

``ISOPLUG_STARTS`` says how many starts.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from conftest import PluginFolder, wait_until
from faults import new_seed, templates_of, workers_of
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, Restart

STARTS = int(os.environ.get("ISOPLUG_STARTS", "40"))
IDS = ("test.a", "test.b", "test.c")

pytestmark = pytest.mark.timeout(300.0 + STARTS)


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Two processes for each processor that compute."""
    command = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


def test_no_start_fails_on_a_busy_machine(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], busy_machine: None, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(new_seed())
    for plugin_id in IDS:
        plugins.add(plugin_id)
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)
    supervisor = supervise(config=Config(restart=restart))
    for number in range(STARTS):
        plugin = supervisor.plugins[chance.choice(IDS)]
        if number % 10 == 0:
            for pid in templates_of(supervisor, [plugin.id]):
                os.kill(pid, signal.SIGKILL)
        before = workers_of(supervisor, [plugin.id])
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda plugin=plugin, before=before: set(plugin.status.worker_pids) - set(before))
        assert supervisor.call(plugin.id, "echo", b"x") == b"x"
    said = [record.getMessage() for record in caplog.records]
    failures = [line for line in said if "reason=start_failed" in line or "reason=machine" in line]
    assert not failures
    assert sum(plugin.status.restarts for plugin in supervisor.plugins.values()) == STARTS
