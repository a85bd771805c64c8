"""Several workers for one plugin, warm extra instances, recycling and a short queue, all under signals at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, Storm, chaos_seconds, new_seed, workers_of
from invariants import Watch, wait_until_tidy
from isoplug.supervisor import PluginError, Supervisor
from isoplug.supervisor.config import Calls, Config
from load import Load, serves_again

pytestmark = NIGHTLY

A, B, BYSTANDER = "test.a", "test.b", "test.bystander"


def test_crews_that_are_recycled_and_killed_break_no_promise(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    seed = new_seed()
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    for plugin_id in (A, B):
        plugins.add(plugin_id, variant="probe_stateless")
        workspace.grant(plugin_id, execute_commands=["all"])
    config = Config.model_validate(
        {
            "calls": Calls(timeout=4.0, shutdown_timeout=2.0, queue=3, extra_idle=0.2, max_extra_instances=3),
            "plugins": {
                A: {"workers": 3, "recycle": {"calls": 20}},
                B: {"workers": 2, "recycle": {"age": 1.5}},
            },
            "restart": {"max_restarts": 1000, "backoff_initial": 0.001, "backoff_max": 0.05, "backoff_jitter": 0.0},
        }
    )
    supervisor = supervise(config=config)
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, BYSTANDER) as watch:
        with Storm(supervisor, (A, B), seed, pause_seconds=0.1):
            loads: list[threading.Thread] = [Load(number, watch, (A, B), seed, until) for number in range(8)]
            loads += [threading.Thread(target=change_config, args=(supervisor, watch, until))]
            for load in loads:
                load.start()
            for load in loads:
                load.join()
        for plugin_id in (A, B):
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
        # A thousand may wait for each plugin, and every fourth of them costs a worker.
        assert supervisor.flush_events(100.0)
        wait_until(lambda: len(workers_of(supervisor, (A,))) == 3, "three workers, and no extra one")
        wait_until(lambda: len(workers_of(supervisor, (B,))) == 2, "two workers, and no extra one")
        wait_until_tidy(supervisor)


def change_config(supervisor: Supervisor, watch: Watch, until: float) -> None:
    """Each change renews the other workers."""
    number = 0
    while time.monotonic() < until:
        number += 1
        watch.attempt("set_config", 30.0, lambda: supervisor.set_config(A, {"number": time.monotonic()}))
        time.sleep(0.1)
    wait_until(lambda: not isinstance(watch.attempt("get_config", 30.0, lambda: supervisor.get_config(A)), PluginError))
