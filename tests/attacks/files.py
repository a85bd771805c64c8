"""Files, folders, devices and /proc."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import PurePath

from attacks.kernel import AT_FDCWD, NUMBERS, call, call_number, memory, read, struct_bytes
from attacks.registry import Foiled, Unavailable, attack
from attacks.targets import MARK, Targets

_O_PATH = 0o10000000
_AT_REMOVEDIR = 0x200


def opened(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    return call("openat", AT_FDCWD, path.encode(), flags | os.O_CLOEXEC, mode)


def secret_of(targets: Targets, fd: int) -> str:
    """Read it there. Raises Foiled when it is something else."""
    if not targets.is_secret(read(fd)):
        raise Foiled("that was not the secret")
    return "the secret"


def inside(targets: Targets, name: str) -> bytes:
    return str(PurePath(targets.folder) / name).encode()


def made(targets: Targets, name: str) -> bytes:
    """A file of the attack's own in the host's folder."""
    path = inside(targets, name)
    fd = opened(path.decode(), os.O_WRONLY | os.O_CREAT)
    call("write", fd, MARK, len(MARK))
    call("close", fd)
    return path


@attack
def read_a_file(targets: Targets) -> str:
    """open and read the host's file"""
    return secret_of(targets, opened(targets.secret_path))


@attack
def read_by_openat2(targets: Targets) -> str:
    """the same by openat2"""
    how = memory(24)
    how[:8] = struct.pack("=Q", os.O_RDONLY)
    return secret_of(targets, call("openat2", AT_FDCWD, targets.secret_path.encode(), how, 24))


@attack
def read_by_dirty_number(targets: Targets) -> str:
    """openat with a bit set above the call number's 32"""
    number = NUMBERS["openat"] | 1 << 32
    return secret_of(targets, call_number(number, AT_FDCWD, targets.secret_path.encode(), os.O_RDONLY))


@attack
def path_descriptor(targets: Targets) -> str:
    """open with O_PATH, which asks for no permission of the file itself"""
    fd = opened(targets.secret_path, _O_PATH)
    return f"descriptor {fd}"


@attack
def open_by_handle(targets: Targets) -> str:
    """name_to_handle_at, then open_by_handle_at, past all path checks"""
    handle, mount = memory(8 + 128), memory(4)
    handle[:4] = struct.pack("=I", 128)
    call("name_to_handle_at", AT_FDCWD, targets.secret_path.encode(), handle, mount, 0)
    return secret_of(targets, call("open_by_handle_at", opened(targets.folder), handle, os.O_RDONLY))


@attack
def create_a_file(targets: Targets) -> str:
    """create a file in the host's folder and write to it"""
    return made(targets, "created").decode()


@attack
def append_to_a_file(targets: Targets) -> str:
    """append to a file that is there"""
    fd = opened(inside(targets, "victim").decode(), os.O_WRONLY | os.O_APPEND)
    return f"{call('write', fd, MARK, len(MARK))} bytes"


@attack
def temporary_file(targets: Targets) -> str:
    """O_TMPFILE: a file without a name"""
    fd = opened(targets.folder, os.O_RDWR | os.O_TMPFILE)
    return f"{call('write', fd, MARK, len(MARK))} bytes"


@attack
def truncate_a_file(targets: Targets) -> str:
    """truncate by path"""
    call("truncate", inside(targets, "victim"), 0)
    return "truncated"


@attack
def rename_a_file(targets: Targets) -> str:
    """rename"""
    call("renameat2", AT_FDCWD, inside(targets, "victim"), AT_FDCWD, inside(targets, "renamed"), 0)
    return "renamed"


@attack
def remove_a_file(targets: Targets) -> str:
    """unlink"""
    call("unlinkat", AT_FDCWD, inside(targets, "victim"), 0)
    return "removed"


@attack
def make_a_folder(targets: Targets) -> str:
    """mkdir"""
    call("mkdirat", AT_FDCWD, inside(targets, "folder"), 0o700)
    return "made"


@attack
def remove_a_folder(targets: Targets) -> str:
    """rmdir"""
    call("unlinkat", AT_FDCWD, inside(targets, "empty"), _AT_REMOVEDIR)
    return "removed"


@attack
def hard_link(targets: Targets) -> str:
    """link the secret to another name"""
    call("linkat", AT_FDCWD, targets.secret_path.encode(), AT_FDCWD, inside(targets, "linked"), 0)
    return "linked"


@attack
def symbolic_link(targets: Targets) -> str:
    """symlink"""
    call("symlinkat", b"/etc/passwd", AT_FDCWD, inside(targets, "symlinked"))
    return "linked"


@attack
def read_a_link(targets: Targets) -> str:
    """readlink of /proc/self/exe: where the interpreter is"""
    target = memory(4096)
    length = call("readlinkat", AT_FDCWD, b"/proc/self/exe", target, 4096)
    return struct_bytes(target, length).decode()


