"""Other programs, other processes, other threads; signals and shares of the processor."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Any

from attacks.files import secret_of
from attacks.kernel import AT_FDCWD, call, memory, prctl
from attacks.machine_code import ELF_EXIT_42, spawn, spawn_waiting
from attacks.registry import Foiled, attack
from attacks.targets import MARK, Targets

_CLONE_THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000
_CLONE_AS_THE_LIBRARY = 0x3D_0F00
_MANY = 2_000
_AT_EMPTY_PATH = 0x1000
_PTRACE_ATTACH, _PTRACE_SEIZE = 16, 0x4206
_SIGINFO_BYTES = 128
_NO_PID = (1 << 22) + 1  # above PID_MAX_LIMIT
_SCHED_FIFO, _SCHED_IDLE = 1, 5


def vector(address: int, length: int) -> ctypes.Array[ctypes.c_char]:
    one = memory(16)
    one[:] = struct.pack("=QQ", address, length)
    return one  # type: ignore[no-any-return]


def argument_list(*texts: bytes) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


def told_apart(name: str, pid: int, *arguments: Any) -> str:
    """Whether the call answers for a process that is there, and does not for one that is not."""
    call(name, pid, *arguments)
    try:
        call(name, _NO_PID, *arguments)
    except ProcessLookupError:
        return f"process {pid} is there"
    raise Foiled("it answers for every process")


def signal_information(number: int) -> ctypes.Array[ctypes.c_char]:
    information = memory(_SIGINFO_BYTES)
    information[:12] = struct.pack("=iii", number, 0, -1)  # si_code SI_QUEUE
    return information  # type: ignore[no-any-return]


@attack
def start_a_program(targets: Targets) -> str:
    """execve of a shell that ends with exit code 42"""
    call("execve", b"/bin/sh", argument_list(b"sh", b"-c", b"exit 42"), argument_list())
    raise Foiled("it returned")


@attack
def start_a_program_from_memory(targets: Targets) -> str:
    """memfd_create and execveat: a program of the attacker's without any file"""
    fd = call("memfd_create", b"", 0)
    call("write", fd, ELF_EXIT_42, len(ELF_EXIT_42))
    call("execveat", fd, b"", argument_list(b"x"), argument_list(), _AT_EMPTY_PATH)
    raise Foiled("it returned")


@attack
def start_a_program_by_execveat(targets: Targets) -> str:
    """execveat of a shell"""
    call("execveat", AT_FDCWD, b"/bin/sh", argument_list(b"sh", b"-c", b"exit 42"), argument_list(), 0)
    raise Foiled("it returned")


@attack
def fork(targets: Targets) -> str:
    """fork"""
    return f"child {spawn('fork')}"


@attack
def vfork(targets: Targets) -> str:
    """vfork"""
    return f"child {spawn('vfork')}"


@attack
def fork_by_clone(targets: Targets) -> str:
    """clone without any flag"""
    return f"child {spawn('clone', signal.SIGCHLD)}"


@attack
def fork_by_clone_that_shares_memory(targets: Targets) -> str:
    """clone with CLONE_VM alone: a process, with a thread's look"""
    stack = memory(65_536)
    child = spawn("clone", 0x100 | 0x4000 | signal.SIGCHLD, ctypes.addressof(stack) + 65_000 & ~15)
    return f"child {child}"


@attack
def fork_by_clone3(targets: Targets) -> str:
    """clone3, whose flags no filter sees"""
    arguments = memory(88)
    arguments[32:40] = struct.pack("=Q", signal.SIGCHLD)
    return f"child {spawn('clone3', ctypes.addressof(arguments), 88)}"


@attack
def thread(targets: Targets) -> str:
    """one more thread"""
    stack = memory(65_536)
    return f"thread {spawn('clone', _CLONE_THREAD, ctypes.addressof(stack) + 65_000 & ~15)}"


@attack
def many_threads(targets: Targets) -> str:
    """threads as the C library makes them, by the thousand: each costs the machine an id and a stack in the kernel"""
    stack, word = memory(65_536), memory(8)
    top, place = ctypes.addressof(stack) + 65_000 & ~15, ctypes.addressof(word)
    for number in range(_MANY):
        try:
            spawn_waiting("clone", _CLONE_AS_THE_LIBRARY, top, place, place, 0)
        except OSError:
            if number < _MANY // 2:
                raise
            break
    return f"{number + 1} threads"


