"""The kernel's own limits of one worker process."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from isoplug.shared.limits import WorkerLimits

__all__ = ["apply", "lower"]


def apply(limits: WorkerLimits) -> None:
    """Set hard limits: memory, open files, no core dumps.

    Memory is RLIMIT_DATA: wasmtime reserves 17 GB of address space without using it, so RLIMIT_AS would have to be
    larger than any useful bound.
    """
    lower(
        (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_DATA, limits.process_memory_bytes),
            (resource.RLIMIT_NOFILE, limits.open_files),
        )
    )


def lower(bounds: Iterable[tuple[int, int]]) -> None:
    """Set each limit (``resource.RLIMIT_*``, bound), hard and soft; a hard limit that is lower already stays."""
    for which, bound in bounds:
        _, hard = resource.getrlimit(which)
        lowered = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(which, (lowered, lowered))
