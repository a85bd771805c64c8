"""Call chains, and what is lent to them.

A chain is a call from outside with every plugin command that it causes; one thread runs all of it. It holds a lease
on a worker of each plugin that it is inside of. ``deadlock`` says when it may wait for one more.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

from isoplug.shared.record import CallRecord
from isoplug.supervisor.bell import Bell
from isoplug.supervisor.pool.deadlock import Waitable
from isoplug.supervisor.pool.policy import ExitReason, Loss

if TYPE_CHECKING:
    from isoplug.supervisor.pool.member import Member
    from isoplug.supervisor.pool.pool import Pool
    from isoplug.supervisor.pool.worker import Worker

__all__ = ["Chain", "Lease", "LeaseBook"]


class LeaseBook:
    """One lock for the leases of all pools of a supervisor: what is decided under it is short and does no waiting."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._instances = itertools.count(1)

    def next_instance(self) -> int:
        """A number for a worker that no other of this supervisor has or had."""
        return next(self._instances)


class Chain:
    """Identity of a call chain, and the handle by which another thread can end it. ``record`` is that of the call from
    outside; everything within the chain writes into it."""

    def __init__(self, record: CallRecord | None = None) -> None:
        self.record = CallRecord() if record is None else record
        self.waiting_for: Waitable | None = None  # guarded by the book's lock
        self.leases: list[Lease] = []  # of the chain's thread alone
        #: What its thread waits on for a worker.
        self.turn = Bell()
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    @property
    def is_lost(self) -> bool:
        """Nobody waits for it any more: it was cancelled, or the worker that it talks to has ended."""
        worker = self._worker
        return self._is_cancelled or (worker is not None and worker.process.has_exited)

    def enter(self, worker: Worker) -> Worker | None:
        """The chain's thread starts to talk to ``worker``; returns the one it talked to before (for ``leave``)."""
        with self._lock:
            outer, self._worker = self._worker, worker
            if self._is_cancelled:
                worker.process.kill()
            return outer

    def leave(self, outer: Worker | None) -> None:
        with self._lock:
            self._worker = outer

    def pause(self, seconds: float) -> None:
        """Let that much time pass, outside any lease; a chain that is cancelled waits no longer."""
        give_up_at = time.monotonic() + seconds
        while not self._is_cancelled and (left := give_up_at - time.monotonic()) > 0:
            self.turn.wait(left)

    def cancel(self) -> None:
        """End the chain from any thread: its current worker dies, a wait for a worker ends. Idempotent."""
        with self._lock:
            self._is_cancelled = True
            if self._worker is not None:
                self._worker.process.kill()
        self.turn.ring()

    def end(self) -> None:
        """The call is over: nothing may be lent to it any more. What still is, its thread was interrupted (Ctrl-C)
        between two steps of giving back."""
        while self.leases:
            self.leases[-1].abandon()


class Lease:
    """One worker, lent to one chain. End it with exactly one of ``release`` and ``discard``."""

    __slots__ = ("_chain", "_is_extra", "_member", "_pool", "instance", "worker")

    worker: Worker
    #: A number that no other worker of this supervisor has or had.
    instance: int

    def __init__(self, pool: Pool, chain: Chain) -> None:
        self._pool = pool
        self._chain = chain
        self._is_extra = False
        self._member: Member | None = None
        chain.leases.append(self)

    def take(self, member: Member, *, is_extra: bool) -> None:
        """For the pool, with the lock held."""
        self.worker, self.instance, self._is_extra = member.worker, member.instance, is_extra
        self._member = member
        member.holder = self._chain  # right after: no interrupt comes between two plain assignments

    def release(self, *, has_served: bool = True) -> None:
        """The worker is fine. ``has_served``: it has brought a call to its end."""
        if self._member is None:
            self._pool.give_up(self._chain)
        elif self._is_extra:
            self._pool.take_back_extra(self._member)
        else:
            self._pool.take_back(self._member, has_served=has_served)
        self._chain.leases.remove(self)

    def discard(self, loss: Loss) -> None:
        """The worker is dead or in an unknown state."""
        assert self._member is not None
        try:
            self.worker.end()
        finally:  # ending waits, and may be interrupted; the next caller must not wait for ever
            if self._is_extra:
                self._pool.drop_extra(self._member)
            else:
                self._pool.replace(self._member, loss)
            self._chain.leases.remove(self)

    def abandon(self) -> None:
        """End it whatever its state is: its thread was interrupted."""
        if self._member is None:
            self.release()
        elif self._member.holder is self._chain:
            self.discard(Loss(ExitReason.CANCELLED, "its caller was interrupted"))
        else:
            self._chain.leases.remove(self)