@attack
def trace_the_victim(targets: Targets) -> str:
    """ptrace of a process of the host's user"""
    call("ptrace", _PTRACE_ATTACH, targets.victim_pid, 0, 0)
    return "attached"


@attack
def trace_another_plugin(targets: Targets) -> str:
    """ptrace of another plugin's worker"""
    call("ptrace", _PTRACE_SEIZE, targets.sibling_pid, 0, 0)
    return "seized"


@attack
def be_traced(targets: Targets) -> str:
    """PTRACE_TRACEME: hand oneself to the parent"""
    call("ptrace", 0, 0, 0, 0)
    return "traced"


@attack
def read_the_supervisors_memory(targets: Targets) -> str:
    """process_vm_readv"""
    data = memory(targets.secret_length)
    ours, theirs = (
        vector(ctypes.addressof(data), targets.secret_length),
        vector(targets.secret_address, targets.secret_length),
    )
    call("process_vm_readv", targets.supervisor_pid, ours, 1, theirs, 1, 0)
    if not targets.is_secret(data.raw[: targets.secret_length]):
        raise Foiled("that was not the secret")
    return "the secret"


@attack
def write_the_supervisors_memory(targets: Targets) -> str:
    """process_vm_writev"""
    data = ctypes.create_string_buffer(MARK)
    ours, theirs = vector(ctypes.addressof(data), len(MARK)), vector(targets.mark_address, len(MARK))
    return f"{call('process_vm_writev', targets.supervisor_pid, ours, 1, theirs, 1, 0)} bytes"


@attack
def take_the_supervisors_descriptor(targets: Targets) -> str:
    """pidfd_getfd"""
    pidfd = call("pidfd_open", targets.supervisor_pid, 0)
    fd = call("pidfd_getfd", pidfd, targets.secret_fd, 0)
    call("lseek", fd, 0, 0)
    return secret_of(targets, fd)


@attack
def advise_the_supervisors_memory(targets: Targets) -> str:
    """process_madvise: have another process's memory thrown out"""
    pidfd = call("pidfd_open", targets.victim_pid, 0)
    nothing = memory(16)
    call("process_madvise", pidfd, nothing, 0, 21, 0)  # MADV_PAGEOUT of no range: the permission is checked first
    return "taken"


@attack
def compare_with_the_supervisor(targets: Targets) -> str:
    """kcmp: which kernel objects two processes share"""
    return f"{call('kcmp', os.getpid(), targets.supervisor_pid, 1, 0, 0)}"


@attack
def pages_of_the_supervisor(targets: Targets) -> str:
    """move_pages: where another process's memory lies"""
    page, status = memory(8), memory(4)
    page[:] = struct.pack("=Q", targets.secret_address & ~4095)
    call("move_pages", targets.supervisor_pid, 1, page, None, status, 0)
    return "the node of its page"


@attack
def lists_of_the_supervisor(targets: Targets) -> str:
    """get_robust_list: an address in another process"""
    call("get_robust_list", targets.supervisor_pid, memory(8), memory(8))
    return "an address"


@attack
def kill_the_victim(targets: Targets) -> str:
    """kill"""
    call("kill", targets.victim_pid, signal.SIGKILL)
    return "victim signalled"


@attack
def kill_another_plugin(targets: Targets) -> str:
    """kill another plugin's worker"""
    call("kill", targets.sibling_pid, signal.SIGCONT)
    return "signalled"


@attack
def kill_the_parent(targets: Targets) -> str:
    """kill the process that this one was forked from"""
    call("kill", os.getppid(), signal.SIGCONT)
    return "signalled"


@attack
def kill_everybody(targets: Targets) -> str:
    """kill(-1), with signal 0"""
    call("kill", -1, 0)
    return "everybody could be signalled"


@attack
def kill_the_supervisors_group(targets: Targets) -> str:
    """kill of the supervisor's process group, with signal 0"""
    call("kill", -call("getpgid", targets.supervisor_pid), 0)
    return "it could be signalled"


@attack
def kill_the_victim_by_tkill(targets: Targets) -> str:
    """tkill"""
    call("tkill", targets.victim_pid, signal.SIGKILL)
    return "victim signalled"


@attack
def kill_the_victim_by_tgkill(targets: Targets) -> str:
    """tgkill"""
    call("tgkill", targets.victim_pid, targets.victim_pid, signal.SIGKILL)
    return "victim signalled"


