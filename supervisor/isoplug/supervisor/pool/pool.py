"""The workers of one plugin: lending them, losing them, replacing them.

What is there is written down in four places, each of one idea: ``Crew`` (regular workers and their starts), ``Extras``
(instances for chains that would wait for themselves), ``Turns`` (who waits), ``Farewells`` (who goes). ``Pool.state``
is derived from them, never stored. All of it is guarded by the lease book's lock; starting and ending processes, and
observers, come outside it, because they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from enum import StrEnum

from isoplug.shared.errors import (
    CallCancelled,
    CallTimeout,
    LoadError,
    PluginQuarantined,
    SetupError,
    SupervisorClosed,
)
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.observe.status import resources_of
from isoplug.supervisor.pool.crew import Crew, StartUnderWay
from isoplug.supervisor.pool.deadlock import is_stuck
from isoplug.supervisor.pool.extras import Extras
from isoplug.supervisor.pool.farewells import LEAVE_SECONDS, Farewell, Farewells
from isoplug.supervisor.pool.keeper import Keeper
from isoplug.supervisor.pool.lease import Chain, Lease, LeaseBook
from isoplug.supervisor.pool.member import Member
from isoplug.supervisor.pool.policy import ExitReason, Loss, Quarantine, Restart, RestartBudget
from isoplug.supervisor.pool.recruiter import Recruiter, Start
from isoplug.supervisor.pool.settings import PoolSettings
from isoplug.supervisor.pool.turns import Turns
from isoplug.supervisor.pool.worker import Worker

__all__ = ["Pool", "PoolClosed", "State"]

_log = get_logger(__name__)

#: Between two looks at the workers: what they do while they are idle, and their memory when there is a bound on it. The
#: longer nobody has asked them anything, the rarer, within these bounds. All pools look at the same instants, full
#: seconds, so that an idle supervisor wakes up once for all of them.
_LOOK_SECONDS, _RARE_LOOK_SECONDS = 1.0, 5.0
#: The next look comes when they have been quiet for so much longer.
_LOOK_SHARE = 0.2
#: Until a start is tried again that the machine had no thread for.
_NO_THREAD_SECONDS = 1.0


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    BACKING_OFF = "backing_off"
    ASLEEP = "asleep"  #: no worker, until somebody asks for one
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


class PoolClosed(SupervisorClosed):
    """This pool lends nothing any more, or not now; the plugin may have another one, to which the call can go."""


class Pool:
    """Thread-safe. ``start`` makes workers, ``farewell`` tells them that they end.

    ``on_lost`` hears of the end of each regular worker and of each start that failed, ``on_restarted`` of each new
    regular one but the first; both are called in whatever thread noticed, and must not wait.

    A pool whose workers were idle for ``sleep_after_seconds`` falls asleep, unless it ``is_needed``: they get their
    farewell, and so does what they were forked from (``retire``: see ``Template.retire``). Whoever asks for a worker
    wakes it. Both are called with the book's lock held.
    """

    def __init__(
        self,
        plugin_id: str,
        settings: PoolSettings,
        start: Start,
        farewell: Farewell,
        book: LeaseBook,
        keeper: Keeper,
        *,
        on_lost: Callable[[Loss], None] = lambda _: None,
        on_restarted: Callable[[], None] = lambda: None,
        is_needed: Callable[[], bool] = lambda: False,
        retire: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> None:
        self._plugin_id = plugin_id
        self._settings = settings
        self._start = start
        self._book = book
        self._keeper = keeper
        self._on_lost = on_lost
        self._on_restarted = on_restarted
        self._is_needed = is_needed
        self._retire = retire
        #: Ends what the workers of before were forked from, once they have had their farewell.
        self._retired: list[Callable[[], None]] = []
        self._is_seeing_off = False  #: a thread says the farewells
        self._changed = threading.Condition(book.lock)
        self._budget = RestartBudget(settings.restart)
        self._crew = Crew(settings.workers)
        self._extras = Extras(plugin_id, settings.max_extra_instances, settings.extra_idle_seconds)
        self._recruiter = Recruiter(
            plugin_id,
            start,
            settings.start_timeout_seconds,
            book,
            self._changed,
            self._crew,
            self._wants_starts,
            self._start_ended,
        )
        self._turns = Turns(plugin_id, settings.queue)
        self._farewells = Farewells(book.lock, self._changed, farewell, settings.shutdown_timeout_seconds)
        #: Lent, and no longer of the crew: they go when they are given back.
        self._outgoing: set[Member] = set()
        self._is_quarantined = False
        self._is_standing_by = False
        self._is_asleep = False  #: then there are no workers, and no starts
        self._is_closed = False
        #: Closing has ended: what comes back now, nobody else will end.
        self._is_over = False
        #: There was a worker: what fails now, has worked.
        self._has_run = False
        #: The number of the newest regular worker: by it one learns that the plugin has a new one.
        self.instance = 0
        self.last_failure: str | None = None

    # --- for callers ----------------------------------------------------------------------------------------------

    def acquire(self, chain: Chain, deadline: Deadline, depth: int) -> Lease:
        """Lend a worker to ``chain``, first come first served; waits while all are busy or starting.

        A chain that would wait for itself gets an extra instance instead. Raises PluginBusy, PluginQuarantined, for a
        plugin whose first start failed LoadError, PoolClosed, CallTimeout, CallCancelled, ResourceLimitExceeded,
        SetupError, and what starting an extra instance raises. When it raises, or is interrupted, nothing is lent.
        """
        while True:
            lease = Lease(self, chain)
            try:
                if not self._lend_regular(lease, chain, deadline):
                    self._lend_extra(lease, chain, deadline, depth)
                if lease.worker.is_fit():
                    return lease
            except BaseException:
                lease.release(has_served=False)
                raise
            if misdeed := lease.worker.misdeed():
                lease.discard(Loss(ExitReason.BREACH, misdeed))
            elif not lease.worker.process.is_dying():
                lease.discard(Loss(ExitReason.BREACH, "it closed its socket"))
            else:
                lease.discard(Loss.of(lease.worker.process.exit_status(), "while idle"))

    def try_acquire(self, chain: Chain, deadline: Deadline) -> Lease | None:
        """As ``acquire``, without waiting: None when no worker is free, or when the one that is has to be replaced."""
        lease = Lease(self, chain)
        try:
            with self._book.lock:
                is_lent = self._lend_free(lease, chain, deadline)
            if is_lent and lease.worker.is_fit():
                return lease
        except BaseException:
            lease.release(has_served=False)
            raise
        lease.release(has_served=False)
        return None

    # Giving back wakes the next caller first of all, which gets the lock afterwards: an interrupt (Ctrl-C) of this
    # thread in between must not leave it waiting.

    def take_back(self, member: Member, *, has_served: bool) -> None:
        """For leases."""
        loss: Loss | None = None
        with self._book.lock:
            self._announce()
            member.holder = None
            member.calls += has_served
            is_too_late = self._is_over
            if is_too_late:
                self._crew.remove(member)
            elif member.is_out:
                self._outgoing.discard(member)
                self._send_away(member.worker)
            elif member.worker.process.has_exited and not self._is_closed:
                # A death during the lease is its holder's to notice (``_on_exit`` left it alone): this is the last
                # chance.
                loss = Loss.of(member.worker.process.exit_status(0), "while idle")
                self._lose(member, loss)
            elif why := self._settings.recycle.reason(member.calls):
                self._recycle(member, why)
        if is_too_late or loss is not None:
            member.worker.end()
        if loss is not None:
            self._on_lost(loss)

    def replace(self, member: Member, loss: Loss) -> None:
        """For leases: its worker has ended; start another, when the budget allows one."""
        with self._book.lock:
            self._announce()
            member.holder = None
            self._outgoing.discard(member)
            self._lose(member, loss)
        self._on_lost(loss)

    def take_back_extra(self, member: Member) -> None:
        """For leases: keep it warm for the next chain that would wait for itself."""
        with self._book.lock:
            self._announce()
            is_too_late = self._is_over
            is_kept = self._extras.put_back(member, time.monotonic())
            if is_too_late:
                self._extras.remove(member)
            elif is_kept:
                self._plan_visit()
            else:
                self._send_away(member.worker)
        if is_too_late:
            member.worker.end()

    def give_up(self, chain: Chain) -> None:
        """For leases: ``chain`` was lent nothing, and neither waits nor starts anything any more."""
        with self._book.lock:
            self._extras.end_start(chain)
            self._turns.leave(chain)
            self._announce()  # the next in the queue may be able to go

    def drop_extra(self, member: Member) -> None:
        """For leases: its worker has ended, which costs nobody anything."""
        with self._book.lock:
            self._announce()
            member.holder = None
            self._extras.remove(member)

    # --- for the supervisor ---------------------------------------------------------------------------------------

    def reserve(self, chain: Chain) -> None:
        """The loader is about to prepare the first worker as part of ``chain``; callers wait for ``adopt``."""
        with self._book.lock:
            self._crew.starts.append(StartUnderWay(chain))

    def begin_asleep(self) -> None:
        """There is no first worker yet: whoever asks for one has it started. When that fails by the plugin's fault, it
        is not tried again before ``reset``, as with one that cannot be loaded."""
        with self._book.lock:
            self._is_asleep = True

    def adopt(self, worker: Worker) -> None:
        """The worker that the loader has started and prepared becomes the pool's first; the others, if there are to be
        more, are started in the background."""
        with self._book.lock:
            self._crew.starts.clear()
            is_too_late = self._is_over
            member = self._join(worker)
            if is_too_late:
                self._crew.remove(member)
            else:
                self._start_missing()
            self._announce()
        if is_too_late:
            worker.end()
        else:
            self._watch(member)

    def abandon(self) -> None:
        """The first worker could not be prepared: whoever waits for the plugin hears that it is gone."""
        with self._book.lock:
            self._is_closed = self._is_over = True
            self._crew.starts.clear()
            self._wake_everybody()

    def reset(self) -> None:
        """Forget all failures; leave quarantine or back-off and start workers at once."""
        with self._book.lock:
            self._budget.clear()
            self._is_quarantined = False
            for start in self._crew.starts:
                start.is_waiting = False
            self._start_missing()
            self._changed.notify_all()

    def pardon(self, fingerprint: str) -> None:
        """The deaths that this input caused do not count any more: it was set aside. See ``RestartBudget.pardon``."""
        with self._book.lock:
            self._budget.pardon(fingerprint, time.monotonic())

    def renew(self, told: int | None = None) -> None:
        """The plugin's configuration has changed. The instance ``told`` knows, all others are replaced as soon as they
        are free, and serve no further call."""
        with self._book.lock:
            for start in self._crew.starts:
                start.is_outdated = start.chain is not None
            for member in [member for member in self._crew.members if member.instance != told]:
                self._take_out(member)
            for extra in self._extras.outdate():
                self._send_away(extra.worker)
            self._start_missing()
            self._announce()

    def stand_by(self) -> None:
        """Lend nothing and start nothing until ``take_over``: whoever waits gets PoolClosed. What is lent comes back,
        and stays."""
        with self._book.lock:
            self._is_standing_by = True
            self._wake_everybody()

    def take_over(self) -> None:
        """The end of ``stand_by``."""
        with self._book.lock:
            self._is_standing_by = False
            self._start_missing()
            self._announce()

    def close(self, deadline: Deadline) -> None:
        """No more leases; wait for those that are out until ``deadline``, end what does not come back by then; the
        workers that do get their farewell and end. Idempotent."""
        with self._book.lock:
            self._is_closed = self._farewells.is_closing = True
            self._wake_everybody()
            self._changed.wait_for(self._is_at_rest, deadline.remaining_seconds())
            chains = (*self.holders, *self._extras.starting, *(member.holder for member in self._outgoing))
            for extra in self._extras.lent:
                extra.worker.process.kill()
            self._farewells.hurry()
        for chain in chains:
            if chain is not None:
                chain.cancel()  # its own thread sees the worker die and ends it, or is just bringing it back alive
        with self._book.lock:
            self._changed.wait_for(self._is_at_rest, LEAVE_SECONDS)
            self._is_over = True
            leaving = [member for member in (*self._crew.members, *self._extras.warm) if member.holder is None]
            for member in leaving:
                self._crew.remove(member)
                self._extras.remove(member)
            workers = [*(member.worker for member in leaving), *self._farewells.take_waiting()]
            retired, self._retired = self._retired, []
        self._keeper.forget(self)
        with ExitStack() as goodbyes:  # a second Ctrl-C ends one farewell, not the cleaning up
            for end in retired:
                goodbyes.callback(end)  # after the farewells, which are said from the last one on
            for worker in workers:
                goodbyes.callback(self._farewells.say, worker, deadline)

    @property
    def state(self) -> State:
        with self._book.lock:
            if self._is_closed:
                return State.STOPPED
            if self._is_quarantined:
                return State.QUARANTINED
            if self._crew.members:
                return State.BUSY if self._crew.free() is None else State.READY
            if self._is_asleep:
                return State.ASLEEP
            starts = self._crew.starts
            return State.BACKING_OFF if starts and all(start.is_waiting for start in starts) else State.STARTING

    @property
    def restarts(self) -> int:
        return self._crew.restarts

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Of all that run, the regular ones first."""
        with self._book.lock:
            members = (*self._crew.members, *self._outgoing, *self._extras.members)
            return tuple(worker.pid for worker in (*(m.worker for m in members), *self._farewells.processes()))

    # --- for ``is_stuck`` (the lock is held) ----------------------------------------------------------------------

    @property
    def is_moving(self) -> bool:
        return self._crew.is_moving

    @property
    def holders(self) -> Iterable[Chain]:
        return self._crew.holders

    # --- for the keeper -------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Recycle what is due, end what did not keep still, and what was idle for long, begin to say the farewells that
        wait."""
        self._end_restless()
        sizes = self._measure()
        with self._book.lock:
            now = time.monotonic()
            for extra in self._extras.expired(now):
                self._farewells.add(extra.worker)
            for member in tuple(self._crew.members):
                age_seconds = now - member.worker.started_at
                if why := self._settings.recycle.reason(member.calls, age_seconds, sizes.get(member, 0)):
                    self._recycle(member, why)
            self._start_missing()
            if self._may_sleep(now):
                self._fall_asleep()
            self._plan_visit()
            is_to_part = (self._farewells.waiting or self._retired) and not self._is_seeing_off
            self._is_seeing_off |= bool(is_to_part)
        if is_to_part:
            self._part()

    def _part(self) -> None:
        """In a thread of its own: a guest may take all the time that it gets for its goodbye, and no other plugin is to
        wait for that."""
        try:
            threading.Thread(target=self._see_off, name=f"isoplug-farewell-{self._plugin_id}", daemon=True).start()
        except RuntimeError:  # no threads left, or the interpreter is ending
            self._see_off()

    def _see_off(self) -> None:
        while True:
            self._farewells.say_all()
            with self._book.lock:
                # Whoever closes has taken over the farewells, and what comes after them.
                if self._farewells.is_closing or not (self._farewells.waiting or self._retired):
                    self._is_seeing_off = False
                    return
                retired: list[Callable[[], None]] = []
                if not self._farewells.waiting:
                    retired, self._retired = self._retired, []
            for end in retired:
                end()

    def _may_sleep(self, now: float) -> bool:
        """With the lock held."""
        seconds = self._settings.sleep_after_seconds
        is_due = seconds and self._crew.members and now - self._asked_at(now) >= seconds
        if not is_due or self._is_closed or self._is_standing_by:
            return False
        return self._is_at_rest() and self._turns.is_empty and not self._is_needed()

    def _fall_asleep(self) -> None:
        """With the lock held. Whoever asks for a worker from now on gets one of another process than those that leave,
        and waits for none of their farewells."""
        self._is_asleep = True
        for member in tuple(self._crew.members):
            self._crew.remove(member)
            self._farewells.add(member.worker)
        for extra in self._extras.outdate():
            self._farewells.add(extra.worker)
        self._retired.append(self._retire())
        _log.info("plugin.asleep", plugin=self._plugin_id)

    def _end_restless(self) -> None:
        """Idle workers that send, or compute, although nobody has asked them anything."""
        with self._book.lock:
            idle = [member for member in self._crew.members if member.holder is None]
            caught = [(member, misdeed) for member in idle if (misdeed := member.worker.misdeed())]
            losses = [(member, Loss(ExitReason.BREACH, misdeed)) for member, misdeed in caught]
            for member, loss in losses:
                self._lose(member, loss)
            extras = [member for member in self._extras.warm if member.worker.misdeed()]
            for member in extras:
                self._extras.remove(member)
            self._announce()
        for member in extras:
            member.worker.end()
        for member, loss in losses:
            member.worker.end()
            self._on_lost(loss)

    def _measure(self) -> dict[Member, int]:
        """Resident bytes of the regular workers, when there is a bound on them."""
        if not self._settings.recycle.memory_bytes:
            return {}
        with self._book.lock:
            members = tuple(self._crew.members)
        return {member: resources_of([member.worker.pid])[0] for member in members}

    def _plan_visit(self) -> None:
        """With the lock held."""
        recycle, now = self._settings.recycle, time.monotonic()
        instants = [self._extras.next_expiry]
        staying = [member for member in self._crew.members if not member.leaves_because]
        if recycle.age_seconds:
            instants += [member.worker.started_at + recycle.age_seconds for member in staying]
        if self._crew.members or self._extras.warm:
            asked_at = self._asked_at(now)
            instants.append(self._next_look(now, asked_at))
            if self._settings.sleep_after_seconds:
                sleeps_at = asked_at + self._settings.sleep_after_seconds
                instants.append(sleeps_at if sleeps_at > now else None)  # it was not let: the next look is soon enough
        due = [instant for instant in instants if instant is not None]
        if due and not self._is_closed:
            self._keeper.visit(self, min(due))

    def _asked_at(self, now: float) -> float:
        """When the last call ended: now, while there is one. With the lock held, and there are workers."""
        members = (*self._crew.members, *self._extras.warm)
        return max(now if member.holder else member.worker.quiet_since for member in members)

    def _next_look(self, now: float, asked_at: float) -> float:
        pause_seconds = max(_LOOK_SECONDS, min(_RARE_LOOK_SECONDS, (now - asked_at) * _LOOK_SHARE))
        return (now + pause_seconds) // _LOOK_SECONDS * _LOOK_SECONDS

    # --- lending --------------------------------------------------------------------------------------------------

    def _lend_regular(self, lease: Lease, chain: Chain, deadline: Deadline) -> bool:
        """Without the lock, as it waits. False when waiting would be for the chain itself. When it raises, ``give_up``
        takes the chain out of the queue."""
        while True:
            with self._book.lock:
                if self._lend_free(lease, chain, deadline):
                    return True
                if chain.waiting_for is None:
                    if is_stuck(chain, self):
                        return False
                    self._turns.join(chain, self)
            chain.turn.wait(deadline.remaining_seconds())

    # From here on with the lock held, unless they say otherwise.

    def _lend_free(self, lease: Lease, chain: Chain, deadline: Deadline) -> bool:
        """Whether a worker is free, and it is the chain's turn: then it is lent."""
        self._refuse_if_unusable(chain)
        if deadline.has_passed:  # a call that cannot finish would only cost a healthy worker
            raise self._waited_too_long(deadline)
        if (member := self._free_for(chain)) is None:
            return False
        self._turns.leave(chain)
        lease.take(member, is_extra=False)
        self._announce()  # the next in the queue may be able to go as well
        return True

    def _free_for(self, chain: Chain) -> Member | None:
        return self._crew.free() if self._turns.is_next(chain) else None

    def _refuse_if_unusable(self, chain: Chain) -> None:
        if self._is_closed or self._is_standing_by:
            raise PoolClosed(self._plugin_id)
        if self._is_quarantined:
            raise self._quarantined()
        if chain.is_cancelled:
            raise CallCancelled(self._plugin_id, "waiting for its worker")
        if not self._crew.members and not self._crew.starts:
            self._is_asleep = False
            self._start_missing()
            if not self._crew.starts:
                raise SetupError(
                    f"plugin {self._plugin_id!r} has no worker, and {self.last_failure}; free processes",
                    plugin_id=self._plugin_id,
                )

    def _quarantined(self) -> PluginQuarantined | LoadError:
        if self._has_run:
            return PluginQuarantined(self._plugin_id, self.last_failure or "unknown")
        return LoadError(
            f"{self.last_failure}; mend it and reload the plugins, or reset({self._plugin_id!r}) to try again",
            plugin_id=self._plugin_id,
        )

    def _waited_too_long(self, deadline: Deadline) -> CallTimeout:
        return CallTimeout(self._plugin_id, "waiting for its worker", deadline.timeout_seconds)

    def _lend_extra(self, lease: Lease, chain: Chain, deadline: Deadline, depth: int) -> None:
        """Without the lock: starting waits."""
        with self._book.lock:
            self._refuse_if_unusable(chain)
            member = self._extras.next_warm()
            if member is not None:
                lease.take(member, is_extra=True)
                self._extras.lend(member)
                return
            self._extras.begin_start(chain)
        member = Member(self._start(chain, deadline, depth), self._book.next_instance())
        with self._book.lock:
            lease.take(member, is_extra=True)
            self._extras.end_start(chain, member)
        member.worker.process.exited.add_done_callback(lambda _: self._on_extra_exit(member))

    def _announce(self) -> None:
        """Something changed that the first in the queue, or ``close``, may have waited for."""
        self._turns.call_next()
        if self._is_closed:
            self._changed.notify_all()

    def _wake_everybody(self) -> None:
        self._turns.call_all()
        self._changed.notify_all()

    # --- losing ---------------------------------------------------------------------------------------------------

    def _on_exit(self, member: Member) -> None:
        """Without the lock, in the hub's thread: the worker is dead. If it was idle, replace it here; if it is lent,
        its caller sees the same death and does it."""
        with self._book.lock:
            if member.is_out or member.holder is not None or self._is_closed:
                return
            loss = Loss.of(member.worker.process.exit_status(0), "while idle")
            self._lose(member, loss)
            self._announce()
        member.worker.end()
        self._on_lost(loss)

    def _on_extra_exit(self, member: Member) -> None:
        """Without the lock, as ``_on_exit``."""
        with self._book.lock:
            if member not in self._extras.warm or self._is_closed:
                return
            self._extras.remove(member)
        member.worker.end()

    def _lose(self, member: Member, loss: Loss) -> None:
        worker = member.worker
        self._crew.remove(member)
        _log.warning("worker.lost", plugin=self._plugin_id, pid=worker.pid, cause=loss.text, reason=loss.reason.value)
        self._after_loss(loss, time.monotonic() - worker.started_at, member.calls)

    def _after_loss(self, loss: Loss, lived_seconds: float, calls: int) -> None:
        self.last_failure = loss.text
        if self._is_closed:
            return
        match self._budget.on_exit(loss, time.monotonic(), lived_seconds=lived_seconds, calls=calls):
            case Quarantine():
                self._quarantine()
            case Restart(delay_seconds):
                self._start_missing(delay_seconds, is_restart=True)

    def _quarantine(self) -> None:
        """Nothing of the plugin runs any more, as under OTP's supervisors when the intensity is exceeded."""
        self._is_quarantined = True
        _log.error("plugin.quarantined", plugin=self._plugin_id, cause=self.last_failure)
        for member in tuple(self._crew.members):
            self._take_out(member)
        for extra in self._extras.outdate():
            self._send_away(extra.worker)
        self._wake_everybody()

    def _recycle(self, member: Member, why: str) -> None:
        """Start its successor; until that is there, it serves on."""
        if not member.leaves_because:
            member.leaves_because = why
            self._start_missing()

    def _take_out(self, member: Member) -> None:
        """It serves nobody any more, and goes: now when it is free, else when it comes back."""
        self._crew.remove(member)
        if member.holder is None:
            self._send_away(member.worker)
        else:
            self._outgoing.add(member)

    def _send_away(self, worker: Worker) -> None:
        self._farewells.add(worker)
        self._keeper.visit(self)

    def _is_at_rest(self) -> bool:
        is_lent = any(member.holder is not None for member in self._crew.members) or self._outgoing
        is_going = self._farewells.parting
        return not is_lent and not is_going and not self._crew.starts and self._extras.is_at_rest

    # --- starting -------------------------------------------------------------------------------------------------

    def _wants_starts(self) -> bool:
        return not (self._is_closed or self._is_quarantined or self._is_standing_by or self._is_asleep)

    def _start_missing(self, delay_seconds: float = 0.0, *, is_restart: bool = False) -> None:
        while self._wants_starts() and self._crew.missing > 0:
            start = StartUnderWay(is_restart=is_restart, is_waiting=delay_seconds > 0)
            try:
                self._crew.starts.append(start)
                self._recruiter.begin(start, delay_seconds)
            except RuntimeError as error:
                self._crew.starts.remove(start)
                self.last_failure = f"its start could not begin: {error}"
                _log.error("worker.start_failed", plugin=self._plugin_id, cause=self.last_failure)
                self._wake_everybody()  # who waits tries once more, and hears why
                self._keeper.visit(self, time.monotonic() + _NO_THREAD_SECONDS)
                return
            except BaseException:  # an interrupt (Ctrl-C) of this thread: nobody knows whether the other one runs
                with suppress(ValueError):
                    self._crew.starts.remove(start)
                self._keeper.visit(self)
                raise

    def _start_ended(self, start: StartUnderWay, outcome: Worker | Loss | None) -> None:
        """Without the lock, in the thread of the start."""
        match outcome:
            case Worker():
                self._started(start, outcome)
            case Loss():
                self._start_failed(start, outcome)
            case None:
                with self._book.lock:
                    self._crew.starts.remove(start)
                    self._announce()

    def _start_failed(self, start: StartUnderWay, loss: Loss) -> None:
        """Without the lock."""
        with self._book.lock:
            self._crew.starts.remove(start)
            if self._wants_starts():
                reason = loss.reason.value
                _log.warning("worker.start_failed", plugin=self._plugin_id, cause=loss.text, reason=reason)
                if self._has_run or not loss.reason.counts:
                    self._after_loss(loss, 0.0, 0)
                else:
                    self.last_failure = loss.text
                    self._quarantine()
            self._announce()
        self._on_lost(loss)

    def _started(self, start: StartUnderWay, worker: Worker) -> None:
        """Without the lock."""
        with self._book.lock:
            is_wanted = self._wants_starts() and not start.is_outdated
            if is_wanted:
                self._crew.starts.remove(start)
                member = self._join(worker)
                gone = [self._let_go(other) for other in self._crew.surplus()]
                self._announce()
        if not is_wanted:
            self._undo_start(start, worker)
            return
        _log.info("worker.started", plugin=self._plugin_id, pid=worker.pid)
        self._watch(member)
        self._on_restarted()
        for loss in gone:
            self._on_lost(loss)

    def _undo_start(self, start: StartUnderWay, worker: Worker) -> None:
        """Without the lock: nobody wants the worker any more, or it was configured before a change."""
        worker.end()
        with self._book.lock:  # only now: ``close`` waits for it
            self._crew.starts.remove(start)
            self._start_missing()
            self._announce()

    def _let_go(self, member: Member) -> Loss:
        """Its successor is there."""
        self._take_out(member)
        loss = Loss(ExitReason.RECYCLED, member.leaves_because)
        _log.info("worker.recycled", plugin=self._plugin_id, pid=member.worker.pid, cause=loss.text)
        now = time.monotonic()
        self._budget.on_exit(loss, now, lived_seconds=now - member.worker.started_at, calls=member.calls)
        return loss

    def _join(self, worker: Worker) -> Member:
        member = Member(worker, self._book.next_instance())
        self._has_run = True
        self._crew.members.append(member)
        self.instance = member.instance
        self._plan_visit()
        return member

    def _watch(self, member: Member) -> None:
        """Without the lock: when the worker is dead by now, it is lost at once."""
        member.worker.process.exited.add_done_callback(lambda _: self._on_exit(member))
