"""Forks of the host in the middle of everything: the fork harms nothing, can end in any way, and holds nothing.

The host is a process of its own, because a fork of pytest would run the tests' own clean-up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import PluginFolder, Workspace
from faults import NIGHTLY, chaos_seconds, new_seed

pytestmark = NIGHTLY

_TESTS = Path(__file__).parents[1]

HOST = """
import os, random, signal, sys, threading, time
from invariants import Watch
from faults import Storm
from isoplug.supervisor import PluginError, Supervisor, SupervisorClosed
from isoplug.supervisor.config import Calls, Config, Restart
from load import Load

plugins, workspace, state, seed, seconds = sys.argv[1:]
IDS, BYSTANDER = ("test.a", "test.b"), "test.bystander"
chance = random.Random(int(seed))
config = Config(
    calls=Calls(timeout=30.0, start_timeout=10.0, shutdown_timeout=3.0),
    restart=Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.0),
)

def in_fork(how):
    signal.alarm(20)  # a fork that hangs ends by a signal, and the host says so
    if how == "exit":
        sys.exit(0)
    if how == "close":
        supervisor.close()
    if how == "call":
        try:
            supervisor.call(BYSTANDER, "echo", b"x")
        except SupervisorClosed:
            os._exit(0)
        os._exit(9)
    os._exit(0)

supervisor = Supervisor(plugins, workspace, state_dir=state, config=config)
with Watch(supervisor, BYSTANDER) as watch:
    until = time.monotonic() + float(seconds)
    loads = [Load(number, watch, IDS, int(seed), until) for number in range(3)]
    for load in loads:
        load.start()
    with Storm(supervisor, IDS, int(seed), stops=False, pause_seconds=0.1):
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.0, 0.05))
            how = chance.choice(["exit", "close", "call", "end"])
            fork = os.fork()
            if not fork:
                in_fork(how)
            _, status = os.waitpid(fork, 0)
            watch.answers[f"fork {how}"] += 1
            watch.expect(status == 0, f"a fork ({how}) ended with {os.waitstatus_to_exitcode(status)}")
    for load in loads:
        load.join()
supervisor.close()
print("fine")
"""


def test_forks_of_the_host_at_random_moments_trouble_nobody(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add("test.bystander", defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    for plugin_id in ("test.a", "test.b"):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    runtime = tmp_path / "run"
    runtime.mkdir()
    arguments = [plugins.path, workspace.path, tmp_path / "state", new_seed(), chaos_seconds(1.0)]
    host = subprocess.run(
        [sys.executable, "-c", HOST, *map(str, arguments)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=chaos_seconds(1.0) + 200,
        check=False,
    )
    print(host.stdout[-2000:])
    assert host.stdout.endswith("fine\n"), host.stdout[-3000:] + host.stderr[-3000:]
    assert host.returncode == 0
    assert not list(runtime.iterdir())
