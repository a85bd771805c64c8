"""Users, capabilities, namespaces, mounts, and undoing the lock."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress

from attacks.files import opened, secret_of
from attacks.kernel import AT_FDCWD, call, memory, prctl
from attacks.machine_code import spawn
from attacks.registry import Foiled, attack
from attacks.targets import Targets

_OTHER = 54_321
_NEWNS, _NEWUSER, _NEWPID, _NEWNET, _NEWUTS = 0x2_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x400_0000
_CAP_SYS_ADMIN = 21
_PR_CAP_AMBIENT = 47


def capabilities() -> tuple[bytes, int]:
    """The data of capget for this thread, and the effective set."""
    header, data = memory(8), memory(24)
    header[:] = struct.pack("=Ii", 0x2008_0522, 0)
    call("capget", header, data)
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw)
    return data.raw, low | high << 32


@attack
def become_another_user(targets: Targets) -> str:
    """setresuid"""
    call("setresuid", _OTHER, _OTHER, _OTHER)
    return f"user {_OTHER}"


@attack
def become_root(targets: Targets) -> str:
    """setresuid(0)"""
    call("setresuid", 0, 0, 0)
    return "root"


@attack
def become_another_group(targets: Targets) -> str:
    """setresgid"""
    call("setresgid", _OTHER, _OTHER, _OTHER)
    return f"group {_OTHER}"


@attack
def further_groups(targets: Targets) -> str:
    """setgroups"""
    groups = memory(4)
    groups[:] = struct.pack("=I", _OTHER)
    call("setgroups", 1, groups)
    return "one more"


@attack
def another_user_for_files(targets: Targets) -> str:
    """setfsuid, which reports no error"""
    call("setfsuid", _OTHER)
    if call("setfsuid", -1) != _OTHER:
        raise Foiled("it is as it was")
    return f"user {_OTHER}"


@attack
def use_capabilities(targets: Targets) -> str:
    """capget: is there any capability left?"""
    _, effective = capabilities()
    if not effective:
        raise Foiled("there is none")
    return f"{effective:#x}"


@attack
def take_capabilities(targets: Targets) -> str:
    """capset: CAP_SYS_ADMIN"""
    header, data = memory(8), memory(24)
    header[:] = struct.pack("=Ii", 0x2008_0522, 0)
    data[:] = struct.pack("=6I", 1 << _CAP_SYS_ADMIN, 1 << _CAP_SYS_ADMIN, 0, 0, 0, 0)
    call("capset", header, data)
    return "taken"


@attack
def inherit_capabilities(targets: Targets) -> str:
    """capset and PR_CAP_AMBIENT_RAISE: for what it starts"""
    header, data = memory(8), memory(24)
    header[:] = struct.pack("=Ii", 0x2008_0522, 0)
    bit = 1 << _CAP_SYS_ADMIN
    data[:] = struct.pack("=6I", bit, bit, bit, 0, 0, 0)
    call("capset", header, data)
    prctl(_PR_CAP_AMBIENT, 2, _CAP_SYS_ADMIN)
    return "raised"


@attack
def keep_capabilities(targets: Targets) -> str:
    """PR_SET_KEEPCAPS"""
    prctl(8, 1)
    return "kept"


@attack
def secure_bits(targets: Targets) -> str:
    """PR_SET_SECUREBITS"""
    prctl(28, 0)
    return "set"


@attack
def classic_escape_from_a_chroot(targets: Targets) -> str:
    """mkdir, chroot into it, chdir up past the root, chroot there; then read the secret"""
    here = os.fsencode(targets.folder)
    try:
        call("chdir", here)
        call("mkdirat", AT_FDCWD, b"escape", 0o700)
        call("chroot", b"escape")
    except FileNotFoundError:  # inside the jail
        call("mkdirat", AT_FDCWD, b"/escape", 0o700)
        call("chroot", b"/escape")
    for _ in range(64):
        call("chdir", b"..")
    call("chroot", b".")
    return secret_of(targets, opened(targets.secret_path))


@attack
def change_the_root(targets: Targets) -> str:
    """chroot"""
    call("chroot", b"/")
    return "changed"


@attack
def mount_memory(targets: Targets) -> str:
    """mount of a tmpfs"""
    call("mount", b"none", targets.folder.encode(), b"tmpfs", 0, None)
    return "mounted"


@attack
def mount_the_root_again(targets: Targets) -> str:
    """mount with MS_BIND"""
    call("mount", b"/", targets.folder.encode(), None, 4096, None)
    return "mounted"


@attack
def mount_proc(targets: Targets) -> str:
    """mount of a /proc of its own"""
    call("mount", b"none", targets.folder.encode(), b"proc", 0, None)
    return "mounted"


@attack
def unmount(targets: Targets) -> str:
    """umount2 of what is no mount: EINVAL comes after the privilege was checked"""
    try:
        call("umount2", targets.folder.encode(), 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return "mounts could be removed"


@attack
def pivot_the_root(targets: Targets) -> str:
    """pivot_root into a mount of its own, in a namespace of its own: it would move the zygote as well"""
    with suppress(OSError):
        call("unshare", _NEWNS)
    folder = targets.folder.encode()
    call("mount", b"none", folder, b"tmpfs", 0, None)
    call("mkdirat", AT_FDCWD, folder + b"/old", 0o700)
    call("pivot_root", folder, folder + b"/old")
    return "pivoted"


@attack
def file_system_by_descriptor(targets: Targets) -> str:
    """fsopen: the new way to mount"""
    return f"descriptor {call('fsopen', b'tmpfs', 0)}"


@attack
def copy_of_the_mounts(targets: Targets) -> str:
    """open_tree with OPEN_TREE_CLONE"""
    return f"descriptor {call('open_tree', AT_FDCWD, b'/', 1)}"


@attack
def attributes_of_a_mount(targets: Targets) -> str:
    """mount_setattr (to what they are)"""
    call("mount_setattr", AT_FDCWD, b"/", 0, memory(32), 32)
    return "set"


@attack
def own_user_namespace_by_clone(targets: Targets) -> str:
    """a user namespace: root inside, and with it the kernel's privileged code"""
    return f"child {spawn('clone', _NEWUSER | 17)}"


