"""What a supervisor is made of, what it refuses to start with, and what its status says."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import (
    AllowAll,
    CommandError,
    CommandNotFound,
    PluginNotFound,
    SetupError,
    Supervisor,
    SupervisorClosed,
)
from isoplug.supervisor.config import Config

PROBE = "test.probe"


def host(supervisor: Supervisor, function: str, **fields: Any) -> str:
    request = {"function": function, "input": json.dumps(fields)}
    return supervisor.call(PROBE, "host", json.dumps(request).encode()).decode()


# --- what it refuses; the fixture around every test says that nothing is left -----------------------------------------


@pytest.mark.parametrize(
    ("argument", "service", "text"),
    [
        ("http", 5, "http: a int has none of the methods send; isoplug.supervisor.HttpClient says what"),
        ("events", print, "events: .* has none of the methods emit; isoplug.supervisor.EventSink"),
        ("permissions", AllowAll, "permissions: AllowAll is a class; pass an instance of it"),
        ("secrets", [], "secrets: a list has none of the methods get, set, delete; isoplug.supervisor.Secrets"),
        ("websockets", object(), "websockets: a object has none of the methods open"),
    ],
)
def test_what_cannot_be_a_service_is_refused_by_name(argument: str, service: object, text: str) -> None:
    with pytest.raises(SetupError, match=text):
        Supervisor(**{argument: service})


def test_a_checker_needs_no_method_but_check(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    class Lenient:
        check = AllowAll().check

    plugins.add()
    supervisor = supervise(permissions=Lenient())
    assert host(supervisor, "host_storage_set", key="k", data="AAAA") == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"plugins_dir": "{tmp}/nowhere"}, "plugins_dir: .*nowhere is not a folder; make it, or name another"),
        ({"workspace": "{tmp}/nowhere"}, "workspace: .*nowhere is not a folder"),
        ({"plugins_dir": "{tmp}/file"}, "plugins_dir: .*file is not a folder"),
        ({"workspace": "{tmp}/file"}, "workspace: .*file is not a folder"),
        ({"state_dir": "{tmp}/workspace/state"}, "lies in the workspace.*state_dir="),
        ({"state_dir": "{tmp}/workspace"}, "lies in the workspace.*state_dir="),
        ({"state_dir": "{tmp}"}, "contains the workspace.*state_dir="),
        ({"state_dir": "{tmp}/plugins/state"}, "lies in the plugins folder.*state_dir="),
        ({"state_dir": "{tmp}/file"}, "state folder"),
        ({"state_dir": "{tmp}/file/state"}, "state folder"),
        ({"root_index": "/etc/passwd"}, "root_index: must be a file name relative to the workspace"),
        ({"root_index": "../other.md"}, "root_index: must be a file name relative to the workspace"),
        ({"root_index": ""}, "root_index: must be a file name relative to the workspace"),
        ({"workspace": ""}, "workspace"),
        ({"workspace": "long" * 1000}, "workspace: .* cannot be looked at .*name another"),
        ({"plugins_dir": "long" * 1000}, "plugins_dir: .* cannot be looked at .*name another"),
        ({"plugins_dir": "a\0b"}, "plugins_dir"),
        ({"app_version": "soon"}, "app_version: must be a version"),
        ({"app_version": 1.4}, "app_version"),
        ({"call_timeout": 0}, "calls.timeout: must be more than 0s"),
        ({"call_timeout": "soon"}, "calls.timeout"),
        ({"call_timeout": float("nan")}, "calls.timeout"),
        ({"workspace": 5}, "workspace: must be a path"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_a_setup_error_that_names_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path, arguments: dict[str, Any], text: str
) -> None:
    plugins.add()
    (tmp_path / "file").write_text("x")
    before = sorted(path.name for path in tmp_path.iterdir())
    arguments = {
        key: value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    with pytest.raises(SetupError, match=text):
        supervise(**arguments)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "state") == before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plugin_dir = 'x'", r"plugin_dir: unknown key; did you mean 'plugins_dir'"),
        ("[calls]\ntimeout = 30", r"calls\.timeout: has no unit"),
        ("[calls", "is not TOML"),
        ("\x00", "is not TOML"),
        ("workspace = 'nowhere'", "nowhere is not a folder"),
    ],
)
def test_a_configuration_file_that_cannot_be_used_is_a_setup_error_that_names_it(
    tmp_path: Path, content: str, text: str
) -> None:
    (tmp_path / "isoplug.toml").write_text(content)
    with pytest.raises(SetupError, match=text):
        Supervisor.from_config(tmp_path / "isoplug.toml")
    with pytest.raises(SetupError, match=r"cannot read the configuration .*nowhere\.toml"):
        Supervisor.from_config(tmp_path / "nowhere.toml")


# --- what it is made of -----------------------------------------------------------------------------------------------


def test_a_configuration_file_names_folders_relative_to_itself(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add()
    workspace.grant(read_files=["all"]).write("a.md", "hello")
    (tmp_path / "isoplug.toml").write_text('plugins_dir = "plugins"\nworkspace = "workspace"\nstate_dir = "state"\n')
    with Supervisor.from_config(tmp_path / "isoplug.toml", call_timeout=5.0) as supervisor:
        assert host(supervisor, "host_read_file", path="a.md") == "hello"


def test_arguments_win_over_the_configuration(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(plugins_dir=tmp_path / "nowhere", app_version="2.0"))
    assert list(supervisor.plugins) == [PROBE]


def test_a_host_s_own_service_is_used_also_when_it_counts_as_false(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    class Sink(list[str]):  # an empty list is false
        def emit(self, plugin_id: str, event_json: str) -> None:
            self.append(event_json)

    class Secrets(dict[str, str]):
        def get(self, plugin_id: str, key: str) -> str | None:  # type: ignore[override]
            return super().get(key)

        def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
            self[key] = value

        def delete(self, plugin_id: str, key: str) -> None:
            self.pop(key, None)

        def close(self) -> None:
            """Nothing to close."""

    class Nobody(AllowAll):
        def __len__(self) -> int:
            return 0

    plugins.add()
    sink, secrets = Sink(), Secrets()
    supervisor = supervise(events=sink, secrets=secrets, permissions=Nobody())
    assert host(supervisor, "host_write_file", path="a.md", content="x") == ""
    assert host(supervisor, "host_secret_set", key="k", value="v") == ""
    assert secrets == {"k": "v"}
    host(supervisor, "host_emit_event", type="seen")
    assert sink == ['{"type": "seen"}']


def test_an_answer_that_fits_into_no_frame_is_an_error_of_its_function_and_the_worker_stays(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    class Large:
        def read(self, plugin_id: str, key: str) -> bytes:
            return b"x" * 100_000

        def get(self, plugin_id: str) -> dict[str, str]:
            return {"x": "y" * 100_000}

    plugins.add()
    workspace.grant(read_files=["all"])
    for number in range(700):
        workspace.write(f"{number}{'x' * 100}.md")
    supervisor = supervise(config=Config(limits={"frame": "64KiB"}), files=Large(), runtime_context=Large())
    for _ in range(2):
        assert host(supervisor, "host_list_files", prefix="").startswith(
            '{"error":"the size of the answer in bytes is '
        )
        assert host(supervisor, "host_request_file", key="k") == ""
        assert host(supervisor, "host_get_runtime_context") == "{}"
    assert supervisor.plugins[PROBE].status.restarts == 0


def test_without_a_workspace_everything_is_denied(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise(workspace=None)
    assert host(supervisor, "host_read_file", path="a.md").startswith('{"error"')
    assert host(supervisor, "host_list_files", prefix="").startswith('{"error"')
    assert host(supervisor, "host_write_file", path="a.md", content="x") != ""
    assert host(supervisor, "host_storage_set", key="k", data="eA==") != ""
    assert host(supervisor, "host_file_exists", path="a.md") == "false"


def test_a_host_that_allows_everything_without_a_workspace_still_has_no_files(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise(workspace=None, permissions=AllowAll())
    assert host(supervisor, "host_read_file", path="/etc/hostname").startswith('{"error"')
    assert host(supervisor, "host_storage_set", key="k", data="eA==") == ""


def test_no_folder_at_all_is_a_supervisor_without_plugins() -> None:
    with Supervisor() as supervisor:
        assert not supervisor.plugins
        assert not supervisor.load_errors
        assert supervisor.status() == {}
        with pytest.raises(PluginNotFound, match="loaded: none"):
            supervisor.command("x", "y")


def test_an_empty_plugins_folder_starts_no_process(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    before = psutil.Process().children()
    assert not supervise(plugins_dir=plugins.path).plugins
    assert psutil.Process().children() == before


def test_a_closed_supervisor_says_so_whatever_is_asked(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    supervisor.close()
    supervisor.close()
    for use in (
        lambda: supervisor.command(PROBE, "echo"),
        lambda: supervisor.call(PROBE, "echo"),
        lambda: supervisor.emit("file_saved", {"path": "a"}),
        lambda: supervisor.flush_events(1),
        lambda: supervisor.get_config(PROBE),
        lambda: supervisor.set_config(PROBE, {}),
        lambda: supervisor.reset(PROBE),
        lambda: supervisor.cancel(PROBE, "t"),
        lambda: supervisor.unload(PROBE),
    ):
        with pytest.raises(SupervisorClosed, match="start a new Supervisor"):
            use()
    assert supervisor.status()[PROBE].state == "stopped"


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_counts_calls_and_measures_the_process(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    supervisor.command(PROBE, "busy", {"milliseconds": 300})
    with pytest.raises(CommandError):
        supervisor.command(PROBE, "garbage")
    with pytest.raises(CommandNotFound):
        supervisor.call(PROBE, "nothing")
    status = supervisor.status()[PROBE]
    (pid,) = status.worker_pids
    process = psutil.Process(pid)
    assert (status.id, status.name, status.version, status.state) == (PROBE, "Probe", "1.0.0", "ready")
    assert (status.restarts, status.failures, status.last_failure) == (0, 0, None)
    assert status.calls == 3
    assert 0.5 < status.rss_bytes / process.memory_info().rss < 2
    assert 0.0 < status.cpu_seconds <= sum(process.cpu_times()[:2]) + 0.05
    assert json.loads(json.dumps(status.to_json())) == {
        "id": PROBE,
        "name": "Probe",
        "version": "1.0.0",
        "state": "ready",
        "worker_pids": [pid],
        "restarts": 0,
        "calls": 3,
        "failures": 0,
        "last_failure": None,
        "rss_bytes": status.rss_bytes,
        "cpu_seconds": status.cpu_seconds,
        "upgrade": None,
    }


@pytest.mark.parametrize("place", ["relative", "/tmp/\udcff", "/nowhere"])
def test_a_runtime_folder_that_no_socket_can_live_in_is_passed_over(
    place: str, plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path, monkeypatch: Any
) -> None:
    plugins.add()
    (tmp_path / "relative").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place)
    supervisor = supervise()
    assert supervisor.call(PROBE, "echo", b"here") == b"here"
    supervisor.close()
    monkeypatch.undo()  # the check behind this test looks there


def test_a_supervisor_made_while_the_interpreter_ends_is_a_setup_error(plugins: PluginFolder, tmp_path: Path) -> None:
    plugins.add()
    code = """
import atexit, sys
from isoplug.supervisor import SetupError, Supervisor
def late():
    try:
        Supervisor(sys.argv[1], state_dir=sys.argv[2])
    except SetupError as error:
        print(error)
atexit.register(late)
"""
    command = [sys.executable, "-c", code, str(plugins.path), str(tmp_path / "state")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith("cannot start the threads that load plugins")
    assert not run.stderr


def test_a_status_without_a_free_descriptor_is_still_a_status(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        status = supervisor.status()[PROBE]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (status.state, status.rss_bytes) == ("ready", 0)
