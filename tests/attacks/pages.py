"""Memory: executable pages, shared memory, and the parts of the kernel that work on memory."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from pathlib import Path

from attacks.files import opened
from attacks.kernel import AT_FDCWD, call, memory, prctl
from attacks.machine_code import RETURN_42, run
from attacks.registry import Foiled, Unavailable, attack
from attacks.targets import Targets

_PAGE = 4096
_R, _W, _X = 1, 2, 4
_PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_READ_IMPLIES_EXEC, _ADDR_NO_RANDOMIZE = 0x40_0000, 0x4_0000
#: Addresses of writable code, as the zygote has it: a fork has it at the same place.
WRITABLE_CODE = [
    int(line.partition("-")[0], 16)
    for line in Path("/proc/self/maps").read_text().splitlines()
    if line.split()[1].startswith("rwx")
]
_MAYMOVE, _MAYMOVE_FIXED_DONTUNMAP = 1, 7
#: More than any worker of the campaign may have.
_MUCH = 2 << 30
_GROWSDOWN, _NORESERVE = 0x100, 0x4000
#: The lowest page of the first thread's stack, likewise.
FIRST_STACK = next(
    int(line.partition("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines() if "[stack]" in line
)


def mapped(protection: int, flags: int = _PRIVATE_ANONYMOUS, fd: int = -1) -> int:
    return call("mmap", 0, _PAGE, protection, flags, fd, 0)


def filled(address: int) -> int:
    ctypes.memmove(address, RETURN_42, len(RETURN_42))
    return address


def code_of_a_library() -> int:
    """The address of a function that nobody calls."""
    return ctypes.cast(ctypes.CDLL(None).ftok, ctypes.c_void_p).value or 0


def ran(address: int) -> str:
    """Call it. When it is not executable, the process dies by SIGSEGV."""
    if run(address) != 42:
        raise Foiled("something else ran")
    return "the attacker's code ran"


@attack
def memory_that_passes_for_a_stack(targets: Targets) -> str:
    """more memory than the process may have, mapped so that it grows downwards"""
    flags = _PRIVATE_ANONYMOUS | _GROWSDOWN | _NORESERVE
    return f"memory at {call('mmap', 0, _MUCH, _R | _W, flags, -1, 0):#x}"


@attack
def stack_of_any_size(targets: Targets) -> str:
    """mremap of a page of the first thread's stack to more memory than the process may have"""
    return f"memory at {call('mremap', FIRST_STACK, _PAGE, _MUCH, _MAYMOVE):#x}"


@attack
def writable_and_executable(targets: Targets) -> str:
    """mmap of a page that is both, and run what is written there"""
    return ran(filled(mapped(_R | _W | _X)))


@attack
def executable_with_high_bits(targets: Targets) -> str:
    """the same with bits that the kernel ignores, which a comparison may not"""
    return ran(filled(mapped(_R | _W | _X | 1 << 32)))


@attack
def made_executable(targets: Targets) -> str:
    """mprotect: first written, then executable"""
    address = filled(mapped(_R | _W))
    call("mprotect", address, _PAGE, _R | _X)
    return ran(address)


@attack
def made_executable_with_high_bits(targets: Targets) -> str:
    """mprotect with PROT_GROWSDOWN and bits above 32"""
    address = call("mmap", 0, _PAGE, _R | _W, _PRIVATE_ANONYMOUS | 0x100, -1, 0)  # MAP_GROWSDOWN
    filled(address)
    call("mprotect", address, _PAGE, _R | _X | 0x0100_0000)
    return ran(address)


@attack
def made_executable_with_a_key(targets: Targets) -> str:
    """pkey_mprotect"""
    address = filled(mapped(_R | _W))
    call("pkey_mprotect", address, _PAGE, _R | _X, -1)
    return ran(address)


@attack
def code_of_a_library_overwritten(targets: Targets) -> str:
    """mprotect of code that is there, so that it can be written"""
    code = code_of_a_library()
    call("mprotect", code & ~(_PAGE - 1), _PAGE, _R | _W | _X)
    ctypes.memmove(code, RETURN_42, len(RETURN_42))
    return ran(code)


@attack
def readable_means_executable(targets: Targets) -> str:
    """personality READ_IMPLIES_EXEC, then an ordinary page"""
    call("personality", _READ_IMPLIES_EXEC)
    return ran(filled(mapped(_R | _W)))


@attack
def no_randomisation(targets: Targets) -> str:
    """personality ADDR_NO_RANDOMIZE, for what it starts"""
    call("personality", _ADDR_NO_RANDOMIZE)
    return "switched off"


@attack
def executable_shared_memory(targets: Targets) -> str:
    """shmat with SHM_EXEC"""
    identity = call("shmget", 0, _PAGE, 0o1700)
    try:
        return ran(filled(call("shmat", identity, 0, 0o100000)))
    finally:
        call("shmctl", identity, 0, 0)


@attack
def executable_memory_file(targets: Targets) -> str:
    """memfd_create, write, and map it executable"""
    fd = call("memfd_create", b"", 0)
    call("write", fd, RETURN_42, len(RETURN_42))
    return ran(mapped(_R | _X, mmap.MAP_PRIVATE, fd))


