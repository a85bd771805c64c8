"""Events on their way to guests: who gets them, in which order, and what a failing handler changes (nothing)."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until, wait_until_computing
from isoplug.supervisor import InvalidArgument, Supervisor
from isoplug.supervisor.config import Config
from isoplug.supervisor.plugins.table import Plugin

PROBE = "test.probe"
#: For what never ends: what answers at all does so by then, on any machine.
IMPATIENT = Config(calls={"timeout": 3.0})


def received(supervisor: Supervisor, plugin_id: str = PROBE) -> list[Any]:
    entries = supervisor.command(plugin_id, "events", timeout=60)
    return [entry["input"] for entry in entries if entry["export"] == "on_event"]


def paths(supervisor: Supervisor) -> list[str]:
    return [event["payload"]["path"] for event in received(supervisor)]


def save(supervisor: Supervisor, *names: str) -> None:
    for name in names:
        assert supervisor.emit("file_saved", {"path": name}) == 1


def kill_twice(plugin: Plugin) -> None:
    """While it spins in an event, which is set aside for that."""
    for _ in range(2):
        wait_until_computing(plugin)
        (pid,) = plugin.status.worker_pids
        os.kill(pid, signal.SIGABRT)
        wait_until(partial(is_without, plugin, pid))  # or it would be taken for the next one


def is_without(plugin: Plugin, pid: int) -> bool:
    return pid not in plugin.status.worker_pids


def test_every_event_arrives_as_it_was_sent(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add()
    supervisor = supervise()
    root = str(workspace.path)
    sent: list[tuple[str, dict[str, Any]]] = [
        ("workspace_opened", {"workspace_root": root}),
        ("workspace_changed", {"workspace_root": root, "changed_paths": ["a.md", "ä/b.md"]}),
        ("workspace_committed", {"workspace_root": root}),
        ("file_created", {"path": "a.md"}),
        ("file_saved", {"path": "a.md", "extra": {"kept": True}}),
        ("file_moved", {"old_path": "a.md", "new_path": "b.md"}),
        ("file_deleted", {"path": "b.md"}),
        ("workspace_closed", {"workspace_root": root}),
    ]
    for event_type, payload in sent:
        assert supervisor.emit(event_type, payload) == 1
    assert supervisor.flush_events(60.0)
    assert received(supervisor) == [{"event_type": event_type, "payload": payload} for event_type, payload in sent]


def test_the_workspace_is_filled_in_when_it_is_not_said(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add()
    supervisor = supervise()
    assert supervisor.emit("workspace_opened") == 1
    assert supervisor.flush_events(60.0)
    assert received(supervisor)[0]["payload"] == {"workspace_root": str(workspace.path)}


def test_events_go_to_those_with_the_capability_only(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.files", defines=('GUEST_CAPABILITIES=["custom_commands","file_events"]',))
    plugins.add("test.workspace", defines=('GUEST_CAPABILITIES=["custom_commands","workspace_events"]',))
    plugins.add("test.none", defines=('GUEST_CAPABILITIES=["custom_commands"]',))
    supervisor = supervise()
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.emit("workspace_opened") == 1
    assert supervisor.flush_events(60.0)
    assert [event["event_type"] for event in received(supervisor, "test.files")] == ["file_saved"]
    assert [event["event_type"] for event in received(supervisor, "test.workspace")] == ["workspace_opened"]
    assert received(supervisor, "test.none") == []


def test_the_order_is_that_of_emitting(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    names = [str(number) for number in range(200)]
    save(supervisor, *names)
    assert supervisor.flush_events(60.0)
    assert paths(supervisor) == names


def test_each_of_several_emitters_keeps_its_order(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    emitters = [
        threading.Thread(target=save, args=(supervisor, *(f"{emitter}-{number:02}" for number in range(40))))
        for emitter in "abcd"
    ]
    for emitter in emitters:
        emitter.start()
    for emitter in emitters:
        emitter.join()
    assert supervisor.flush_events(60.0)
    got = paths(supervisor)
    assert len(got) == 160
    for name in "abcd":
        assert [path for path in got if path.startswith(name)] == sorted(path for path in got if path.startswith(name))


def test_the_emitter_waits_for_no_guest(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    plugins.add("test.other")
    supervisor = supervise(config=Config(calls={"timeout": 3.0}))
    supervisor.emit("file_saved", {"path": "spin"})
    supervisor.emit("file_saved", {"path": "after"})
    assert not supervisor.flush_events(0.05)  # the first one spins still: it was not waited for
    assert supervisor.flush_events(60.0)
    assert paths(supervisor) == ["after"]


@pytest.mark.parametrize(("how", "code"), [("trap", "guest_trap"), ("fail", "command_error"), ("spin", "call_timeout")])
def test_a_handler_that_fails_is_logged_and_later_events_arrive(
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    how: str,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins.add()
    supervisor = supervise(config=IMPATIENT if how == "spin" else Config())
    with caplog.at_level(logging.WARNING, "isoplug"):
        save(supervisor, how, "after")
        assert supervisor.flush_events(60.0)
    assert paths(supervisor)[-1] == "after"
    (line,) = [record.message for record in caplog.records if record.message.startswith("event.failed")]
    assert f"plugin={PROBE} code={code}" in line


def test_the_event_during_which_two_workers_died_is_set_aside_and_those_behind_it_arrive(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    save(supervisor, "spin")
    save(supervisor, "one", "two")
    kill_twice(plugin)
    assert supervisor.flush_events(60.0)
    assert paths(supervisor) == ["one", "two"]
    assert caplog.text.count("event.failed") == 1
    assert "code=poisoned_input" in caplog.text


def test_a_full_queue_drops_the_newest_and_says_so(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(limits={"event_queue": 3}))
    plugin = supervisor.plugins[PROBE]
    save(supervisor, "spin")
    wait_until_computing(plugin)
    taken = [supervisor.emit("file_saved", {"path": str(number)}) for number in range(5)]
    assert taken == [1, 1, 1, 0, 0]
    assert caplog.text.count("event.dropped plugin=test.probe waiting=3") == 2
    kill_twice(plugin)
    assert supervisor.flush_events(60.0)
    assert paths(supervisor) == ["0", "1", "2"]


def test_events_for_a_quarantined_plugin_wait_for_its_reset_and_block_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    plugins.add("test.other")
    supervisor = supervise(config=Config(restart={"max_restarts": 0}))
    plugin = supervisor.plugins[PROBE]
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: plugin.status.state == "quarantined")
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 2
    assert not supervisor.flush_events(60.0)
    assert len(received(supervisor, "test.other")) == 1
    supervisor.reset(PROBE)
    assert supervisor.flush_events(60.0)
    assert paths(supervisor) == ["a.md"]


def test_what_is_no_event_is_refused_with_what_there_is(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    wrong: list[tuple[Any, Any, str]] = [
        ("file_renamed", {"path": "a"}, "there are: workspace_opened.*file_moved"),
        ("", {}, "there are: workspace_opened"),
        (None, {}, "there are: workspace_opened"),
        (5, {}, "there are: workspace_opened"),
        (["file_saved"], {}, "there are: workspace_opened"),
        ("file_saved", {}, "needs path in its payload"),
        ("file_saved", None, "needs path in its payload"),
        ("file_moved", {}, "needs old_path, new_path in its payload"),
        ("workspace_changed", {}, "needs changed_paths in its payload"),
        ("file_saved", "a.md", "must be a mapping, not str"),
        ("file_saved", ["path"], "must be a mapping, not list"),
        ("file_saved", {"path": object()}, "cannot be sent as JSON"),
        ("file_saved", {"path": float("nan")}, "cannot be sent as JSON"),
        ("file_saved", {"path": "\ud800"}, "cannot be sent as JSON"),
    ]
    for event_type, payload, text in wrong:
        with pytest.raises(InvalidArgument, match=text):
            supervisor.emit(event_type, payload)
    assert supervisor.flush_events(60.0)
    assert received(supervisor) == []


def test_closing_does_not_wait_for_ever_and_says_what_it_drops(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(calls={"shutdown_timeout": 0.5, "timeout": 120}))
    plugin = supervisor.plugins[PROBE]
    save(supervisor, "spin", "never")
    wait_until(lambda: plugin.status.state == "busy")  # the first one waits no more
    started_at = time.monotonic()
    supervisor.close()
    assert time.monotonic() - started_at < 60  # the event would have 120 s
    assert "event.dropped plugin=test.probe waiting=1" in caplog.text


def test_an_event_for_which_there_is_no_thread_is_dropped_and_the_next_one_arrives(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.add()
    supervisor = supervise()

    def no_threads(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", no_threads)
        assert supervisor.emit("file_saved", {"path": "lost.md"}) == 0
    save(supervisor, "next.md")
    assert supervisor.flush_events()
    assert paths(supervisor) == ["next.md"]
