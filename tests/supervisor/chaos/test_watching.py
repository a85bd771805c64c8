"""``Watch`` says what held of a supervisor under faults that nobody drives for the purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import PluginError, Supervisor
from isoplug.supervisor.chaos import Fault, Injector, Kill, KillInHostCall, Plan, Promise, Rule, Watch
from isoplug.supervisor.testing import RecordingStorage

Watched = Callable[..., tuple[Supervisor, Watch]]


@pytest.fixture
def watched(supervise: Callable[..., Supervisor], plugins: PluginFolder, workspace: Workspace) -> Watched:
    plugins.add(variant="tally", folder="tally")
    workspace.grant("test.tally", plugin_storage=["all"])

    def start(fault: Fault, every: int = 3, **services: Any) -> tuple[Supervisor, Watch]:
        injector = Injector(Plan((Rule(fault, every=every),)))
        watch = Watch(injector)
        return supervise(interceptors=[watch, injector], **services), watch

    return start


def broken(promises: tuple[Promise, ...]) -> list[str]:
    return [promise.name for promise in promises if promise.broken is not None]


def test_calls_and_events_that_are_struck_break_nothing(watched: Watched) -> None:
    supervisor, watch = watched(Kill("delivery"))
    for _ in range(3):
        supervisor.command("test.tally", "add", retries=3)
        supervisor.emit("file_saved", {"path": "a.md"})
    promises = watch.promises(supervisor)

    assert broken(promises) == []
    assert {promise.name for promise in promises} >= {"answered", "explained", "nothing-lost", "events"}
    assert supervisor.command("test.tally", "events", retries=3) == 3


def test_a_call_that_fails_half_way_breaks_nothing_as_long_as_it_is_not_repeated(watched: Watched) -> None:
    supervisor, watch = watched(KillInHostCall("after"), every=2)
    for _ in range(2):
        with pytest.raises(PluginError):
            supervisor.command("test.tally", "add", retries=3)

    assert broken(watch.promises(supervisor)) == []


def test_an_error_that_no_fault_explains_is_said(watched: Watched) -> None:
    @dataclass(frozen=True, slots=True)
    class Secretive(Kill):
        """Says that calls do not fail by it."""

        name: ClassVar[str] = "secretive"
        ends: ClassVar[tuple[type[PluginError], ...]] = ()

    supervisor, watch = watched(Secretive("delivery"), every=1)
    with pytest.raises(PluginError):
        supervisor.command("test.tally", "add")

    assert broken(watch.promises(supervisor)) == ["explained"]


def test_a_storage_that_forgets_is_found(watched: Watched) -> None:
    class Forgetful(RecordingStorage):
        def get(self, plugin_id: str, key: str) -> bytes | None:
            return None

    supervisor, watch = watched(Kill("reply"), storage=Forgetful())
    supervisor.command("test.tally", "add")

    assert broken(watch.promises(supervisor)) == ["nothing-lost"]