@attack
def own_disk_device(targets: Targets) -> str:
    """mknod of the block device that the host's files are on, and read it raw"""
    device = os.makedev(*device_of(targets))
    path = inside(targets, "disk")
    call("mknodat", AT_FDCWD, path, stat.S_IFBLK | 0o600, device)
    return f"{len(read(opened(path.decode()), 512))} bytes of the disk"


def device_of(targets: Targets) -> tuple[int, int]:
    attributes = memory(256)  # struct statx: stx_dev_major and stx_dev_minor at 136
    call("statx", AT_FDCWD, targets.folder.encode(), 0, 0x7FF, attributes)
    major, minor = struct.unpack_from("=II", attributes.raw, 136)
    if not major:
        raise Unavailable("the folder is on no disk")
    return major, minor


@attack
def own_character_device(targets: Targets) -> str:
    """mknod of /dev/null's device, and open it"""
    path = inside(targets, "null")
    call("mknodat", AT_FDCWD, path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return f"descriptor {opened(path.decode())}"


@attack
def named_pipe(targets: Targets) -> str:
    """mknod of a named pipe, a channel to other processes"""
    call("mknodat", AT_FDCWD, inside(targets, "fifo"), stat.S_IFIFO | 0o600, 0)
    return "made"


@attack
def change_a_mode(targets: Targets) -> str:
    """chmod: the secret for everybody"""
    call("fchmodat", AT_FDCWD, inside(targets, "victim"), 0o777)
    return "changed"


@attack
def change_an_owner(targets: Targets) -> str:
    """chown (to the owner that it has)"""
    attributes = memory(256)  # struct statx: stx_uid and stx_gid at 20
    call("statx", AT_FDCWD, inside(targets, "victim"), 0, 0x7FF, attributes)
    uid, gid = struct.unpack_from("=II", attributes.raw, 20)
    call("fchownat", AT_FDCWD, inside(targets, "victim"), uid, gid, 0)
    return "changed"


@attack
def change_the_times(targets: Targets) -> str:
    """utimensat"""
    call("utimensat", AT_FDCWD, inside(targets, "victim"), None, 0)
    return "changed"


@attack
def extended_attribute(targets: Targets) -> str:
    """setxattr, a place to hide data"""
    call("setxattr", inside(targets, "victim"), b"user.mark", MARK, len(MARK), 0)
    return "set"


@attack
def read_extended_attributes(targets: Targets) -> str:
    """listxattr"""
    names = memory(4096)
    return f"{call('listxattr', inside(targets, 'victim'), names, 4096)} bytes"


@attack
def list_the_root(targets: Targets) -> str:
    """list the root folder"""
    entries = memory(32_768)
    length = call("getdents64", opened("/", os.O_RDONLY | os.O_DIRECTORY), entries, 32_768)
    if b"proc\0" not in struct_bytes(entries, length):
        raise Foiled("nothing is there")
    return f"{length} bytes of names"


@attack
def list_the_parent_of_the_root(targets: Targets) -> str:
    """open ../../.. from where the process is"""
    entries = memory(32_768)
    length = call("getdents64", opened("../../../../..", os.O_RDONLY | os.O_DIRECTORY), entries, 32_768)
    if b"proc\0" not in struct_bytes(entries, length):
        raise Foiled("nothing is there")
    return f"{length} bytes of names"


@attack
def look_at_a_file(targets: Targets) -> str:
    """stat: does it exist, how large is it"""
    attributes = memory(256)
    call("newfstatat", AT_FDCWD, targets.secret_path.encode(), attributes, 0)
    return "its attributes"


@attack
def look_at_a_file_by_statx(targets: Targets) -> str:
    """statx"""
    call("statx", AT_FDCWD, targets.secret_path.encode(), 0, 0x7FF, memory(256))
    return "its attributes"


@attack
def ask_for_access(targets: Targets) -> str:
    """faccessat: an oracle for paths"""
    call("faccessat", AT_FDCWD, targets.secret_path.encode(), os.R_OK)
    return "readable"


@attack
def look_at_a_file_system(targets: Targets) -> str:
    """statfs"""
    call("statfs", b"/proc", memory(256))
    return "its figures"


@attack
def watch_a_folder(targets: Targets) -> str:
    """inotify: what the host does in its folder"""
    watcher = call("inotify_init1", 0)
    call("inotify_add_watch", watcher, targets.folder.encode(), 0xFFF)
    return "a watch"


@attack
def watch_the_file_system(targets: Targets) -> str:
    """fanotify: what anybody does anywhere"""
    watcher = call("fanotify_init", 0, os.O_RDONLY)
    call("fanotify_mark", watcher, 1, 0x20, AT_FDCWD, targets.folder.encode())
    return "a watch"


@attack
def go_to_a_folder(targets: Targets) -> str:
    """chdir into the host's folder, for relative paths"""
    call("chdir", targets.folder.encode())
    return "there"


@attack
def own_memory_by_proc(targets: Targets) -> str:
    """/proc/self/mem, which writes to read-only pages as well"""
    return f"descriptor {opened('/proc/self/mem', os.O_RDWR)}"


@attack
def map_of_own_memory(targets: Targets) -> str:
    """/proc/self/maps: where everything is"""
    return f"{len(read(opened('/proc/self/maps')))} bytes"


@attack
def memory_of_the_supervisor_by_proc(targets: Targets) -> str:
    """/proc/<supervisor>/mem"""
    fd = opened(f"/proc/{targets.supervisor_pid}/mem")
    data = memory(targets.secret_length)
    call("pread64", fd, data, targets.secret_length, targets.secret_address)
    if not targets.is_secret(data.raw[: targets.secret_length]):
        raise Foiled("that was not the secret")
    return "the secret"


@attack
def environment_of_the_supervisor(targets: Targets) -> str:
    """/proc/<supervisor>/environ"""
    return f"{len(read(opened(f'/proc/{targets.supervisor_pid}/environ')))} bytes"


@attack
def command_line_of_the_supervisor(targets: Targets) -> str:
    """/proc/<supervisor>/cmdline, which everybody may read"""
    return f"{len(read(opened(f'/proc/{targets.supervisor_pid}/cmdline')))} bytes"


@attack
def descriptor_of_the_supervisor_by_proc(targets: Targets) -> str:
    """/proc/<supervisor>/fd/<n>"""
    return secret_of(targets, opened(f"/proc/{targets.supervisor_pid}/fd/{targets.secret_fd}"))


@attack
def root_of_the_supervisor_by_proc(targets: Targets) -> str:
    """/proc/<supervisor>/root, a way out of a chroot"""
    return secret_of(targets, opened(f"/proc/{targets.supervisor_pid}/root{targets.secret_path}"))


@attack
def memory_of_another_plugin_by_proc(targets: Targets) -> str:
    """/proc/<other plugin's worker>/mem, for writing"""
    return f"descriptor {opened(f'/proc/{targets.sibling_pid}/mem', os.O_RDWR)}"


@attack
def module_of_another_plugin(targets: Targets) -> str:
    """read another plugin's module"""
    if read(opened(targets.sibling_wasm), 4) != b"\0asm":
        raise Foiled("that was no module")
    return "the module"


@attack
def replace_another_plugin(targets: Targets) -> str:
    """open another plugin's module for writing"""
    return f"descriptor {opened(targets.sibling_wasm, os.O_WRONLY)}"


@attack
def database_of_the_host(targets: Targets) -> str:
    """open the folder with everybody's storage and secrets"""
    entries = memory(32_768)
    length = call("getdents64", opened(targets.state_dir, os.O_RDONLY | os.O_DIRECTORY), entries, 32_768)
    return f"{length} bytes of names"


@attack
def null_device(targets: Targets) -> str:
    """open /dev/null"""
    return f"descriptor {opened('/dev/null', os.O_RDWR)}"


@attack
def kernel_log_device(targets: Targets) -> str:
    """open /dev/kmsg"""
    return f"descriptor {opened('/dev/kmsg', os.O_RDWR)}"


@attack
def terminal(targets: Targets) -> str:
    """open a terminal, to type into it"""
    return f"descriptor {opened('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)}"


@attack
def core_pattern(targets: Targets) -> str:
    """open /proc/sys/kernel/core_pattern for writing: a program that the kernel starts as root"""
    return f"descriptor {opened('/proc/sys/kernel/core_pattern', os.O_WRONLY)}"


@attack
def system_request_trigger(targets: Targets) -> str:
    """open /proc/sysrq-trigger for writing"""
    return f"descriptor {opened('/proc/sysrq-trigger', os.O_WRONLY)}"


@attack
def score_of_the_oom_killer(targets: Targets) -> str:
    """lower the own oom_score_adj, so that another process dies first"""
    fd = opened("/proc/self/oom_score_adj", os.O_WRONLY)
    call("write", fd, b"-100", 4)
    return "lowered"


@attack
def mount_tree(targets: Targets) -> str:
    """open_tree: a descriptor of a tree of files"""
    return f"descriptor {call('open_tree', AT_FDCWD, targets.folder.encode(), 0)}"


@attack
def send_a_file(targets: Targets) -> str:
    """sendfile from the secret into a pipe"""
    ends = memory(8)
    call("pipe2", ends, 0)
    reading, writing = struct.unpack("=ii", ends.raw)
    call("sendfile", writing, opened(targets.secret_path), None, targets.secret_length)
    return secret_of(targets, reading)
