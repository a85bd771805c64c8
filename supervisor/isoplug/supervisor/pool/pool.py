"""The worker of one plugin: lending it, losing it, starting it again.

``Pool.state`` is derived from what is there, never stored. All fields are guarded by the lease book's lock; starting
and ending processes happens outside it, because both wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

from isoplug.shared.errors import (
    CallCancelled,
    CallTimeout,
    PluginError,
    PluginQuarantined,
    ResourceLimitExceeded,
    SupervisorClosed,
)
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool.lease import Chain, LeaseBook
from isoplug.supervisor.pool.policy import Quarantine, RestartBudget
from isoplug.supervisor.pool.worker import Worker

__all__ = ["Lease", "Pool", "Start", "State"]

_log = get_logger(__name__)

#: Starts one worker of the plugin (launch, ``set_config``, ``init``) as part of a chain at a depth; raises PluginError.
Start: TypeAlias = Callable[[Chain, Deadline, int], Worker]


#: How long a worker that was told to stop may take; it only has to leave its loop.
_LEAVE_SECONDS = 1.0


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    BACKING_OFF = "backing_off"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


class Lease:
    """One worker, lent to one chain. End it with exactly one of ``release`` and ``discard``."""

    def __init__(self, pool: Pool, worker: Worker, *, is_extra: bool) -> None:
        self.worker = worker
        self._pool = pool
        self._is_extra = is_extra

    def release(self) -> None:
        """The worker is fine: back into the pool, or away when it was an extra instance."""
        if self._is_extra:
            self._pool.drop_extra(self.worker)
        else:
            self._pool.take_back(self.worker)

    def discard(self, failure: str, *, counts: bool) -> None:
        """The worker is dead or in an unknown state. ``counts`` says whether that is the plugin's fault."""
        if self._is_extra:
            self._pool.drop_extra(self.worker)
            return
        try:
            self.worker.end()
        finally:  # ending waits, and may be interrupted; the next caller must not wait for ever
            self._pool.replace(self.worker, failure, counts=counts)


