"""``isoplug run`` as a service manager sees it: signals, locks, exit codes, and what is left when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import psutil
import pytest

from bench import PROBE
from commands import SCRIPT
from conftest import PluginFolder, wait_until
from guests import guest
from service_host import ServiceHost

#: Far above what the service needs, far below the timeouts that it would otherwise wait for.
SOON_SECONDS = 15.0


@pytest.fixture
def serve(tmp_path: Path, guest_cache: Path) -> Iterator[Callable[[str], ServiceHost]]:
    """``serve(config)``: a host with one plugin; nothing is started yet."""
    hosts: list[ServiceHost] = []

    def make(config: str = "") -> ServiceHost:
        host = ServiceHost(tmp_path / f"host{len(hosts)}", guest_cache, config)
        host.plugins.add()
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()


def state_of(host: ServiceHost) -> str:
    return str(host.ask("status")["plugins"][0]["state"])


def is_spinning(host: ServiceHost) -> bool:
    (plugin,) = host.ask("status")["plugins"]
    return plugin["state"] == "busy" and plugin["cpu_seconds"] > 0.2


# --- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_calls_in_flight_finish_and_new_ones_hear_why(
    serve: Callable[..., ServiceHost], number: signal.Signals
) -> None:
    host = serve('[calls]\nshutdown_timeout = "30s"\n')
    process = host.start()
    caller, other = host.client(), host.client()
    caller.send("call", plugin=PROBE, command="busy", params={"milliseconds": 4000})
    wait_until(lambda: state_of(host) == "busy")
    process.send_signal(number)
    wait_until(lambda: other.ask("ping")["phase"] == "draining")
    other.send("call", plugin=PROBE, command="echo")
    refused = other.read()
    assert refused is not None
    assert refused["error"]["code"] == "supervisor_closed"
    assert "draining" in refused["error"]["message"]
    answer = caller.read()
    assert answer is not None
    assert answer["ok"]["data"] is None
    assert process.wait(60) == 0
    caller.close()
    other.close()
    assert host.is_gone()
    assert not (host.state / "control.sock").exists()


def test_a_drain_ends_at_its_bound_and_the_caller_hears_why(serve: Callable[..., ServiceHost]) -> None:
    host = serve('[calls]\nshutdown_timeout = "500ms"\n')
    process = host.start()
    caller = host.client()
    caller.send("call", plugin=PROBE, command="spin")
    wait_until(lambda: state_of(host) == "busy")
    started = time.monotonic()
    host.run("drain")
    answer = caller.read()
    assert answer is not None
    assert answer["error"]["code"] == "supervisor_closed"
    assert process.wait(60) == 0
    assert time.monotonic() - started < SOON_SECONDS
    caller.close()
    assert host.is_gone()


def test_a_second_signal_stops_at_once_and_the_caller_hears_why(serve: Callable[..., ServiceHost]) -> None:
    host = serve('[calls]\nshutdown_timeout = "10m"\ntimeout = "20m"\n')
    process = host.start()
    caller = host.client()
    caller.send("call", plugin=PROBE, command="spin")
    wait_until(lambda: is_spinning(host))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: host.ask("ping")["phase"] == "draining")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    answer = caller.read()
    assert answer is not None
    assert answer["error"]["code"] == "supervisor_closed"
    assert process.wait(60) == 1
    assert time.monotonic() - started < SOON_SECONDS
    caller.close()
    assert host.is_gone()


def test_a_signal_while_plugins_are_loading_ends_a_load_that_takes_too_long(serve: Callable[..., ServiceHost]) -> None:
    host = serve('[calls]\nstart_timeout = "10m"\nshutdown_timeout = "500ms"\n')
    host.plugins.add("test.slow", config={"init": "spin"})
    process = host.launch()
    host.wait_for_log(f"plugin.loaded plugin={PROBE}")
    assert host.ask("ping")["phase"] == "starting"
    host.family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    wait_until(host.is_gone)


def test_after_kill_9_nothing_is_left_and_the_next_start_takes_over(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    process = host.start()
    process.kill()
    process.wait()
    wait_until(host.is_gone)
    assert (host.state / "control.sock").exists()
    out, err = host.run("status", code=1)
    assert (out, "no service for state folder" in err) == ("", True)
    host.start()
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1


def test_one_service_a_state_folder_and_the_second_names_the_first(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    first = host.start()
    second = host.launch()
    assert second.wait(60) == 2
    assert f"is served already, by process {first.pid}" in host.log()
    assert host.ask("ping")["pid"] == first.pid


# --- surroundings -----------------------------------------------------------------------------------------------------


def test_no_plugin_and_a_broken_plugin_are_no_reason_to_end(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    shutil.rmtree(host.plugins.path / PROBE)
    process = host.start()
    assert host.ask("status")["plugins"] == []
    host.run("drain")
    assert process.wait(60) == 0
    host.plugins.add_bytes("garbage", b"hello")
    process = host.start()
    report = host.ask("status")
    assert report["load_errors"]["garbage"]["code"] == "load_error"
    assert "not loaded: garbage: load_error" in host.run("status")[0]
    host.run("call", "--attach", "garbage", "x", code=6)
    process.terminate()
    assert process.wait(60) == 0


def test_it_cannot_start_without_a_usable_configuration(serve: Callable[..., ServiceHost]) -> None:
    host = serve("[calls]\ntimout = 5\n")
    assert host.launch().wait(60) == 2
    assert "did you mean 'calls.timeout'?" in host.log()


def test_the_status_says_what_the_service_is_doing(serve: Callable[..., ServiceHost]) -> None:
    host = serve('[calls]\nshutdown_timeout = "10m"\n')
    shutil.copy(guest("bad_manifest_spin", host.plugins.cache), host.plugins.add_bytes("slow", b""))
    host.launch()
    host.wait_until_listening()
    out, _ = host.run("status")
    assert ", starting, up for " in out
    assert "the plugins are being loaded" in out
    assert "no plugins" not in out


def test_a_plugin_that_traps_at_start_has_its_reason_on_one_line(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.plugins.add_bytes("broken", guest("bad_manifest_trap", host.plugins.cache).read_bytes())
    host.start()
    (line,) = [line for line in host.run("status")[0].splitlines() if "not loaded: broken: " in line]
    assert "; " in line
    assert "\ufffd" not in line


def test_a_full_disk_is_named_with_the_folder(serve: Callable[..., ServiceHost], mounted: Callable[..., None]) -> None:
    host = serve()
    host.state.mkdir()
    mounted(host.state, "-t", "tmpfs", "-o", "size=64k,mode=700")
    with (host.state / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert host.launch().wait(60) == 2
    assert f"cannot write to the state folder '{host.state}': No space left on device; free space" in host.log()


def test_state_folders_with_long_paths_work(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.state = host.folder / ("deep/" * 60) / "state"
    paths = f'plugins_dir = "plugins"\nstate_dir = "{host.state}"\n'
    (host.folder / "isoplug.toml").write_text(paths)
    host.start()
    assert len(str(host.state)) > 300
    assert host.run("call", "--attach", PROBE, "echo", "--params", "7")[0] == "7\n"


def test_it_works_without_any_standard_descriptor(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    closed = f"exec {SCRIPT} run --config isoplug.toml 0<&- 1>&- 2>&-"
    process = host.launch(["/bin/sh", "-c", closed])
    host.wait_until_listening()
    wait_until(lambda: host.ask("ping")["phase"] == "running")
    host.family = psutil.Process(process.pid).children(recursive=True)
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.usefixtures("needs_root")
def test_it_works_as_the_first_process_of_a_container(serve: Callable[..., ServiceHost]) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("this machine has no unshare command")
    host = serve()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", SCRIPT, "run", "--config", "isoplug.toml"]
    process = host.launch(command)
    wait_until(lambda: "service.ready" in host.log() or process.poll() is not None)
    if process.poll() is not None:
        pytest.skip(f"no name space of processes to be had here: {host.log()}")
    assert host.ask("ping")["pid"] == 1
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1
    (inside,) = psutil.Process(process.pid).children()
    host.family = inside.children(recursive=True)
    inside.terminate()
    assert process.wait(60) == 0
    wait_until(host.is_gone)


def test_a_terminal_that_closes_drains_and_one_that_stays_open_reloads(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        ioctl(theirs, termios.TIOCSCTTY, 0)

    buffered = {"PYTHONUNBUFFERED": ""}  # as it is in a shell: what could not be written is tried again at the end
    process = host.launch(stderr=theirs, stdin=theirs, stdout=theirs, preexec_fn=own_terminal, env=buffered)
    os.close(theirs)
    seen = b""
    while b"service.ready" not in seen:
        seen += os.read(ours, 65536)
    host.family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGHUP)
    while b"service.configured" not in seen:
        seen += os.read(ours, 65536)
    os.close(ours)  # the kernel sends SIGHUP
    assert process.wait(60) == 0
    wait_until(host.is_gone)


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_reload_says_what_it_could_apply_and_what_needs_a_restart(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    process = host.start()
    assert host.run("reload")[0] == "nothing has changed\n"
    host.configure('[calls]\ntimeout = "5s"\n[service]\nwatch = "off"\n')
    report = json.loads(host.run("reload", "--json")[0])
    assert report["config"] == {"applied": ["service.watch"], "needs_restart": ["calls.timeout"]}
    assert "needs a restart of the service: calls.timeout" in host.run("reload")[0]
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: host.log().count("service.configured") == 4, "the reload")


def test_a_broken_configuration_changes_nothing_and_is_reported(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    process = host.start()
    (host.folder / "isoplug.toml").write_text('state_dir = "state"\n[calls]\ntimeout = 5\n')
    process.send_signal(signal.SIGHUP)
    host.wait_for_log("service.reload_failed code=setup_error")
    client = host.client()
    client.send("reload")
    answer = client.read()
    client.close()
    assert answer is not None
    assert "has no unit" in answer["error"]["message"]
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1


# --- the service manager ----------------------------------------------------------------------------------------------


class Manager:
    """Listens where a service manager would."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.environment = {"NOTIFY_SOCKET": address}

    def read(self, seconds: float = 20.0) -> dict[str, str] | None:
        """The next message; None when none comes."""
        self._socket.settimeout(seconds)
        try:
            message = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        return dict(line.split("=", 1) for line in message.splitlines())

    def read_until(self, key: str) -> dict[str, str]:
        while True:
            message = self.read()
            assert message is not None, f"waited in vain for {key}"
            if key in message:
                return message

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@isoplug-test-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()


