"""Which asynchronous calls begin in a thread, because those before went on in one."""

from __future__ import annotations

from isoplug.supervisor.habits import Habits


def test_calls_begin_in_the_loop_until_one_has_left_it_and_try_it_again_after_a_while() -> None:
    habits = Habits()
    assert not habits.begins_in_thread("a", "x")
    habits.left_loop("a", "x")
    assert not habits.begins_in_thread("a", "y")
    assert not habits.begins_in_thread("b", "x")
    in_threads = 0
    while habits.begins_in_thread("a", "x"):
        in_threads += 1
    assert 1 < in_threads < 1000
    assert not vars(habits)["_in_threads"]


def test_names_that_callers_make_up_take_no_more_memory_than_a_bound() -> None:
    habits = Habits()
    for number in range(50_000):
        habits.left_loop("a", str(number))
    assert len(vars(habits)["_in_threads"]) <= 10_000
    assert habits.begins_in_thread("a", "49999")
