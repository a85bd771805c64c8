"""Extism's timer thread sleeps through most calls, and takes its messages away all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from wasmtime import wat2wasm

from confined import confined
from conftest import PluginFolder, wait_until
from hosts import Host
from isoplug.shared.lockdown import Lockdown
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config
from isoplug.worker.timer_thread import begins_behind

PROBE = "test.probe"
CALLS = 400
MIB = 1 << 20

MODULE = wat2wasm('(module (func (export "nothing") (result i32) (i32.const 0)))')
#: What the messages of so many calls take when nobody takes them away: some 20 MB.
MANY_CALLS = 200_000
#: Makes so many calls as each line says, as a worker does, and answers the line.
CALLER = """\
import os, signal, sys
from isoplug.shared.limits import WorkerLimits
from isoplug.worker import timer_thread
from isoplug.worker.guest import Blueprint, Guest
from isoplug.worker.lockdown import privileges
from isoplug.worker.lockdown.seccomp import Stage, enter

limits = WorkerLimits(wasm_memory_bytes=1 << 20, process_memory_bytes=0, open_files=0, frame_bytes=1 << 20)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})  # for the compiler's threads, which no worker has
blueprint = Blueprint(bytes.fromhex(sys.argv[1]), [], limits)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
guest = Guest(blueprint)
privileges.renounce()
timer_thread.wake_by_itself()
enter(Stage.RUN_GUEST)
while count := os.read(0, 100):
    for _ in range(int(count)):
        guest.call("nothing", b"")
    os.write(1, b"done\\n")
os._exit(0)
"""


def timer_thread(pid: int) -> int:
    (thread,) = {thread.id for thread in psutil.Process(pid).threads()} - {pid}
    return thread


def sleeps_of_the_timer_thread(pid: int) -> int:
    status = Path(f"/proc/{pid}/task/{timer_thread(pid)}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add()
    return supervise()


def pid_of(supervisor: Supervisor) -> int:
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    return pid


def test_a_call_does_not_wake_it(supervisor: Supervisor) -> None:
    before = sleeps_of_the_timer_thread(pid_of(supervisor))
    for _ in range(CALLS):
        supervisor.call(PROBE, "echo", b"")
    assert sleeps_of_the_timer_thread(pid_of(supervisor)) - before < CALLS / 4


def test_it_wakes_up_now_and_then(supervisor: Supervisor) -> None:
    before = sleeps_of_the_timer_thread(pid_of(supervisor))

    def has_been_awake() -> bool:
        supervisor.command(PROBE, "busy", {"milliseconds": 200})
        return sleeps_of_the_timer_thread(pid_of(supervisor)) > before + 2

    wait_until(has_been_awake)


def test_it_wakes_up_also_under_a_host_that_blocks_signals(plugins: PluginFolder, host: Callable[[str], Host]) -> None:
    plugins.add()
    caller = host("""
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        supervisor = make()
        say("ready", *supervisor.plugins["test.probe"].status.worker_pids)
        while True:
            supervisor.command("test.probe", "busy", {"milliseconds": 200})
    """)
    caller.ready()
    (worker,) = caller.family
    before = sleeps_of_the_timer_thread(worker.pid)
    wait_until(lambda: sleeps_of_the_timer_thread(worker.pid) > before + 2)
    caller.kill()
    wait_until(caller.is_gone)


@pytest.mark.parametrize("lockdown", [Lockdown.OFF, Lockdown.BEST_EFFORT])
def test_it_takes_the_core_from_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], lockdown: Lockdown
) -> None:
    plugins.add()
    pid = pid_of(supervise(config=Config(lockdown=lockdown)))
    assert os.sched_getscheduler(timer_thread(pid)) == os.SCHED_BATCH
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER


@pytest.mark.skipif(os.sched_getscheduler(0) != os.SCHED_OTHER, reason="the tests run with another policy than usual")
def test_a_policy_that_somebody_has_chosen_is_left_alone() -> None:
    def chosen() -> list[int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with begins_behind():
            return [os.sched_getscheduler(0)]

    assert confined(chosen).value == [os.SCHED_IDLE]


def test_its_messages_do_not_pile_up() -> None:
    arguments = [sys.executable, "-c", CALLER, bytes(MODULE).hex()]
    no_cache = {"EXTISM_CACHE_CONFIG": ""}  # of compiled code: whether workers write there is a test of its own
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=no_cache
    ) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None

        def taken_after(calls: int) -> int:
            print(calls, file=caller.stdin)
            assert caller.stdout.readline() == "done\n"
            return int(psutil.Process(caller.pid).memory_info().rss)

        taken_bytes = taken_after(1_000)
        for _ in range(3):  # a busy machine may keep the thread waiting once; what piles up does so each time
            before, taken_bytes = taken_bytes, taken_after(MANY_CALLS)
            if taken_bytes - before < 10 * MIB:
                break
        caller.stdin.close()
    assert taken_bytes - before < 10 * MIB
