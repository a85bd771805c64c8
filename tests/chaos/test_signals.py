"""Signals at random moments, under every kind of load: the promises hold (see ``invariants.py``).

Short by default. ``ISOPLUG_CHAOS_SECONDS=120 pytest tests/chaos`` makes minutes of each storm; ``ISOPLUG_CHAOS_SEED``
repeats a choice of faults.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import ask
from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, Storm, chaos_seconds, new_seed
from guests.wasi import wasi_program
from invariants import Watch, wait_until_tidy
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Calls, Config, Http, Limits, Restart, Sleep
from load import Load, found, serves_again
from peers import Answer, HttpPeer, serve

pytestmark = NIGHTLY

A, B, C, BYSTANDER = "test.a", "test.b", "test.c", "test.bystander"
IDS = (A, B, C)
LENIENT = Restart(max_restarts=1000, period=60.0, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.01)


@pytest.fixture
def server() -> Iterator[HttpPeer]:
    with serve({"/": lambda seen: Answer(body=seen.body)}) as peer:
        yield peer


@pytest.fixture(params=[0.0, 0.05], ids=["awake", "sleepy"])
def supervisor(
    request: pytest.FixtureRequest,
    plugins: PluginFolder,
    workspace: Workspace,
    supervise: Callable[..., Supervisor],
    guest_cache: Path,
) -> Supervisor:
    """``sleepy``: its plugins fall asleep whenever nobody has called them for a moment."""
    types = ("read_files", "edit_files", "create_files", "http_requests", "execute_commands")
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))  # no events: some of them trap
    for plugin_id in IDS:
        plugins.add(plugin_id)
    for plugin_id in (*IDS, BYSTANDER):
        workspace.grant(plugin_id, **{name: ["all"] for name in types})
        workspace.grant(plugin_id, plugin_storage={"include": ["all"], "quota_bytes": 10 << 20})
    config = Config(
        restart=LENIENT,
        sleep=Sleep(after=request.param),
        plugins={BYSTANDER: {"sleep": {"after": 0.0}}},
        calls=Calls(timeout=30.0, start_timeout=10.0, shutdown_timeout=3.0),
        http=Http(allow_private=("localhost",)),
        limits=Limits(storage_quota=10 << 20, process_memory=256 << 20, wasm_memory=64 << 20),
    )
    supervisor = supervise(config=config)
    program = base64.b64encode(wasi_program(guest_cache)).decode()
    assert ask(supervisor, "host_storage_set", {"key": "m", "data": program}, A) == b""
    return supervisor


def test_signals_at_random_moments_break_no_promise(
    supervisor: Supervisor, workspace: Workspace, server: HttpPeer
) -> None:
    seed = new_seed()
    until = time.monotonic() + chaos_seconds(1.5)
    with Watch(supervisor, BYSTANDER) as watch:
        with Storm(supervisor, IDS, seed):
            loads = [
                Load(number, watch, IDS, seed, until, workspace=workspace, url=server.url("/"), has_program=True)
                for number in range(6)
            ]
            for load in loads:
                load.start()
            for load in loads:
                load.join()
        for plugin_id in IDS:
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
        assert supervisor.flush_events(60.0)
        wait_until_tidy(supervisor)
        for key in watch.ledger.lost(lambda key: found(supervisor, workspace, key)):
            watch.note(f"{key} is not what was acknowledged")
