"""What is loaded is made to agree with the plugins folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import (
    AsyncSupervisor,
    ConfigError,
    LoadError,
    LoadProgress,
    ReloadReport,
    SetupError,
    Supervisor,
)
from versions import PROBE, build, config, overwrite, put, status


def names(report: ReloadReport) -> tuple[set[str], ...]:
    """loaded, upgraded, unloaded, configured, refused"""
    changed = (report.loaded, report.upgraded, report.unloaded, report.configured, report.refused)
    return tuple(set(part) for part in changed)


NOTHING: tuple[set[str], ...] = (set(), set(), set(), set(), set())


def test_a_reload_of_what_has_not_changed_does_nothing_and_disturbs_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    before = status(supervisor)
    assert names(supervisor.reload()) == NOTHING
    os.utime(wasm)
    overwrite(wasm, wasm.read_bytes())
    (wasm.parent / "config.json").write_text('{\n  "colour": "blue"\n}')
    assert names(supervisor.reload()) == NOTHING
    assert (status(supervisor).worker_pids, status(supervisor).calls) == (before.worker_pids, before.calls)


def test_new_folders_are_loaded_and_removed_ones_unloaded(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.old")
    plugins.add("test.stays")
    supervisor = supervise()
    shutil.rmtree(plugins.path / "test.old")
    plugins.add("test.new")
    report = supervisor.reload()
    assert (report.loaded, report.unloaded) == (("test.new",), ("test.old",))
    assert set(supervisor.plugins) == {"test.new", "test.stays"}
    supervisor.emit("file_saved", {"path": "a.md"})
    assert supervisor.flush_events(60.0)
    assert [entry["export"] for entry in supervisor.command("test.new", "events")] == ["init", "on_event"]
    assert supervisor._services.storage.get("test.old", "shutdown") == b"done"


def test_a_folder_without_its_module_is_unloaded(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    wasm.unlink()
    assert supervisor.reload().unloaded == (PROBE,)
    assert not supervisor.plugins


def test_an_emptied_folder_unloads_all(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    shutil.rmtree(wasm.parent)
    assert supervisor.reload().unloaded == (PROBE,)


@pytest.mark.parametrize("how", ["gone", "another and empty", "a file"])
def test_a_plugins_folder_that_was_taken_away_is_an_error_and_unloads_nothing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], how: str
) -> None:
    plugins.add()
    supervisor = supervise()
    aside = plugins.path.rename(plugins.path.with_name("aside"))
    if how == "another and empty":  # as the place of something that was unmounted looks
        plugins.path.mkdir()
    elif how == "a file":
        plugins.path.write_text("")
    with pytest.raises(SetupError, match=str(plugins.path)):
        supervisor.reload()
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    plugins.path.unlink() if how == "a file" else shutil.rmtree(plugins.path, ignore_errors=True)
    aside.rename(plugins.path)
    assert names(supervisor.reload()) == NOTHING


def test_a_plugins_folder_that_was_replaced_as_a_whole_is_the_new_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.old")
    supervisor = supervise()
    plugins.path.rename(plugins.path.with_name("aside"))
    plugins.path.mkdir()
    plugins.add("test.new")
    report = supervisor.reload()
    assert (report.loaded, report.unloaded) == (("test.new",), ("test.old",))


def test_a_folder_that_cannot_be_looked_into_is_not_gone(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    wasm.rename(wasm.with_name("aside"))
    wasm.symlink_to(wasm)  # a loop: there, and nobody can open it
    assert names(supervisor.reload()) == (set(), set(), set(), set(), {PROBE})
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    wasm.with_name("aside").rename(wasm)
    assert names(supervisor.reload()) == NOTHING


def test_plugins_from_elsewhere_are_left_alone(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add("test.here")
    wasm = plugins.add()
    wasm.parent.rename(tmp_path / "elsewhere")
    supervisor = supervise()
    supervisor.load_plugin(tmp_path / "elsewhere" / "plugin.wasm")
    assert names(supervisor.reload()) == NOTHING
    plugins.add()
    report = supervisor.reload()
    assert "is taken by" in str(report.refused[PROBE])
    assert set(supervisor.plugins) == {"test.here", PROBE}


def test_without_a_plugins_folder_there_is_nothing_to_reload(supervise: Callable[..., Supervisor]) -> None:
    with pytest.raises(SetupError, match="plugins_dir"):
        supervise(plugins_dir=None).reload()


# --- what could not be loaded -----------------------------------------------------------------------------------------


def test_what_could_not_be_loaded_is_tried_again_when_it_has_changed(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    wasm = plugins.add()
    good = wasm.read_bytes()
    wasm.write_bytes(good[: len(good) // 2])
    plugins.add("test.config", config="not an object")
    supervisor = supervise()
    assert set(supervisor.load_errors) == {PROBE, "test.config"}
    before = dict(supervisor.load_errors)
    report = supervisor.reload()
    assert all(report.refused[name] is before[name] for name in before)  # not even tried
    assert caplog.text.count("plugin.load_failed") == 2
    wasm.write_bytes(good)
    (plugins.path / "test.config" / "config.json").write_text("{}")
    assert set(supervisor.reload().loaded) == {PROBE, "test.config"}
    assert not supervisor.load_errors


def test_what_could_not_be_loaded_is_tried_again_by_force(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add_bytes("garbage", b"\0asm\1\0\0\0 garbage")
    supervisor = supervise()
    before = supervisor.load_errors["garbage"]
    assert supervisor.reload(force=True).refused["garbage"] is not before


def test_a_failure_is_forgotten_with_its_folder(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add_bytes("garbage", b"garbage")
    supervisor = supervise()
    shutil.rmtree(plugins.path / "garbage")
    assert names(supervisor.reload()) == NOTHING
    assert not supervisor.load_errors


def test_the_second_folder_with_an_id_is_loaded_when_the_first_is_gone(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    first = plugins.add(folder="a")
    plugins.add_bytes("b", build(plugins))
    supervisor = supervise()
    assert list(supervisor.load_errors) == ["b"]
    shutil.rmtree(first.parent)
    report = supervisor.reload()
    assert (report.upgraded, report.unloaded, supervisor.load_errors) == ((PROBE,), (), {})
    assert status(supervisor).version == "2.0.0"


# --- folders that change their names ----------------------------------------------------------------------------------


def test_a_folder_that_was_renamed_keeps_its_plugin_running_and_its_sidecars_go_with_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    before = status(supervisor).worker_pids
    wasm.parent.rename(plugins.path / "renamed")
    assert names(supervisor.reload()) == NOTHING
    assert status(supervisor).worker_pids == before
    assert supervisor.plugins[PROBE].wasm_path == plugins.path / "renamed" / "plugin.wasm"
    supervisor.set_config(PROBE, {"colour": "red"})
    assert json.loads((plugins.path / "renamed" / "config.json").read_text()) == {"colour": "red"}


def test_two_folders_that_change_places_keep_their_plugins(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    a, b = plugins.add("test.a", folder="a"), plugins.add("test.b", folder="b")
    supervisor = supervise()
    before = {plugin_id: status.worker_pids for plugin_id, status in supervisor.status().items()}
    a.parent.rename(plugins.path / "c")
    b.parent.rename(plugins.path / "a")
    (plugins.path / "c").rename(plugins.path / "b")
    assert names(supervisor.reload()) == NOTHING
    assert {plugin_id: status.worker_pids for plugin_id, status in supervisor.status().items()} == before
    assert supervisor.plugins["test.a"].wasm_path == b
    b.unlink()
    assert supervisor.reload().unloaded == ("test.a",)


# --- manifests that grow ----------------------------------------------------------------------------------------------


def test_a_version_may_offer_more_and_the_rules_stay_those_of_the_id(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add_bytes(
        PROBE, build(plugins, "1.0.0", 'GUEST_CAPABILITIES=["custom_commands"]', 'GUEST_COMMANDS=["echo"]')
    )
    supervisor = supervise(config=config())
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 0
    put(wasm, build(plugins))
    assert supervisor.reload().upgraded == (PROBE,)
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.flush_events(60.0)
    assert supervisor.command(PROBE, "events")[-1]["export"] == "on_event"
    request = {"function": "host_write_file", "input": json.dumps({"path": "a.md", "content": "x"})}
    assert "create_files" in supervisor.command(PROBE, "host", request)["answer"]


def test_a_manifest_that_was_cached_for_the_version_before_is_not_taken_for_the_new_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=config())
    put(wasm, build(plugins))
    os.utime(wasm, (1, 1))  # unpacked with the time that it was built at, long before the cache was written
    assert supervisor.reload().upgraded == (PROBE,)
    assert status(supervisor).version == "2.0.0"
    assert json.loads((wasm.parent / "manifest.json").read_text())["version"] == "2.0.0"


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_configuration_that_a_person_has_changed_is_told_once_and_not_written(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    sidecar = wasm.parent / "config.json"
    supervisor = supervise()
    sidecar.write_text('{"colour":   "red"}')
    assert supervisor.reload().configured == (PROBE,)
    assert supervisor.get_config(PROBE) == {"colour": "red"}
    assert sidecar.read_text() == '{"colour":   "red"}'
    assert names(supervisor.reload()) == NOTHING
    sidecar.unlink()
    assert supervisor.reload().configured == (PROBE,)
    assert supervisor.get_config(PROBE) == {}
    assert not sidecar.exists()


def test_what_was_set_by_the_host_or_corrected_by_the_guest_is_not_told_again(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"normalize": True})
    supervisor = supervise()
    assert names(supervisor.reload()) == NOTHING
    supervisor.set_config(PROBE, {"normalize": True, "colour": "red"})
    assert names(supervisor.reload()) == NOTHING


def test_a_sidecar_that_is_broken_is_refused_and_the_plugin_goes_on(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    (wasm.parent / "config.json").write_text("{half of")
    report = supervisor.reload()
    assert isinstance(report.refused[PROBE], ConfigError)
    assert not supervisor.load_errors
    assert supervisor.get_config(PROBE) == {"colour": "blue"}


def test_a_configuration_that_the_guest_refuses_is_in_the_report_and_in_the_log(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    (wasm.parent / "config.json").write_text('{"reject": true}')
    assert isinstance(supervisor.reload().refused[PROBE], ConfigError)
    assert f"plugin.config_refused plugin={PROBE} code=config_error reason=" in caplog.text
    assert names(supervisor.reload()) == NOTHING  # it knows


# --- at the same time -------------------------------------------------------------------------------------------------


def test_reloads_at_the_same_time_are_one_after_the_other(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    plugins.add("test.new")
    put(plugins.path / PROBE / "plugin.wasm", build(plugins))
    with ThreadPoolExecutor(6) as threads:
        reports = [future.result() for future in [threads.submit(supervisor.reload) for _ in range(6)]]
    assert [report.loaded for report in reports if report.loaded] == [("test.new",)]
    assert [report.upgraded for report in reports if report.upgraded] == [(PROBE,)]
    assert not any(report.refused for report in reports)


def test_loading_and_unloading_during_reloads_ends_with_what_the_folder_has(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    supervisor = supervise()
    stop = threading.Event()

    def reload() -> None:
        while not stop.is_set():
            supervisor.reload()

    with ThreadPoolExecutor(2) as threads:
        reloading = [threads.submit(reload) for _ in range(2)]
        for _ in range(5):
            for change in (lambda: supervisor.unload(PROBE), lambda: supervisor.load_plugin(wasm)):
                try:
                    change()
                except LoadError as error:
                    assert "is taken by" in str(error)  # noqa: PT017  a reload was quicker, or not
        stop.set()
        for future in reloading:
            future.result()
    supervisor.reload()
    assert set(supervisor.plugins) == {PROBE, "test.other"}
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_reloading_can_be_awaited(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> None:
    async def reload() -> ReloadReport:
        async with AsyncSupervisor(plugins.path, workspace.path, state_dir=tmp_path / "state") as supervisor:
            plugins.add()
            return await supervisor.reload()

    assert asyncio.run(reload()).loaded == (PROBE,)


def test_a_report_can_be_told_as_json(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    plugins.add_bytes("garbage", b"garbage")
    told = json.loads(json.dumps(supervisor.reload().to_json()))
    assert (told["loaded"], told["refused"]["garbage"]["code"]) == ([], "load_error")


def test_a_host_hears_of_each_step_of_a_load_in_the_thread_that_loads(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    heard: list[tuple[LoadProgress, threading.Thread]] = []
    plugins.add("test.a")
    plugins.add("test.b")
    (plugins.path / "broken").mkdir()
    (plugins.path / "broken" / "plugin.wasm").write_bytes(b"no module")
    supervisor = supervise(on_progress=lambda progress: heard.append((progress, threading.current_thread())))
    assert {thread for _, thread in heard} == {threading.current_thread()}
    steps = [(progress.started, progress.done) for progress, _ in heard]
    assert steps == [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)]
    assert {progress.total for progress, _ in heard} == {3}
    assert (heard[0][0].share, heard[-1][0].share) == (0.0, 1.0)
    heard.clear()
    supervisor.reload()
    assert heard[-1][0] == LoadProgress(3, 3, 3)


def test_a_display_that_fails_does_not_stop_a_load(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: LoadProgress) -> None:
        raise OSError("the terminal is gone")

    plugins.add("test.a")
    assert set(supervise(on_progress=fail).plugins) == {"test.a"}
    assert "load.progress_not_shown" in caplog.text
