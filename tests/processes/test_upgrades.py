"""A new version takes the place of an old one while the plugin is in use; one that crashes gives it back."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until, wait_until_computing
from faults import workers
from guests import guest
from isoplug.supervisor import (
    CallCancelled,
    Cancellation,
    PluginError,
    PluginNotFound,
    PluginQuarantined,
    Supervisor,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.supervisor.config import Restart
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain
from versions import PROBE, build, config, overwrite, put, status, upgrade, wait_settled


def version_of(supervisor: Supervisor) -> str:
    """Of the module that answers."""
    return str(json.loads(supervisor.call(PROBE, "manifest"))["version"])


@pytest.mark.parametrize("how", [put, overwrite])
def test_a_new_version_takes_over_and_the_plugin_stays_the_same_object(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], how: Callable[[Path, bytes], None]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    plugin, (old,) = supervisor.plugins[PROBE], status(supervisor).worker_pids
    assert supervisor.command(PROBE, "count") == 1
    upgrade(supervisor, wasm, build(plugins), how)
    assert supervisor.plugins[PROBE] is plugin
    assert (plugin.manifest.version, status(supervisor).version) == ("2.0.0", "2.0.0")
    assert status(supervisor).upgrade == "2.0.0 is on trial; 1.0.0 stands by"
    assert supervisor.command(PROBE, "count") == 1  # another instance
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["init"]
    assert old in status(supervisor).worker_pids
    assert version_of(supervisor) == "2.0.0"
    wait_settled(supervisor)
    assert status(supervisor).upgrade is None
    assert old not in status(supervisor).worker_pids
    assert (status(supervisor).calls, status(supervisor).restarts) == (4, 0)


def test_the_old_version_is_told_shutdown_after_the_trial_and_not_before(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(trial_calls=2))
    storage = supervisor._services.storage
    upgrade(supervisor, wasm, build(plugins))
    supervisor.call(PROBE, "echo", b"x")
    assert storage.get(PROBE, "shutdown") is None
    supervisor.call(PROBE, "echo", b"x")
    wait_settled(supervisor)
    assert storage.get(PROBE, "shutdown") == b"done"


def test_an_old_version_that_does_not_end_its_shutdown_is_ended(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"shutdown": "spin"})
    supervisor = supervise(config=config({"shutdown_timeout": 0.3}, trial_calls=0))
    upgrade(supervisor, wasm, build(plugins))
    wait_settled(supervisor)
    assert len(status(supervisor).worker_pids) == 1


def test_closing_ends_an_old_version_whose_last_call_hangs(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config({"shutdown_timeout": 0.3}, trial_calls=0))
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(supervisor.command, PROBE, "spin", timeout=600.0)
        wait_until_computing(supervisor.plugins[PROBE])
        upgrade(supervisor, wasm, build(plugins))
        assert version_of(supervisor) == "2.0.0"
        supervisor.close()
        assert isinstance(hanging.exception(), SupervisorClosed)


def test_unloading_ends_an_old_version_whose_last_call_hangs(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config({"shutdown_timeout": 0.3}, trial_calls=0))
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(supervisor.command, PROBE, "spin", timeout=600.0)
        wait_until_computing(supervisor.plugins[PROBE])
        upgrade(supervisor, wasm, build(plugins))
        supervisor.unload(PROBE)
        assert isinstance(hanging.exception(), PluginError)


def test_a_trial_also_ends_with_time(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(healthy_after=0.2))
    upgrade(supervisor, wasm, build(plugins))
    wait_settled(supervisor)
    assert status(supervisor).upgrade is None
    assert status(supervisor).version == "2.0.0"


def test_without_a_trial_there_is_no_way_back(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(trial_calls=0))
    upgrade(supervisor, wasm, build(plugins))
    wait_settled(supervisor)
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert version_of(supervisor) == "2.0.0"


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_version_that_crashes_on_its_first_calls_is_rolled_back_and_the_next_call_is_answered_by_the_old_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], answered: int
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    for number in (1, 2):
        assert supervisor.command(PROBE, "count") == number
    upgrade(supervisor, wasm, build(plugins))
    for _ in range(answered):
        assert version_of(supervisor) == "2.0.0"
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.command(PROBE, "count") == 3  # the very instance of before
    assert status(supervisor).version == "1.0.0"
    note = status(supervisor).upgrade or ""
    assert note.startswith("2.0.0 was rolled back: killed by SIGSEGV during command 'segv'")
    assert note.endswith("; 1.0.0 stays in charge")
    wait_settled(supervisor)


def test_after_its_trial_a_version_that_crashes_is_restarted_like_any_other(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    for _ in range(3):
        supervisor.call(PROBE, "echo", b"x")
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert version_of(supervisor) == "2.0.0"
    wait_settled(supervisor)


def test_a_module_that_was_rolled_back_is_not_tried_again_until_it_changes_or_by_force(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    for _ in range(2):
        report = supervisor.reload()
        assert (report.upgraded, list(report.refused)) == ((), [PROBE])
        assert "SIGSEGV" in str(report.refused[PROBE])
    assert not supervisor.load_errors  # it is loaded, if not the newest
    overwrite(wasm, wasm.read_bytes())
    assert supervisor.reload().upgraded == ()  # touched is not changed
    assert supervisor.reload(force=True).upgraded == (PROBE,)
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    upgrade(supervisor, wasm, build(plugins, "3.0.0"))
    assert version_of(supervisor) == "3.0.0"


def test_the_old_module_put_back_after_a_roll_back_leaves_nothing_to_tell(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    old = wasm.read_bytes()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    put(wasm, old)
    report = supervisor.reload()
    assert (report.upgraded, dict(report.refused)) == ((), {})
    assert status(supervisor).upgrade is None


def test_a_version_on_trial_that_dies_idle_is_rolled_back(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    os.kill(status(supervisor).worker_pids[0], signal.SIGKILL)
    wait_until(lambda: status(supervisor).version == "1.0.0")
    assert "2.0.0 was rolled back: killed by SIGKILL while idle" in (status(supervisor).upgrade or "")
    assert version_of(supervisor) == "1.0.0"


@pytest.mark.parametrize("command", ["trap", "fail"])
def test_what_is_not_the_versions_fault_rolls_nothing_back(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], command: str
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    with pytest.raises(PluginError):
        supervisor.command(PROBE, command, {})
    assert version_of(supervisor) == "2.0.0"


def test_callers_that_wait_behind_the_call_that_crashes_a_version_on_trial_are_answered_by_the_old_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(max_restarts=0))  # nor do they hear of a quarantine
    plugin = supervisor.plugins[PROBE]
    upgrade(supervisor, wasm, build(plugins))
    new = status(supervisor).worker_pids[0]
    with ThreadPoolExecutor(6) as threads:
        fatal = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        waiting = [threads.submit(version_of, supervisor) for _ in range(5)]
        wait_until(lambda: plugin.status.calls == 6)
        os.kill(new, signal.SIGKILL)
        assert isinstance(fatal.exception(), WorkerCrashed)
        assert [call.result() for call in waiting] == ["1.0.0"] * 5
    assert "plugin.quarantined" not in caplog.text


def test_an_old_worker_that_dies_while_it_stands_by_is_started_from_its_private_copy_when_it_is_needed(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    (old,) = status(supervisor).worker_pids
    upgrade(supervisor, wasm, build(plugins))
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: old not in status(supervisor).worker_pids)
    assert len(status(supervisor).worker_pids) == 1
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert version_of(supervisor) == "1.0.0"


def test_a_call_with_a_retry_that_crashes_a_version_on_trial_is_answered_by_the_old_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class SlowOnce:
        def read(self, plugin_id: str, key: str) -> bytes | None:
            if not asked.is_set():
                asked.set()
                go_on.wait()
            return b"content"

    wasm = plugins.add()
    supervisor = supervise(config=config(), files=SlowOnce())
    upgrade(supervisor, wasm, build(plugins))
    new = status(supervisor).worker_pids[0]
    request = {"function": "host_request_file", "input": '{"key": "k"}'}
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "host", request, retries=1)
        assert asked.wait(WAIT_SECONDS)
        os.kill(new, signal.SIGKILL)
        assert call.result()["answer"] == "content"
    go_on.set()
    assert version_of(supervisor) == "1.0.0"


def test_an_event_that_kills_a_version_on_trial_is_handled_by_the_old_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config({"timeout": 60.0}))
    upgrade(supervisor, wasm, build(plugins))
    new = status(supervisor).worker_pids[0]
    os.kill(new, signal.SIGSTOP)  # so that it dies with the event in its hands
    for path in ("a.md", "b.md"):
        supervisor.emit("file_saved", {"path": path})
    wait_until(lambda: status(supervisor).state == "busy")
    os.kill(new, signal.SIGKILL)
    assert supervisor.flush_events(60.0)
    life = supervisor.command(PROBE, "events")
    assert [entry["input"]["payload"]["path"] for entry in life if entry["export"] == "on_event"] == ["a.md", "b.md"]
    assert version_of(supervisor) == "1.0.0"


# --- versions that cannot take over -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "defines", "text"),
    [
        ("bad_manifest_spin", (), "did not finish export 'manifest'"),
        ("bad_manifest_trap", (), "trapped in export 'manifest'"),
        ("bad_manifest_not_json", (), "is not JSON"),
        ("probe", ("INIT_TRAP", "GUEST_VERSION=2.0.0"), "2.0.0 was refused: plugin 'test.probe' trapped in export"),
        ("probe", ("INIT_SPIN", "GUEST_VERSION=2.0.0"), "2.0.0 was refused: plugin 'test.probe' did not finish"),
        ("probe", ("GUEST_PROTOCOL=2", "GUEST_VERSION=2.0.0"), "speaks protocol version 2"),
        ("probe", ("GUEST_MIN_APP=99.0.0",), "needs application version"),
        ("unknown_import", (), "host_does_not_exist"),
        ("start_trap", (), "unreachable"),
    ],
)
def test_a_version_that_cannot_start_changes_nothing_and_says_why(
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    variant: str,
    defines: tuple[str, ...],
    text: str,
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config({"start_timeout": 4.0}))
    supervisor.command(PROBE, "count")
    put(wasm, guest(variant, plugins.cache, *defines).read_bytes())
    report = supervisor.reload()
    assert list(report.refused) == [PROBE]
    assert supervisor.command(PROBE, "count") == 2
    assert text in (status(supervisor).upgrade or "")
    assert (status(supervisor).upgrade or "").endswith("1.0.0 stays in charge")
    assert not supervisor.load_errors
    assert supervisor.reload().refused[PROBE] is report.refused[PROBE]  # not tried again


def test_a_version_with_another_id_is_refused_and_the_old_one_stays(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    put(wasm, build(plugins, plugin_id="test.impostor"))
    report = supervisor.reload()
    assert "tells the id 'test.impostor', but plugin 'test.probe' lives there" in str(report.refused[PROBE])
    assert list(supervisor.plugins) == [PROBE]
    assert version_of(supervisor) == "1.0.0"
    assert "1.0.0 stays in charge" in (status(supervisor).upgrade or "")


def test_a_version_with_the_id_of_another_plugin_is_refused_and_the_status_says_why(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    supervisor = supervise(config=config())
    old = wasm.read_bytes()
    put(wasm, build(plugins, plugin_id="test.other"))
    assert list(supervisor.reload().refused) == [PROBE]
    assert sorted(supervisor.plugins) == ["test.other", PROBE]
    assert "'test.other' is taken by" in (status(supervisor).upgrade or "")
    put(wasm, old)
    assert not supervisor.reload().refused
    assert status(supervisor).upgrade is None


def test_a_version_that_is_half_written_is_refused_and_taken_when_it_is_whole(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    new = build(plugins)
    for length in (0, 4, len(new) // 2, len(new) - 1):
        wasm.write_bytes(new[:length])
        report = supervisor.reload()
        assert (report.upgraded, report.unloaded, list(report.refused)) == ((), (), [PROBE]), length
        assert version_of(supervisor) == "1.0.0"
        assert "1.0.0 stays in charge" in (status(supervisor).upgrade or ""), length
    upgrade(supervisor, wasm, new, overwrite)
    assert version_of(supervisor) == "2.0.0"


def test_a_module_that_changes_while_its_new_version_is_prepared_does_not_take_over_yet(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    plugin = supervisor.plugins[PROBE]
    put(wasm, build(plugins))
    with ThreadPoolExecutor(1) as threads:
        with plugin.changing_config(Deadline.after(20.0)):  # which a new version waits for before it takes over
            reloading = threads.submit(supervisor.reload)
            wait_until(lambda: _starting(supervisor))
            overwrite(wasm, build(plugins, "3.0.0"))
        error = reloading.result().refused[PROBE]
    assert "was changed again" in str(error)
    assert version_of(supervisor) == "1.0.0"
    assert supervisor.reload().upgraded == (PROBE,)
    assert version_of(supervisor) == "3.0.0"


def test_a_configuration_that_changes_while_a_new_version_is_prepared_is_told_to_it_before_it_takes_over(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    sidecar = wasm.with_name("config.json")
    supervisor = supervise(config=config())
    plugin = supervisor.plugins[PROBE]
    put(wasm, build(plugins))
    sidecar.write_text('{"normalize": true}')
    with ThreadPoolExecutor(1) as threads:
        with plugin.changing_config(Deadline.after(20.0)):
            reloading = threads.submit(supervisor.reload)
            wait_until(lambda: json.loads(sidecar.read_text()).get("normalized"))  # it has been told the first one
            sidecar.write_text('{"colour": "red"}')
        assert reloading.result().upgraded == (PROBE,)
    assert supervisor.get_config(PROBE) == {"colour": "red"}
    assert not supervisor.reload().configured


def _starting(supervisor: Supervisor) -> list[int]:
    """The workers that no plugin has yet."""
    known = set(status(supervisor).worker_pids)
    return [pid for pid in workers() if pid not in known]


# --- in any state of the old version ----------------------------------------------------------------------------------


def test_an_upgrade_is_a_way_out_of_quarantine(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(max_restarts=0))
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert status(supervisor).state == "quarantined"
    upgrade(supervisor, wasm, build(plugins))
    assert version_of(supervisor) == "2.0.0"
    assert status(supervisor).state == "ready"
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    with pytest.raises(PluginQuarantined):  # what it was before
        supervisor.call(PROBE, "echo", b"x")


def test_events_that_waited_in_quarantine_and_inputs_that_were_set_aside_get_another_chance_with_a_new_version(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(max_restarts=1))
    for params in (1, 1, 2, 3):
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv", params)
    assert status(supervisor).state == "quarantined"
    assert supervisor.poisoned(PROBE)
    supervisor.emit("file_saved", {"path": "a.md"})
    wait_until(lambda: not any(thread.name.startswith("isoplug-event") for thread in threading.enumerate()))
    upgrade(supervisor, wasm, build(plugins))
    assert supervisor.flush_events(60.0)
    assert supervisor.command(PROBE, "events")[-1]["input"]["payload"] == {"path": "a.md"}
    assert not supervisor.poisoned(PROBE)


def test_calls_that_wait_for_a_worker_that_backs_off_go_over_to_the_new_version(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config(backoff_initial=600.0, backoff_max=600.0))
    plugin = supervisor.plugins[PROBE]
    for number in range(2):
        with pytest.raises(WorkerCrashed):
            supervisor.command(PROBE, "segv", number)
    wait_until(lambda: plugin.status.state == "backing_off")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(version_of, supervisor)
        wait_until(lambda: plugin.status.calls == 3)
        upgrade(supervisor, wasm, build(plugins))
        assert waiting.result() == "2.0.0"


def test_a_call_in_progress_finishes_on_the_old_version_and_those_behind_it_go_over(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config({"shutdown_timeout": 0.1}, trial_calls=1))
    plugin, cancellation = supervisor.plugins[PROBE], Cancellation()
    with ThreadPoolExecutor(5) as threads:
        hanging = threads.submit(supervisor.command, PROBE, "spin", timeout=60.0, cancellation=cancellation)
        wait_until_computing(plugin)
        waiting = [threads.submit(version_of, supervisor) for _ in range(4)]
        wait_until(lambda: plugin.status.calls == 5)
        upgrade(supervisor, wasm, build(plugins))
        assert [call.result() for call in waiting] == ["2.0.0"] * 4
        assert not hanging.done()
        cancellation.cancel()
        assert isinstance(hanging.exception(), CallCancelled)
    wait_settled(supervisor)
    assert (status(supervisor).version, status(supervisor).upgrade) == ("2.0.0", None)


def test_an_upgrade_under_load_loses_no_call_and_no_event(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    stop = threading.Event()
    versions: list[str] = []

    def call() -> int:
        answered = 0
        while not stop.is_set():
            versions.append(version_of(supervisor))
            assert supervisor.command(PROBE, "echo", answered) == answered
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(call) for _ in range(4)]
        for number in range(2, 6):
            wait_until(lambda: f"{number - 1}.0.0" in versions)  # noqa: B023
            supervisor.emit("file_saved", {"path": f"{number}.md"})
            upgrade(supervisor, wasm, build(plugins, f"{number}.0.0"), put if number % 2 else overwrite)
        wait_until(lambda: "5.0.0" in versions)
        stop.set()
        assert all(caller.result() > 0 for caller in callers)
    assert supervisor.flush_events(60.0)
    wait_settled(supervisor)
    assert status(supervisor).failures == 0
    assert (status(supervisor).version, status(supervisor).upgrade) == ("5.0.0", None)


def test_events_that_wait_go_to_the_new_version(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    paths = [f"{number}.md" for number in range(5)]
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(supervisor.command, PROBE, "spin", timeout=60.0, cancellation=cancellation)
        wait_until_computing(supervisor.plugins[PROBE])
        for path in paths:
            supervisor.emit("file_saved", {"path": path})
        upgrade(supervisor, wasm, build(plugins))
        assert supervisor.flush_events(20.0)
        cancellation.cancel()
        assert isinstance(hanging.exception(), CallCancelled)
    life = supervisor.command(PROBE, "events")
    assert [entry["input"]["payload"]["path"] for entry in life if entry["export"] == "on_event"] == paths
    assert status(supervisor).version == "2.0.0"


def test_a_chain_that_comes_back_to_a_plugin_after_its_upgrade_runs_on_the_new_version(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    for plugin_id in (PROBE, "test.other"):
        workspace.grant(plugin_id, execute_commands=["all"])
    supervisor = supervise(config=config())
    other = supervisor.plugins["test.other"]
    inner = {"plugin_id": PROBE, "command": "count"}
    chain = {"plugin_id": "test.other", "command": "call", "params": inner}
    supervisor.command(PROBE, "count")
    occupied = other.pool.acquire(Chain(), Deadline.after(60.0), 0)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "call", chain)
        wait_until(lambda: status(supervisor).state == "busy")
        upgrade(supervisor, wasm, build(plugins))
        occupied.release()
        answer = call.result()
    assert answer["data"] == {"success": True, "data": 1}  # the new version's first
    wait_until(lambda: len(status(supervisor).worker_pids) == 2)


def test_all_workers_of_a_plugin_are_of_the_version_in_charge(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(variant="probe_stateless")
    settings = config().override(plugins={PROBE: {"workers": 3}})
    supervisor = supervise(config=settings)
    put(wasm, build(plugins, "2.0.0"))  # which does not say that it is stateless
    assert "stateless" in str(supervisor.reload().refused[PROBE])
    upgrade(supervisor, wasm, build(plugins, "3.0.0", "GUEST_STATELESS"))
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(lambda _: version_of(supervisor), range(20))) == {"3.0.0"}
    wait_settled(supervisor)
    wait_until(lambda: len(status(supervisor).worker_pids) == 3)


# --- more than one change at a time -----------------------------------------------------------------------------------


def test_two_upgrades_during_one_trial_fall_back_to_the_version_that_was_proven(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    supervisor.command(PROBE, "count")
    upgrade(supervisor, wasm, build(plugins))
    upgrade(supervisor, wasm, build(plugins, "3.0.0"))
    assert status(supervisor).upgrade == "3.0.0 is on trial; 1.0.0 stands by"
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.command(PROBE, "count") == 2
    assert "3.0.0 was rolled back" in (status(supervisor).upgrade or "")
    wait_settled(supervisor)


def test_a_refused_version_during_a_trial_leaves_the_trial_alone(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    put(wasm, build(plugins, "3.0.0", "INIT_TRAP"))
    assert list(supervisor.reload().refused) == [PROBE]
    assert version_of(supervisor) == "2.0.0"
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert version_of(supervisor) == "1.0.0"


@pytest.mark.parametrize("what", ["unload", "close"])
def test_a_plugin_that_goes_during_a_trial_takes_both_versions_with_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], what: str
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    assert len(status(supervisor).worker_pids) == 2
    if what == "close":
        supervisor.close()
        with pytest.raises(SupervisorClosed):
            supervisor.reload()
    else:
        supervisor.unload(PROBE)
        with pytest.raises(PluginNotFound):
            supervisor.call(PROBE, "echo", b"x")
        assert supervisor.reload().loaded == (PROBE,)


@pytest.mark.parametrize("what", ["unload", "close"])
def test_a_plugin_that_goes_while_its_new_version_is_prepared_is_gone(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], what: str
) -> None:
    wasm = plugins.add()
    start_timeout = 60.0 if what == "close" else 5.0  # which ends it, when nothing else does
    supervisor = supervise(config=config({"start_timeout": start_timeout, "shutdown_timeout": 0.2}))
    put(wasm, build(plugins))
    (wasm.parent / "config.json").write_text('{"init": "spin"}')
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(supervisor.reload)
        wait_until(lambda: _starting(supervisor))
        if what == "close":
            supervisor.close()
            assert isinstance(reloading.exception(), SupervisorClosed)
        else:
            supervisor.unload(PROBE)
            assert list(reloading.result().refused) == [PROBE]
            assert PROBE not in supervisor.plugins


def test_closing_at_any_moment_of_an_upgrade_leaves_nothing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    old, new = wasm.read_bytes(), build(plugins)
    for step in range(8):
        put(wasm, old)
        supervisor = supervise(config=config({"shutdown_timeout": 0.2}))
        put(wasm, new)
        with ThreadPoolExecutor(1) as threads:
            reloading = threads.submit(supervisor.reload)
            time.sleep(0.03 * step)  # a moment, not a condition: all of them have to work
            supervisor.close()
            error = reloading.exception()
        assert error is None or isinstance(error, SupervisorClosed)


def test_what_a_person_sets_during_a_trial_counts_for_both_versions(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    supervisor = supervise(config=config())
    upgrade(supervisor, wasm, build(plugins))
    assert supervisor.get_config(PROBE) == {"colour": "blue"}
    supervisor.set_config(PROBE, {"colour": "red"})
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert supervisor.get_config(PROBE) == {"colour": "red"}
    assert status(supervisor).version == "1.0.0"


def test_both_versions_share_what_is_stored(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    request: dict[str, Any] = {"function": "host_storage_set", "input": json.dumps({"key": "k", "data": "djI="})}
    upgrade(supervisor, wasm, build(plugins))
    supervisor.call(PROBE, "host", json.dumps(request).encode())
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    request = {"function": "host_storage_get", "input": json.dumps({"key": "k"})}
    assert json.loads(supervisor.call(PROBE, "host", json.dumps(request).encode())) == {"data": "djI="}


def test_a_trial_does_not_hold_up_another_plugin(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    supervisor = supervise(config=config({"start_timeout": 5.0}))
    put(wasm, build(plugins, "2.0.0", "INIT_SPIN"))
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(supervisor.reload)
        wait_until(lambda: _starting(supervisor))
        assert supervisor.call("test.other", "echo", b"x") == b"x"
        assert version_of(supervisor) == "1.0.0"
        assert not reloading.done()
        assert list(reloading.result().refused) == [PROBE]


def test_restart_defaults_to_a_trial_of_three_calls() -> None:
    assert Restart().trial_calls == 3
