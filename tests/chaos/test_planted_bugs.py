"""Bugs planted into plugins and hosts: each is found, shrunk to a fault or two, and found the same way again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import PluginError, WorkerCrashed
from isoplug.supervisor.chaos import (
    Ending,
    HostFactory,
    Kill,
    KillInHostCall,
    Operation,
    PlainHost,
    Plan,
    Report,
    Rule,
    Settings,
    fault_named,
    fault_names,
    parse_operation,
    run,
    shrink,
)

ADD = parse_operation("test.tally:add")
TOTAL = parse_operation("test.tally:total")
EVENTS = parse_operation("test.tally:events")
SAVED = parse_operation("EVENT:file_saved")

#: Each has five runs and more; half a minute on a machine with a core for it.
pytestmark = pytest.mark.timeout(1200)

#: Kills that a plugin and a host which do it right hide from everybody, and kills half-way, which nobody can hide.
KILLS = Plan((Rule(Kill("delivery"), probability=0.2), Rule(Kill("reply"), probability=0.2)), seed=11)
KILLS_HALF_WAY = Plan((Rule(KillInHostCall("after"), function="host_storage_set", every=4),), seed=11)


@pytest.fixture
def settings(plugins: PluginFolder, workspace: Workspace) -> Callable[..., Settings]:
    def make(variant: str, plan: Plan, *operations: Operation, calls: int = 30) -> Settings:
        plugins.add(variant=variant, folder="tally")
        workspace.grant("test.tally", plugin_storage=["all"])
        return Settings(plugins.path, workspace.path, plan, operations, callers=1, calls=calls, round_calls=30)

    return make


class BlindHost(PlainHost):
    """Repeats whatever failed, without asking what it had done."""

    def perform(self, operation: Operation, timeout: float) -> Any:
        try:
            return super().perform(operation, timeout)
        except PluginError:
            return super().perform(operation, timeout)


class ForgetfulHost(PlainHost):
    """Drops events from a crash to the next answer, while, as it believes, the plugin is restarting."""

    is_restarting = False

    def perform(self, operation: Operation, timeout: float) -> Any:
        if operation.kind == "event" and self.is_restarting:
            return 1
        try:
            answer = self.supervisor.command("test.tally", operation.name) if operation.kind == "command" else None
        except WorkerCrashed:
            self.is_restarting = True
            raise
        self.is_restarting = False
        return super().perform(operation, timeout) if operation.kind == "event" else answer


def found(settings: Settings, promise: str, make_host: HostFactory = PlainHost.make, *, at_most: int = 1) -> Report:
    """The report of a run that broke this promise, after all that has to hold of every such run."""
    report = run(settings, make_host)
    again = run(settings, make_host)
    assert report == again, "the same seed gives the same report"
    assert promise in [one.name for one in report.broken], report.broken
    shrunk = shrink(settings, report, make_host)
    assert shrunk.smallest is not None
    assert shrunk.smallest_calls is not None
    assert 1 <= len(shrunk.smallest.rules) <= at_most, shrunk.smallest.to_toml()
    repeated = run(
        Settings(
            settings.plugins,
            settings.workspace,
            Plan.from_toml(shrunk.smallest.to_toml()),
            settings.operations,
            callers=settings.callers,
            calls=shrunk.smallest_calls,
            round_calls=settings.round_calls,
        ),
        make_host,
    )
    assert repeated.broken[0].name == report.broken[0].name, "the smallest plan breaks the promise by itself"
    return report


def test_state_that_is_lost_on_restart_is_found(settings: Callable[..., Settings]) -> None:
    report = found(settings("tally_keeps_in_memory", KILLS, ADD, TOTAL), "same-answers")

    assert any(entry.ending is Ending.WRONG for entry in report.calls)


def test_a_plugin_that_does_things_again_when_it_restarts_is_found(settings: Callable[..., Settings]) -> None:
    found(settings("tally_redoes", KILLS, ADD, TOTAL), "same-answers")


def test_a_host_that_repeats_what_had_been_done_is_found(settings: Callable[..., Settings]) -> None:
    found(settings("tally", KILLS_HALF_WAY, ADD, TOTAL), "nothing-twice", BlindHost.make)


def test_a_plugin_that_forgets_events_is_found(settings: Callable[..., Settings]) -> None:
    found(settings("tally_forgets_events", KILLS, EVENTS, SAVED), "same-answers")


def test_a_host_that_drops_events_is_found(settings: Callable[..., Settings]) -> None:
    found(settings("tally", KILLS, TOTAL, SAVED), "events", ForgetfulHost.make)


def test_a_plugin_and_a_host_that_do_it_right_break_no_promise(settings: Callable[..., Settings]) -> None:
    rules = tuple(Rule(fault_named(name), probability=0.03) for name in fault_names())
    right = settings("tally", Plan(rules, seed=5), ADD, TOTAL, EVENTS, SAVED, calls=120)
    report = run(right)

    assert not report.broken, report.broken
    assert len(report.injections) > 10
    assert {entry.ending for entry in report.calls} <= {Ending.ANSWERED, Ending.FAILED}
    assert run(right) == report
