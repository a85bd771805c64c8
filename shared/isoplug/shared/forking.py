"""What a supervisor and the processes that fork for it tell each other: the zygote, and the templates made of it.

A conversation is a SOCK_SEQPACKET pair, one msgpack array a packet:

    supervisor → [request, *order] with descriptors as SCM_RIGHTS: the lifeline of the new process, its standard error,
                 for a template also its end of a conversation and a file with the module, for a worker its end of the
                 socket to the supervisor; a worker's order is empty, what it is made of its template has
    forker     → ["forked", request, pid] with the pidfd
    forker     → ["refused", request, reason] · ["exited", pid, wait_status, peak_bytes, cpu_seconds]

A template says two things more, before it forks anything: ["locked", applied, missing] and then ["compiled"] or
["failed", reason].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from isoplug.shared.limits import WorkerLimits
from isoplug.shared.lockdown import Lockdown

__all__ = ["PACKET_BYTES", "TemplateOrder"]

#: Longest packet: an order for a template has an import table of some forty names.
PACKET_BYTES = 65_536


class TemplateOrder(NamedTuple):
    """``folder`` is empty, to be locked into. The import table are two newline-separated lists of names."""

    folder: str
    functions: str
    notices: str
    lockdown: Lockdown
    limits: WorkerLimits

    @classmethod
    def of(cls, fields: Sequence[Any]) -> TemplateOrder:
        folder, functions, notices, lockdown, limits = fields
        return cls(folder, functions, notices, Lockdown(lockdown), WorkerLimits(*limits))
