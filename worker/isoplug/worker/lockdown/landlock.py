"""Landlock: no file may be opened, made, changed or removed, no TCP port used, nobody outside be signalled.

Descriptors that are open stay usable. Binds the calling thread and what it starts from here on, so it comes while the
process has one thread, after ``privileges.renounce``. It needs no root. What a kernel's version of it does not know
(``abi``) it does not deny.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from isoplug.worker.lockdown.kernel import system_call
from isoplug.worker.lockdown.layer import LayerMissing

__all__ = ["abi", "confine_to", "deny_everything"]

# System calls since Linux 5.13; all architectures have the same numbers for them.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1  # a flag: tell the version, make nothing
_RULE_PATH_BENEATH = 1

# Rights on files, <linux/landlock.h>
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in range(13, 16))
_ALL_RIGHTS = (1 << 16) - 1
#: What a program does with files and folders of its own: no execution, no devices, sockets or pipes.
_ORDINARY = (_WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM) | (
    _REFER | _TRUNCATE
)

#: The first version that knows each group of rights.
_SINCE_REFER, _SINCE_TRUNCATE, _SINCE_NETWORK, _SINCE_IOCTL, _SINCE_SCOPE = 2, 3, 4, 5, 6
_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def abi() -> int:
    """The version of Landlock that this kernel has. Raises LayerMissing."""
    try:
        return system_call(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        raise _missing(error) from error


def deny_everything() -> None:
    """Raises LayerMissing."""
    ruleset = _make_ruleset()
    try:
        _restrict_to(ruleset)
    finally:
        os.close(ruleset)


def confine_to(folder: str) -> None:
    """As ``deny_everything``, but what lies beneath ``folder`` may be read, written, made and removed; not executed.

    With Landlock 1 (before Linux 5.19) a file cannot be moved from one folder beneath it to another. Raises
    LayerMissing, and OSError when there is no such folder.
    """
    folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ruleset = _make_ruleset()
        try:
            rule = struct.pack("=Qi", _ORDINARY & _known_rights(abi()), folder_fd)
            system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
            _restrict_to(ruleset)
        finally:
            os.close(ruleset)
    finally:
        os.close(folder_fd)


def _make_ruleset() -> int:
    version = abi()
    attributes = struct.pack(
        "=QQQ",
        _known_rights(version),
        _BIND_AND_CONNECT_TCP if version >= _SINCE_NETWORK else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SINCE_SCOPE else 0,
    )
    # An older kernel takes the longer structure as long as what it does not know is zero.
    return system_call(_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)


def _restrict_to(ruleset: int) -> None:
    try:
        system_call(_RESTRICT_SELF, ruleset, 0)
    except OSError as error:
        raise _missing(error) from error


def _missing(error: OSError) -> LayerMissing:
    return LayerMissing(_REASONS.get(error.errno or 0, f"Landlock is refused: {error.strerror}"))


def _known_rights(version: int) -> int:
    rights = _ALL_RIGHTS
    for right, since in ((_REFER, _SINCE_REFER), (_TRUNCATE, _SINCE_TRUNCATE), (_IOCTL_DEV, _SINCE_IOCTL)):
        if version < since:
            rights &= ~right
    return rights


_REASONS = {
    errno.ENOSYS: "this kernel has no Landlock; it takes Linux 5.13 with CONFIG_SECURITY_LANDLOCK",
    errno.EOPNOTSUPP: "Landlock is switched off; boot with `landlock` in the kernel's lsm= list",
    errno.EPERM: "Landlock is refused; let this container's seccomp profile allow landlock_create_ruleset and "
    "landlock_restrict_self",
}
