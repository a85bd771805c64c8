"""What a process can still do at each stage, in the kernel.

Every attempt here is one that does no harm when the lock fails: what would reach processes of others is tried on the
filters alone (test_seccomp_filters.py).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from confined import Ending, confined, outcome, pretend_missing
from isoplug.worker.lockdown import capabilities, kernel, privileges, seccomp
from isoplug.worker.lockdown.layer import LayerMissing
from isoplug.worker.lockdown.seccomp import Stage
from isoplug.worker.lockdown.seccomp.install import enter
from isoplug.worker.lockdown.seccomp.numbers import MACHINES

NUMBERS = MACHINES[os.uname().machine].numbers
OF_A_WORKER = (Stage.COMPILE, Stage.INSTANTIATE, Stage.RUN, Stage.RUN_GUEST)
FUTEX_WAIT, FUTEX_WAKE = 128, 129  # <linux/futex.h>, both private
MAPPED_BYTES = 64 << 20  # malloc never takes so much from the heap

libc = ctypes.CDLL(None, use_errno=True)
allocate = libc.malloc
allocate.restype = ctypes.c_void_p


def within(stage: Stage, step: Callable[[], Any]) -> Ending:
    """The end of a process that enters this stage, after those that come before it in a worker's life."""
    stages = OF_A_WORKER[: OF_A_WORKER.index(stage) + 1] if stage in OF_A_WORKER else (stage,)
    return confined(privileges.renounce, *(partial(enter, each) for each in stages), step)


def make_page(protection: int, then: int | None = None) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
    if then is not None:
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        kernel.mprotect(start, mmap.PAGESIZE, then)


def start_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


DATA, CODE, BOTH = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC, mmap.PROT_WRITE | mmap.PROT_EXEC

KILLED_WHEN_RUNNING: dict[str, Callable[[], Any]] = {
    "a process": os.fork,
    "a thread": start_thread,
    "a program": lambda: os.execv("/bin/true", ["true"]),
    "a socket": lambda: socket.socket(socket.AF_UNIX),
    "a pair of sockets": socket.socketpair,
    "a pipe": os.pipe,
    "a descriptor more": lambda: os.dup(0),
    "a page of code": partial(make_page, CODE),
    "data turned into code": partial(make_page, DATA, CODE),
    "data that is code": partial(make_page, DATA, BOTH),
    "shared memory": lambda: mmap.mmap(-1, mmap.PAGESIZE),
    "a signal to its parent": lambda: os.kill(os.getppid(), 0),
    "a signal to itself": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "a filter more": partial(enter, Stage.RUN),
    "its core again": lambda: kernel.system_call(NUMBERS["prlimit64"], 0, 4, 0, 0),
    "a name": lambda: os.unlink("/nowhere"),
    "its user": lambda: os.setuid(12),
    "a wait for others": lambda: os.waitpid(-1, os.WNOHANG),
    "flags of a descriptor": lambda: os.get_inheritable(0),
}


@pytest.mark.parametrize("stage", [Stage.RUN, Stage.RUN_GUEST])
@pytest.mark.parametrize("what", KILLED_WHEN_RUNNING)
def test_a_running_worker_that_asks_for_it_is_ended(what: str, stage: Stage) -> None:
    assert within(stage, KILLED_WHEN_RUNNING[what]).killed_by == signal.SIGSYS


def test_the_guests_thread_adds_no_filter_even_to_itself() -> None:
    assert within(Stage.RUN_GUEST, partial(enter, Stage.RUN_GUEST)).killed_by == signal.SIGSYS


@pytest.mark.parametrize("what", sorted(set(KILLED_WHEN_RUNNING) - {"a thread", "a filter more", "a descriptor more"}))
def test_so_is_one_that_makes_its_instance(what: str) -> None:
    assert within(Stage.INSTANTIATE, KILLED_WHEN_RUNNING[what]).killed_by == signal.SIGSYS


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: os.execv("/bin/true", ["true"]),
        lambda: socket.socket(socket.AF_INET),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socketpair,
        os.pipe,
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        partial(make_page, DATA, BOTH),
        partial(make_page, CODE),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
        lambda: libc.unshare(0x1000_0000),
        lambda: kernel.system_call(NUMBERS["clone"], 0x1000_0000 | signal.SIGCHLD, 0, 0, 0, 0),
        lambda: os.unlink("/nowhere"),
        lambda: kernel.system_call(NUMBERS["prlimit64"], os.getppid(), 7, 0, 0),
    ],
)
def test_a_template_that_asks_for_it_is_ended(attempt: Callable[[], Any]) -> None:
    assert within(Stage.COMPILE, attempt).killed_by == signal.SIGSYS


def test_a_template_forks_threads_and_makes_code() -> None:
    def live() -> int:
        start_thread()
        make_page(DATA, CODE)
        if not (pid := os.fork()):
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert within(Stage.COMPILE, live).value == 7


@pytest.mark.parametrize("stage", [*OF_A_WORKER, Stage.RUN_WASI])
def test_files_are_refused_and_nobody_dies_of_it(tmp_path: Path, stage: Stage) -> None:
    for attempt in (partial(os.open, tmp_path, os.O_RDONLY), partial(os.stat, tmp_path), os.getcwd):
        assert isinstance(within(stage, attempt).value, PermissionError)


@pytest.mark.parametrize("stage", [Stage.INSTANTIATE, Stage.RUN_WASI])
def test_threads_begin_where_the_guests_runtime_may_need_them(stage: Stage) -> None:
    assert within(stage, start_thread) == Ending(None, None)


