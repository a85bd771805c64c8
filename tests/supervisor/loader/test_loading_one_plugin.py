"""load_plugin, unload, the manifest cache, inspect, and modules that change on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import PluginFolder, wait_until
from faults import templates_of
from guests import guest, renamed
from isoplug.supervisor import (
    AllowAll,
    GuestTrap,
    LoadError,
    PluginNotFound,
    ProtocolMismatch,
    SetupError,
    Supervisor,
    SupervisorClosed,
    inspect,
)
from isoplug.supervisor.config import Config
from isoplug.supervisor.testing import RecordingSockets

PROBE = "test.probe"
CONNECT = {"type": "connect", "server_url": "https://server.example", "workspace_id": "w"}


class Slow:
    """Offers a file when the test says so."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def read(self, plugin_id: str, key: str) -> bytes | None:
        self.asked.set()
        self.go_on.wait(60)
        return b"x"


# --- outside a scan ---------------------------------------------------------------------------------------------------


def test_a_plugin_loaded_by_its_path_has_its_sidecars_beside_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    supervisor = supervise(plugins_dir=None)
    plugin = supervisor.load_plugin(str(wasm))
    assert plugin is supervisor.plugins[PROBE]
    assert supervisor.command(PROBE, "events")[0] == {"export": "set_config", "input": {"colour": "blue"}}
    assert json.loads((wasm.parent / "manifest.json").read_bytes())["id"] == PROBE
    supervisor.set_config(PROBE, {"colour": "red"})
    assert json.loads((wasm.parent / "config.json").read_bytes()) == {"colour": "red"}


