"""The kernel's own limits of one process."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from isoplug.shared.limits import WorkerLimits

__all__ = ["UNCOUNTED", "bound_processes", "bound_template", "bound_worker", "lower"]


#: Of a template: one for each worker that it has forked, beside a few of its own.
_TEMPLATE_FILES = 1024
#: What RLIMIT_DATA does not count: the stack of the first thread, 8 MiB on most machines; and the page tables of all
#: that is mapped, a 512th of that at most.
UNCOUNTED = ((resource.RLIMIT_STACK, 8 << 20), (resource.RLIMIT_AS, 64 << 30))


def bound_template(limits: WorkerLimits) -> None:
    """Set hard limits: memory, open files, no core dumps.

    Memory is RLIMIT_DATA: wasmtime reserves 17 GB of address space without using it, so RLIMIT_AS has to be larger than
    any useful bound of memory.
    """
    lower(
        (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_DATA, limits.process_memory_bytes),
            *UNCOUNTED,
            (resource.RLIMIT_NOFILE, max(_TEMPLATE_FILES, limits.open_files)),
        )
    )


def bound_processes(limits: WorkerLimits) -> None:
    """The kernel counts them by user id, so this is for a template that has one to itself, with its workers."""
    if limits.processes:
        lower(((resource.RLIMIT_NPROC, limits.processes),))


def bound_worker(limits: WorkerLimits) -> None:
    """What is tighter for a worker than for its template, and the CPU time of its life."""
    lower(((resource.RLIMIT_NOFILE, limits.open_files),))
    if limits.cpu_seconds:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        bound = limits.cpu_seconds if hard == resource.RLIM_INFINITY else min(limits.cpu_seconds, hard - 1)
        # The soft one ends in SIGXCPU, which says what it was; the hard one a second later in SIGKILL.
        resource.setrlimit(resource.RLIMIT_CPU, (bound, bound + 1))


def lower(bounds: Iterable[tuple[int, int]]) -> None:
    """Set each limit (``resource.RLIMIT_*``, bound), hard and soft; a hard limit that is lower already stays."""
    for which, bound in bounds:
        _, hard = resource.getrlimit(which)
        lowered = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(which, (lowered, lowered))
