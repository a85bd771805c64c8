"""The keeper comes when it was asked to, to one pool after the other, in one thread that is there only while needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import wait_until
from isoplug.supervisor.pool import Keeper


class Tended:
    """What it is told to do at each visit; the names of the threads that came."""

    def __init__(self, do: Callable[[], None] = lambda: None) -> None:
        self.visits: list[str] = []
        self._do = do

    def tend(self) -> None:
        self.visits.append(threading.current_thread().name)
        self._do()


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "isoplug-keeper"]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.close()


def test_it_comes_once_for_each_time_that_it_was_asked(keeper: Keeper) -> None:
    tended = Tended()
    for number in range(1, 4):
        keeper.visit(tended)
        wait_until(lambda number=number: len(tended.visits) == number)
        wait_until(lambda: not keepers())
    assert set(tended.visits) == {"isoplug-keeper"}


def test_one_thread_serves_all_and_ends_when_nothing_is_due(keeper: Keeper) -> None:
    many, last = [Tended() for _ in range(20)], Tended()
    now = time.monotonic()
    keeper.visit(last, now + 600.0)  # or the thread may be about to end when the next one asks for a visit
    for number, tended in enumerate(many):
        keeper.visit(tended, now + 0.005 * number)
        assert len(keepers()) == 1
    wait_until(lambda: all(tended.visits for tended in many))
    keeper.forget(last)
    wait_until(lambda: not keepers())


def test_the_earliest_of_several_instants_counts(keeper: Keeper) -> None:
    has_asked = threading.Event()
    busy, tended = Tended(lambda: wait_until(has_asked.is_set)), Tended()
    keeper.visit(busy)  # nobody is visited before all have been asked for: the last one would be a visit of its own
    for at in (time.monotonic() + 600.0, time.monotonic(), time.monotonic() + 600.0):
        keeper.visit(tended, at)
    has_asked.set()
    wait_until(lambda: tended.visits)
    wait_until(lambda: not keepers())  # the later instants are forgotten


def test_many_that_are_due_at_one_instant_come_in_the_order_in_which_they_asked(keeper: Keeper) -> None:
    order: list[int] = []
    at = time.monotonic() + 0.05
    many = [Tended(lambda number=number: order.append(number)) for number in range(50)]
    for tended in many:
        keeper.visit(tended, at + 600.0)
    for tended in many:
        keeper.visit(tended, at)  # the later instants are forgotten
    wait_until(lambda: len(order) == len(many))
    assert order == list(range(50))
    wait_until(lambda: not keepers())


def test_a_visit_may_ask_for_the_next_one(keeper: Keeper) -> None:
    tended = Tended(lambda: keeper.visit(tended, time.monotonic()) if len(tended.visits) < 5 else None)
    keeper.visit(tended)
    wait_until(lambda: len(tended.visits) == 5 and not keepers())


def test_a_visit_that_fails_is_logged_and_the_others_follow(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("a fault of ours")

    failing, other = Tended(fail), Tended()
    keeper.visit(failing)
    keeper.visit(other)
    wait_until(lambda: failing.visits and other.visits)
    wait_until(lambda: "keeper.visit_failed" in caplog.text)


def test_who_is_forgotten_is_not_visited_and_holds_up_nobody(keeper: Keeper) -> None:
    tended = Tended()
    keeper.visit(tended, time.monotonic() + 600.0)
    keeper.forget(tended)
    wait_until(lambda: not keepers())
    assert not tended.visits


def test_after_closing_nobody_is_visited_and_no_thread_is_left() -> None:
    keeper, tended = Keeper(), Tended()
    keeper.visit(tended, time.monotonic() + 600.0)
    keeper.close()
    keeper.visit(tended)
    assert not keepers()
    assert not tended.visits
