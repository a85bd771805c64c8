"""Which system calls a process may make at each stage of its life, and why: data, no code that does anything.

A call that no rule names ends the process, and so does one whose arguments its rule does not cover, unless the rule
says otherwise. Stages narrow: the kernel asks every filter that was installed and takes the strictest answer, so what
a stage leaves out no later one can bring back. Calls with an argument are listed as the kernel reads them: an ``int``
by its lower 32 bits, whatever stands above.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

__all__ = ["ALLOW", "KILL", "OWN_PID", "POLICIES", "Argument", "Own", "Policy", "Rule", "Stage", "Verdict", "refuse"]


class Stage(StrEnum):
    COMPILE = "compile"  #: a template: compiles its module, forks workers, which move in
    INSTANTIATE = "instantiate"  #: a worker: makes its instance, which runs code of the guest
    RUN_WASI = "run-wasi"  #: a worker whose guest imports WASI: the first use of it starts threads
    RUN = "run"  #: any other worker
    RUN_GUEST = "run-guest"  #: the thread of such a worker that the guest runs in, and no other thread
    PROGRAM = "program"  #: the disposable process of a WASI program, with a folder


class Verdict(int):
    """What the kernel does with a call; a SECCOMP_RET_* of <linux/seccomp.h>."""


ALLOW: Final = Verdict(0x7FFF_0000)
KILL: Final = Verdict(0x8000_0000)  #: the whole process, with SIGSYS


def refuse(number: int) -> Verdict:
    """Do not make the call, answer with this errno."""
    return Verdict(0x0005_0000 | number)


class Own(Enum):
    """A value that is known only in the process that installs the filter."""

    PID = "pid"


OWN_PID: Final = Own.PID
_INT: Final = 0xFFFF_FFFF
_SIGN: Final = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Argument:
    """Holds when the argument ``index`` (0 to 5), masked, is ``value``."""

    index: int
    value: int | Own
    mask: int = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """``verdict`` for ``call`` when all arguments of one line of ``when`` hold, or always when there is no line;
    ``otherwise`` when none does."""

    call: str
    reason: str
    when: tuple[tuple[Argument, ...], ...] = ()
    verdict: Verdict = ALLOW
    otherwise: Verdict = KILL


Policy = dict[str, Rule]  # by call


def _policy(*rules: Rule) -> Policy:
    return {rule.call: rule for rule in rules}


def _one_of(index: int, *values: int, mask: int = _INT) -> tuple[tuple[Argument, ...], ...]:
    return tuple((Argument(index, value, mask),) for value in values)


# <asm-generic/mman-common.h>
_PROT_READ, _PROT_WRITE, _PROT_EXEC, _PROT_BTI = 0x1, 0x2, 0x4, 0x10
_MAP_PRIVATE, _MAP_DROPPABLE, _MAP_TYPE = 0x02, 0x08, 0x0F
_MAP_ANONYMOUS, _MAP_GROWSDOWN, _MAP_LOCKED, _MAP_HUGETLB = 0x20, 0x100, 0x2000, 0x4_0000
_MADV_NORMAL, _MADV_DONTNEED, _MADV_FREE, _MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 0, 4, 8, 14, 15
_ALL: Final = 0xFFFF_FFFF_FFFF_FFFF

_DATA_ONLY = Argument(2, 0, _ALL & ~(_PROT_READ | _PROT_WRITE))  # of mmap and mprotect
_CODE_ONLY = Argument(2, _PROT_READ | _PROT_EXEC, _ALL & ~_PROT_BTI)  # never to be written: W^X
# What grows downwards is a stack for the kernel, and RLIMIT_DATA does not count stacks.
_MAPPING = _MAP_TYPE | _MAP_ANONYMOUS | _MAP_GROWSDOWN | _MAP_LOCKED | _MAP_HUGETLB
_OWN_PAGES = Argument(3, _MAP_PRIVATE | _MAP_ANONYMOUS, _MAPPING)
_DROPPABLE_PAGES = Argument(3, _MAP_DROPPABLE | _MAP_ANONYMOUS, _MAPPING)  # getrandom() of glibc 2.41 and newer

# <linux/futex.h>: no priority inheritance, which nobody here uses and which has been a way into kernels.
_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_REQUEUE, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 0, 1, 3, 9, 10
_FUTEX_COMMAND = _INT & ~(128 | 256)  # without the modifiers: private, real-time clock
# What is mapped lies at 0x7… or 0xf… of the 47 or 48 bits of an address, the heap lower; where there are fewer bits, no
# address is such a one.
_MAPPED = 0x7000_0000_0000

# <linux/sched.h>: what the C libraries make threads and forks with.
_THREAD = 0x3D_0F00  # VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID
_MUSL_ADDS = 0x40_0000  # DETACHED, which the kernel ignores
_FORK, _MUSL_FORK = 0x120_0011, 0x11  # CHILD_SETTID, CHILD_CLEARTID, SIGCHLD

_PR_SET_NAME = 15
_SIGABRT, _SIGKILL = 6, 9
_F_DUPFD_CLOEXEC, _F_GETFL, _F_SETFL, _F_SETOWN, _F_SETSIG = 1030, 3, 4, 8, 10
_SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_TSYNC = 1, 1
_SCHED_OTHER, _SCHED_BATCH = 0, 3
_ITIMER_PROF = 2
_MEMBARRIER_SYNC_CORE, _MEMBARRIER_REGISTER_SYNC_CORE = 32, 64

_MEMORY = _policy(
    Rule("brk", "malloc"),
    Rule(
        "mmap",
        "malloc, thread stacks, memory of instances: own pages, nothing executable",
        ((_OWN_PAGES, _DATA_ONLY), (_DROPPABLE_PAGES, _DATA_ONLY)),
    ),
    Rule("munmap", "free"),
    Rule("mprotect", "memory.grow, malloc's arenas, guard pages: nothing executable", ((_DATA_ONLY,),)),
    # It could make the first thread's stack as large as memory, which RLIMIT_DATA does not count.
    Rule("mremap", "realloc of large blocks, which copies them instead", verdict=refuse(errno.ENOMEM)),
    Rule(
        "madvise",
        "giving pages back; other advice is only advice",
        _one_of(2, _MADV_NORMAL, _MADV_DONTNEED, _MADV_FREE, _MADV_HUGEPAGE, _MADV_NOHUGEPAGE),
        otherwise=refuse(errno.EINVAL),
    ),
)

_THREADS = _policy(
    Rule(
        "futex",
        "locks, and joining threads",
        _one_of(
            1,
            _FUTEX_WAIT,
            _FUTEX_WAKE,
            _FUTEX_REQUEUE,
            _FUTEX_WAIT_BITSET,
            _FUTEX_WAKE_BITSET,
            mask=_FUTEX_COMMAND,
        ),
    ),
    Rule("sched_yield", "spin locks of Rust"),
    Rule("gettid", "abort(), and thread-local locks"),
    Rule("getpid", "abort() of older C libraries"),
    Rule("exit", "a thread's end"),
    Rule("exit_group", "the process's end"),
    # A thread that was made before a filter may run for the first time after it, so all stages allow how one begins.
    Rule("set_robust_list", "a thread begins"),
    Rule("rseq", "a thread begins (glibc 2.35 and newer)"),
    Rule("sigaltstack", "a thread of Rust begins, and ends"),
    # Of any process, so the kernel is not asked: a thread hears that all is well, which is what it wants to hear.
    Rule("sched_getaffinity", "a thread of Rust begins: where its stack ends", verdict=refuse(0)),
    Rule("prctl", "a thread gets its name", _one_of(0, _PR_SET_NAME), otherwise=refuse(errno.EINVAL)),
)

_SIGNALS = _policy(
    # A fault in native code: wasmtime's handler puts the default one back and returns. Were that refused, the fault
    # would happen again and again, and the process would spin where it should die.
    Rule("rt_sigaction", "a crash ends the process"),
    Rule("rt_sigprocmask", "abort(), threads' beginnings and ends"),
    Rule("rt_sigreturn", "the way back from a trap of a guest"),
    Rule("restart_syscall", "a wait goes on after SIGSTOP and SIGCONT"),
    Rule(
        "tgkill",
        "abort() of Rust and the C library: only itself",
        ((Argument(0, OWN_PID, _INT), Argument(2, _SIGABRT, _INT)),),
    ),
)

_TIME = _policy(
    Rule("clock_gettime", "where the machine's clock cannot be read without a call"),
    Rule("clock_getres", "WASI's clock_res_get"),
    Rule("gettimeofday", "where the machine's clock cannot be read without a call"),
    Rule("clock_nanosleep", "back-off of spin locks"),
    Rule("nanosleep", "the same, in other C libraries"),
    Rule("getrandom", "WASI's random_get; seeds of hash tables"),
)

_STREAMS = _policy(
    Rule("read", "frames of the supervisor"),
    Rule("readv", "the same, into a buffer that is there"),
    Rule("write", "frames to the supervisor; last words on standard error"),
    Rule("writev", "the same, of several pieces; last words of the C library and of Rust"),
    # Only in words: the end of the lifeline must stay open, or the worker would outlive its supervisor.
    Rule("close", "what libraries tidy up; the process's own end does it", verdict=refuse(0)),
)

#: What libraries try and can do without. Killing for it would kill workers that have done nothing wrong.
_HARMLESS = _policy(
    Rule("clone3", "the C library falls back to clone, whose flags a filter can see", verdict=refuse(errno.ENOSYS)),
    Rule("memfd_create", "wasmtime falls back to copying a module's data", verdict=refuse(errno.ENOSYS)),
    Rule("ioctl", "isatty() of CPython", verdict=refuse(errno.ENOTTY)),
    Rule("lseek", "CPython, when it makes a file object of a pipe", verdict=refuse(errno.ESPIPE)),
    Rule("sysinfo", "qsort() of the C library", verdict=refuse(errno.EPERM)),
    *(
        Rule(
            call, "CPython looks for sources of a traceback, Rust for the number of cores", verdict=refuse(errno.EACCES)
        )
        for call in (
            "access",
            "faccessat",
            "faccessat2",
            "fstat",
            "getcwd",
            "lstat",
            "newfstatat",
            "open",
            "openat",
            "readlink",
            "readlinkat",
            "stat",
            "statx",
        )
    ),
)

#: The first use of WASI that reads, writes or waits.
_WASI_RUNTIME = _policy(
    Rule("clone", "its threads", ((Argument(0, _THREAD, _ALL & ~_MUSL_ADDS),),)),
    Rule("epoll_create1", "what they wait for"),
    Rule("epoll_ctl", "what they wait for"),
    Rule("epoll_wait", "they wait"),
    Rule("epoll_pwait", "epoll_wait() on aarch64"),
    Rule("eventfd2", "what wakes them"),
    Rule("fcntl", "what wakes them, once more", _one_of(1, _F_DUPFD_CLOEXEC)),
)

_FILTER_FOR_ALL = (Argument(0, _SECCOMP_SET_MODE_FILTER, _INT), Argument(1, _FILTER_FLAG_TSYNC, _INT))
_FILTER_FOR_ONE = (Argument(0, _SECCOMP_SET_MODE_FILTER, _INT), Argument(1, 0, _INT))

_NEXT_STAGE = _policy(
    Rule("seccomp", "a filter more, for all threads or for the one that asks", (_FILTER_FOR_ALL, _FILTER_FOR_ONE)),
    # timer_thread.py says what for.
    Rule("sched_getscheduler", "Extism's timer thread begins", _one_of(0, 0)),
    Rule(
        "sched_setscheduler",
        "the same; policies that may be changed at will",
        tuple((Argument(0, 0, _INT), Argument(1, policy, _INT)) for policy in (_SCHED_OTHER, _SCHED_BATCH)),
    ),
    Rule("setitimer", "what wakes that thread from now on", _one_of(0, _ITIMER_PROF)),
)

_LAST_STAGE = _policy(Rule("seccomp", "a filter more, for the thread that asks", (_FILTER_FOR_ONE,)))

#: The only other thread is Extism's, which may sleep (timer_thread.py). It wakes this one: its own filter lets it. What
#: it sleeps on lies on the heap. Higher up are libraries with the locks of malloc, which it needs when it is awake.
_WAKES_NOBODY = _policy(
    Rule(
        "futex",
        "waiting, and locks of libraries; any other wake-up reaches nobody",
        (
            *_one_of(1, _FUTEX_WAIT, _FUTEX_WAIT_BITSET, mask=_FUTEX_COMMAND),
            (Argument(0, _MAPPED, _MAPPED), Argument(1, _FUTEX_WAKE, _FUTEX_COMMAND)),
        ),
        otherwise=refuse(0),
    ),
)

_COMPILING = _policy(
    Rule("mprotect", "compiled code becomes executable, and can no longer be written", ((_DATA_ONLY,), (_CODE_ONLY,))),
    Rule(
        "membarrier",
        "compiled code becomes visible to all cores of an aarch64",
        _one_of(0, _MEMBARRIER_SYNC_CORE, _MEMBARRIER_REGISTER_SYNC_CORE),
    ),
    Rule("sched_getaffinity", "as many threads of the compiler as there are cores"),
    Rule("prlimit64", "a thread's beginning: reads its own limits", ((Argument(0, 0, _INT), Argument(2, 0)),)),
)

_BOUNDING = _policy(
    Rule("prlimit64", "a worker lowers its own limits; to raise them takes a capability", ((Argument(0, 0, _INT),),)),
)

_FORKING = _policy(
    Rule(
        "clone",
        "forks of workers, threads of the compiler; no namespaces",
        ((Argument(0, _THREAD, _ALL & ~_MUSL_ADDS),), (Argument(0, _FORK),), (Argument(0, _MUSL_FORK),)),
    ),
    Rule("fork", "forks of workers, in other C libraries"),
    Rule("pidfd_open", "a template watches its workers"),
    Rule("wait4", "a template reaps its workers"),
    Rule("waitid", "a template reaps its workers"),
    Rule(
        "kill",
        "SIGKILL for a worker that nobody will hear of, and for itself; never for everybody (-1)",
        ((Argument(0, 0, _SIGN), Argument(1, _SIGKILL, _INT)),),
    ),
    Rule("pidfd_send_signal", "SIGKILL for a worker", _one_of(1, _SIGKILL)),
    Rule("tgkill", "abort(), also of workers, whose ids are not known yet", _one_of(2, _SIGABRT)),
    Rule("poll", "a template waits for orders, and for the ends of its workers"),
    Rule("ppoll", "poll() on aarch64"),
    Rule("recvmsg", "a template gets an order, with descriptors for a worker"),
    Rule("sendmsg", "a template hands the supervisor descriptors of a worker"),
    Rule("sendto", "a template tells the supervisor of an end; no address", ((Argument(4, 0),),)),
)

_MOVING_IN = _policy(
    Rule("setsid", "each worker leads a session"),
    Rule("close", "a template and its workers close what is not theirs"),
    Rule("close_range", "a worker closes what is its template's"),
    Rule("dup2", "a worker gets its standard error"),
    Rule("dup3", "dup2() on aarch64"),
    Rule(
        "fcntl",
        "standard error and lifeline of a worker; and what its runtime may do later",
        _one_of(1, _F_DUPFD_CLOEXEC, _F_SETFL, _F_SETOWN, _F_SETSIG),
    ),
)

_FILES = _policy(
    Rule("openat", "WASI's path_open; Landlock says where"),
    Rule("openat2", "the same, without leaving the folder"),
    Rule("statx", "WASI's path_filestat_get"),
    Rule("newfstatat", "the same, in other C libraries"),
    Rule("fstat", "WASI's fd_filestat_get"),
    Rule("getdents64", "WASI's fd_readdir"),
    Rule("close", "WASI's fd_close"),
    Rule("lseek", "WASI's fd_seek"),
    Rule("pread64", "WASI's fd_pread, and fd_read of files"),
    Rule("pwrite64", "WASI's fd_pwrite, and fd_write of files"),
    Rule("preadv", "the same, in other versions of the runtime"),
    Rule("pwritev", "the same, in other versions of the runtime"),
    Rule("fsync", "WASI's fd_sync"),
    Rule("fdatasync", "WASI's fd_datasync"),
    Rule("ftruncate", "WASI's fd_filestat_set_size"),
    Rule("fallocate", "WASI's fd_allocate, in other versions of the runtime"),
    Rule("fadvise64", "WASI's fd_advise"),
    Rule("utimensat", "WASI's fd_filestat_set_times"),
    Rule("mkdirat", "WASI's path_create_directory"),
    Rule("unlinkat", "WASI's path_unlink_file and path_remove_directory"),
    Rule("renameat", "WASI's path_rename"),
    Rule("renameat2", "the same, on machines without renameat"),
    Rule("linkat", "WASI's path_link"),
    Rule("symlinkat", "WASI's path_symlink"),
    Rule("readlinkat", "WASI's path_readlink"),
    Rule("fcntl", "WASI's fd_fdstat_get and its set_flags", _one_of(1, _F_DUPFD_CLOEXEC, _F_GETFL, _F_SETFL)),
)

_ANY: Policy = {**_MEMORY, **_THREADS, **_SIGNALS, **_TIME, **_STREAMS, **_HARMLESS}
_RUN: Policy = {**_ANY, **_LAST_STAGE}
_RUN_GUEST: Policy = {**_ANY, **_WAKES_NOBODY}
_RUN_WASI: Policy = {**_ANY, **_WASI_RUNTIME}
_INSTANTIATE: Policy = {**_RUN_WASI, **_NEXT_STAGE}
# What comes later has the wider rule for the same call.
_COMPILE: Policy = {**_INSTANTIATE, **_COMPILING, **_BOUNDING, **_FORKING, **_MOVING_IN}
_PROGRAM: Policy = {**_ANY, **_WASI_RUNTIME, **_COMPILING, **_FILES}

POLICIES: Final[dict[Stage, Policy]] = {
    Stage.COMPILE: _COMPILE,
    Stage.INSTANTIATE: _INSTANTIATE,
    Stage.RUN_WASI: _RUN_WASI,
    Stage.RUN: _RUN,
    Stage.RUN_GUEST: _RUN_GUEST,
    Stage.PROGRAM: _PROGRAM,
}