def test_a_configuration_elsewhere_can_be_named(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    (tmp_path / "other.json").write_text('{"colour": "green"}')
    supervisor = supervise(plugins_dir=None)
    supervisor.load_plugin(wasm, tmp_path / "other.json")
    assert supervisor.get_config(PROBE) == {"colour": "green"}


def test_a_plugin_loaded_later_gets_events(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    supervisor = supervise(plugins_dir=None)
    supervisor.load_plugin(plugins.add())
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.flush_events(60.0)
    assert supervisor.command(PROBE, "events")[-1]["export"] == "on_event"


def test_errors_name_the_folder_of_a_plugin_wasm_and_the_file_of_any_other(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    supervisor = supervise(plugins_dir=None)
    with pytest.raises(LoadError, match="'broken'") as caught:
        supervisor.load_plugin(plugins.add(variant="bad_manifest_empty", folder="broken"))
    assert caught.value.plugin_id == "broken"
    (tmp_path / "single.wasm").write_bytes((plugins.path / "broken" / "plugin.wasm").read_bytes())
    with pytest.raises(LoadError, match="'single'"):
        supervisor.load_plugin(tmp_path / "single.wasm")


def test_a_failed_load_leaves_the_id_free_and_no_process(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    supervisor = supervise(plugins_dir=None)
    with pytest.raises(GuestTrap):
        supervisor.load_plugin(plugins.add(variant="probe_init_trap", folder="trapping"))
    assert not supervisor.plugins
    supervisor.load_plugin(plugins.add())
    assert supervisor.command(PROBE, "count") == 1
    with pytest.raises(LoadError, match="is taken by"):
        supervisor.load_plugin(plugins.add(folder="again"))
    assert supervisor.command(PROBE, "count") == 2


def test_load_plugin_after_close_says_that_it_is_closed(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(plugins_dir=None)
    supervisor.close()
    with pytest.raises(SupervisorClosed):
        supervisor.load_plugin(wasm)
    with pytest.raises(SupervisorClosed):
        supervisor.unload(PROBE)
    with pytest.raises(SupervisorClosed):
        supervisor.reset(PROBE)


# --- unloading --------------------------------------------------------------------------------------------------------


def test_unloading_calls_shutdown_ends_the_worker_and_forgets_the_plugin(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    plugins.add("test.other")
    supervisor = supervise()
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    supervisor.command(PROBE, "count")
    supervisor.unload(PROBE)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to end")
    assert list(supervisor.plugins) == ["test.other"]
    for use in (
        lambda: supervisor.command(PROBE, "echo"),
        lambda: supervisor.get_config(PROBE),
        lambda: supervisor.reset(PROBE),
        lambda: supervisor.cancel(PROBE, "x"),
        lambda: supervisor.unload(PROBE),
    ):
        with pytest.raises(PluginNotFound, match=r"loaded: test\.other"):
            use()
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 1
    assert supervisor.load_plugin(wasm).id == PROBE
    assert supervisor.command(PROBE, "count") == 1
    stored = supervisor.command(PROBE, "host", {"function": "host_storage_get", "input": '{"key": "shutdown"}'})
    assert json.loads(stored["answer"])["data"] == "ZG9uZQ=="  # "done": what its shutdown left


@pytest.mark.parametrize("how", ["trap", "spin"])
def test_a_shutdown_that_fails_does_not_keep_the_plugin(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(config={"shutdown": how})
    supervisor = supervise(config=Config(calls={"shutdown_timeout": 0.3}))
    supervisor.unload(PROBE)
    assert not supervisor.plugins
    assert "plugin.shutdown_failed plugin=test.probe" in caplog.text


def test_a_plugin_that_is_loaded_while_its_predecessor_is_unloaded_waits_and_then_may_connect(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm, files, sockets = plugins.add(), Slow(), RecordingSockets()
    supervisor = supervise(files=files, websockets=sockets, permissions=AllowAll())
    connect = {"function": "host_ws_request", "input": json.dumps(CONNECT)}
    with ThreadPoolExecutor(3) as threads:
        try:
            assert supervisor.command(PROBE, "host", connect)["answer"] == '{"ok":true}'
            ask = {"function": "host_request_file", "input": '{"key": "k"}'}
            call = threads.submit(supervisor.command, PROBE, "host", ask)
            assert files.asked.wait(60)
            unloading = threads.submit(supervisor.unload, PROBE)
            wait_until(lambda: PROBE not in supervisor.plugins)
            loading = threads.submit(supervisor.load_plugin, wasm)
            wait([loading], 1.0)  # it could have been loaded by then, if nothing made it wait
        finally:
            files.go_on.set()
        for done in (call, unloading, loading):
            done.result()
    assert not sockets.targets
    assert supervisor.command(PROBE, "host", connect)["answer"] == '{"ok":true}'
    assert len(sockets.targets) == 1


# --- the manifest cache -----------------------------------------------------------------------------------------------


def cached(wasm: Path, **fields: object) -> Path:
    """A cache as fresh as the module."""
    manifest = {"id": PROBE, "name": "Cached", "version": "9.9.9", "description": "d", "capabilities": []} | fields
    path = wasm.parent / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def test_a_fresh_cache_counts(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    cached(plugins.add())
    assert supervise().plugins[PROBE].manifest.version == "9.9.9"


def test_a_cache_older_than_the_module_is_rebuilt(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    cache = cached(plugins.add())
    os.utime(cache, (1, 1))
    assert supervise().plugins[PROBE].manifest.version == "1.0.0"
    assert json.loads(cache.read_bytes())["version"] == "1.0.0"


@pytest.mark.parametrize("content", [b"", b"{half", b"[]", b'{"id": "test.probe"}', b"\xff\xfe", b"[" * 100_000])
def test_a_cache_that_is_no_manifest_is_rebuilt(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], content: bytes
) -> None:
    cache = plugins.add().parent / "manifest.json"
    cache.write_bytes(content)
    assert supervise().plugins[PROBE].manifest.version == "1.0.0"
    assert json.loads(cache.read_bytes())["version"] == "1.0.0"


def test_a_cache_that_cannot_be_read_or_replaced_is_ignored(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    (plugins.add().parent / "manifest.json").mkdir()
    os.mkfifo(plugins.add("test.fifo").parent / "manifest.json")
    supervisor = supervise()
    assert set(supervisor.plugins) == {PROBE, "test.fifo"}


def test_a_cache_never_gives_a_plugin_another_id(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    cache = cached(plugins.add(), id="someone.trusted")
    assert list(supervise().plugins) == [PROBE]
    assert json.loads(cache.read_bytes())["id"] == PROBE


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_folder_that_cannot_be_written_is_fine(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    wasm = plugins.add()
    wasm.parent.chmod(0o500)
    assert list(supervise().plugins) == [PROBE]
    assert not (wasm.parent / "manifest.json").exists()


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_answers_the_guests_own_manifest_and_writes_nothing(plugins: PluginFolder) -> None:
    wasm = plugins.add(config={"colour": "blue"})
    before = cached(wasm).read_bytes()
    manifest = inspect(wasm)
    assert (manifest.id, manifest.version) == (PROBE, "1.0.0")
    assert (wasm.parent / "manifest.json").read_bytes() == before
    (wasm.parent / "manifest.json").unlink()
    inspect(wasm)
    assert sorted(path.name for path in wasm.parent.iterdir()) == ["config.json", "plugin.wasm"]


@pytest.mark.parametrize("variant", ["probe_protocol_2", "probe_app_99", "probe_app_unreadable"])
def test_inspect_warns_of_an_incompatible_version(
    plugins: PluginFolder, variant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "isoplug"):
        assert inspect(plugins.add(variant=variant)).id == PROBE
    assert "plugin.incompatible plugin=test.probe" in caplog.text


def test_inspect_does_not_start_the_plugin(plugins: PluginFolder) -> None:
    assert inspect(plugins.add(variant="probe_init_trap")).id == PROBE


def test_inspect_of_a_module_that_cannot_load_is_a_load_error(plugins: PluginFolder, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="host_does_not_exist"):
        inspect(plugins.add(variant="unknown_import"))
    with pytest.raises(LoadError, match="No such file"):
        inspect(tmp_path / "nothing.wasm")


# --- a module that changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["replaced", "half-written", "deleted", "folder deleted"])
def test_a_restart_starts_what_was_loaded_whatever_happens_in_the_plugins_folder(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], what: str
) -> None:
    wasm = plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    match what:
        case "replaced":
            wasm.write_bytes(renamed(guest("probe", plugins.cache).read_bytes(), "test.impostor"))
        case "half-written":
            os.truncate(wasm, wasm.stat().st_size // 2)
        case "deleted":
            wasm.unlink()
        case "folder deleted":
            shutil.rmtree(wasm.parent)
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: plugin.status.restarts == 1)
    assert json.loads(supervisor.call(PROBE, "manifest"))["id"] == PROBE
    assert supervisor.command(PROBE, "count") == 1


def test_the_private_copy_is_a_file_without_a_name_that_goes_with_its_plugin(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise()
    before = set((tmp_path / "state").iterdir())
    assert _copies(tmp_path / "state") == 1
    supervisor.unload(PROBE)
    assert _copies(tmp_path / "state") == 0
    assert set((tmp_path / "state").iterdir()) == before


def test_a_private_copy_that_was_damaged_is_not_started(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart={"max_restarts": 1, "backoff_initial": 0.01, "backoff_jitter": 0.0}))
    plugin = supervisor.plugins[PROBE]
    (copy,) = _descriptors_of_copies(tmp_path / "state")
    os.pwrite(copy, b"\xff", 1000)
    (template,), (worker,) = templates_of(supervisor, [PROBE]), plugin.status.worker_pids
    os.kill(template, signal.SIGKILL)  # it has compiled what was there before
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: plugin.status.state == "quarantined")
    assert "damaged" in (plugin.status.last_failure or "")


def test_without_room_for_the_private_copy_a_load_says_so_and_leaves_nothing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path, mounted: Callable[..., None]
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    mounted(state, "-t", "tmpfs", "-o", "size=1m,mode=0700")
    supervisor = supervise()
    with open(state / "filler", "wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(SetupError, match="No space left on device; make room there"):
        supervisor.load_plugin(plugins.add())
    assert PROBE not in supervisor.plugins
    assert _copies(state) == 0
    (state / "filler").unlink()
    assert supervisor.load_plugin(plugins.path / PROBE / "plugin.wasm").id == PROBE


def _copies(folder: Path) -> int:
    return len(_descriptors_of_copies(folder))


def _descriptors_of_copies(folder: Path) -> list[int]:
    """This process's open files in ``folder`` that have no name."""
    links = {int(fd.name): os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    return [fd for fd, target in links.items() if target.startswith(f"{folder}/") and target.endswith(" (deleted)")]


def test_a_protocol_error_carries_the_plugins_own_id(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    with pytest.raises(ProtocolMismatch) as caught:
        supervise(plugins_dir=None).load_plugin(plugins.add(variant="probe_protocol_2", folder="some-folder"))
    assert caught.value.plugin_id == PROBE