def test_the_service_manager_hears_of_readiness_reloads_and_the_end(
    serve: Callable[..., ServiceHost], manager: Manager
) -> None:
    host = serve()
    host.plugins.add_bytes("garbage", b"hello")
    process = host.start(env=manager.environment)
    ready = manager.read_until("READY")
    assert ready == {"READY": "1", "STATUS": "1 plugin: 1 ready; 1 not loaded"}
    before = time.monotonic_ns() // 1000
    process.send_signal(signal.SIGHUP)
    reloading = manager.read_until("RELOADING")
    assert before < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    manager.read_until("READY")
    process.terminate()
    assert "draining" in manager.read_until("STOPPING")["STATUS"]
    assert process.wait(60) == 0


def test_the_watchdog_is_fed_until_the_process_stops(serve: Callable[..., ServiceHost], manager: Manager) -> None:
    host = serve()
    process = host.start(env=manager.environment | {"WATCHDOG_USEC": "1000000"})
    for _ in range(3):
        manager.read_until("WATCHDOG")
    process.send_signal(signal.SIGSTOP)
    while manager.read(3.0) is not None:
        pass  # what was on its way
    process.send_signal(signal.SIGCONT)
    manager.read_until("WATCHDOG")


STUCK = """
import asyncio, signal, sys, threading
from pathlib import Path
from isoplug.supervisor.config import load_config
from isoplug.supervisor.observe.logs import to_stderr
from isoplug.supervisor.service.service import Service

async def main():
    service = Service(lambda: load_config(Path("isoplug.toml")))
    def take():
        service.supervisor._supervisor._loader._book.lock.acquire()
        print("taken", file=sys.stderr, flush=True)
    def take_the_lock_of_all_leases():
        threading.Thread(target=take, daemon=True).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, take_the_lock_of_all_leases)
    return await service.run()

to_stderr("INFO")
sys.exit(asyncio.run(main()))
"""


