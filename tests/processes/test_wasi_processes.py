"""A WASI program ends with whoever asked for it: worker, call, supervisor, host. Nothing of it stays."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import ask
from conftest import PluginFolder, Workspace, is_alive, wait_until, wasi_programs
from guests.wasi import wasi_program
from isoplug.supervisor import CallTimeout, Supervisor, SupervisorClosed, WorkerCrashed
from isoplug.supervisor.config import Calls, Config

ASKS = "test.asks"


def request(*arguments: str) -> dict[str, Any]:
    return {"module_key": "program", "args": arguments}


def store(supervisor: Supervisor, cache: Path) -> None:
    value = {"key": "program", "data": base64.b64encode(wasi_program(cache)).decode()}
    assert ask(supervisor, "host_storage_set", value, ASKS) == b""


def folders(base: Path) -> list[Path]:
    return list(base.glob("isoplug-????????/wasi-*"))


@contextmanager
def spinning(supervisor: Supervisor, base: Path, **call: Any) -> Iterator[tuple[Future[bytes], psutil.Process]]:
    """A call whose program runs already, and that program's process."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(ask, supervisor, "host_run_wasi_module", request("spin", "here"), ASKS, **call)
        wait_until(lambda: any((folder / "here").exists() for folder in folders(base)), "the program to run")
        (process,) = wasi_programs(psutil.Process())
        yield future, process


@pytest.fixture
def start(plugins: PluginFolder, supervise: Callable[..., Supervisor], guest_cache: Path) -> Callable[..., Supervisor]:
    def begin(**arguments: Any) -> Supervisor:
        plugins.add(ASKS)
        plugins.add("test.bystander")
        supervisor = supervise(**arguments)
        store(supervisor, guest_cache)
        return supervisor

    return begin


def test_a_worker_killed_during_a_run_takes_the_program_with_it_and_nothing_else(
    start: Callable[..., Supervisor], runtime_base: Path
) -> None:
    supervisor = start()
    with spinning(supervisor, runtime_base) as (future, process):
        (worker,) = supervisor.plugins[ASKS].status.worker_pids
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            future.result(20)
    assert not is_alive(process)
    assert folders(runtime_base) == []
    assert supervisor.call("test.bystander", "echo", b"x") == b"x"
    assert json.loads(ask(supervisor, "host_run_wasi_module", request("exit", "3"), ASKS))["exit_code"] == 3


def test_a_call_that_meets_its_deadline_ends_its_program(start: Callable[..., Supervisor], runtime_base: Path) -> None:
    supervisor = start()
    with spinning(supervisor, runtime_base, timeout=8.0) as (future, process), pytest.raises(CallTimeout):
        future.result(20)
    assert not is_alive(process)
    assert folders(runtime_base) == []


def test_closing_the_supervisor_ends_its_programs(start: Callable[..., Supervisor], runtime_base: Path) -> None:
    supervisor = start(config=Config(calls=Calls(shutdown_timeout=0.1)))
    with spinning(supervisor, runtime_base) as (future, process):
        supervisor.close()
        with pytest.raises(SupervisorClosed):
            future.result(20)
    assert not is_alive(process)


def test_a_second_plugin_is_not_held_up_by_a_program(start: Callable[..., Supervisor], runtime_base: Path) -> None:
    supervisor = start()
    with spinning(supervisor, runtime_base) as (future, process):
        assert supervisor.call("test.bystander", "echo", b"x") == b"x"
        process.kill()
        assert b"killed by SIGKILL" in future.result(20)


# --- the host dies --------------------------------------------------------------------------------------------------

