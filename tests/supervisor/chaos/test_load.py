"""Operations, and who does them when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import PluginFolder
from isoplug.supervisor import InvalidArgument, Supervisor
from isoplug.supervisor.chaos import Operation, operations_of, parse_operation
from isoplug.supervisor.chaos.load import cut, stages_of

COMMANDS = [Operation("command", f"test.p{number}", "echo") for number in range(3)]
SAVED = parse_operation("EVENT:file_saved")


def test_operations_are_read_from_text() -> None:
    assert parse_operation("a.b:run") == Operation("command", "a.b", "run")
    assert parse_operation('a.b:run={"x": [1, "y=z:w"]}') == Operation("command", "a.b", "run", {"x": [1, "y=z:w"]})
    assert parse_operation('EVENT:file_saved={"path": "x.md"}').params == {"path": "x.md"}
    assert parse_operation("EVENT:workspace_opened").text == "event workspace_opened"
    assert parse_operation("a.b:run").text == "a.b:run"


@pytest.mark.parametrize(
    "text",
    ["", "run", ":run", "a.b:", "a.b:run={", "EVENT:nothing_happened", "EVENT:file_saved=[1]", "a:b=" + "[" * 100_000],
    ids=range(8),
)
def test_what_is_no_operation_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_operation(text)


def test_operations_of_are_the_commands_and_events_that_plugins_declare(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(variant="tally", folder="tally")
    operations = operations_of(supervise())

    assert [one.text for one in operations if one.kind == "command"] == [
        f"test.tally:{command}" for command in ("add", "total", "events")
    ]
    assert {one.name for one in operations if one.kind == "event"} == {
        "file_saved",
        "file_created",
        "file_deleted",
        "file_moved",
    }


def test_the_same_seed_gives_the_same_steps() -> None:
    operations = [*COMMANDS, SAVED]

    assert stages_of(operations, 2, 25, 7, 1) == stages_of(operations, 2, 25, 7, 1)
    assert stages_of(operations, 2, 25, 7, 1) != stages_of(operations, 2, 25, 8, 1)
    assert stages_of(operations, 2, 25, 7, 1) != stages_of(operations, 2, 25, 7, 2)


def test_every_caller_makes_as_many_steps_as_a_round_has() -> None:
    stages = stages_of(COMMANDS, 2, 25, 7, 1)

    for caller in range(2):
        numbers = [step.number for stage in stages for step, _ in stage.steps[caller]]
        assert numbers == list(range(1, 26))


def test_callers_share_plugins_only_when_there_are_too_few() -> None:
    (stage, *_) = stages_of(COMMANDS, 3, 10, 7, 1)
    assert [{operation.plugin_id for _, operation in steps} for steps in stage.steps] == [
        {"test.p0"},
        {"test.p1"},
        {"test.p2"},
    ]

    (stage, *_) = stages_of(COMMANDS[:1], 3, 10, 7, 1)
    assert [{operation.plugin_id for _, operation in steps} for steps in stage.steps] == [{"test.p0"}] * 3


def test_a_load_of_events_alone_has_no_callers() -> None:
    (stage,) = stages_of([SAVED], 4, 10, 7, 1)

    assert stage.steps == ()
    assert len(stage.events) == 10


@pytest.mark.parametrize("calls", [1, 9, 10, 11, 33, 66, 1000])
def test_a_load_that_is_cut_is_the_beginning_of_the_whole(calls: int) -> None:
    whole = stages_of([*COMMANDS, SAVED], 2, 25, 7, 1)
    parts = cut(whole, calls)

    assert sum(stage.size for stage in parts) == min(calls, sum(stage.size for stage in whole))
    for part, stage in zip(parts, whole, strict=False):
        assert part.events == stage.events[: len(part.events)]
        assert all(mine == theirs[: len(mine)] for mine, theirs in zip(part.steps, stage.steps, strict=True))
