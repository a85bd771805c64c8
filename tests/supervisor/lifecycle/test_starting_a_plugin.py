"""What a guest is called with before its first command, in which order, at the first start and at every other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import CommandNotFound, ConfigError, Supervisor

PROBE = "test.probe"


class Sink:
    """Collects what guests emit."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def emit(self, plugin_id: str, event: str) -> None:
        self.events.append((plugin_id, json.loads(event)))


def restart(supervisor: Supervisor, plugin_id: str = PROBE) -> None:
    plugin = supervisor.plugins[plugin_id]
    restarts = plugin.status.restarts
    os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
    wait_until(lambda: plugin.status.restarts > restarts and plugin.status.state == "ready")


def test_set_config_then_init_come_before_the_first_call_and_again_after_a_restart(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    expected = [
        {"export": "set_config", "input": {"colour": "blue"}},
        {"export": "init", "input": {"workspace_root": str(workspace.path)}},
    ]
    assert supervisor.command(PROBE, "events") == expected
    restart(supervisor)
    assert supervisor.command(PROBE, "events") == expected


def test_a_restart_brings_the_configuration_of_now(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    supervisor.set_config(PROBE, {"colour": "red"})
    restart(supervisor)
    assert supervisor.command(PROBE, "events")[0]["input"] == {"colour": "red"}


@pytest.mark.parametrize("config", [None, {}])
def test_without_configuration_set_config_is_not_called(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], config: Any
) -> None:
    plugins.add(config=config)
    assert [entry["export"] for entry in supervise().command(PROBE, "events")] == ["init"]


def test_without_a_workspace_init_is_told_so(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    assert supervise(workspace=None).command(PROBE, "events") == [{"export": "init", "input": {"workspace_root": None}}]


@pytest.mark.parametrize("content", ["{half", "[1]", '"text"', "", '{"a": NaN}', "\ud800"])
def test_a_sidecar_that_is_no_json_object_is_a_load_failure_that_names_the_file(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], content: str
) -> None:
    sidecar = plugins.add().parent / "config.json"
    sidecar.write_bytes(content.encode("utf-8", "surrogatepass"))
    error = supervise().load_errors[PROBE]
    assert isinstance(error, ConfigError)
    assert error.plugin_id == PROBE
    assert str(sidecar) in str(error)
    assert "correct the file or remove it" in str(error)


def test_a_guest_without_any_optional_export_lives_and_dies_like_others(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(variant="minimal", folder="minimal", config={"colour": "blue"})
    supervisor = supervise()
    assert supervisor.get_config("test.minimal") == {"colour": "blue"}
    supervisor.set_config("test.minimal", {"colour": "red"})
    assert supervisor.get_config("test.minimal") == {"colour": "red"}
    assert supervisor.emit("file_saved", {"path": "a.md"}) == 0
    with pytest.raises(CommandNotFound):
        supervisor.command("test.minimal", "anything")
    with pytest.raises(CommandNotFound):
        supervisor.call("test.minimal", "render_content", b"{}")
    restart(supervisor, "test.minimal")
    supervisor.unload("test.minimal")
    assert "shutdown_failed" not in caplog.text


def test_a_declared_command_of_a_guest_without_handle_command_is_not_found(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(variant="probe_no_handle_command")
    supervisor = supervise()
    with pytest.raises(CommandNotFound, match="'echo'"):
        supervisor.command(PROBE, "echo")
    assert supervisor.call(PROBE, "echo", b"alive") == b"alive"


def test_an_init_that_reports_an_error_is_logged_and_the_plugin_works(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(config={"init": "fail"})
    assert supervise().command(PROBE, "echo", 1) == 1
    assert "plugin.init_refused plugin=test.probe" in caplog.text
    assert "init failed, as it was told to" in caplog.text


def test_a_guest_that_refuses_its_configuration_at_start_still_gets_init(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(config={"reject": True})
    assert [entry["export"] for entry in supervise().command(PROBE, "events")] == ["set_config", "init"]
    assert "plugin.config_refused plugin=test.probe" in caplog.text


def test_a_configuration_that_the_guest_corrects_is_persisted(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"normalize": True, "colour": "blue"})
    supervise()
    assert json.loads((wasm.parent / "config.json").read_bytes()) == {
        "normalize": True,
        "colour": "blue",
        "normalized": True,
    }


def test_requests_of_set_config_reach_the_event_sink(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    # The C probe has no such answer: a guest whose set_config answers a fixed text.
    answer = {
        "config": {"a": 2},
        "permission_request": {"plugin_id": "t", "permissions": {"read_files": ["all"]}},
        "migrations": [{"from": 1}],
    }
    wasm = plugins.add_bytes("fixed", fixed_set_config(json.dumps(answer)), config={"a": 1})
    sink = Sink()
    supervise(events=sink)
    expected = [
        ("test.fixed", {"type": "permission_request", "permission_request": answer["permission_request"]}),
        ("test.fixed", {"type": "migrations", "migrations": [{"from": 1}]}),
    ]
    assert sink.events == expected
    assert json.loads((wasm.parent / "config.json").read_bytes()) == {"a": 2}


@pytest.mark.parametrize("answer", ["{half", "[]", "null", '{"config": 5}', '{"config": {}}'])
def test_a_set_config_that_answers_something_else_changes_nothing_it_should_not(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], answer: str
) -> None:
    wasm = plugins.add_bytes("fixed", fixed_set_config(answer), config={"a": 1})
    supervisor = supervise()
    assert list(supervisor.plugins) == ["test.fixed"]
    expected = {} if answer == '{"config": {}}' else {"a": 1}
    assert json.loads((wasm.parent / "config.json").read_bytes()) == expected


def fixed_set_config(answer: str) -> bytes:
    """A module that answers ``set_config`` with ``answer``; written in WAT, since its text changes with each test."""
    import wasmtime

    manifest = '{"id":"test.fixed","name":"F","version":"1","description":"d","capabilities":[]}'

    def data(text: str) -> str:
        return "".join(f"\\{byte:02x}" for byte in text.encode())

    return bytes(
        wasmtime.wat2wasm(f"""(module
          (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
          (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
          (import "extism:host/env" "output_set" (func $output (param i64 i64)))
          (memory 1)
          (data (i32.const 0) "{data(manifest)}")
          (data (i32.const 4096) "{data(answer)}")
          (func $say (param $from i32) (param $length i32) (result i32)
            (local $block i64) (local $at i32)
            (local.set $block (call $alloc (i64.extend_i32_u (local.get $length))))
            (loop $next
              (call $store (i64.add (local.get $block) (i64.extend_i32_u (local.get $at)))
                           (i32.load8_u (i32.add (local.get $from) (local.get $at))))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $at) (local.get $length))))
            (call $output (local.get $block) (i64.extend_i32_u (local.get $length)))
            i32.const 0)
          (func (export "manifest") (result i32) (call $say (i32.const 0) (i32.const {len(manifest.encode())})))
          (func (export "set_config") (result i32) (call $say (i32.const 4096) (i32.const {len(answer.encode())}))))""")
    )