@attack
def own_mount_namespace(targets: Targets) -> str:
    """unshare of mounts"""
    call("unshare", _NEWNS)
    return "unshared"


@attack
def own_network_namespace(targets: Targets) -> str:
    """unshare of the network"""
    call("unshare", _NEWNET)
    return "unshared"


@attack
def own_descriptor_table(targets: Targets) -> str:
    """unshare(CLONE_FILES), which needs no privilege"""
    call("unshare", 0x400)
    return "unshared"


@attack
def namespace_of_the_supervisor(targets: Targets) -> str:
    """setns by a pidfd of the supervisor"""
    call("setns", call("pidfd_open", targets.supervisor_pid, 0), _NEWUTS)
    return "entered"


@attack
def namespace_by_proc(targets: Targets) -> str:
    """setns by /proc/<supervisor>/ns/mnt"""
    call("setns", opened(f"/proc/{targets.supervisor_pid}/ns/net"), _NEWNET)
    return "entered"


@attack
def name_of_the_machine(targets: Targets) -> str:
    """sethostname (in a namespace that the campaign made)"""
    call("sethostname", b"attacked", 8)
    return "set"


@attack
def keyring(targets: Targets) -> str:
    """add_key: the kernel's store of secrets"""
    return f"key {call('add_key', b'user', b'isoplug-attack', b'x', 1, -2)}"  # KEY_SPEC_PROCESS_KEYRING


@attack
def keyring_of_the_session(targets: Targets) -> str:
    """keyctl: a session keyring, perhaps somebody's"""
    return f"key {call('keyctl', 0, -3, 1)}"  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING


@attack
def key_by_request(targets: Targets) -> str:
    """request_key: has the kernel start a program as root to find it"""
    try:
        call("request_key", b"user", b"isoplug-none", None, 0)
    except OSError as error:
        if error.errno != errno.ENOKEY:  # asked for, and there is none
            raise
    return "asked"