@attack
def kill_the_victim_by_any_group(targets: Targets) -> str:
    """tgkill with group -1, which the kernel refuses, and with the group's high bits set, which it does not see"""
    call("tgkill", targets.victim_pid | 1 << 32, targets.victim_pid | 1 << 32, signal.SIGKILL)
    return "victim signalled"


@attack
def queue_a_signal_for_the_victim(targets: Targets) -> str:
    """rt_sigqueueinfo"""
    call("rt_sigqueueinfo", targets.victim_pid, signal.SIGTERM, signal_information(signal.SIGTERM))
    return "victim signalled"


@attack
def queue_a_signal_for_the_victims_thread(targets: Targets) -> str:
    """rt_tgsigqueueinfo"""
    pid = targets.victim_pid
    call("rt_tgsigqueueinfo", pid, pid, signal.SIGTERM, signal_information(signal.SIGTERM))
    return "victim signalled"


@attack
def signal_by_process_descriptor(targets: Targets) -> str:
    """pidfd_open and pidfd_send_signal"""
    call("pidfd_send_signal", call("pidfd_open", targets.victim_pid, 0), signal.SIGKILL, None, 0)
    return "victim signalled"


@attack
def process_descriptor_of_the_supervisor(targets: Targets) -> str:
    """pidfd_open"""
    return f"descriptor {call('pidfd_open', targets.supervisor_pid, 0)}"


@attack
def enumerate_processes(targets: Targets) -> str:
    """getsid: an oracle for process ids"""
    return f"session {call('getsid', targets.supervisor_pid)}"


@attack
def lower_the_victims_priority(targets: Targets) -> str:
    """setpriority of another process"""
    call("setpriority", 0, targets.victim_pid, 19)
    return "lowered"


@attack
def raise_the_own_priority(targets: Targets) -> str:
    """setpriority -20"""
    call("setpriority", 0, 0, -20)
    if call("getpriority", 0, 0) != 40:  # the kernel answers 20 - nice
        raise Foiled("it is as it was")
    return "raised"


@attack
def real_time(targets: Targets) -> str:
    """sched_setscheduler: SCHED_FIFO, so that nobody else runs on that processor"""
    priority = memory(4)
    priority[:] = struct.pack("=i", 1)
    call("sched_setscheduler", 0, _SCHED_FIFO, priority)
    if call("sched_getscheduler", 0) != _SCHED_FIFO:
        raise Foiled("it is as it was")
    return "real time"


@attack
def real_time_by_attributes(targets: Targets) -> str:
    """sched_setattr: the same"""
    attributes = memory(48)
    attributes[:24] = struct.pack("=IIQiI", 48, 1, 0, 0, 1)
    call("sched_setattr", 0, attributes, 0)
    return "real time"


@attack
def schedule_the_victim(targets: Targets) -> str:
    """sched_setscheduler: SCHED_IDLE for another process"""
    call("sched_setscheduler", targets.victim_pid, _SCHED_IDLE, memory(4))
    if call("sched_getscheduler", targets.victim_pid) != _SCHED_IDLE:
        raise Foiled("it is as it was")
    return "idle"


@attack
def find_processes_by_their_schedules(targets: Targets) -> str:
    """sched_getscheduler: an oracle for process ids"""
    return told_apart("sched_getscheduler", targets.supervisor_pid)


@attack
def find_processes_by_their_processors(targets: Targets) -> str:
    """sched_getaffinity: another one"""
    return told_apart("sched_getaffinity", targets.supervisor_pid, 128, memory(128))


@attack
def move_the_victim(targets: Targets) -> str:
    """sched_setaffinity of another process"""
    mask = memory(8)
    mask[:1] = b"\x01"
    call("sched_setaffinity", targets.victim_pid, 8, mask)
    return "moved"


@attack
def disk_priority(targets: Targets) -> str:
    """ioprio_set: the real-time class"""
    call("ioprio_set", 1, 0, 1 << 13)
    return "raised"


@attack
def limits_of_the_victim(targets: Targets) -> str:
    """prlimit64 of another process: no descriptors for it any more"""
    limits = memory(16)
    limits[:] = struct.pack("=QQ", 0, 0)
    call("prlimit64", targets.victim_pid, 7, limits, None)
    return "lowered"


@attack
def limits_of_the_supervisor(targets: Targets) -> str:
    """prlimit64: read the supervisor's limits"""
    call("prlimit64", targets.supervisor_pid, 7, None, memory(16))
    return "read"


@attack
def adopt_orphans(targets: Targets) -> str:
    """PR_SET_CHILD_SUBREAPER"""
    prctl(36, 1)
    return "a reaper"
