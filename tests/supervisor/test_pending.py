"""A result that one thread gives: others wait for it, hear of it, and may be interrupted anywhere in doing so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from conftest import WAIT_SECONDS, wait_until
from interrupts import interrupted_at
from isoplug.supervisor.pending import Pending


def test_everybody_who_waits_gets_the_result() -> None:
    pending = Pending[str]()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(pending.result, WAIT_SECONDS) for _ in range(4)]
        wait_until(lambda: len(pending._bells) == 4)
        pending.set_result("it")
        assert [one.result() for one in waiting] == ["it"] * 4
    assert pending.done()
    assert pending.result() == "it"
    assert not pending._bells


def test_what_it_failed_with_is_raised_in_everybody_who_asks() -> None:
    pending = Pending[str]()
    pending.set_exception(KeyError("k"))
    assert isinstance(pending.exception(), KeyError)
    for _ in range(2):
        with pytest.raises(KeyError):
            pending.result(WAIT_SECONDS)


def test_a_wait_ends_at_its_timeout_and_leaves_nothing() -> None:
    pending = Pending[str]()
    for seconds in (0.0, 0.01):
        with pytest.raises(TimeoutError):
            pending.result(seconds)
    assert not pending._bells
    assert not pending.done()
    assert pending.exception() is None


def test_who_listens_is_called_once_whenever_it_asked_and_a_fault_of_one_is_nothing_to_the_others() -> None:
    pending, heard = Pending[str](), list[str]()

    def fail(_: Pending[str]) -> None:
        raise RuntimeError("mine")

    pending.add_done_callback(fail)
    pending.add_done_callback(lambda one: heard.append(f"before {one.result()}"))
    pending.set_result("it")
    pending.add_done_callback(fail)
    pending.add_done_callback(lambda one: heard.append(f"after {one.result()}"))
    assert heard == ["before it", "after it"]


@pytest.mark.parametrize(
    "ask",
    [lambda one: one.result(0.01), lambda one: one.done(), lambda one: one.add_done_callback(lambda _: None)],
    ids=["waiting", "looking", "listening"],
)
def test_an_interrupt_anywhere_in_asking_is_nothing_to_whoever_gives_the_result(
    ask: Callable[[Pending[str]], object],
) -> None:
    for number in range(1, 25):  # more places than there are
        pending = Pending[str]()
        with suppress(KeyboardInterrupt, TimeoutError), interrupted_at(number):
            ask(pending)
        giver = threading.Thread(target=pending.set_result, args=("it",), daemon=True)
        giver.start()
        giver.join(WAIT_SECONDS)
        assert pending.result() == "it"
