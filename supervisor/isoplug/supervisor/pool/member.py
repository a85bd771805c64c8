"""A worker that belongs to a pool."""

from __future__ import annotations

from isoplug.supervisor.pool.lease import Chain
from isoplug.supervisor.pool.worker import Worker

__all__ = ["Member"]


class Member:
    """A worker and its place in a pool. Guarded by the book's lock; ``instance`` is a number that no other worker of
    this supervisor has or had."""

    __slots__ = ("calls", "holder", "idle_since", "instance", "is_out", "leaves_because", "worker")

    def __init__(self, worker: Worker, instance: int) -> None:
        self.worker = worker
        self.instance = instance
        #: The chain that it is lent to.
        self.holder: Chain | None = None
        #: Calls that it has served to their end.
        self.calls = 0
        #: When set, it serves only until its successor is there.
        self.leaves_because = ""
        #: It serves nobody any more: it ends when it is given back, or has ended.
        self.is_out = False
        #: For extra instances: an instant of ``time.monotonic``.
        self.idle_since = 0.0
