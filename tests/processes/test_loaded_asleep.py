"""Plugins that are loaded without being started: what is known of them, and what their first call finds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import PluginFolder, Workspace, wait_until
from guests import guest, renamed
from isoplug.supervisor import ConfigError, IntegrityError, LoadError, Supervisor
from isoplug.supervisor.config import Config, Sleep
from isoplug.supervisor.integrity import sha256_of
from versions import build, put

PROBE, OTHER = "test.probe", "test.other"


@pytest.fixture
def wasm(plugins: PluginFolder) -> Path:
    return plugins.add(PROBE)


@pytest.fixture
def lazy(supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    def start(**sections: Any) -> Supervisor:
        return supervise(config=Config(**({"sleep": Sleep(at_load=True)} | sections)))

    return start


@pytest.fixture
def known(wasm: Path, lazy: Callable[..., Supervisor]) -> Path:
    """The modules have been asked once, by an earlier supervisor."""
    lazy().close()
    return wasm


def state(supervisor: Supervisor, plugin_id: str = PROBE) -> str:
    return supervisor.plugins[plugin_id].status.state


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_a_plugin_that_is_known_is_loaded_without_any_process(known: Path, lazy: Callable[..., Supervisor]) -> None:
    wait_until(lambda: not children())  # of the earlier supervisor
    supervisor = lazy()
    assert not children()
    plugin = supervisor.plugins[PROBE]
    assert (plugin.status.state, plugin.status.worker_pids, plugin.status.version) == ("asleep", (), "1.0.0")
    assert "count" in plugin.manifest.commands
    assert supervisor.command(PROBE, "count") == 1
    assert (state(supervisor), plugin.status.restarts) == ("ready", 0)


def test_a_plugin_that_nobody_knows_is_asked_once_and_sleeps_without_init(
    wasm: Path, lazy: Callable[..., Supervisor]
) -> None:
    supervisor = lazy()
    assert state(supervisor) == "asleep"
    wait_until(lambda: len(children()) == 1)  # the zygote
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["init"]


def test_only_those_that_the_configuration_names_sleep(
    known: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    plugins.add(OTHER)
    supervisor = lazy(sleep=Sleep(), plugins={PROBE: {"sleep": {"at_load": True}}})
    assert (state(supervisor), state(supervisor, OTHER)) == ("asleep", "ready")


def test_many_first_calls_at_once_start_one_worker(known: Path, lazy: Callable[..., Supervisor]) -> None:
    supervisor = lazy()
    with ThreadPoolExecutor(16) as callers:
        counts = list(callers.map(lambda _: supervisor.command(PROBE, "count"), range(32)))
    assert sorted(counts) == list(range(1, 33))


def test_an_event_is_its_first_call(known: Path, lazy: Callable[..., Supervisor]) -> None:
    supervisor = lazy()
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.flush_events(60.0)
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["init", "on_event"]


def test_its_configuration_comes_with_the_first_call(known: Path, lazy: Callable[..., Supervisor]) -> None:
    known.with_name("config.json").write_text('{"colour": "blue"}')
    supervisor = lazy()
    assert (supervisor.reload().configured, state(supervisor)) == ((), "asleep")
    assert supervisor.get_config(PROBE) == {"colour": "blue"}
    assert [entry["export"] for entry in supervisor.command(PROBE, "events")] == ["set_config", "init"]


def test_a_broken_sidecar_is_a_load_error_as_ever(known: Path, lazy: Callable[..., Supervisor]) -> None:
    known.with_name("config.json").write_text("[]")
    supervisor = lazy()
    assert isinstance(supervisor.load_errors[PROBE], ConfigError)
    assert not supervisor.plugins


# --- whose word counts --------------------------------------------------------------------------------------------


def test_a_cache_beside_the_module_gives_no_plugin_anothers_id(
    known: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    """As if somebody had packed it with a module of another name."""
    thief = plugins.add("test.thief")
    manifest = json.loads(known.with_name("manifest.json").read_text())
    for _ in range(2):  # asked, and known
        thief.with_name("manifest.json").write_text(json.dumps(manifest))
        supervisor = lazy()
        assert set(supervisor.plugins) == {PROBE, "test.thief"}
        supervisor.close()


def test_another_module_at_the_same_path_is_asked_itself(
    known: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    put(known, renamed(guest("probe", plugins.cache).read_bytes(), "test.thief"))
    os.utime(known, (0, 0))  # it looks older than the cache
    assert set(lazy().plugins) == {"test.thief"}


def test_what_is_known_lies_where_only_the_supervisor_writes(known: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "manifests"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\xff" * 100])
def test_a_damaged_note_means_that_the_module_is_asked_again(
    known: Path, lazy: Callable[..., Supervisor], tmp_path: Path, damage: bytes
) -> None:
    (note,) = (tmp_path / "state" / "manifests").iterdir()
    good = note.read_bytes()
    for content in (damage, good[:64] + b"\n" + damage):
        note.write_bytes(content)
        supervisor = lazy()
        assert state(supervisor) == "asleep"
        assert note.read_bytes() == good
        supervisor.close()


def test_a_pin_counts_without_a_start(known: Path, lazy: Callable[..., Supervisor]) -> None:
    pinned = {PROBE: {"sha256": sha256_of(known.read_bytes())}}
    assert state(lazy(plugins=pinned)) == "asleep"
    supervisor = lazy(plugins={PROBE: {"sha256": "0" * 64}})
    assert isinstance(supervisor.load_errors[PROBE], IntegrityError)


# --- what the first call finds ------------------------------------------------------------------------------------


def test_a_module_that_does_not_start_is_a_load_error_of_each_call_until_it_is_mended(
    wasm: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    wasm.with_name("config.json").write_text('{"do": "nothing"}')
    lazy().close()
    supervisor = lazy()
    good = wasm.read_bytes()
    wasm.write_bytes(build(plugins))  # nobody has looked at it yet
    for _ in range(2):
        with pytest.raises(LoadError, match="has changed since the folder was looked through") as caught:
            supervisor.command(PROBE, "count")
    assert caught.value.plugin_id == PROBE
    plugin = supervisor.plugins[PROBE]
    assert (plugin.status.state, plugin.status.restarts) == ("quarantined", 0)
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert not supervisor.flush_events(60.0)  # it waits
    wasm.write_bytes(good)
    supervisor.reset(PROBE)
    assert supervisor.flush_events(60.0)
    assert supervisor.command(PROBE, "count") == 1


def test_all_who_wait_for_a_first_start_that_fails_hear_of_it(known: Path, lazy: Callable[..., Supervisor]) -> None:
    supervisor = lazy()
    shutil.copy(known, known.with_name("kept"))
    known.unlink()

    def call(_: int) -> str:
        with pytest.raises(LoadError) as caught:
            supervisor.call(PROBE, "echo", b"x")
        return str(caught.value)

    with ThreadPoolExecutor(8) as callers:
        errors = set(callers.map(call, range(16)))
    assert len(errors) == 1
    assert "cannot be read any more" in errors.pop()


def test_a_changed_module_of_a_sleeping_plugin_takes_over_at_a_reload(
    known: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    supervisor = lazy()
    put(known, build(plugins))
    report = supervisor.reload()
    assert (report.upgraded, dict(report.refused)) == ((PROBE,), {})
    assert supervisor.plugins[PROBE].status.version == "2.0.0"
    assert supervisor.command(PROBE, "count") == 1
    supervisor.close()
    assert state(lazy()) == "asleep"  # the new one is known as well


def test_a_folder_that_was_renamed_is_found_at_the_first_call(
    known: Path, lazy: Callable[..., Supervisor], plugins: PluginFolder
) -> None:
    supervisor = lazy()
    known.parent.rename(plugins.path / "elsewhere")
    assert supervisor.reload().refused == {}
    assert state(supervisor) == "asleep"
    assert supervisor.command(PROBE, "count") == 1


def test_a_plugin_from_elsewhere_is_loaded_asleep_as_well(
    lazy: Callable[..., Supervisor], plugins: PluginFolder, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    wasm = shutil.copy(plugins.add(PROBE), tmp_path / "elsewhere" / "plugin.wasm")
    shutil.rmtree(plugins.path / PROBE)
    supervisor = lazy()
    plugin = supervisor.load_plugin(wasm)
    assert plugin.status.state == "asleep"
    assert supervisor.command(PROBE, "count") == 1
    supervisor.unload(PROBE)
    assert supervisor.load_plugin(wasm).status.state == "asleep"


def test_one_may_call_another_that_has_never_run(
    known: Path, plugins: PluginFolder, workspace: Workspace, lazy: Callable[..., Supervisor]
) -> None:
    plugins.add(OTHER)
    workspace.grant(OTHER, execute_commands={"include": ["all"]})
    supervisor = lazy()
    request = {"function": "host_plugin_command", "input": json.dumps({"plugin_id": PROBE, "command": "count"})}
    assert '"data":1' in supervisor.command(OTHER, "host", request)["answer"]


def test_a_sleeping_plugin_holds_no_descriptor(
    known: Path, plugins: PluginFolder, lazy: Callable[..., Supervisor]
) -> None:
    descriptors = []
    for number in range(2):
        plugins.add(f"test.more{number}")
        lazy().close()
        supervisor = lazy()
        assert len(supervisor.plugins) == 2 + number
        descriptors.append(len(os.listdir("/proc/self/fd")))
        supervisor.close()
    assert descriptors[0] == descriptors[1]
