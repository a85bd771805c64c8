"""A host program dies at a random moment while its plugins write: whatever was acknowledged is there, nobody is left.

``ISOPLUG_KILLS=200 pytest tests/processes/test_random_deaths.py`` kills it that often (5 times without the variable),
``ISOPLUG_SEED`` repeats a run. Each writer numbers its values and writes them under 20 names in turn; after the guest
has heard that a value is kept, its number goes into a pipe. So after a death each name holds its last acknowledged
value, or the one that was under way.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import wasmtime

from bench import ask
from conftest import PluginFolder, Workspace, wait_until
from hosts import Host
from isoplug.supervisor import Supervisor

KINDS = ("storage", "files", "secrets", "objects")
NAMES = 20
#: Everybody should be gone within one second; this is what a loaded machine gets.
GONE_SECONDS = 20.0
_PR_SET_CHILD_SUBREAPER = 36

WRITES = """
say("starting")
from bench import ask
def b64(text):
    return base64.b64encode(text.encode()).decode()
def content(number):
    return f"{number}:" + "x" * (number % 5000)
def write(supervisor, kind, number):
    name, value = f"n{number % 20}", content(number)
    match kind:
        case "storage": function, request = "host_storage_set", {"key": name, "data": b64(value)}
        case "files": function, request = "host_write_file", {"path": f"{name}.txt", "content": value}
        case "secrets": function, request = "host_secret_set", {"key": name, "value": value}
        case "objects":
            function = "host_namespace_put_object"
            request = {"ns_id": NAMESPACE, "key": name, "body_base64": b64(value), "mime_type": "text/plain"}
    answer = ask(supervisor, function, request, f"test.{kind}")
    assert answer in (b"", b'{"ok":true}'), answer
def write_on(supervisor, kind):
    for number in range(FIRST, FIRST + 10_000_000):
        write(supervisor, kind, number)
        os.write(1, f"{kind} {number}\\n".encode())