@pytest.mark.parametrize("stage", Stage)
def test_abort_ends_a_process_with_its_own_signal(stage: Stage) -> None:
    assert within(stage, os.abort).killed_by == signal.SIGABRT


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage != Stage.COMPILE])
def test_that_signal_reaches_nobody_else(stage: Stage) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        attempt = partial(kernel.system_call, NUMBERS["tgkill"], victim.pid, victim.pid, signal.SIGABRT)
        assert within(stage, attempt).killed_by == signal.SIGSYS
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("stage", Stage)
def test_a_fault_ends_a_process_at_once(stage: Stage) -> None:
    assert within(stage, partial(ctypes.string_at, 8, 1)).killed_by == signal.SIGSEGV


@pytest.mark.parametrize("stage", Stage)
def test_pages_that_glibc_keeps_random_numbers_in_are_data_as_well(stage: Stage) -> None:
    droppable = 0x08  # MAP_DROPPABLE, Linux 6.11; before, an invalid argument
    arguments = (0, mmap.PAGESIZE, DATA, droppable | mmap.MAP_ANONYMOUS, (1 << 64) - 1, 0)
    assert within(stage, partial(outcome, partial(kernel.system_call, NUMBERS["mmap"], *arguments))).killed_by is None


@pytest.mark.parametrize("stage", Stage)
def test_memory_comes_and_goes(stage: Stage) -> None:
    def use() -> int:
        blocks = [bytearray(size) for size in (100, 100_000, 10_000_000) for _ in range(5)]
        blocks[-1] += bytes(20_000_000)
        return sum(map(len, blocks))

    assert within(stage, use).value == 5 * 10_100_100 + 20_000_000


def test_threads_that_were_there_before_are_bound_as_well() -> None:
    def open_in_older_thread() -> Any:
        entered, answers = threading.Event(), []

        def older() -> None:
            entered.wait()
            answers.append(outcome(partial(os.open, "/", os.O_RDONLY)))

        thread = threading.Thread(target=older)
        thread.start()
        for stage in OF_A_WORKER[:-1]:
            enter(stage)
        entered.set()
        thread.join()
        return answers[0]

    ending = confined(privileges.renounce, open_in_older_thread)
    assert isinstance(ending.value, PermissionError)


@pytest.mark.parametrize(("size", "attempts", "woken"), [(4, 50, [0, 1]), (MAPPED_BYTES, 10_000, [1, 0])])
def test_the_guests_thread_wakes_no_other_that_sleeps_on_the_heap(size: int, attempts: int, woken: list[int]) -> None:
    def live() -> list[int]:
        """How many the guest's thread wakes, then how many another does that was there before."""
        address, has_tried, woken = allocate(size), [], [0, 0]
        ctypes.c_uint32.from_address(address).value = 0
        futex = partial(libc.syscall, NUMBERS["futex"], ctypes.c_void_p(address))
        sleeper = threading.Thread(target=futex, args=(FUTEX_WAIT, 0, None))

        def wake(who: int) -> None:
            woken[who] += futex(FUTEX_WAKE, 1)
            time.sleep(0.001)

        def wake_later() -> None:
            while not has_tried:
                time.sleep(0.001)
            while sleeper.is_alive():
                wake(1)

        other = threading.Thread(target=wake_later)
        sleeper.start()
        other.start()
        for stage in OF_A_WORKER:
            enter(stage)
        for _ in range(attempts):
            if sleeper.is_alive():
                wake(0)
        has_tried.append(True)
        other.join()
        return woken

    assert confined(privileges.renounce, live).value == woken


def test_an_earlier_stage_cannot_be_entered_again_from_the_one_before_it() -> None:
    """It can be installed once more, and brings nothing back."""
    ending = within(Stage.INSTANTIATE, lambda: (enter(Stage.COMPILE), os.fork()))
    assert ending.killed_by == signal.SIGSYS


def test_the_process_of_a_wasi_program_has_files_and_threads(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)

    def live() -> list[str]:
        start_thread()
        os.mkdir("folder", dir_fd=folder)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.rename("file", "other", src_dir_fd=folder, dst_dir_fd=folder)
        return sorted(os.listdir(tmp_path))

    try:
        assert within(Stage.PROGRAM, live).value == ["folder", "other"]
    finally:
        os.close(folder)


@pytest.mark.parametrize("what", ["a process", "a program", "a socket", "a pair of sockets", "a pipe", "its user"])
def test_the_process_of_a_wasi_program_that_asks_for_it_is_ended(what: str) -> None:
    assert within(Stage.PROGRAM, KILLED_WHEN_RUNNING[what]).killed_by == signal.SIGSYS


@pytest.mark.parametrize(("error", "advice"), [(errno.ENOSYS, "Linux 3.17"), (errno.EPERM, "Operation not permitted")])
def test_a_kernel_without_it_is_a_missing_layer_that_says_what_to_do(error: int, advice: str) -> None:
    ending = confined(partial(pretend_missing, NUMBERS["seccomp"], error), partial(seccomp.enter, Stage.RUN))
    assert isinstance(ending.value, LayerMissing)
    assert advice in str(ending.value)


def test_it_takes_no_new_privileges_first() -> None:
    ending = confined(capabilities.drop, partial(seccomp.enter, Stage.RUN))
    assert isinstance(ending.value, LayerMissing)
    assert "no_new_privs" in str(ending.value)