@attack
def memory_file(targets: Targets) -> str:
    """memfd_create: memory that no limit counts"""
    return f"descriptor {call('memfd_create', b'', 0)}"


@attack
def secret_memory_file(targets: Targets) -> str:
    """memfd_secret: memory that nobody else can read, the kernel included"""
    try:
        return f"descriptor {call('memfd_secret', 0)}"
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unavailable("this kernel has none") from None
        raise


@attack
def page_that_is_both_already(targets: Targets) -> str:
    """a page that a library made writable and executable before the lock (libffi does, for callbacks)"""
    if not WRITABLE_CODE:
        raise Unavailable("no library has made one")
    address = WRITABLE_CODE[0]
    kept = ctypes.string_at(address, len(RETURN_42))
    filled(address)
    result = run(address)
    ctypes.memmove(address, kept, len(kept))
    return f"the attacker's code ran: {result}"


@attack
def code_moved(targets: Targets) -> str:
    """mremap of an executable page over the attacker's own"""
    source, target = code_of_a_library() & ~(_PAGE - 1), mapped(_R | _W)
    return f"page at {call('mremap', source, _PAGE, _PAGE, _MAYMOVE_FIXED_DONTUNMAP, target):#x}"


@attack
def pages_in_another_order(targets: Targets) -> str:
    """remap_file_pages"""
    address = call("mmap", 0, _PAGE, _R | _W, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    call("remap_file_pages", address, _PAGE, 0, 0, 0)
    return "remapped"


@attack
def shared_memory(targets: Targets) -> str:
    """shmget and shmat: memory shared with any process of the user, which outlives this one"""
    identity = call("shmget", 0, _PAGE, 0o1600)
    address = call("shmat", identity, 0, 0)
    call("shmctl", identity, 0, 0)
    return f"at {address:#x}"


@attack
def semaphores(targets: Targets) -> str:
    """semget"""
    identity = call("semget", 0, 1, 0o1600)
    call("semctl", identity, 0, 0, 0)
    return "a set"


@attack
def message_queue(targets: Targets) -> str:
    """msgget"""
    identity = call("msgget", 0, 0o1600)
    call("msgctl", identity, 0, 0)
    return "a queue"


@attack
def posix_message_queue(targets: Targets) -> str:
    """mq_open"""
    fd = call("mq_open", b"isoplug-attack", os.O_CREAT | os.O_RDWR, 0o600, None)
    call("mq_unlink", b"isoplug-attack")
    return f"descriptor {fd}"


@attack
def posix_shared_memory(targets: Targets) -> str:
    """a file in /dev/shm"""
    fd = opened("/dev/shm/isoplug-attack", os.O_RDWR | os.O_CREAT)
    call("unlinkat", AT_FDCWD, b"/dev/shm/isoplug-attack", 0)
    return f"descriptor {fd}"


@attack
def locked_memory(targets: Targets) -> str:
    """mlockall: memory that cannot be swapped out"""
    call("mlockall", 2)  # MCL_FUTURE
    call("munlockall")
    return "locked"


@attack
def faults_in_own_hands(targets: Targets) -> str:
    """userfaultfd: hold up the kernel inside its own copies"""
    return f"descriptor {call('userfaultfd', 0)}"


@attack
def submission_ring(targets: Targets) -> str:
    """io_uring, which opens and connects without system calls"""
    return f"descriptor {call('io_uring_setup', 4, memory(120))}"


@attack
def asynchronous_input(targets: Targets) -> str:
    """io_setup: the older one"""
    context = memory(8)
    call("io_setup", 1, context)
    call("io_destroy", struct.unpack("=Q", context.raw)[0])
    return "a context"


@attack
def program_in_the_kernel(targets: Targets) -> str:
    """bpf: a map, then a program"""
    attributes = memory(128)
    attributes[:16] = struct.pack("=IIII", 2, 4, 8, 1)  # BPF_MAP_TYPE_ARRAY
    return f"descriptor {call('bpf', 0, attributes, 128)}"


@attack
def performance_counters(targets: Targets) -> str:
    """perf_event_open of the victim: what another process does"""
    attributes = memory(128)
    attributes[:16] = struct.pack("=IIQ", 1, 128, 1)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
    return f"descriptor {call('perf_event_open', attributes, targets.victim_pid, -1, -1, 0)}"


@attack
def local_descriptor_table(targets: Targets) -> str:
    """modify_ldt: segments of the attacker's, and code in 16 bits"""
    entry = memory(16)
    entry[:] = struct.pack("=IIII", 0, 0, 0xFFF, 0x71)
    call("modify_ldt", 1, entry, 16)
    return "an entry"


@attack
def borders_of_memory(targets: Targets) -> str:
    """PR_SET_MM: where the kernel believes that the arguments are"""
    # PR_SET_MM_START_BRK at its own value would need /proc; the exe link of no descriptor is refused for its argument.
    try:
        prctl(35, 13, -1)
    except OSError as error:
        if error.errno != errno.EBADF:  # allowed, and then there was no such file
            raise
    return "could be set"


@attack
def memory_node_policy(targets: Targets) -> str:
    """set_mempolicy_home_node, mbind and their kind: NUMA"""
    call("set_mempolicy", 0, None, 0)
    return "set"
