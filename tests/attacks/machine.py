"""What concerns the whole machine. Each call would change nothing, or fails for its arguments once it is allowed."""

from __future__ import annotations

import errno
import os
import struct

from attacks.kernel import call, memory
from attacks.registry import Unavailable, attack
from attacks.targets import Targets

__all__ = ["let_through"]


def let_through(*expected: int, name: str, arguments: tuple[object, ...]) -> str:
    """The call succeeds, or fails with one of ``expected``, which the kernel says only to those who may."""
    try:
        return f"answer {call(name, *arguments)}"
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unavailable(f"this kernel has no {name}") from None
        if error.errno not in expected:
            raise
        return f"it would: {errno.errorcode[error.errno]}"


@attack
def restart_the_machine(targets: Targets) -> str:
    """reboot, with a wrong magic number"""
    return let_through(errno.EINVAL, name="reboot", arguments=(0, 0, 0, None))


@attack
def another_kernel(targets: Targets) -> str:
    """kexec_load, with flags that do not exist"""
    return let_through(errno.EINVAL, name="kexec_load", arguments=(0, 0, None, 0xFFFF))


@attack
def another_kernel_from_a_file(targets: Targets) -> str:
    """kexec_file_load"""
    return let_through(errno.EINVAL, errno.EBADF, name="kexec_file_load", arguments=(-1, -1, 0, None, 0xFFFF))


@attack
def module_of_the_kernel(targets: Targets) -> str:
    """init_module of what is none"""
    return let_through(errno.ENOEXEC, name="init_module", arguments=(bytes(64), 64, b""))


@attack
def module_of_the_kernel_from_a_file(targets: Targets) -> str:
    """finit_module of no file"""
    return let_through(errno.EBADF, name="finit_module", arguments=(-1, b"", 0))


@attack
def remove_a_module_of_the_kernel(targets: Targets) -> str:
    """delete_module of one that there is not"""
    return let_through(errno.ENOENT, name="delete_module", arguments=(b"isoplug_none", os.O_NONBLOCK))


@attack
def log_of_the_kernel(targets: Targets) -> str:
    """syslog: addresses, devices, other programs' ends"""
    return let_through(name="syslog", arguments=(3, memory(4096), 4096))


@attack
def console_log_level(targets: Targets) -> str:
    """syslog(8), with a level that there is not"""
    return let_through(errno.EINVAL, name="syslog", arguments=(8, None, 99))


@attack
def clock_of_the_machine(targets: Targets) -> str:
    """adjtimex: the tick set to what it is"""
    values = memory(208)
    call("adjtimex", values)
    values[:4] = struct.pack("=I", 0x4000)  # ADJ_TICK
    call("adjtimex", values)
    return "set"


@attack
def processor_ports(targets: Targets) -> str:
    """ioperm: the machine's input and output ports"""
    call("ioperm", 0x80, 1, 1)
    return "port 0x80"


@attack
def all_processor_ports(targets: Targets) -> str:
    """iopl"""
    call("iopl", 3)
    return "every port"


@attack
def account_for_processes(targets: Targets) -> str:
    """acct into a file that there is not"""
    return let_through(errno.ENOENT, name="acct", arguments=(b"/isoplug/none",))


@attack
def swap(targets: Targets) -> str:
    """swapon of a file that there is not"""
    return let_through(errno.ENOENT, name="swapon", arguments=(b"/isoplug/none", 0))


@attack
def no_swap(targets: Targets) -> str:
    """swapoff"""
    return let_through(errno.ENOENT, errno.EINVAL, name="swapoff", arguments=(b"/isoplug/none",))


@attack
def quotas(targets: Targets) -> str:
    """quotactl: write everything back (Q_SYNC), which everybody may"""
    return let_through(errno.ENOENT, name="quotactl", arguments=(0x8000_0100, b"/isoplug/none", 0, None))


@attack
def hang_up(targets: Targets) -> str:
    """vhangup of the own terminal, which there is none"""
    return let_through(name="vhangup", arguments=())


@attack
def write_everything_back(targets: Targets) -> str:
    """sync: repeated, the disk does nothing else"""
    call("sync")
    return "written"


@attack
def names_of_the_machine(targets: Targets) -> str:
    """uname: the kernel's version, to choose an exploit"""
    call("uname", memory(390))
    return "its version"


@attack
def figures_of_the_machine(targets: Targets) -> str:
    """sysinfo: load and memory"""
    call("sysinfo", memory(128))
    return "its load"


@attack
def kinds_of_file_systems(targets: Targets) -> str:
    """sysfs(3): how many the kernel knows"""
    return f"{call('sysfs', 3, 0, 0)}"
