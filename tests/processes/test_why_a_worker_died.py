"""Whoever loses a call hears why: signal or code, last words, memory, with the facts that support it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wasmtime

from conftest import PluginFolder, wait_until, wait_until_computing
from hosts import Host
from isoplug.shared.errors import CrashReason
from isoplug.supervisor import Supervisor, WorkerCrashed, WorkerLimitExceeded
from isoplug.supervisor.config import Config, Limits
from zygotes import zygotes_run

PROBE = "test.probe"
MIB = 1 << 20

#: Takes the place of a worker's ``live`` and misbehaves in the first call, in the way that its input names.
MISBEHAVING = """
import os, select, signal
import isoplug.worker.main
from isoplug.shared.messages import *
from isoplug.worker.link import Link

MANIFEST = b'{"id": "test.probe", "name": "x", "version": "1", "description": "x", "capabilities": []}'

def too_much():
    bytearray(1 << 30)
def bug():
    open("/home/someone/secret")
def abort():
    os.write(2, b"Assertion failed: pfd.revents \\x1b[2J (src/signaler.cpp:264)\\n")
    os.abort()
def chatter():
    said = 0
    while said < 1 << 20:
        try:
            said += os.write(2, b"blah " * 100)
        except BlockingIOError:
            said += 500
    os.kill(os.getpid(), signal.SIGKILL)
def heir():
    if not os.fork():
        heirloom = select.poll()
        heirloom.register(2, 0)
        heirloom.poll()  # until nobody reads it any more
    os._exit(5)

def live(cell, blueprint, courier, fields, lifeline_fd, link_fd):
    cell.move_in(lifeline_fd, link_fd)
    link = Link(link_fd, 1 << 25)
    link.send(Hello(PROTOCOL)); link.receive(); link.send(Loaded())
    while True:
        message = link.receive()
        if isinstance(message, Stop):
            return 0
        if message.export == "manifest":
            link.send(Returned(message.call, MANIFEST))
        elif message.export == "do":
            globals()[message.input.decode()]()
        else:
            link.send(Failed(message.call, "missing", ""))

