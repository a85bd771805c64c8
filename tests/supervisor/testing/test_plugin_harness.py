"""A harness is the real host around one plugin: what an author sees of the plugin, and what is gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import nothing_left_behind
from conftest import wait_until, wait_until_computing
from guests import guest, renamed
from isoplug.supervisor import (
    AllowAll,
    CommandError,
    CommandNotFound,
    ConfigError,
    GuestTrap,
    InvalidArgument,
    LoadError,
    Permission,
    PermissionDenied,
    PluginQuarantined,
    ServiceError,
    SetupError,
    WorkerCrashed,
)
from isoplug.supervisor.egress import HttpRequest, HttpResponse
from isoplug.supervisor.testing import Asked, PluginHarness, RecordingEvents, RecordingStorage

PROBE = "test.probe"
REQUESTS_READING = 'GUEST_PERMISSIONS={"defaults":{"read_files":{"include":["notes"]}}}'
Load = Callable[..., PluginHarness]


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def wasm(guest_cache: Path) -> Path:
    return guest("probe", guest_cache)


@pytest.fixture(scope="module")
def shared(wasm: Path) -> Iterator[PluginHarness]:
    with PluginHarness(wasm, config={"colour": "red"}, workspace={"notes/a.md": "Grüße", "b.bin": b"\xff"}) as plugin:
        yield plugin


@pytest.fixture
def plugin(shared: PluginHarness) -> PluginHarness:
    for service in (shared.events, shared.storage, shared.http, shared.permissions):
        service.clear()
    return shared


def host(plugin: PluginHarness, function: str, payload: Any) -> str:
    """What the guest is answered when it calls ``function``."""
    request = {"function": function, "input": json.dumps(payload)}
    return plugin.call("host", json.dumps(request).encode()).decode()


def life(plugin: PluginHarness) -> list[str]:
    """The exports that this instance has been called with."""
    return [entry["export"] for entry in plugin.command("events")]


# --- driving a plugin -----------------------------------------------------------------------------------------------


def test_commands_and_exports_are_those_of_the_plugin(plugin: PluginHarness) -> None:
    assert plugin.id == plugin.manifest.id == PROBE
    assert plugin.command("echo", {"ä": [1]}) == {"ä": [1]}
    assert plugin.call("echo", b"\xff\0") == b"\xff\0"
    assert (
        plugin.call("host", b'{"function":"host_request_file","input":"{\\"key\\":\\"k\\"}"}', files={"k": b"1"})
        == b"1"
    )
    with pytest.raises(CommandError, match="not today"):
        plugin.command("fail", {"message": "not today"})
    with pytest.raises(CommandNotFound):
        plugin.command("undeclared")
    assert plugin.status.state == "ready"


def test_the_configuration_is_there_before_init_and_can_be_changed(plugin: PluginHarness) -> None:
    assert life(plugin)[:2] == ["set_config", "init"]
    assert plugin.get_config() == {"colour": "red"}
    plugin.set_config({"colour": "blue"})
    assert plugin.get_config() == {"colour": "blue"}
    with pytest.raises(ConfigError):
        plugin.set_config({"reject": True})
    plugin.set_config({"colour": "red"})


def test_the_workspace_has_the_files_that_were_given_and_those_that_the_plugin_writes(plugin: PluginHarness) -> None:
    assert host(plugin, "host_read_file", {"path": "notes/a.md"}) == "Grüße"
    assert host(plugin, "host_write_file", {"path": "out/new.md", "content": "né"}) == ""
    assert plugin.read("out/new.md") == "né"
    assert plugin.write("later.md", "l") == plugin.workspace / "later.md"
    assert host(plugin, "host_read_file", {"path": "later.md"}) == "l"
    assert plugin.files() == ["README.md", "b.bin", "later.md", "notes/a.md", "out/new.md"]
    assert json.loads(host(plugin, "host_workspace_file_set", {})) == ["README.md"]
    for outside in ("../x", "/etc/passwd"):
        with pytest.raises(ServiceError):
            plugin.write(outside, "x")
        with pytest.raises(ServiceError):
            plugin.read(outside)


def test_what_the_plugin_does_to_the_services_is_recorded(plugin: PluginHarness) -> None:
    plugin.http.answer("GET", "https://api.example/", json={"ok": True})
    request = {"url": "https://api.example", "method": "GET", "headers": {"X-Key": "k"}}
    assert json.loads(host(plugin, "host_http_request", request))["body"] == '{"ok": true}'
    host(plugin, "host_emit_event", {"type": "done"})
    host(plugin, "host_storage_set", {"key": "k", "data": "AAE="})
    host(plugin, "host_secret_set", {"key": "token", "value": "s"})
    (sent,) = plugin.http.requests
    assert (sent.method, sent.url) == ("GET", "https://api.example/")
    assert ("x-key", "k") in [(name.lower(), value) for name, value in sent.headers]
    assert plugin.events.received == [{"type": "done"}]
    assert plugin.storage.values(PROBE)["k"] == b"\x00\x01"
    assert plugin.secrets.values(PROBE) == {"token": "s"}
    assert Asked(PROBE, Permission.HTTP_REQUESTS, "api.example", True) in plugin.permissions.asked


def test_an_event_is_handled_when_emit_returns_and_what_the_handler_raises_is_raised(plugin: PluginHarness) -> None:
    plugin.emit("file_saved", {"path": "a.md"})
    plugin.emit("workspace_opened")
    last = plugin.command("events")[-2:]
    assert [entry["input"]["event_type"] for entry in last] == ["file_saved", "workspace_opened"]
    assert last[1]["input"]["payload"] == {"workspace_root": str(plugin.workspace)}
    with pytest.raises(CommandError, match="as it was told to"):
        plugin.emit("file_saved", {"path": "fail"})
    with pytest.raises(GuestTrap):
        plugin.emit("file_saved", {"path": "trap"})
    for wrong, payload in (("file_saved", {}), ("no_event", {}), (7, {})):
        with pytest.raises(InvalidArgument):
            plugin.emit(wrong, payload)  # type: ignore[arg-type]


def test_an_event_that_no_host_would_deliver_is_an_error_that_names_the_capability(guest_cache: Path) -> None:
    with (
        PluginHarness(guest("probe_no_capabilities", guest_cache)) as plugin,
        pytest.raises(InvalidArgument, match="'file_events'"),
    ):
        plugin.emit("file_saved", {"path": "a.md"})


# --- permissions ----------------------------------------------------------------------------------------------------


def test_rules_decide_and_can_be_changed_while_the_plugin_runs(wasm: Path) -> None:
    files = {"notes/a.md": "note", "private/a.md": "private"}
    with PluginHarness(wasm, permissions={"read_files": ["notes"]}, workspace=files) as plugin:
        assert host(plugin, "host_read_file", {"path": "notes/a.md"}) == "note"
        assert "read_files" in host(plugin, "host_read_file", {"path": "private/a.md"})
        plugin.permissions.grant({"read_files": ["private"]})
        assert host(plugin, "host_read_file", {"path": "private/a.md"}) == "private"


def test_requested_grants_what_the_manifest_asks_for_and_nothing_else(guest_cache: Path) -> None:
    wasm = guest("probe", guest_cache, REQUESTS_READING)
    with PluginHarness(wasm, permissions="requested", workspace={"notes/a.md": "note", "b.md": "b"}) as plugin:
        assert host(plugin, "host_read_file", {"path": "notes/a.md"}) == "note"
        assert "read_files" in host(plugin, "host_read_file", {"path": "b.md"})
        assert "edit_files" in host(plugin, "host_write_file", {"path": "notes/a.md", "content": ""})


def test_requested_permissions_that_nobody_could_grant_are_an_error(guest_cache: Path) -> None:
    wasm = guest("probe", guest_cache, 'GUEST_PERMISSIONS={"defaults":{"read_fils":{"include":["all"]}}}')
    with pytest.raises(InvalidArgument, match="read_fils"):
        PluginHarness(wasm, permissions="requested")


def test_a_host_may_put_in_its_own_checker_and_services(wasm: Path) -> None:
    class Vault:
        def send(self, _caller: object, request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, (), request.url.encode())

    with PluginHarness(wasm, permissions=AllowAll(), http=Vault(), call_timeout=7.0) as plugin:
        request = {"url": "https://a.example/", "method": "GET", "headers": {}}
        assert json.loads(host(plugin, "host_http_request", request))["body"] == "https://a.example/"
        assert isinstance(plugin.permissions, AllowAll)


# --- life -----------------------------------------------------------------------------------------------------------


def test_a_crash_costs_the_instance_and_nothing_that_was_stored(wasm: Path) -> None:
    with PluginHarness(wasm, config={"colour": "red"}) as plugin:
        plugin.command("count")
        host(plugin, "host_storage_set", {"key": "k", "data": "AAE="})
        (pid,) = plugin.status.worker_pids
        plugin.crash()
        assert plugin.command("count") == 1
        assert plugin.status.worker_pids != (pid,)
        assert str(plugin.status.last_failure).startswith("killed by SIGKILL while idle")
        assert life(plugin) == ["set_config", "init"]
        assert plugin.storage.values(PROBE) == {"k": b"\x00\x01"}


def test_a_crash_ends_the_call_in_progress(wasm: Path) -> None:
    failures: list[BaseException] = []

    def spin() -> None:
        try:
            plugin.command("spin")
        except WorkerCrashed as error:
            failures.append(error)

    with PluginHarness(wasm) as plugin:
        caller = threading.Thread(target=spin)
        caller.start()
        wait_until_computing(plugin.supervisor.plugins[PROBE])
        plugin.crash()
        caller.join()
        assert [getattr(error, "signal", None) for error in failures] == [signal.SIGKILL]


def test_too_many_crashes_quarantine_the_plugin_until_it_is_reset(wasm: Path) -> None:
    with PluginHarness(wasm) as plugin:
        while plugin.status.state != "quarantined":
            wait_until(lambda: plugin.status.state in ("ready", "quarantined"))
            plugin.crash()
        with pytest.raises(PluginQuarantined):
            plugin.command("count")
        plugin.crash()  # of nobody
        plugin.reset()
        assert plugin.command("count") == 1


def test_a_restart_is_that_of_the_application(wasm: Path) -> None:
    with PluginHarness(wasm, config={"colour": "red"}) as plugin:
        plugin.command("count")
        plugin.set_config({"colour": "blue"})
        plugin.write("a.md", "stays")
        plugin.restart()
        assert plugin.storage.values(PROBE) == {"shutdown": b"done"}
        assert plugin.command("count") == 1
        assert plugin.get_config() == {"colour": "blue"}
        assert plugin.read("a.md") == "stays"
        assert plugin.status.restarts == 0


def test_a_service_that_counts_as_false_is_used_all_the_same(wasm: Path) -> None:
    class Sink(list[str]):  # an empty list is false
        def emit(self, plugin_id: str, event_json: str) -> None:
            self.append(event_json)

    sink = Sink()
    with PluginHarness(wasm, events=sink) as plugin:
        plugin.command("host", {"function": "host_emit_event", "input": '{"type":"seen"}'})
    assert sink == ['{"type":"seen"}']


def test_two_harnesses_may_share_services_and_a_workspace(wasm: Path, tmp_path: Path) -> None:
    storage, events = RecordingStorage({PROBE: {"k": b"\x00"}}), RecordingEvents()
    other = renamed(wasm.read_bytes(), "test.other")
    for module in (wasm, other):
        with PluginHarness(module, storage=storage, events=events, workspace=tmp_path) as plugin:
            host(plugin, "host_emit_event", host(plugin, "host_storage_get", {"key": "k"}))
            host(plugin, "host_write_file", {"path": f"{plugin.id}.md", "content": "x"})
    assert events.received == ['{"data":"AA=="}', ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.other.md", "test.probe.md"]


# --- what goes wrong, and what is left ------------------------------------------------------------------------------


def test_a_missing_or_invalid_module_is_a_load_error_that_names_the_authors_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=rf"{tmp_path}/none\.wasm: No such file.*build the plugin"):
        PluginHarness(tmp_path / "none.wasm")
    with pytest.raises(LoadError, match="directory"):
        PluginHarness(tmp_path)
    with pytest.raises(LoadError, match="not a WebAssembly module"):
        PluginHarness(b"")
    (tmp_path / "daily.wasm").write_bytes(b"\0asm\1\0\0\0")
    with pytest.raises(LoadError, match=r"plugin 'daily' exports no function 'manifest'") as caught:
        PluginHarness(tmp_path / "daily.wasm")
    assert str(tmp_path / "daily.wasm") in caught.value.__notes__[0]


def test_a_trap_in_init_is_raised(guest_cache: Path) -> None:
    with pytest.raises(GuestTrap, match="init"):
        PluginHarness(guest("probe_init_trap", guest_cache))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"workspace": "/nowhere"}, SetupError),
        ({"workspace": {"../x": "outside"}}, ServiceError),
        ({"permissions": "everything"}, InvalidArgument),
        ({"permissions": {"read_fils": ["all"]}}, InvalidArgument),
        ({"config": {"x": object()}}, ConfigError),
        ({"call_timeout": -1.0}, SetupError),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(arguments: Any, error: type[Exception], wasm: Path) -> None:
    with pytest.raises(error):
        PluginHarness(wasm, **arguments)


def test_nothing_temporary_is_left_and_nothing_appears_beside_the_module(
    wasm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "build").mkdir()
    module = tmp_path / "build" / "plugin.wasm"
    module.write_bytes(wasm.read_bytes())
    plugin = PluginHarness(module, config={"a": 1}, workspace={"x.md": ""})
    assert os.listdir(tmp_path / "temporary")
    plugin.command("count")
    plugin.close()
    plugin.close()
    with pytest.raises(LoadError):
        PluginHarness(b"\0asm\1\0\0\0")
    assert os.listdir(tmp_path / "temporary") == []
    assert os.listdir(tmp_path / "build") == ["plugin.wasm"]


def test_a_denied_command_is_raised_as_the_guest_reports_it(plugin: PluginHarness) -> None:
    with pytest.raises(PermissionDenied, match="not yours"):
        plugin.command("fail", {"message": "not yours", "error_code": "permission_denied"})


def test_what_the_plugin_logs_is_in_the_tests_log(plugin: PluginHarness, caplog: pytest.LogCaptureFixture) -> None:
    host(plugin, "host_log", {"level": "warn", "message": "from inside"})
    assert "from inside" in caplog.text
