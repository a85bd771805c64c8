"""Ctrl-C at random moments: the call that it hits ends, the supervisor goes on, and closing leaves nothing.

The host is a process of its own, because the interrupts go to its main thread.
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
import faulthandler, json, os, random, signal, sys, threading, time, traceback
from isoplug.supervisor import PluginError, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from load import envelope, nested

plugins, workspace, state, seed, seconds = sys.argv[1:]
chance = random.Random(int(seed))
config = Config(
    calls=Calls(timeout=20.0, shutdown_timeout=2.0),
    restart=Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.01, backoff_jitter=0.0),
)
A, B = "test.a", "test.b"
WORK = [
    lambda s: s.call(A, "echo", b"x" * 1000),
    lambda s: s.command(A, "echo", {"a": 1}),
    lambda s: s.command(A, "busy", {"milliseconds": 3}),
    lambda s: s.call(A, "host", envelope("host_storage_set", {"key": "k", "data": "eA=="})),
    lambda s: s.call(A, "host", envelope("host_write_file", {"path": "a.md", "content": "x"})),
    lambda s: s.command(A, "call", nested([B], "echo")),
    lambda s: s.command(A, "call", nested([B, A], "echo")),
    lambda s: s.command(A, "trap"),
    lambda s: s.emit("file_saved", {"path": "a.md"}),
    lambda s: s.status(),
    lambda s: s.set_config(A, {"n": 1}),
    lambda s: s.flush_events(),
]
interrupts = 0
is_armed = False  # an interrupt that comes late must not hit what is between two calls

def interrupt(_, frame):
    global interrupts, is_armed, where
    if is_armed:
        is_armed = False
        where = "".join(traceback.format_stack(frame)[1:])
        interrupts += 1
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
faulthandler.dump_traceback_later(float(seconds) + 60, exit=True)  # where everybody is, should one hang
supervisor = Supervisor(plugins, workspace, state_dir=state, config=config)
until = time.monotonic() + float(seconds)
hits = {}
while time.monotonic() < until:
    number = chance.randrange(len(WORK))
    try:
        is_armed = True
        soon = chance.choice([0.0002, 0.0005, 0.001, 0.003, 0.02]) * chance.random()
        signal.setitimer(signal.ITIMER_REAL, soon + 1e-6)
        WORK[number](supervisor)
    except KeyboardInterrupt:
        hits[number] = hits.get(number, 0) + 1
    except PluginError as error:
        pass
    is_armed = False
    for plugin_id in (A, B):
        began = time.monotonic()
        while True:
            try:
                assert supervisor.call(plugin_id, "echo", b"next", timeout=20.0) == b"next"
                break
            except PluginError as error:
                if time.monotonic() - began > 18:
                    print("STUCK", number, plugin_id, type(error).__name__, error, supervisor.status()[plugin_id])
                    print("interrupted in:", where, flush=True)
                    os._exit(4)
print("interrupts", interrupts, hits, "chains left", len(supervisor._runner.gate._chains))
began = time.monotonic()
supervisor.close()
took = time.monotonic() - began
print("closed in", took)
# An interrupt in the step in which a call leaves, before anything of ours runs, leaves its chain in the gate: closing
# waits for it until its time is up, and no longer.
sys.exit(5 if took > config.calls.shutdown_timeout + 20.0 else 0)
"""


def test_interrupts_at_random_moments_leave_nothing(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    for plugin_id in ("test.a", "test.b"):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"], edit_files=["all"], create_files=["all"])
    runtime = tmp_path / "run"
    runtime.mkdir()
    arguments = [
        plugins.path,
        workspace.path,
        tmp_path / "state",
        new_seed(),
        chaos_seconds(1.5),
    ]
    host = subprocess.run(
        [sys.executable, "-c", HOST, *map(str, arguments)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=chaos_seconds(1.5) + 200,
        check=False,
    )
    print(host.stdout)
    assert host.returncode == 0, host.stdout[-3000:] + host.stderr[-3000:]
    assert not list(runtime.iterdir())
