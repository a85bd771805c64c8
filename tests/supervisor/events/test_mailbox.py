"""The mailbox where events do not lead: pausing, resuming, and taking items out again."""

from __future__ import annotations

import threading

from conftest import WAIT_SECONDS, wait_until
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.events import Mailbox, Paused


def test_a_paused_item_stays_the_first_and_nothing_is_delivered_until_it_is_resumed() -> None:
    delivered, is_ready = list[str](), threading.Event()

    def deliver(item: str) -> None:
        if not is_ready.is_set():
            raise Paused
        delivered.append(item)

    mailbox = Mailbox("a.plugin", deliver, bound=10)
    assert mailbox.post("one")
    assert not mailbox.flush(Deadline.after(WAIT_SECONDS))
    assert mailbox.post("two")
    is_ready.set()
    assert not mailbox.flush(Deadline.after(WAIT_SECONDS))
    assert delivered == []
    mailbox.resume()
    wait_until(lambda: delivered == ["one", "two"])


def test_a_resumption_that_comes_just_before_the_pause_is_not_lost() -> None:
    delivered = list[str]()

    def deliver(item: str) -> None:
        delivered.append(item)
        if len(delivered) == 1:
            mailbox.resume()
            raise Paused

    mailbox = Mailbox("a.plugin", deliver, bound=10)
    mailbox.post("one")
    wait_until(lambda: delivered == ["one", "one"])


def test_a_mailbox_that_is_closed_while_it_is_paused_delivers_nothing_any_more() -> None:
    delivered = list[str]()

    def deliver(item: str) -> None:
        delivered.append(item)
        raise Paused

    mailbox = Mailbox("a.plugin", deliver, bound=10)
    mailbox.post("one")
    assert not mailbox.flush(Deadline.after(WAIT_SECONDS))
    mailbox.close()
    mailbox.resume()
    assert not mailbox.post("two")
    assert mailbox.flush(Deadline.after(WAIT_SECONDS))
    assert delivered == ["one"]


def test_what_is_taken_out_again_is_not_delivered() -> None:
    delivered, may_go_on = list[int](), threading.Event()

    def deliver(item: int) -> None:
        may_go_on.wait(WAIT_SECONDS)
        delivered.append(item)

    mailbox = Mailbox("a.plugin", deliver, bound=10)
    for number in range(6):
        mailbox.post(number)
    wait_until(lambda: mailbox.discard(lambda number: number == 1) == [1])
    assert mailbox.discard(lambda number: number % 2 == 1) == [3, 5]
    may_go_on.set()
    wait_until(lambda: delivered == [0, 2, 4])
