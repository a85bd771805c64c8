"""The loop that serves one call: send it, then answer the worker's host calls until the result comes.

It runs in the caller's thread, so that thread's stack is the call chain. It knows nothing of plugins, permissions or
host functions; ``serve`` does.
"""

from __future__ import annotations

from typing import assert_never

from isoplug.shared.limits import NOTICE_BYTES
from isoplug.shared.messages import (
    Answer,
    Failed,
    FailureKind,
    FromWorker,
    Hello,
    HostCall,
    Invoke,
    Loaded,
    LoadFailed,
    Notice,
    Returned,
)
from isoplug.supervisor.calls.interceptor import Serve, Wire
from isoplug.supervisor.calls.steps import AT_ONCE_BYTES, Steps
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool.budget import Budget
from isoplug.supervisor.pool.link import Breach, Link, Patience
from isoplug.supervisor.pool.worker import Worker

__all__ = ["exchange"]


def exchange(
    worker: Worker, wire: Wire, export: str, data: bytes, deadline: Deadline, serve: Serve, link: Link | None = None
) -> Steps[Returned | Failed]:
    """Call ``export`` with ``data`` in ``worker``, whose link is ``wire`` or behind it; ``serve`` answers host calls.
    With ``link``, which then is the wire, it pauses instead of waiting.

    Raises Silence at the deadline, Gone when the worker dies, Breach when it breaks the protocol, Exceeded when it goes
    beyond a limit, and what ``serve`` raises. After any of them the worker is in the middle of something and has to be
    ended.
    """
    call, budget = worker.next_call(), worker.budget
    sequence = 0
    patience = budget.begin()
    if link is not None and (len(data) > AT_ONCE_BYTES or patience is not None):
        yield None
    if link is None:
        wire.send(Invoke(call, export, data), deadline)
    elif rest := link.try_send(Invoke(call, export, data)):  # no honest worker has left anything unread
        yield None
        link.send_rest(rest, deadline)
    while True:
        if link is None:
            message = wire.receive(deadline, patience)
        else:
            message = yield from _paused(link, deadline, patience)
        match message:
            case Returned() | Failed():
                if message.call != call:
                    raise Breach("it answered another call")
                worker.idleness.begin()
                return _within_limits(message, budget)
            case HostCall():
                sequence += 1
                if (message.call, message.sequence) != (call, sequence):
                    raise Breach("it numbered a host call wrongly")
                budget.host_call(message.function)
                wire.send(Answer(call, sequence, serve(message.function, message.payload)), deadline)
            case Notice():
                if message.call != call:
                    raise Breach("it sent a notice for another call")
                if len(message.payload) > NOTICE_BYTES:
                    raise Breach(f"it sent a notice of {len(message.payload)} bytes, {NOTICE_BYTES} is the limit")
                budget.host_call(message.function)
                serve(message.function, message.payload)
            case Hello() | Loaded() | LoadFailed():
                raise Breach(f"it sent {type(message).__name__} in the middle of a call")
            case _:
                assert_never(message)


def _paused(link: Link, deadline: Deadline, patience: Patience | None) -> Steps[FromWorker]:
    """The next message. Whatever is no short answer goes on in a thread."""
    yield link
    message = link.try_receive()
    if not isinstance(message, Returned) or len(message.output) > AT_ONCE_BYTES:
        yield None
    return link.receive(deadline, patience) if message is None else message


def _within_limits(outcome: Returned | Failed, budget: Budget) -> Returned | Failed:
    """Raises Exceeded, and Breach for a limit that there is not."""
    if isinstance(outcome, Returned):
        budget.output(len(outcome.output))
    elif outcome.kind == FailureKind.LIMIT:
        try:
            raise budget.told(outcome.text, outcome.figure)
        except KeyError:
            raise Breach("it came to a limit that there is not") from None
    return outcome
