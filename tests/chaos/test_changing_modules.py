"""Modules that change, for better and for worse, while they are called and killed."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, Storm, chaos_seconds, new_seed
from guests import guest, renamed
from invariants import Watch, wait_until_tidy
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from load import Load, serves_again

pytestmark = NIGHTLY

IDS = ("test.a", "test.b")
BYSTANDER = "test.bystander"


def replace(module: Path, content: bytes) -> None:
    """As an installer does it: whole or not at all."""
    new = module.with_name("plugin.new")
    new.write_bytes(content)
    os.replace(new, module)


def test_modules_that_change_under_load_and_signals_break_no_promise(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], guest_cache: Path
) -> None:
    seed = new_seed()
    chance = random.Random(seed)
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    for plugin_id in IDS:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    good = guest("probe", guest_cache, "GUEST_VERSION=2.0.0").read_bytes()
    trapping = guest("probe_init_trap", guest_cache).read_bytes()
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.0)
    config = Config(restart=restart, calls=Calls(timeout=4.0, start_timeout=10.0, shutdown_timeout=1.0))
    supervisor = supervise(config=config)
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, BYSTANDER) as watch:
        with Storm(supervisor, IDS, seed, pause_seconds=0.15):
            loads = [Load(number, watch, IDS, seed, until) for number in range(3)]
            for load in loads:
                load.start()
            while time.monotonic() < until:
                plugin_id = chance.choice(IDS)
                original = guest("probe", guest_cache).read_bytes()
                module = chance.choice([good, good, original, trapping, b"half of a mod"])
                content = renamed(module, plugin_id) if len(module) > 100 else module
                replace(plugins.path / plugin_id / "plugin.wasm", content)
                watch.attempt("reload", 30.0, supervisor.reload)
            for load in loads:
                load.join()
        for plugin_id in IDS:
            replace(plugins.path / plugin_id / "plugin.wasm", renamed(good, plugin_id))

        def is_new(plugin_id: str) -> bool:
            supervisor.reload(force=True)
            return serves_again(supervisor, plugin_id) and supervisor.status()[plugin_id].version == "2.0.0"

        for plugin_id in IDS:
            wait_until(lambda plugin_id=plugin_id: is_new(plugin_id), f"the new {plugin_id} to serve")
        wait_until_tidy(supervisor)