def in_background(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()
def run_program():
    ask(supervisor, "host_run_wasi_module", {"module_key": "program", "args": []}, "test.program")
supervisor = make()
for kind in ("storage", "files", "secrets", "objects"):
    in_background(write_on, supervisor, kind)
in_background(supervisor.command, "test.spins", "spin")
in_background(run_program)
say("writing")
"""


class Bystander:
    """Starts hosts that write, over one state and one workspace, and checks what their deaths leave."""

    def __init__(self, plugins: PluginFolder, workspace: Workspace, folder: Path) -> None:
        self._arguments = {"plugins_dir": plugins.path, "workspace": workspace.path, "state_dir": folder / "state"}
        self._base = folder / "run"
        self._base.mkdir()
        self._hosts = 0
        self.slowest_seconds = 0.0
        for plugin_id in (*(f"test.{kind}" for kind in KINDS), "test.program"):
            plugins.add(plugin_id)
            workspace.grant(plugin_id, create_files=["all"], edit_files=["all"], read_files=["all"])
        self.spins = plugins.add("test.spins")
        with Supervisor(**self._arguments) as supervisor:
            answer = json.loads(ask(supervisor, "host_namespace_create", {}, "test.objects"))
            self._namespace = answer["id"]
            program = base64.b64encode(wasmtime.wat2wasm('(module (func (export "_start") (loop br 0)))')).decode()
            request = {"key": "program", "data": program}
            assert ask(supervisor, "host_storage_set", request, "test.program") == b""

    def start(self, then: str = "time.sleep(600)") -> Host:
        self._hosts += 1
        constants = f"NAMESPACE, FIRST = {self._namespace!r}, {self._hosts * 10_000_000}\n"
        path = f"sys.path.append({str(Path(__file__).parents[1])!r})\n"
        host = Host(path + constants + WRITES + then, [str(value) for value in self._arguments.values()], self._base)
        assert host.read() == ["starting"]
        return host

    def check(self, host: Host, acknowledged: list[str], died_at: float) -> None:
        """Nobody is left, and a new supervisor finds everything."""
        self._wait_until_nobody_is_left(died_at)
        last: dict[tuple[str, int], int] = {}
        newest: dict[str, int] = {}
        for line in acknowledged:
            kind, _, number = line.partition(" ")
            if kind in KINDS and line.endswith("\n"):
                newest[kind] = int(number)
                last[kind, int(number) % NAMES] = int(number)
        with Supervisor(**self._arguments) as supervisor:
            assert not supervisor.load_errors
            assert len(list(self._base.iterdir())) == 1, "the runtime folder of a dead supervisor is left"
            for (kind, name), number in last.items():
                found = self._read(supervisor, kind, name)
                allowed = {number, newest[kind] + 1} if (newest[kind] + 1) % NAMES == name else {number}
                assert found in {f"{one}:" + "x" * (one % 5000) for one in allowed}, (kind, name, number, found[:50])
        assert list(self._base.iterdir()) == []

    def _wait_until_nobody_is_left(self, died_at: float) -> None:
        """This process is a subreaper, so all that a host leaves become its children."""
        while left := psutil.Process().children(recursive=True):
            assert time.monotonic() < died_at + GONE_SECONDS, f"left: {left}"
            for child in left:
                _reap(child)
            time.sleep(0.002)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - died_at)

    def _read(self, supervisor: Supervisor, kind: str, name: int) -> str:
        request: dict[str, Any]
        match kind:
            case "storage":
                function, request = "host_storage_get", {"key": f"n{name}"}
            case "files":
                function, request = "host_read_file", {"path": f"n{name}.txt"}
            case "secrets":
                function, request = "host_secret_get", {"key": f"n{name}"}
            case _:
                function, request = "host_namespace_get_object", {"ns_id": self._namespace, "key": f"n{name}"}
        answer = ask(supervisor, function, request, f"test.{kind}")
        if kind == "files":
            return answer.decode()
        found = json.loads(answer)
        return found["value"] if kind == "secrets" else base64.b64decode(found["data"]).decode()


def _reap(child: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess, ChildProcessError):  # another's child still, which becomes ours in a moment
        if child.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(child.pid, os.WNOHANG)


def is_tied(process: psutil.Process) -> bool:
    """It has asked the kernel for a signal when its supervisor dies; its interpreter starts before it can do so."""
    try:
        for info in Path(f"/proc/{process.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # it has closed that one meanwhile
                if int(info.read_text().split()[3], 8) & fcntl.FASYNC:
                    return True
    except PermissionError:  # locked, and this user is not root; a template is tied before, and its workers answered
        return True
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return True
    return False


def lines_until(word: str, host: Host) -> list[str]:
    """What the host says before it says ``word``."""
    lines = []
    for line in host.stdout:
        if line == f"{word}\n":
            return lines
        lines.append(line)
    pytest.fail(f"the host ended with {host.wait()} before it said {word!r}, but {lines[-10:]}")


class Acknowledgements:
    """Reads a host's output until it ends, so that no writer waits for the pipe."""

    def __init__(self, host: Host) -> None:
        self.lines: list[str] = []
        self._thread = threading.Thread(target=lambda: self.lines.extend(host.stdout))
        self._thread.start()

    def all(self) -> list[str]:
        self._thread.join()
        return self.lines


@pytest.fixture
def bystander(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bystander]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield Bystander(plugins, workspace, tmp_path)
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.timeout(3600)
def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged_and_leaves_nobody(bystander: Bystander) -> None:
    kills = int(os.environ.get("ISOPLUG_KILLS", "5"))
    seed = int(os.environ.get("ISOPLUG_SEED", str(time.time_ns())))
    print(f"ISOPLUG_SEED={seed} ISOPLUG_KILLS={kills}")
    moments = random.Random(seed)
    written = 0
    for _ in range(kills):
        host = bystander.start()
        acknowledgements = Acknowledgements(host)
        time.sleep(moments.uniform(0.0, 1.5))
        died_at = time.monotonic()
        host.kill()
        assert host.wait() == -signal.SIGKILL, "it had ended before"
        lines = acknowledgements.all()
        bystander.check(host, lines, died_at)
        host.close()
        written += len(lines)
    print(f"{written} writes acknowledged; slowest to be gone: {bystander.slowest_seconds * 1000:.0f} ms")


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.kill(os.getpid(), signal.SIGINT)",
        "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.abort()",
        "os._exit(1)",
        "raise SystemExit",
    ],
)
def test_any_other_death_loses_nothing_and_leaves_nobody(bystander: Bystander, how: str) -> None:
    host = bystander.start(f"time.sleep(0.3)\nsay('dying')\n{how}\ntime.sleep(600)")
    lines = lines_until("dying", host)
    lines += host.stdout
    host.wait()  # one that is let to closes first, and waits for the calls in progress
    bystander.check(host, lines, time.monotonic())
    host.close()


@pytest.mark.parametrize("before", ["stop the host", "kill the zygote", "stop the zygote", "stop everyone"])
def test_kill_9_leaves_nobody_whatever_happened_to_the_host_or_its_zygote_before(
    bystander: Bystander, before: str
) -> None:
    host = bystander.start()
    lines = [*lines_until("storage 10000030", host), "storage 10000030\n"]
    acknowledgements = Acknowledgements(host)
    process = psutil.Process(host.pid)
    wait_until(lambda: all(map(is_tied, process.children(recursive=True))))
    (zygote,) = [child for child in process.children() if child.children()]
    match before:
        case "stop the host":
            os.kill(host.pid, signal.SIGSTOP)
        case "kill the zygote":
            zygote.kill()
        case "stop the zygote":
            zygote.suspend()
        case _:
            for one in (*process.children(recursive=True), process):
                one.suspend()
    died_at = time.monotonic()
    host.kill()
    bystander.check(host, lines + acknowledgements.all(), died_at)
    host.close()


def test_kill_9_while_it_closes_leaves_nobody(bystander: Bystander) -> None:
    bystander.spins.with_name("config.json").write_text('{"shutdown": "spin"}')
    host = bystander.start("say('closing'); supervisor.close(); time.sleep(600)")
    lines = lines_until("closing", host)
    acknowledgements = Acknowledgements(host)
    time.sleep(0.2)  # most of the time it waits for a guest by now; earlier and later must work as well
    died_at = time.monotonic()
    host.kill()
    bystander.check(host, lines + acknowledgements.all(), died_at)
    host.close()
