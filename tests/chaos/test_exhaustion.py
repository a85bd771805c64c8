"""The machine runs out of processes, descriptors or disk under load, and has them again: typed errors in between, and
everything works afterwards."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, chaos_seconds, new_seed
from invariants import Watch
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from load import Load, envelope, found, serves_again

pytestmark = NIGHTLY

_TESTS = Path(__file__).parents[1]
BYSTANDER = "test.bystander"
IDS = ("test.a", "test.b")

HOST = """
import os, random, resource, sys, time
from contextlib import suppress
from invariants import Watch
from isoplug.supervisor import PluginError, Supervisor
from isoplug.supervisor.config import Calls, Config, Restart
from faults import Storm, zygotes
from load import Load

kind, plugins, workspace, state, seed, seconds = sys.argv[1:]
IDS, BYSTANDER = ("test.a", "test.b"), "test.bystander"
LIMIT = {"processes": resource.RLIMIT_NPROC, "descriptors": resource.RLIMIT_NOFILE}[kind]
soft, hard = resource.getrlimit(LIMIT)
config = Config(
    calls=Calls(timeout=30.0, start_timeout=10.0, shutdown_timeout=3.0),
    restart=Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.0),
)

def serves(plugin_id):
    try:
        return supervisor.call(plugin_id, "echo", b"x", timeout=5.0) == b"x"
    except PluginError as error:
        print(plugin_id, type(error).__name__, error)
        supervisor.reset(plugin_id)
        time.sleep(0.05)
        return False

def limit(number, pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, LIMIT, (number, hard))

with Supervisor(plugins, workspace, state_dir=state, config=config) as supervisor:
    with Watch(supervisor, BYSTANDER) as watch:
        until = time.monotonic() + float(seconds)
        loads = [Load(number, watch, IDS, int(seed), until + 3600) for number in range(4)]
        for load in loads:
            load.start()
        with Storm(supervisor, IDS, int(seed), parents=False, stops=False, pause_seconds=0.02):
            while time.monotonic() < until:
                few = len(os.listdir("/proc/self/fd")) + random.randrange(8) if kind == "descriptors" else 1
                limit(few, (*zygotes(), 0))
                time.sleep(0.3)
                limit(soft, (0,))  # first: a look at the others takes a descriptor
                limit(soft, zygotes())
                for plugin_id in IDS:
                    supervisor.reset(plugin_id)
                time.sleep(0.2)
        for load in loads:
            load.end()
        for load in loads:
            load.join()
        give_up_at = time.monotonic() + 30
        while not all([serves(plugin_id) for plugin_id in IDS]):
            assert time.monotonic() < give_up_at, supervisor.status()
print("fine")
"""


def run_host(kind: str, plugins: PluginFolder, workspace: Workspace, tmp_path: Path, *prefix: str) -> str:
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    for plugin_id in IDS:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    arguments = [kind, plugins.path, workspace.path, tmp_path / "state", new_seed(), chaos_seconds(1.0)]
    with tempfile.TemporaryDirectory(prefix="iso-run-", dir="/tmp") as runtime:
        os.chmod(runtime, 0o777)  # workers have no capability to get through a folder of root's
        host = subprocess.run(
            [*prefix, sys.executable, "-c", HOST, *map(str, arguments)],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime, "PYTHONPATH": str(_TESTS)},
            capture_output=True,
            text=True,
            timeout=chaos_seconds(1.0) + 200,
            check=False,
        )
        print(host.stdout[-2000:])
        assert host.returncode == 0, host.stdout[-3000:] + host.stderr[-3000:]
        assert not os.listdir(runtime)
    return host.stdout


def test_running_out_of_descriptors_under_load_is_an_error_and_passes(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    assert run_host("descriptors", plugins, workspace, tmp_path).endswith("fine\n")


def test_running_out_of_processes_under_load_is_an_error_and_passes(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path, needs_root: None
) -> None:
    """As a user of its own, since the limit does not bind root, who may still read what belongs to root."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    capabilities = "+dac_override,+dac_read_search"
    as_somebody = ("setpriv", "--reuid=54321", "--clear-groups")
    as_somebody += (f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}")
    assert run_host("processes", plugins, workspace, tmp_path, *as_somebody).endswith("fine\n")


def fill(filler: Path) -> None:
    """The file is there and the disk is full, however little the guests have left of it."""
    while True:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        if filler.exists():
            return
        time.sleep(0.01)


def test_a_full_disk_under_load_is_an_error_and_passes_and_nothing_acknowledged_is_lost(
    plugins: PluginFolder,
    workspace: Workspace,
    supervise: Callable[..., Supervisor],
    tmp_path: Path,
    mounted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """State, runtime folder and the folder that the guests write to, all on one small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "-t", "tmpfs", "-o", "size=8m")
    for name in ("state", "run", "workspace"):
        (disk / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk / "run"))
    workspace = Workspace(disk / "workspace").grant()
    plugins.add(BYSTANDER, defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    for plugin_id in IDS:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"], edit_files=["all"], create_files=["all"])
    seed = new_seed()
    calls = Calls(timeout=30.0, start_timeout=10.0, shutdown_timeout=3.0)
    restart = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.0)
    supervisor = supervise(
        workspace=workspace.path, state_dir=disk / "state", config=Config(calls=calls, restart=restart)
    )
    until = time.monotonic() + chaos_seconds(1.0)
    with Watch(supervisor, BYSTANDER) as watch:
        loads = [Load(number, watch, IDS, seed, until + 3600, workspace=workspace) for number in range(4)]
        for load in loads:
            load.start()
        while time.monotonic() < until:
            fill(disk / "filler")
            time.sleep(0.3)
            (disk / "filler").unlink()
            time.sleep(0.1)
        for load in loads:
            load.end()
        for load in loads:
            load.join()
        for plugin_id in IDS:
            wait_until(lambda plugin_id=plugin_id: serves_again(supervisor, plugin_id), f"{plugin_id} to serve again")
            value = {"key": "last", "data": base64.b64encode(b"last").decode()}
            assert supervisor.call(plugin_id, "host", envelope("host_storage_set", value)) == b""
        for key in watch.ledger.lost(lambda key: found(supervisor, workspace, key)):
            watch.note(f"{key} is not what was acknowledged")
    supervisor.close()
    assert not list((disk / "run").iterdir())