def test_the_watchdog_is_not_fed_when_the_supervisor_hangs_though_the_loop_turns(
    serve: Callable[..., ServiceHost], manager: Manager
) -> None:
    """A thread of the service takes the lock that every call needs, and never gives it back: a deadlock."""
    host = serve()
    process = host.start(command=[sys.executable, "-c", STUCK], env=manager.environment | {"WATCHDOG_USEC": "1000000"})
    manager.read_until("WATCHDOG")
    process.send_signal(signal.SIGUSR1)
    host.wait_for_log("taken\n")
    host.wait_for_log("service.supervisor_does_not_answer")
    assert host.ask("ping")["phase"] == "running"
    while manager.read(1.0) is not None:  # what was on its way, be it from a moment when it was only slow
        pass
    give_up_at = time.monotonic() + 3.0
    while time.monotonic() < give_up_at:
        assert "WATCHDOG" not in (manager.read(0.5) or {})


#: What a worker that died had used: another figure with each death.
_USED = re.compile(r"peak \d+ MiB|[\d.]+ s of CPU")

# --- the command line -------------------------------------------------------------------------------------------------


def test_an_attached_call_answers_and_fails_as_a_call_here_does(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.plugins.add("test.kept")
    host.start()
    (host.folder / "a.zip").write_bytes(b"content")
    ask = json.dumps({"function": "host_request_file", "input": '{"key": "archive"}'})
    cases = [
        (PROBE, "echo", "--params", '{"ä": 1}'),
        (PROBE, "echo", "--params", "5", "--json"),
        (PROBE, "host", "--params", ask, "--file", "archive=a.zip"),
        (PROBE, "echo", "--file", "archive=no.zip"),
        (PROBE, "echo", "--params", "NaN"),
        (PROBE, "echo", "--timeout", "0"),
        (PROBE, "dance"),
        ("nobody", "x"),
        (PROBE, "fail", "--params", '{"message": "no\\u001b ink", "error_code": "printer"}'),
        (PROBE, "fail", "--params", '{"message": "not yours", "error_code": "permission_denied"}'),
        (PROBE, "host", "--params", json.dumps({"function": "host_read_file", "input": '{"path": "a"}'}), "--strict"),
        (PROBE, "echo", "--retries", "-1"),
        (PROBE, "trap"),
        (PROBE, "spin", "--timeout", "0.5"),
        (PROBE, "segv"),
    ]
    for case in cases:
        results = []
        here, there = host.popen("call", *case, "--state", "apart"), host.popen("call", *case, "--attach")
        for process in (here, there):
            with process:
                out, err = process.communicate(timeout=60)
            err = "\n".join(line for line in err.splitlines() if " WARNING " not in line)
            results.append((process.returncode, out, _USED.sub("", err)))
        assert results[0] == results[1], case


def test_an_interrupt_of_an_attached_call_cancels_it_in_the_service(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.start()
    with host.popen("call", "--attach", PROBE, "spin") as caller:
        wait_until(lambda: is_spinning(host))
        caller.send_signal(signal.SIGINT)
        caller.communicate(timeout=30)
    assert caller.returncode != 0
    wait_until(lambda: state_of(host) == "ready", "the call to be cancelled")


def test_reset_ends_a_quarantine(serve: Callable[..., ServiceHost]) -> None:
    host = serve("[restart]\nmax_restarts = 0\n")
    host.start()
    host.run("call", "--attach", PROBE, "segv", code=5)
    assert state_of(host) == "quarantined"
    assert (
        f"then call reset('{PROBE}'), or isoplug reset {PROBE}"
        in host.run("call", "--attach", PROBE, "echo", code=5)[1]
    )
    assert f"{PROBE} is quarantined: find the cause, then isoplug reset {PROBE}\n" in host.run("status")[0]
    assert host.run("reset", PROBE)[0] == f"{PROBE}: reset\n"
    assert host.run("call", "--attach", PROBE, "echo", "--params", "1")[0] == "1\n"


def test_poisoned_inputs_can_be_seen_and_taken_up_again(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.start()
    assert host.run("poisoned")[0] == "no input is set aside\n"
    for _ in range(2):
        host.run("call", "--attach", PROBE, "segv", code=5)
    assert "is set aside" in host.run("call", "--attach", PROBE, "segv", code=5)[1]
    (poisoned,) = json.loads(host.run("poisoned", "--json")[0])
    assert (poisoned["plugin_id"], poisoned["strikes"]) == (PROBE, 2)
    assert poisoned["fingerprint"] in host.run("poisoned", PROBE)[0]
    host.run("poisoned", "--clear", code=2)
    assert f"{PROBE}: 1 input that kills its worker is set aside; see isoplug poisoned" in host.run("status")[0]
    assert json.loads(host.run("status", "--json")[0])["poisoned"] == {PROBE: 1}
    assert "is for --clear" in host.run("poisoned", PROBE, poisoned["fingerprint"], code=2)[1]
    assert "no input of" in host.run("poisoned", PROBE, "0" * 64, "--clear", code=2)[1]
    assert host.run("poisoned", PROBE, poisoned["fingerprint"], "--clear")[0] == f"{PROBE}: 1 taken up again\n"
    assert host.run("poisoned")[0] == "no input is set aside\n"


def test_commands_say_so_when_there_is_no_service(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    for arguments in (("status",), ("status", "--watch"), ("reset", PROBE), ("drain",), ("reload",)):
        out, err = host.run(*arguments, code=1)
        assert out == ""
        assert f"no service for state folder '{host.state}'; start one with isoplug run" in err


def test_a_service_that_does_not_answer_does_not_hang_a_command_for_ever(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    process = host.start()
    process.send_signal(signal.SIGSTOP)
    _, err = host.run("status", code=1)
    assert "does not answer" in err


def test_status_watch_prints_a_line_for_each_change_and_ends_with_the_service(
    serve: Callable[..., ServiceHost],
) -> None:
    host = serve()
    process = host.start()
    with host.popen("status", "--watch", "--json", "--interval", "0.1") as watcher:
        assert watcher.stdout is not None
        assert json.loads(watcher.stdout.readline())["plugins"][0]["calls"] == 0
        host.ask("call", plugin=PROBE, command="echo")
        while (report := json.loads(watcher.stdout.readline()))["plugins"][0]["calls"] == 0:
            assert report["service"]["calls"] == 1  # it has arrived, and not begun yet
        assert report["plugins"][0]["calls"] == 1
        process.terminate()
        _, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert "not_running" in err


def test_status_watch_redraws_a_terminal_and_gives_it_back(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.start()
    ours, theirs = pty.openpty()
    with host.popen("status", "--watch", "--interval", "0.1", stdout=theirs, env={**os.environ, "TERM": "xterm"}) as it:
        os.close(theirs)
        seen = b""
        while seen.count(PROBE.encode()) < 3:
            seen += os.read(ours, 65536)
        it.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while more := os.read(ours, 65536):
                seen += more
        it.communicate(timeout=30)
    os.close(ours)
    assert it.returncode == 0
    assert seen.rstrip().endswith(b"\x1b[?25h")  # the cursor is there again


def test_help_of_the_service_s_commands_has_examples() -> None:
    for command in ("run", "status", "reset", "drain", "reload"):
        shown = subprocess.run([SCRIPT, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert "Example" in shown


# --- plugins that change ----------------------------------------------------------------------------------------------


def test_new_changed_and_removed_plugins_take_effect_by_themselves(serve: Callable[..., ServiceHost]) -> None:
    host = serve()
    host.start()

    def versions() -> dict[str, str]:
        return {plugin["id"]: plugin["version"] for plugin in host.ask("status")["plugins"]}

    assert versions() == {PROBE: "1.0.0"}
    host.plugins.add("test.new")
    wait_until(lambda: versions() == {PROBE: "1.0.0", "test.new": "1.0.0"}, "the new plugin")
    newer = PluginFolder(host.folder / "newer", host.plugins.cache).add(defines=("GUEST_VERSION=2.0.0",))
    newer.replace(host.plugins.path / PROBE / "plugin.wasm")
    wait_until(lambda: versions()[PROBE] == "2.0.0", "the new version")
    shutil.rmtree(host.plugins.path / "test.new")
    wait_until(lambda: versions() == {PROBE: "2.0.0"}, "the plugin to be unloaded")
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1


def test_a_version_that_does_not_load_leaves_the_old_one_in_charge_and_the_status_says_why(
    serve: Callable[..., ServiceHost],
) -> None:
    host = serve()
    host.start()
    (host.plugins.path / PROBE / "plugin.wasm").write_bytes(b"\0asm\1\0\0\0garbage")
    wait_until(lambda: host.ask("status")["plugins"][0]["upgrade"] is not None, "the refusal")
    assert f"upgrade of {PROBE}: " in host.run("status")[0]
    assert host.ask("call", plugin=PROBE, command="echo", params=1)["data"] == 1
    host.run("reload", code=6)


def test_without_a_watch_plugins_change_when_somebody_asks(serve: Callable[..., ServiceHost]) -> None:
    host = serve('[service]\nwatch = "off"\n')
    process = host.start()
    host.plugins.add("test.new")
    assert host.run("reload")[0] == "loaded: test.new\n"
    host.plugins.add("test.newer")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(host.ask("status")["plugins"]) == 3, "the reload")
