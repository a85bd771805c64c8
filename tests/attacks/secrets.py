"""What of the host there is in the worker's own memory."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterator

from attacks.files import opened
from attacks.kernel import call, memory, read, struct_bytes
from attacks.registry import Foiled, attack
from attacks.sockets import length, own_socket
from attacks.targets import SECRET_PREFIX, Targets

_SO_PEERCRED = 17
_PAGE = 4096
#: How far beyond what was mapped early a heap may have grown since, upwards or (arenas) downwards.
_GROWTH = 4 << 20
_PRIVATE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) r[w-][x-]p \S+ \S+ \S+ *(\S*)")


def _areas() -> list[tuple[int, int]]:
    with open("/proc/self/maps", "rb") as file:
        lines = [match for line in file if (match := _PRIVATE.match(line))]
    return [(int(line[1], 16), int(line[2], 16)) for line in lines if not line[3].startswith(b"[v")]


#: Where memory was when the zygote imported this. A fork has it at the same place, and an attacker finds out by trying.
_AREAS = _areas()


def is_readable(page: int) -> bool:
    """rt_sigprocmask reads the mask before it looks at what is to be done with it, so it says whether it could."""
    try:
        call("rt_sigprocmask", -1, page, None, 8)
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


def readable_runs(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Readable memory between two addresses, in runs of pages."""
    began = None
    for page in range(start, end, _PAGE):
        if is_readable(page):
            began = page if began is None else began
        elif began is not None:
            yield began, page
            began = None
    if began is not None:
        yield began, end


def own_memory() -> Iterator[tuple[int, int]]:
    """All that can be found, each part once."""
    seen = 0
    for start, end in _AREAS:
        first, last = max(seen, start - _GROWTH), end + _GROWTH
        if first < last:
            yield from readable_runs(first, last)
        seen = max(seen, last)


def is_in_memory(targets: Targets) -> bool:
    for start, end in own_memory():
        area = (ctypes.c_char * (end - start)).from_address(start).raw
        for match in re.finditer(re.escape(SECRET_PREFIX), area):
            if targets.is_secret(area[match.start() : match.start() + targets.secret_length]):
                return True
    return False


@attack
def secret_in_memory(targets: Targets) -> str:
    """search all of the own memory for the secret that the supervisor's memory holds"""
    if not is_in_memory(targets):
        raise Foiled("it is not there")
    return "the secret"


@attack
def environment_in_memory(targets: Targets) -> str:
    """the environment that this process was forked with"""
    held = {name: value for name, value in os.environ.items() if value}
    if not held:
        raise Foiled("it is empty")
    return str(held)


@attack
def environment_by_proc(targets: Targets) -> str:
    """/proc/self/environ"""
    text = read(opened("/proc/self/environ")).strip(b"\0")
    if b"SECRET" not in text:
        raise Foiled("no secret is there")
    return "the secret"


@attack
def identity_of_the_supervisor(targets: Targets) -> str:
    """SO_PEERCRED: the supervisor's process id and user"""
    credentials = memory(12)
    call("getsockopt", own_socket(), 1, _SO_PEERCRED, credentials, length(12))
    return f"process {struct.unpack('=iII', credentials.raw)[0]}"


@attack
def path_of_the_socket(targets: Targets) -> str:
    """getpeername: where the runtime folder is"""
    name = memory(128)
    call("getpeername", own_socket(), name, length(128))
    path = struct_bytes(name)[2:].rstrip(b"\0")
    if not path.startswith(b"/") or path.count(b"/") < 2:
        raise Foiled("it is no path of the host")
    return path.decode()


@attack
def descriptors_left_open(targets: Targets) -> str:
    """a descriptor of the zygote's or the template's: read what any of them gives"""
    for fd in range(3, 256):
        data = memory(4096)
        try:
            count = call("pread64", fd, data, 4096, 0)
        except OSError:
            continue
        if targets.is_secret(data.raw[: min(count, targets.secret_length)]):
            return f"the secret, at descriptor {fd}"
    raise Foiled("none gives anything")