class Pool:
    """Workers of one plugin: its own one, and extra instances for chains that come back to the plugin."""

    def __init__(
        self,
        plugin_id: str,
        start: Start,
        book: LeaseBook,
        budget: RestartBudget,
        *,
        start_timeout_seconds: float,
        max_extra_instances: int,
        on_restarted: Callable[[], None] = lambda: None,
    ) -> None:
        self._plugin_id = plugin_id
        self._start = start
        self._book = book
        self._budget = budget
        self._start_timeout_seconds = start_timeout_seconds
        self._max_extra_instances = max_extra_instances
        self._on_restarted = on_restarted
        self._changed = threading.Condition(book.lock)
        self._worker: Worker | None = None
        self._extras: set[Worker] = set()
        self._extra_starts = 0
        self._queue: deque[Chain] = deque()
        self._is_starting = False
        self._is_backing_off = False
        self._is_quarantined = False
        self._is_closed = False
        #: The chain that has the worker, or that starts it.
        self.holder: Chain | None = None
        self.restarts = 0
        self.last_failure: str | None = None

    # --- for callers ----------------------------------------------------------------------------------------------

    def acquire(self, chain: Chain, deadline: Deadline, depth: int) -> Lease:
        """Lend the worker to ``chain``, first come first served; waits while it is busy or starting.

        A chain that would wait for itself gets an extra instance instead. Raises PluginQuarantined, SupervisorClosed,
        CallTimeout, CallCancelled, ResourceLimitExceeded, and what starting an extra instance raises.
        """
        while True:
            with self._book.lock:
                if not self._wait_turn(chain, deadline):
                    break
                worker = self._worker
                assert worker is not None
                self.holder = chain
            lease = Lease(self, worker, is_extra=False)
            try:
                is_fit = worker.is_fit()
            except BaseException:  # an interrupt of the caller's thread
                lease.release()
                raise
            if is_fit:
                return lease
            is_alive = worker.process.is_alive
            cause = "it spoke while nobody asked it" if is_alive else f"{worker.process.exit_status()} while idle"
            lease.discard(cause, counts=True)
        return self._acquire_extra(chain, deadline, depth)

    def take_back(self, worker: Worker) -> None:
        with self._book.lock:
            self.holder = None
            # A death during the lease is its holder's to notice (``_on_exit`` left it alone): this is the last chance.
            is_dead = worker.process.has_exited and not self._is_closed
            if is_dead:
                self._lose_idle(worker)
            self._announce()
        if is_dead:
            worker.end()

    def replace(self, worker: Worker, failure: str, *, counts: bool) -> None:
        """``worker`` has ended; start another, when the budget allows one."""
        with self._book.lock:
            self.holder = None
            self._worker = None
            self._plan_restart(worker, failure, counts=counts)
            self._announce()

    def drop_extra(self, worker: Worker) -> None:
        with self._book.lock:  # first out of reach of ``close``, then ended
            self._extras.discard(worker)
            self._announce()
        worker.end()

    # --- for the supervisor ---------------------------------------------------------------------------------------

    def reserve(self, chain: Chain) -> None:
        """The loader is about to prepare the first worker as part of ``chain``; callers wait for ``adopt``."""
        with self._book.lock:
            self.holder = chain

    def adopt(self, worker: Worker) -> None:
        """The worker that the loader has started and prepared becomes the pool's own."""
        with self._book.lock:
            self._worker = worker
            self.holder = None
            self._announce()
        worker.process.exited.add_done_callback(lambda _: self._on_exit(worker))

    def abandon(self) -> None:
        """The first worker could not be prepared: whoever waits for the plugin hears that it is gone."""
        with self._book.lock:
            self._is_closed = True
            self.holder = None
            self._wake_everybody()

    def reset(self) -> None:
        """Forget all failures; leave quarantine or back-off and start a worker at once."""
        with self._book.lock:
            self._budget.clear()
            self._is_backing_off = False
            if self._is_quarantined and not self._is_closed:
                self._is_quarantined = False
                self._begin_start(0.0)
            self._changed.notify_all()

    def close(self, deadline: Deadline, farewell: Callable[[Worker], None]) -> None:
        """No more leases; wait for those that are out until ``deadline``, end what does not come back by then; the
        worker gets ``farewell`` and ends. Idempotent."""
        with self._book.lock:
            self._is_closed = True
            self._wake_everybody()
            self._changed.wait_for(self._is_at_rest, deadline.remaining_seconds())
            holder = self.holder
            for extra in self._extras:
                extra.process.kill()
        if holder is not None:
            holder.cancel()  # its own thread sees the worker die and ends it, or is just bringing it back alive
        with self._book.lock:
            self._changed.wait_for(self._is_at_rest, _LEAVE_SECONDS)
            worker = None
            if self.holder is None:
                worker, self._worker = self._worker, None
        if worker is not None:
            farewell(worker)
            worker.end(grace_seconds=_LEAVE_SECONDS)

    @property
    def state(self) -> State:
        with self._book.lock:
            if self._is_closed:
                return State.STOPPED
            if self._is_quarantined:
                return State.QUARANTINED
            if self._is_backing_off:
                return State.BACKING_OFF
            if self._worker is None:
                return State.STARTING
            return State.BUSY if self.holder is not None else State.READY

    @property
    def instance(self) -> int:
        """Which one the pool's own worker is. It stays the same as long as that is leased."""
        return self.restarts

    @property
    def worker_pids(self) -> tuple[int, ...]:
        with self._book.lock:
            return tuple(worker.pid for worker in (self._worker, *self._extras) if worker is not None)

    # --- inside (the lock is held, unless said otherwise) ---------------------------------------------------------

    def _is_at_rest(self) -> bool:
        return self.holder is None and not self._extras

    def _wait_turn(self, chain: Chain, deadline: Deadline) -> bool:
        """True when the worker is free and it is ``chain``'s turn; False when waiting would be for itself."""
        self._refuse_if_unusable(chain)
        if deadline.has_passed:  # a call that cannot finish would only cost a healthy worker
            raise self._waited_too_long(deadline)
        if self._is_free_for(chain):
            return True
        if self._book.would_deadlock(chain, self):
            return False
        self._queue.append(chain)
        chain.waiting_for = self
        try:
            while not self._is_free_for(chain):
                self._refuse_if_unusable(chain)
                if not chain.turn.wait(deadline.remaining_seconds()) and deadline.has_passed:
                    raise self._waited_too_long(deadline)
            return True
        finally:
            chain.waiting_for = None
            self._queue.remove(chain)
            self._announce()  # when this chain gives up, the next in the queue may be able to go

    def _is_free_for(self, chain: Chain) -> bool:
        is_first = not self._queue or self._queue[0] is chain
        return self._worker is not None and self.holder is None and is_first and not self._is_closed

    def _waited_too_long(self, deadline: Deadline) -> CallTimeout:
        return CallTimeout(self._plugin_id, "waiting for its worker", deadline.timeout_seconds, was_delivered=False)

    def _refuse_if_unusable(self, chain: Chain) -> None:
        if self._is_closed:
            raise SupervisorClosed(self._plugin_id)
        if self._is_quarantined:
            raise PluginQuarantined(self._plugin_id, self.last_failure or "unknown")
        if chain.is_cancelled:
            raise CallCancelled(self._plugin_id, "waiting for its worker")

    def _announce(self) -> None:
        """Something changed that the first in the queue, or ``close``, may have waited for."""
        if self._queue:
            self._queue[0].turn.notify()
        if self._is_closed:
            self._changed.notify_all()

    def _wake_everybody(self) -> None:
        for chain in self._queue:
            chain.turn.notify()
        self._changed.notify_all()

    def _acquire_extra(self, chain: Chain, deadline: Deadline, depth: int) -> Lease:
        """Without the lock: starting waits."""
        with self._book.lock:
            running = len(self._extras) + self._extra_starts
            if running >= self._max_extra_instances:
                raise ResourceLimitExceeded(
                    self._plugin_id,
                    f"the number of extra instances of plugin {self._plugin_id!r}",
                    running + 1,
                    self._max_extra_instances,
                    "call chains come back to it too often at once; raise calls.max_extra_instances if that is meant",
                )
            self._extra_starts += 1
        worker: Worker | None = None
        try:
            worker = self._start(chain, deadline, depth)
        finally:
            with self._book.lock:
                self._extra_starts -= 1
                if worker is not None:
                    self._extras.add(worker)
        return Lease(self, worker, is_extra=True)

    def _on_exit(self, worker: Worker) -> None:
        """Without the lock, in the thread that reads the zygote: the worker is dead. If it was idle, replace it here;
        if it is leased, its caller sees the same death and does it."""
        with self._book.lock:
            if self._worker is not worker or self.holder is not None or self._is_closed:
                return
            self._lose_idle(worker)
            self._announce()
        worker.end()

    def _lose_idle(self, worker: Worker) -> None:
        self._worker = None
        self._plan_restart(worker, f"{worker.process.exit_status(0)} while idle", counts=True)

    def _plan_restart(self, worker: Worker, failure: str, *, counts: bool) -> None:
        _log.warning("worker.lost", plugin=self._plugin_id, pid=worker.pid, cause=failure, counts=counts)
        self.last_failure = failure
        lived_seconds = time.monotonic() - worker.started_at
        self._after_failure(lived_seconds, worker.calls, counts=counts)

    def _after_failure(self, lived_seconds: float, calls: int, *, counts: bool) -> None:
        if self._is_closed:
            return
        delay_seconds = 0.0
        if counts:
            decision = self._budget.on_failure(time.monotonic(), lived_seconds=lived_seconds, calls=calls)
            if isinstance(decision, Quarantine):
                self._is_quarantined = True
                _log.error("plugin.quarantined", plugin=self._plugin_id, cause=self.last_failure)
                self._wake_everybody()
                return
            delay_seconds = decision.delay_seconds
        self._begin_start(delay_seconds)

    def _begin_start(self, delay_seconds: float) -> None:
        if self._is_starting:  # its thread goes round again
            return
        self._is_starting = True
        self._is_backing_off = delay_seconds > 0
        name = f"isoplug-start-{self._plugin_id}"
        try:
            threading.Thread(target=self._start_main, args=(delay_seconds,), name=name, daemon=True).start()
        except RuntimeError as error:  # no threads left, or the interpreter is ending
            self._is_starting = self._is_backing_off = False
            self._is_quarantined = True
            self.last_failure = f"its start could not begin: {error}"
            _log.error("plugin.quarantined", plugin=self._plugin_id, cause=self.last_failure)
            self._wake_everybody()

    def _start_main(self, delay_seconds: float) -> None:
        """Without the lock, in a thread of its own: a start takes as long as the guest's ``init`` does."""
        with self._book.lock:
            self._changed.wait_for(lambda: self._is_closed or not self._is_backing_off, delay_seconds)
            self._is_backing_off = False
            if self._is_closed:
                return
            chain = self.holder = Chain(self._book)
            self.restarts += 1
        worker: Worker | None = None
        failure = ""
        try:
            worker = self._start(chain, Deadline.after(self._start_timeout_seconds), 0)
        except PluginError as error:
            failure = str(error)
        except Exception as error:  # noqa: BLE001  a fault of ours must not leave the plugin "starting" for ever
            _log.exception("worker.start_failed", plugin=self._plugin_id)
            failure = f"{type(error).__name__}: {error}"
        with self._book.lock:
            is_wanted = not self._is_closed
            if is_wanted:
                self.holder = None
                self._is_starting = False
                if worker is not None:
                    self._worker = worker
                else:
                    _log.warning("worker.start_failed", plugin=self._plugin_id, cause=failure)
                    self.last_failure = failure
                    self._after_failure(0.0, 0, counts=True)
                self._announce()
        if not is_wanted:
            if worker is not None:
                worker.end()
            with self._book.lock:  # only now: ``close`` waits for it
                self.holder = None
                self._announce()
            return
        if worker is None:
            return
        _log.info("worker.restarted", plugin=self._plugin_id, pid=worker.pid)
        self._on_restarted()
        worker.process.exited.add_done_callback(lambda _: self._on_exit(worker))
