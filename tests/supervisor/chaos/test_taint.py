"""What may depend on a step with an open end is not compared; everything else is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from isoplug.shared.record import Outcome
from isoplug.supervisor.chaos import Operation, Step
from isoplug.supervisor.chaos.rounds import Done
from isoplug.supervisor.chaos.taint import FILES, Resource, Taint, changed_by, file, key, memory, touched_by

A, B = key("p", "a"), key("p", "b")


def made(caller: str, number: int, *touched: Resource, changed: str = "", lost: str = "") -> Done:
    """A step that has touched these resources, set the key ``changed``, and cost the plugin ``lost`` a worker."""
    return Done(
        step=Step(1, caller, number),
        operation=Operation("command", "p", "x"),
        stage=0,
        answer="null",
        error=None,
        outcome=Outcome.NO_EFFECTS,
        outcome_is_true=True,
        stray="",
        effects=Counter({("p", "key_set", changed): 1} if changed else {}),
        plugins=frozenset({"p"}),
        touched=frozenset(touched),
        lost_workers=frozenset(filter(None, [lost])),
        has_lost_nested=False,
        handled={},
        attempts=1,
        began_seconds=0.0,
        took_seconds=0.0,
    )


def changed(done: Done) -> frozenset[Resource]:
    return frozenset(resource for effect in done.effects for resource in changed_by(effect))


def spread(sources: dict[Step, Resource], *stages: list[Done]) -> Taint:
    left_open = {step: frozenset({resource}) for step, resource in sources.items()}
    taint = Taint(lambda done: done.touched | changed(done), changed, left_open)
    taint.spread(stages)
    return taint


def test_who_touches_what_was_left_open_is_reached() -> None:
    first, second, third = made("one", 1, changed="a"), made("one", 2, A), made("one", 3, B)
    taint = spread({first.step: A}, [first, second, third])

    assert taint.steps == {second.step}
    assert taint.resources == {A}


def test_what_a_reached_step_changes_is_open_as_well() -> None:
    first, copy, reader = made("one", 1, changed="a"), made("one", 2, A, changed="b"), made("one", 3, B)

    assert spread({first.step: A}, [first, copy, reader]).steps == {copy.step, reader.step}


def test_what_came_before_is_not_reached() -> None:
    before, first = made("one", 1, A), made("one", 2, changed="a")

    assert spread({first.step: A}, [before, first]).steps == set()


def test_other_callers_are_reached_from_the_same_stage_on() -> None:
    earlier, at_once, later = (made("two", number, A) for number in (1, 2, 3))
    first = made("one", 9, changed="a")

    assert spread({first.step: A}, [earlier], [at_once, first], [later]).steps == {at_once.step, later.step}


def test_a_worker_that_is_lost_forgets() -> None:
    told, crashed, later = made("one", 1), made("one", 2, memory("p"), lost="p"), made("one", 3, memory("p"))

    assert spread({told.step: memory("p")}, [told], [crashed], [later]).steps == {crashed.step}


def test_host_calls_and_effects_speak_of_the_same_things() -> None:
    root = Path("/w")

    assert touched_by("p", "host_storage_get", b'{"key": "a"}', root) == A
    assert changed_by(("p", "key_set", "a")) == [A]
    assert touched_by("p", "host_read_file", b'{"path": "./d/../x.md"}', root) == file("x.md")
    assert touched_by("p", "host_read_file", b'{"path": "/w/x.md"}', root) == file("x.md")
    assert changed_by(("p", "file_written", "x.md")) == [file("x.md"), FILES]
    assert touched_by("p", "host_list_files", b'{"prefix": ""}', root) == FILES
    assert touched_by("p", "host_namespace_list", b"{}", root) in changed_by(("p", "object_written", "n/o"))
    assert touched_by("p", "host_http_request", b"{}", root) in changed_by(("p", "request_sent", "GET https://x"))
    assert touched_by("p", "host_get_now", b"", root) is None
    assert touched_by("p", "host_read_file", b"[[[", root) is None
    assert changed_by(("p", "command_run", "q:x")) == []
