"""Runs: rounds of steps under faults, compared with the same without, and repeatable. (What they find is in
``tests/chaos/test_planted_bugs.py``.)"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import InvalidArgument, SetupError
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.chaos import (
    Ending,
    GarbageFrame,
    Injector,
    Kill,
    KillInHostCall,
    Operation,
    Place,
    PlainHost,
    Plan,
    Progress,
    Report,
    Rule,
    ServiceFails,
    Settings,
    Step,
    Trap,
    run,
    shrink,
)

KILLS = Plan((Rule(Kill("delivery"), probability=0.2), Rule(Kill("reply"), every=5)), seed=3)
IDS = ("test.a", "test.b")


def write(plugin_id: str) -> Operation:
    params = {"function": "host_write_file", "input": f'{{"path": "{plugin_id}.md", "content": "x"}}'}
    return Operation("command", plugin_id, "host", params)


@pytest.fixture
def settings(plugins: PluginFolder, workspace: Workspace) -> Settings:
    for plugin_id in IDS:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, edit_files=["all"], create_files=["all"])
    operations = tuple(
        operation for plugin_id in IDS for operation in (Operation("command", plugin_id, "echo", 1), write(plugin_id))
    )
    return Settings(plugins.path, workspace.path, KILLS, operations, callers=2, calls=50, round_calls=15)


def test_a_run_repeats_itself_and_leaves_the_workspace_alone(settings: Settings, workspace: Workspace) -> None:
    before = {path.name: path.read_bytes() for path in workspace.path.iterdir()}
    report = run(settings)

    assert run(settings) == report
    assert not report.broken, report.broken
    assert [entry.step.round for entry in report.calls] == [1] * 30 + [2] * 20
    assert {entry.ending for entry in report.calls} == {Ending.ANSWERED}
    assert report.injections
    assert [row.name for row in report.faults] == ["kill"]
    assert report.faults[0].injected == len(report.injections)
    assert report.faults[0].recovery(100) > 0
    assert report.restarts
    assert {path.name: path.read_bytes() for path in workspace.path.iterdir()} == before
    assert shrink(settings, report) is report


def test_a_run_for_a_time_is_repeated_by_its_number_of_calls(settings: Settings) -> None:
    report = run(replace(settings, calls=None, duration_seconds=0.01, plan=KILLS.seeded(4)))

    assert report.repeat == f"--seed 4 --calls {len(report.calls)}"
    assert run(replace(settings, calls=len(report.calls), plan=KILLS.seeded(4))) == report


def test_a_run_that_is_interrupted_tells_of_its_whole_rounds_and_of_nothing_else(settings: Settings) -> None:
    """The interrupt comes when round 2 has been made with faults and is to be made again without."""
    with_faults: list[None] = []
    stopped: list[Report] = []

    def make_host(plugins: Path, workspace: Path | None, state: Path, around: Sequence[Interceptor]) -> PlainHost:
        if any(isinstance(one, Injector) for one in around):
            with_faults.append(None)
        elif len(with_faults) == 2:
            raise KeyboardInterrupt
        return PlainHost.make(plugins, workspace, state, around)

    with pytest.raises(KeyboardInterrupt):
        run(settings, make_host, on_stopped=stopped.append)
    assert [replace(report, is_stopped=False) for report in stopped] == [run(replace(settings, calls=30))]
    assert stopped[0].is_stopped


def test_a_run_that_is_interrupted_before_a_round_is_whole_tells_of_nothing(settings: Settings) -> None:
    def make_host(*_: Any) -> PlainHost:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, make_host, on_stopped=lambda _: pytest.fail("there is nothing to tell"))


def test_a_plugin_that_is_told_of_anothers_death_may_answer_otherwise(settings: Settings, workspace: Workspace) -> None:
    workspace.grant("test.a", execute_commands=["all"])
    ask = Operation("command", "test.a", "call", {"plugin_id": "test.b", "command": "echo", "params": 1})
    plan = Plan((Rule(Kill("delivery"), plugin="test.b", every=2),), seed=3)
    report = run(replace(settings, plan=plan, operations=(ask,), callers=1, calls=12))

    assert not report.broken, report.broken
    assert len(report.injections) == 6


def asks(function: str, payload: str) -> Operation:
    return Operation("command", "test.a", "host", {"function": function, "input": payload})


def test_a_call_that_fails_after_an_effect_which_nobody_can_see_again_is_explained(settings: Settings) -> None:
    plan = Plan((Rule(GarbageFrame(), every=2),))
    operations = (asks("host_emit_event", '{"type": "noted"}'),)
    report = run(replace(settings, plan=plan, operations=operations, callers=1, calls=6))

    assert not report.broken, report.broken
    assert [entry.ending for entry in report.calls] == [Ending.ANSWERED, Ending.FAILED] * 3


def test_a_plugin_that_is_told_of_a_fault_in_a_second_attempt_may_answer_otherwise(
    settings: Settings, workspace: Workspace
) -> None:
    """Also when the worker of the first one is lost, so that nothing of it is kept anywhere."""
    workspace.grant("test.a", read_files=["all"])
    step = Step(1, "caller-1", 2)
    killed = Rule(KillInHostCall("before"), at=(Place(step, 1, 1),))
    told = Rule(ServiceFails(), at=(Place(step, 2, 1),))
    operations = (asks("host_list_files", '{"prefix": ""}'),)
    report = run(replace(settings, plan=Plan((killed, told)), operations=operations, callers=1, calls=4))

    assert not report.broken, report.broken
    assert report.calls[1].faults == ("kill-in-host-call", "service-fails")


def test_progress_counts_up_to_the_end(settings: Settings) -> None:
    seen: list[Progress] = []
    run(replace(settings, calls=20), on_progress=seen.append)

    assert seen
    assert all(0 <= one.share <= 1 and one.calls <= 20 for one in seen)
    assert [one.calls for one in seen] == sorted(one.calls for one in seen)


def test_what_cannot_be_run_says_why(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nowhere"):
        run(replace(settings, plugins=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="nothing to call"):
        run(replace(settings, plugins=tmp_path / "empty", operations=()))
    with pytest.raises(InvalidArgument, match="callers"):
        replace(settings, callers=0)


def test_folders_may_be_given_as_text_as_for_a_supervisor(settings: Settings) -> None:
    report = run(replace(settings, plugins=str(settings.plugins), workspace=str(settings.workspace), calls=2))

    assert [entry.ending for entry in report.calls] == [Ending.ANSWERED] * 2


def test_a_plugin_that_is_not_there_is_refused_with_those_that_are(settings: Settings, plugins: PluginFolder) -> None:
    (plugins.path / "broken").mkdir()
    (plugins.path / "broken" / "plugin.wasm").write_bytes(b"no module")
    with pytest.raises(SetupError, match=r"test.c:echo: there is no such plugin; there are: test.a, test.b; broken: "):
        run(replace(settings, operations=(Operation("command", "test.c", "echo"),)))


def test_a_plugin_that_could_not_be_loaded_is_named_with_the_reason(settings: Settings, plugins: PluginFolder) -> None:
    (plugins.path / "broken").mkdir()
    (plugins.path / "broken" / "plugin.wasm").write_bytes(b"no module")
    report = run(replace(settings, calls=2))

    ((name, error),) = report.not_loaded
    assert name == "broken"
    assert error.startswith(f"{plugins.path}/broken/plugin.wasm is not a WebAssembly module")


def test_what_fails_without_faults_as_well_is_named(settings: Settings) -> None:
    operations = (Operation("command", "test.a", "echo", 1), Operation("command", "test.a", "misspelt"))
    report = run(replace(settings, operations=operations, plan=Plan(), callers=1, calls=12))

    assert {entry.what for entry in report.calls} == {"test.a:echo", "test.a:misspelt"}
    assert report.always_failing == (("test.a:misspelt", "CommandNotFound"),)


def test_a_promise_that_there_was_no_occasion_to_look_at_is_not_called_kept(settings: Settings) -> None:
    report = run(replace(settings, calls=4))

    assert {one.name for one in report.promises if not one.is_checked} == {"events", "memory"}
    assert {one.name: one.note for one in report.promises}["events"] == "none were sent"


def test_callers_that_share_a_plugin_are_told_what_is_not_compared_then(settings: Settings) -> None:
    def note(callers: int) -> str:
        report = run(replace(settings, operations=(Operation("command", "test.a", "count"),), plan=Plan(),
                             callers=callers, calls=30))  # fmt: skip
        assert not report.broken, report.broken
        return next(one.note for one in report.promises if one.name == "same-answers")

    assert "several callers used the same plugin" in note(2)
    assert note(1) == ""


def test_a_fault_after_which_nobody_called_has_no_recovery_time(settings: Settings) -> None:
    plan = Plan((Rule(Trap()),), seed=1)
    report = run(replace(settings, operations=(write("test.a"),), plan=plan, callers=1, calls=1))

    assert report.faults[0].injected == 1
    assert report.faults[0].recovery_seconds == ()


def test_a_host_that_raises_what_is_no_plugin_error_breaks_its_promise(settings: Settings) -> None:
    class Careless(PlainHost):
        def perform(self, operation: Operation, timeout: float) -> Any:
            raise KeyError(operation.name)

    report = run(replace(settings, calls=4), Careless.make)

    assert report.broken[0].name == "answered"
    assert {entry.ending for entry in report.calls} == {Ending.WRONG}


def test_a_host_that_leaves_something_open_breaks_its_promise(settings: Settings, leave: Callable[[], None]) -> None:
    class Messy(PlainHost):
        def close(self) -> None:
            leave()
            super().close()

    report = run(replace(settings, calls=4), Messy.make)

    assert [promise.name for promise in report.broken] == ["tidy"]


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a descriptor each time, which is closed after the test."""
    opened: list[int] = []
    monkeypatch.setattr("isoplug.supervisor.chaos.rounds._TIDYING_SECONDS", 0.1)
    yield lambda: opened.append(os.open("/dev/null", os.O_RDONLY))
    for descriptor in opened:
        os.close(descriptor)
