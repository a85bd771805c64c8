"""What the tests share: real plugins in real folders, supervisors that end with their test, and a check that a test
leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import HealthCheck, settings

from guests import guest, renamed
from hosts import Host
from hosts import is_alive as is_alive  # for tests, as the rest here
from isoplug.supervisor import Supervisor
from isoplug.supervisor.plugins.table import Plugin

WAIT_SECONDS = 20.0

# Properties say what is right, not how fast: a machine that has other things to do is no counter-example.
settings.register_profile("isoplug", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isoplug")

# A shell's background jobs are started with it ignored, and tests interrupt hosts by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], Any], what: str = "the condition", seconds: float = WAIT_SECONDS) -> Any:
    """Poll until ``condition()`` is true and return its value; fail the test after a generous while."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > give_up_at:
            pytest.fail(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.002)
    return value


def wait_until_computing(plugin: Plugin) -> None:
    """Until the worker is inside a call that computes (``spin``). ``busy`` alone begins with the lease, a moment before
    the call is sent; a worker that dies in between is replaced and the call goes to the next one."""
    wait_until(lambda: plugin.status.state == "busy")
    before = plugin.status.cpu_seconds
    wait_until(lambda: plugin.status.cpu_seconds >= before + 0.05)


def wasi_programs(host: psutil.Process) -> list[psutil.Process]:
    """Children of ``host`` that run a WASI program."""
    found = []
    for child in host.children():
        with suppress(psutil.Error):  # it ends just now
            if any("isoplug.worker.wasi" in word for word in child.cmdline()):
                found.append(child)
    return found


@pytest.fixture(scope="session")
def guest_cache(request: pytest.FixtureRequest) -> Path:
    """Compiled guests, kept between runs; the key is the hash of their sources."""
    return Path(request.config.cache.mkdir("guests"))


@dataclass
class PluginFolder:
    """A plugins folder in the making."""

    path: Path
    cache: Path

    def add(
        self,
        plugin_id: str = "test.probe",
        *,
        variant: str = "probe",
        defines: tuple[str, ...] = (),
        config: Any = None,
        folder: str | None = None,
    ) -> Path:
        """One plugin; builds of ``probe`` get ``plugin_id``. Returns the path of its plugin.wasm."""
        wasm = guest(variant, self.cache, *defines).read_bytes()
        if variant.startswith("probe"):
            wasm = renamed(wasm, plugin_id)
        return self.add_bytes(folder or plugin_id, wasm, config)

    def add_bytes(self, folder: str, wasm: bytes, config: Any = None) -> Path:
        target = self.path / folder
        target.mkdir(parents=True)
        (target / "plugin.wasm").write_bytes(wasm)
        if config is not None:
            (target / "config.json").write_text(json.dumps(config))
        return target / "plugin.wasm"


@dataclass
class Workspace:
    """A workspace whose root index, ``README.md``, grants ``permissions`` (plugin id → type → rule)."""

    path: Path
    permissions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def grant(self, plugin_id: str = "test.probe", **rules: Any) -> Workspace:
        """``grant(read_files=["all"])``, or a rule: ``grant(read_files={"include": ["all"], "exclude": ["a"]})``."""
        entry = self.permissions.setdefault(plugin_id, {})
        entry |= {name: rule if isinstance(rule, dict) else {"include": rule} for name, rule in rules.items()}
        plugins = {key: {"permissions": value} for key, value in self.permissions.items()}
        front_matter = yaml.safe_dump({"title": "Journal", "contents": [], "plugins": plugins})
        (self.path / "README.md").write_text(f"---\n{front_matter}---\nWelcome.\n")
        return self

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture
def plugins(tmp_path: Path, guest_cache: Path) -> PluginFolder:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return PluginFolder(folder, guest_cache)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return Workspace(folder).grant()


@pytest.fixture
def supervise(tmp_path: Path, plugins: PluginFolder, workspace: Workspace) -> Iterator[Callable[..., Supervisor]]:
    """Start supervisors over ``plugins`` and ``workspace`` (or what is passed); they are closed after the test."""
    running: list[Supervisor] = []

    def start(**arguments: Any) -> Supervisor:
        arguments = {
            "plugins_dir": plugins.path,
            "workspace": workspace.path,
            "state_dir": tmp_path / "state",
        } | arguments
        supervisor = Supervisor(**arguments)
        running.append(supervisor)
        return supervisor

    yield start
    for supervisor in running:
        supervisor.close()


@pytest.fixture
def host(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    hosts: list[Host] = []
    (tmp_path / "run").mkdir()

    def start(script: str) -> Host:
        arguments = [str(plugins.path), str(workspace.path), str(tmp_path / "state")]
        hosts.append(Host(script, arguments, tmp_path / "run"))
        return hosts[-1]

    yield start
    for one in hosts:
        one.close()


@pytest.fixture(autouse=True, scope="session")
def runtime_base() -> Iterator[Path]:
    """Where the supervisors of this run put their runtime folders; those of other runs are none of its business."""
    with tempfile.TemporaryDirectory(prefix="iso-run-", dir="/tmp") as base, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", base)
        yield Path(base)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(runtime_base: Path) -> Iterator[None]:
    """Fails a test that leaves a process, a descriptor, a thread or a runtime folder."""
    before = belongings()
    yield
    give_up_at = time.monotonic() + WAIT_SECONDS
    while (left := left_behind(before)) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    for pid in left.get("processes", ()):  # so that one failing test does not fail all that follow
        psutil.Process(pid).kill()
    assert not left, f"left behind: {left}"


def belongings() -> dict[str, set[Any]]:
    return {
        "processes": _descendants(),
        "descriptors": {(fd, target) for fd in os.listdir("/proc/self/fd") if (target := _target(fd))},
        "threads": {thread.name for thread in threading.enumerate() if thread.name.startswith("isoplug")},
        "folders": {str(path) for path in _runtime_folders()},
    }


def left_behind(before: dict[str, set[Any]]) -> dict[str, set[Any]]:
    now = belongings()
    return {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}


def _descendants() -> set[int]:
    """The processes below this one. Finding them reads a file of every process of the machine, before and after each
    test; the kernel tells at once that there is no child, dead or alive, and so nothing below."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _target(fd: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _runtime_folders() -> list[Path]:
    return list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("isoplug-????????"))


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def mounted(needs_root: None) -> Iterator[Callable[..., None]]:
    """``mounted(place, "-t", "tmpfs", ...)`` mounts something there for the test; skips where that cannot be done."""
    places: list[Path] = []

    def mount(place: Path, *arguments: str, source: str = "tmpfs") -> None:
        command = shutil.which("mount")
        if command is None or shutil.which("umount") is None:
            pytest.skip("this machine has no mount command")
        made = subprocess.run([command, *arguments, source, str(place)], check=False, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
        places.append(place)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # also when a failed test left a file open


@pytest.fixture
def copied_plugins(plugins: PluginFolder) -> PluginFolder:
    """The demo's plugins, copied."""
    import isoplug.supervisor.demo as demo

    shutil.copytree(Path(demo.__path__[0]) / "plugins", plugins.path, dirs_exist_ok=True)
    return plugins
