"""Places: the same words for the same things, whatever else goes on."""

from __future__ import annotations

import threading

from isoplug.supervisor.chaos import Place, Step, stepping
from isoplug.supervisor.chaos.place import Steps


def test_deliveries_of_a_step_are_counted_from_one() -> None:
    steps, step = Steps(), Step(0, "a", 4)
    with stepping(step):
        first = steps.next_delivery("p", "handle_command", is_outside=True)
        nested = steps.next_delivery("q", "handle_command", is_outside=False)
    assert (first, nested) == (Place(step, 1), Place(step, 2))


def test_a_caller_who_says_nothing_gets_a_step_for_each_call_from_outside() -> None:
    steps = Steps()
    places = [steps.next_delivery("p", "echo", is_outside=is_outside) for is_outside in (True, False, True)]
    assert places == [Place(Step(0, "", 1), 1), Place(Step(0, "", 1), 2), Place(Step(0, "", 2), 1)]


def test_events_have_steps_of_their_own_for_each_plugin() -> None:
    steps = Steps()
    assert steps.next_delivery("p", "on_event", is_outside=True) == Place(Step(0, "events/p", 1), 1)
    assert steps.next_delivery("q", "on_event", is_outside=True) == Place(Step(0, "events/q", 1), 1)
    assert steps.next_delivery("p", "echo", is_outside=True) == Place(Step(0, "", 1), 1)


def test_the_steps_of_one_thread_are_none_of_anothers() -> None:
    steps, places = Steps(), []

    def call(caller: str) -> None:
        for number in range(1, 100):
            with stepping(Step(0, caller, number)):
                places.append(steps.next_delivery("p", "echo", is_outside=True))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(places) == [Place(Step(0, caller, number), 1) for caller in "abcd" for number in range(1, 100)]


def test_steps_nest() -> None:
    steps, outer, inner = Steps(), Step(0, "a", 1), Step(0, "b", 1)
    with stepping(outer):
        with stepping(inner):
            assert steps.next_delivery("p", "echo", is_outside=True).step == inner
        assert steps.next_delivery("p", "echo", is_outside=True).step == outer


def test_places_are_named_for_people() -> None:
    assert str(Place(Step(0, "", 3), 1)) == "call 3, delivery 1"
    assert str(Place(Step(2, "a", 3), 1, 4)) == "round 2, a 3, delivery 1, host call 4"