HOST = """\
import base64, json, os, signal, sys, threading, time
from pathlib import Path
import psutil
from isoplug.supervisor import Supervisor

plugins, workspace, state, base, program = sys.argv[1:]
supervisor = Supervisor(plugins_dir=plugins, workspace=workspace, state_dir=state)
def ask(function, request):
    inner = {"function": function, "input": json.dumps(request)}
    return supervisor.call("test.asks", "host", json.dumps(inner).encode())
def run(*arguments):
    return ask("host_run_wasi_module", {"module_key": "program", "args": arguments})
def programs():
    return [child for child in psutil.Process().children() if "isoplug.worker.wasi" in " ".join(child.cmdline())]
def spin():
    threading.Thread(target=run, args=("spin", "here"), daemon=True).start()
    while not list(Path(base).glob("isoplug-????????/wasi-*/here")):
        time.sleep(0.002)
    (process,) = programs()
    return process.pid
ask("host_storage_set", {"key": "program", "data": base64.b64encode(Path(program).read_bytes()).decode()})
"""


class Host:
    def __init__(self, process: subprocess.Popen[str], base: Path) -> None:
        self.process, self.base = process, base

    def read(self) -> list[int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the host has failed"
        return [int(word) for word in line.split()]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def host(
    plugins: PluginFolder, workspace: Workspace, guest_cache: Path, tmp_path: Path
) -> Iterator[Callable[[str], Host]]:
    plugins.add(ASKS)
    base, program = tmp_path / "run", tmp_path / "program.wasm"
    base.mkdir()
    program.write_bytes(wasi_program(guest_cache))
    hosts: list[Host] = []

    def begin(script: str) -> Host:
        arguments = [plugins.path, workspace.path, tmp_path / "state", base, program]
        process = subprocess.Popen(
            [sys.executable, "-c", HOST + textwrap.dedent(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(base)},
        )
        hosts.append(Host(process, base))
        return hosts[-1]

    yield begin
    for one in hosts:
        one.kill()
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_kill_9_of_the_supervisor_ends_its_programs_and_removes_what_they_wrote(host: Callable[[str], Host]) -> None:
    supervisor = host("print(spin(), flush=True); time.sleep(600)")
    (pid,) = supervisor.read()
    program = psutil.Process(pid)
    supervisor.kill()
    wait_until(lambda: not is_alive(program), "the program to end")
    wait_until(lambda: not list(supervisor.base.iterdir()), "the runtime folder to be removed")


def test_when_the_zygote_is_killed_too_the_next_supervisor_removes_what_programs_wrote(
    host: Callable[[str], Host],
) -> None:
    supervisor = host("""
        program = spin()
        (zygote,) = [child for child in psutil.Process().children() if child.pid != program]
        zygote.kill()
        zygote.wait()
        print(program, flush=True)
        time.sleep(600)
    """)
    (pid,) = supervisor.read()
    program = psutil.Process(pid)
    supervisor.kill()
    wait_until(lambda: not is_alive(program), "the program to end")
    assert folders(supervisor.base)
    following = host("print(0, flush=True); time.sleep(600)")
    following.read()
    assert folders(supervisor.base) == []


def test_a_fork_of_the_host_does_not_keep_a_program_of_a_dead_supervisor_alive(host: Callable[[str], Host]) -> None:
    supervisor = host("""
        program = spin()
        fork = os.fork()
        if not fork:
            os.close(1)
            time.sleep(600)
        print(program, fork, flush=True)
        time.sleep(600)
    """)
    program, fork = map(psutil.Process, supervisor.read())
    supervisor.kill()
    try:
        wait_until(lambda: not is_alive(program), "the program to end")
        assert is_alive(fork)
    finally:
        fork.kill()


@pytest.mark.parametrize(
    "how",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        """
        def reap():
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    time.sleep(0.0005)
        threading.Thread(target=reap, daemon=True).start()
        """,
    ],
    ids=["ignores them", "reaps them all"],
)
def test_programs_run_in_a_host_that_handles_its_children_itself(how: str, host: Callable[[str], Host]) -> None:
    supervisor = host(
        textwrap.dedent(how)
        + textwrap.dedent("""
        for code in (0, 3, 0, 3, 0):
            print(json.loads(run("exit", str(code)))["exit_code"], flush=True)
        supervisor.close()
        print(len(psutil.Process().children()), flush=True)
        """)
    )
    assert [supervisor.read()[0] for _ in range(6)] == [0, 3, 0, 3, 0, 0]