isoplug.worker.main.live = live
"""


@pytest.fixture
def misbehaving(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], WorkerCrashed]:
    zygotes_run(monkeypatch, MISBEHAVING)
    plugins.add()
    supervisor = supervise(config=Config(limits=Limits(process_memory=100 * MIB, wasm_memory=16 * MIB)))

    def do(what: str) -> WorkerCrashed:
        with pytest.raises(WorkerCrashed) as caught:
            supervisor.call(PROBE, "do", what.encode())
        assert supervisor.plugins[PROBE].status.last_failure is not None
        assert caught.value.cause == supervisor.plugins[PROBE].status.last_failure
        return caught.value

    return do


def test_python_that_runs_out_of_process_memory_says_so(misbehaving: Callable[[str], WorkerCrashed]) -> None:
    error = misbehaving("too_much")
    assert (error.reason, error.exit_code) == (CrashReason.OUT_OF_MEMORY, 71)
    assert "out of memory (MemoryError" in str(error)
    assert "limits.process_memory is 100 MiB" in str(error)
    assert isinstance(error, WorkerLimitExceeded)
    assert (error.key, error.bound) == ("limits.process_memory", 100 * MIB)
    assert error.figure is not None
    assert 10 * MIB < error.figure < 100 * MIB


def test_a_fault_of_the_worker_is_told_without_the_folders_of_the_host(
    misbehaving: Callable[[str], WorkerCrashed],
) -> None:
    error = misbehaving("bug")
    assert (error.reason, error.exit_code) == (CrashReason.EXIT, 71)
    assert "Error: [Errno " in error.evidence  # locked in, it has no right to look; or there is nothing to see
    assert ": 'secret'" in error.evidence
    assert "someone" not in str(error)


def test_what_a_library_says_before_it_aborts_is_told_without_control_characters(
    misbehaving: Callable[[str], WorkerCrashed],
) -> None:
    error = misbehaving("abort")
    assert (error.reason, error.signal) == (CrashReason.SIGNAL, signal.SIGABRT)
    assert "Assertion failed: pfd.revents \N{REPLACEMENT CHARACTER}[2J (src/signaler.cpp:264)" in error.evidence


def test_a_worker_that_talks_without_end_neither_waits_nor_fills_anything(
    misbehaving: Callable[[str], WorkerCrashed],
) -> None:
    error = misbehaving("chatter")
    assert error.signal == signal.SIGKILL
    assert "blah blah" in error.evidence
    assert len(error.evidence) < 500


def test_a_descendant_that_keeps_standard_error_open_does_not_hold_up_the_supervisor(
    misbehaving: Callable[[str], WorkerCrashed],
) -> None:
    assert misbehaving("heir").exit_code == 5


def test_a_module_that_needs_more_memory_to_compile_than_it_gets_is_reported_with_rusts_last_words(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    body = "(local.set 0 (i64.add (local.get 0) (i64.mul (local.get 0) (i64.const 12345)))) " * 200
    functions = "".join(f'(func (export "f{n}") (param i64) (result i64) {body} (local.get 0))' for n in range(2500))
    plugins.add_bytes("huge", wasmtime.wat2wasm(f"(module {functions})"))
    supervisor = supervise(config=Config(limits=Limits(process_memory=64 * MIB, wasm_memory=16 * MIB)))
    error = supervisor.load_errors["huge"]
    assert isinstance(error, WorkerCrashed)
    assert (error.reason, error.signal) == (CrashReason.OUT_OF_MEMORY, signal.SIGABRT)
    assert "killed by SIGABRT while it was compiled: out of memory (memory allocation of " in str(error)
    assert "limits.process_memory is 64 MiB" in error.evidence


def test_a_signal_from_outside_is_told_with_memory_and_cpu_time_and_is_not_out_of_memory(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        error = call.exception()
    assert isinstance(error, WorkerCrashed)
    assert error.reason is CrashReason.SIGNAL
    assert error.cause.startswith("killed by SIGKILL during command 'spin' (peak ")
    assert error.cause.endswith(" s of CPU)")


def test_an_idle_death_is_told_in_the_status(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    os.kill(plugin.status.worker_pids[0], signal.SIGABRT)
    told = wait_until(lambda: plugin.status.last_failure)
    assert told.startswith("killed by SIGABRT while idle (peak ")


def test_what_a_guest_writes_to_wasi_standard_error_is_not_taken_for_last_words(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.talker", variant="talker")
    supervisor = supervise()
    plugin = supervisor.plugins["test.talker"]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.call, "test.talker", "talk", b"")
        wait_until_computing(plugin)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        error = call.exception()
    assert isinstance(error, WorkerCrashed)
    assert error.evidence.startswith("peak ")


# --- the kernel's own killer --------------------------------------------------------------------------------------


@pytest.fixture
def small_group(needs_root: None, tmp_path: Path) -> Iterator[Path]:
    """A control group with 300 MiB of memory, in either version; skips where none can be made."""
    group = _make_group(f"isoplug-{tmp_path.name}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
    group.rmdir()


def _make_group(name: str) -> Path:
    refusals = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit = ("/sys/fs/cgroup", "memory.max") if not controllers else ("/sys/fs/cgroup/memory", _V1_LIMIT)
        group = Path(f"{base}{path}", name)
        try:
            group.mkdir()
        except OSError as error:
            refusals.append(f"{group}: {error.strerror}")
            continue
        try:
            (group / limit).write_text(str(300 * MIB))
        except OSError as error:
            group.rmdir()
            refusals.append(f"{group / limit}: {error.strerror}")
        else:
            return group
    pytest.skip(f"no control group with a limit on memory can be made here: {'; '.join(refusals) or 'none is mounted'}")


_V1_LIMIT = "memory.limit_in_bytes"


def test_a_worker_that_the_kernel_ends_for_want_of_memory_is_out_of_memory_and_its_host_goes_on(
    plugins: PluginFolder, host: Callable[[str], Host], small_group: Path
) -> None:
    plugins.add()
    supervisor = host(f"""
        open("{small_group}/cgroup.procs", "w").write(str(os.getpid()))
        from isoplug.supervisor import WorkerCrashed
        from isoplug.supervisor.config import Config, Limits
        limits = Limits(process_memory="1GiB", wasm_memory="1GiB")
        with Supervisor(plugins_dir=plugins, workspace=workspace, state_dir=state, config=Config(limits=limits)) as sup:
            say("ready", *family())
            try:
                sup.command("test.probe", "allocate")
            except WorkerCrashed as error:
                say(error.reason)
                say(error.cause)
            assert sup.call("test.probe", "echo", b"x") == b"x"
        say("closed")
    """)
    supervisor.ready()
    assert supervisor.read() == [CrashReason.OUT_OF_MEMORY]
    cause = " ".join(supervisor.read())
    assert cause.startswith(
        "killed by SIGKILL during command 'allocate': out of memory (the kernel has ended processes"
    )
    assert supervisor.read() == ["closed"]
    assert supervisor.wait() == 0
