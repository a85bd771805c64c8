"""Storage, offered files, runtime context and commands of other plugins, as guests meet them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import PROBE, Bench, ask, offered_by_host, open_bench
from conftest import PluginFolder, Workspace
from isoplug.supervisor import AllowAll, InvalidArgument, ServiceError, Supervisor

Supervise = Callable[..., Supervisor]
OTHER = "test.other"
KIB = 1024


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    """PROBE and OTHER, for tests that change nothing but PROBE's rule for commands, and values under keys of their
    own."""
    with open_bench(tmp_path_factory.mktemp("services"), guest_cache, (PROBE, "probe"), (OTHER, "probe")) as opened:
        yield opened


@pytest.fixture
def one(plugins: PluginFolder) -> None:
    """PROBE in a folder of the test's own, for ``supervise``."""
    plugins.add()


@pytest.fixture
def two(plugins: PluginFolder) -> PluginFolder:
    """PROBE and OTHER in a folder of the test's own, for ``supervise``."""
    plugins.add()
    plugins.add(OTHER)
    return plugins


# --- storage --------------------------------------------------------------------------------------------------------


def store(supervisor: Supervisor, key: str, value: bytes, plugin_id: str = PROBE) -> str:
    payload = {"key": key, "data": base64.b64encode(value).decode()}
    return ask(supervisor, "host_storage_set", payload, plugin_id).decode()


def stored(supervisor: Supervisor, key: str, plugin_id: str = PROBE) -> bytes | None:
    answer = ask(supervisor, "host_storage_get", {"key": key}, plugin_id)
    return base64.b64decode(json.loads(answer)["data"]) if answer else None


@pytest.mark.usefixtures("two")
def test_storage_is_private_to_the_plugin_and_survives_the_supervisor(supervise: Supervise) -> None:
    supervisor = supervise()
    keys = ["key", "a/b", "a:b", "a_b", "../x", "", "NUL\0", "ключ", "x" * 1024]
    for number, key in enumerate(keys):
        assert store(supervisor, key, b"%d\x00\xff" % number) == "", key
    for number, key in enumerate(keys):
        assert stored(supervisor, key) == b"%d\x00\xff" % number, key
        assert stored(supervisor, key, OTHER) is None
    supervisor.close()
    assert stored(supervise(), "ключ") == b"7\x00\xff"


def test_an_empty_value_deletes(bench: Bench) -> None:
    supervisor = bench.supervisor
    assert store(supervisor, "key", b"value") == ""
    assert store(supervisor, "key", b"") == ""
    assert ask(supervisor, "host_storage_get", {"key": "key"}) == b""
    assert store(supervisor, "key", b"") == ""


@pytest.mark.usefixtures("two")
def test_the_quota_bounds_the_total_of_a_plugin(supervise: Supervise) -> None:
    supervisor = supervise()
    half = bytes(512 * KIB)
    assert store(supervisor, "a", half) == ""
    assert store(supervisor, "b", half) == ""
    assert "1048577" in store(supervisor, "c", b"!")
    assert store(supervisor, "a", half[1:]) == ""  # a replaced value counts the difference
    assert store(supervisor, "c", b"!") == ""
    assert store(supervisor, "c", b"") == ""
    assert store(supervisor, "big", bytes(1024 * KIB + 1))
    assert store(supervisor, "a", half, OTHER) == ""  # another plugin's total is its own
    assert (stored(supervisor, "a"), stored(supervisor, "c"), stored(supervisor, "big")) == (half[1:], None, None)


@pytest.mark.usefixtures("one")
def test_a_rule_may_set_another_quota_and_takes_effect_at_once(workspace: Workspace, supervise: Supervise) -> None:
    supervisor = supervise()
    workspace.grant(plugin_storage={"include": ["all"], "quota_bytes": 10})
    assert store(supervisor, "a", b"0123456789") == ""
    assert store(supervisor, "b", b"0")
    workspace.grant(plugin_storage={"include": ["all"], "quota_bytes": 2 * KIB * KIB})
    assert store(supervisor, "b", bytes(1500 * KIB)) == ""
    workspace.grant(plugin_storage={"include": ["all"], "quota_bytes": 0})
    assert store(supervisor, "c", b"0")
    assert stored(supervisor, "a") == b"0123456789"


@pytest.mark.parametrize("rule", [{"include": []}, {"include": ["key"]}, {"include": ["all"], "exclude": ["all"]}])
@pytest.mark.usefixtures("one")
def test_with_a_rule_only_all_counts_for_storage(
    rule: dict[str, Any], workspace: Workspace, supervise: Supervise
) -> None:
    supervisor = supervise()
    assert store(supervisor, "key", b"value") == ""
    workspace.grant(plugin_storage=rule)
    assert "plugin_storage" in store(supervisor, "key", b"other")
    assert ask(supervisor, "host_storage_get", {"key": "key"}) == b""
    workspace.grant(plugin_storage=["ALL"])
    assert stored(supervisor, "key") == b"value"


@pytest.mark.usefixtures("one")
def test_values_that_are_not_base64_and_keys_that_are_too_long_are_refused(supervise: Supervise) -> None:
    supervisor = supervise()
    for data in ("AAE", "*", "AA==AA==", "ÄÖ"):
        assert ask(supervisor, "host_storage_set", {"key": "key", "data": data})
    assert store(supervisor, "x" * 1025, b"value")
    assert stored(supervisor, "x" * 1025) is None
    assert stored(supervisor, "key") is None


# --- offered files --------------------------------------------------------------------------------------------------


def test_a_call_offers_bytes_and_paths_under_keys(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\x00heic\xff")
    files = {"bytes": b"\xff\x00", "path": tmp_path / "photo.heic", "text path": str(tmp_path / "photo.heic")}
    supervisor = bench.supervisor
    for key, content in {"bytes": b"\xff\x00", "path": b"\x00heic\xff", "text path": b"\x00heic\xff"}.items():
        assert ask(supervisor, "host_request_file", {"key": key}, files=files) == content
        answer = supervisor.command(
            PROBE, "host", {"function": "host_request_file", "input": json.dumps({"key": key})}, files=files
        )
        assert base64.b64decode(answer["answer_base64"]) == content
    for key in ("other", "", str(tmp_path / "photo.heic"), "../photo.heic", "key\0"):
        assert ask(supervisor, "host_request_file", {"key": key}, files=files) == b""
    assert ask(supervisor, "host_request_file", {"key": "bytes"}) == b""  # a call's offer ends with it


def test_a_file_that_cannot_be_read_is_the_callers_error(bench: Bench, tmp_path: Path) -> None:
    supervisor = bench.supervisor
    for path in (tmp_path / "missing", tmp_path, "/dev/zero", "nul\0"):
        with pytest.raises(InvalidArgument, match="offered as 'key'"):
            ask(supervisor, "host_request_file", {"key": "key"}, files={"key": path})


def nested(supervisor: Supervisor, command: str, params: Any = None, **call: Any) -> Any:
    """PROBE runs a command of OTHER; the parsed answer."""
    payload = {"plugin_id": OTHER, "command": command, "params": params}
    return json.loads(ask(supervisor, "host_plugin_command", payload, **call))


@pytest.mark.usefixtures("two")
def test_offered_files_are_for_the_called_plugin_and_the_hosts_own_for_whom_it_says(
    workspace: Workspace, supervise: Supervise
) -> None:
    workspace.grant(execute_commands=["all"])
    source = offered_by_host({(PROBE, "mine"): b"for probe", (OTHER, "theirs"): b"for other"})
    supervisor = supervise(files=source)
    request = {"function": "host_request_file", "input": '{"key":"call"}'}
    assert nested(supervisor, "host", request, files={"call": b"secret"})["data"]["answer"] == ""
    assert ask(supervisor, "host_request_file", {"key": "mine"}) == b"for probe"
    assert ask(supervisor, "host_request_file", {"key": "theirs"}) == b""
    assert ask(supervisor, "host_request_file", {"key": "theirs"}, OTHER) == b"for other"
    request["input"] = '{"key":"theirs"}'
    assert nested(supervisor, "host", request)["data"]["answer"] == "for other"
    assert ask(supervisor, "host_request_file", {"key": "mine"}, files={"mine": b"closer"}) == b"closer"


@pytest.mark.usefixtures("one")
def test_a_file_source_that_fails_offers_nothing(supervise: Supervise) -> None:
    class Broken:
        def read(self, plugin_id: str, key: str) -> bytes | None:
            raise RuntimeError(f"no {key} for {plugin_id}")

    assert ask(supervise(files=Broken()), "host_request_file", {"key": "key"}) == b""


# --- events ---------------------------------------------------------------------------------------------------------


class BrokenSink:
    def emit(self, plugin_id: str, event_json: str) -> None:
        raise RuntimeError(f"no {event_json} of {plugin_id}")


@pytest.mark.usefixtures("one")
def test_an_event_sink_that_fails_costs_the_guest_nothing(
    supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(events=BrokenSink())
    assert ask(supervisor, "host_emit_event", {"type": "any"}) == b""
    assert supervisor.command(PROBE, "echo", "still here") == "still here"
    assert supervisor.status()[PROBE].restarts == 0
    assert "event_sink.failed" in caplog.text


# --- runtime context ------------------------------------------------------------------------------------------------


class Context:
    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self, plugin_id: str) -> dict[str, Any]:
        if isinstance(self.value, Exception):
            raise self.value
        return {**self.value, "asked_by": plugin_id}


@pytest.mark.usefixtures("one")
def test_the_runtime_context_names_the_workspace_and_no_server(workspace: Workspace, supervise: Supervise) -> None:
    assert json.loads(ask(supervise(), "host_get_runtime_context")) == {
        "server_url": None,
        "auth_token": None,
        "current_workspace": {"id": "workspace", "path": str(workspace.path), "provider_links": []},
    }


@pytest.mark.usefixtures("one")
def test_without_a_workspace_the_runtime_context_has_none(supervise: Supervise) -> None:
    assert json.loads(ask(supervise(workspace=None), "host_get_runtime_context"))["current_workspace"] is None


@pytest.mark.usefixtures("two")
def test_a_host_may_provide_the_runtime_context(supervise: Supervise) -> None:
    supervisor = supervise(runtime_context=Context({"server_url": "https://sync.example"}))
    assert json.loads(ask(supervisor, "host_get_runtime_context", b"", OTHER)) == {
        "server_url": "https://sync.example",
        "asked_by": OTHER,
    }


@pytest.mark.parametrize("value", [RuntimeError("no"), {"x": object()}, {"x": float("nan")}, {"x": "\ud800"}])
@pytest.mark.usefixtures("one")
def test_a_runtime_context_that_fails_is_empty_and_the_call_goes_on(value: Any, supervise: Supervise) -> None:
    answer = ask(supervise(runtime_context=Context(value)), "host_get_runtime_context")
    assert json.loads(answer) == {} or value == {"x": "\ud800"}


# --- commands of other plugins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, 7, "text", [1, {"a": None}], {"Grüße": "\x00\n"}, 1.5e300, "\U0001f642"])
def test_the_data_of_a_plugin_command_comes_through(data: Any, bench: Bench) -> None:
    bench.workspace.grant(execute_commands=["all"])
    answer = bench.ask("host_plugin_command", {"plugin_id": OTHER, "command": "echo", "params": data})
    compact = json.dumps({"success": True, "data": data}, ensure_ascii=False, separators=(",", ":"))
    assert answer.decode() == compact


@pytest.mark.usefixtures("two")
def test_failures_of_plugin_commands_say_what_went_wrong(workspace: Workspace, supervise: Supervise) -> None:
    workspace.grant(execute_commands=["all"])
    supervisor = supervise()

    def error(payload: dict[str, Any]) -> str:
        answer = json.loads(ask(supervisor, "host_plugin_command", payload))
        assert list(answer) == ["success", "error"]
        assert answer["success"] is False
        return str(answer["error"])

    refused = {"message": "not today", "error_code": "some_code"}
    assert "not today" in error({"plugin_id": OTHER, "command": "fail", "params": refused})
    refused["error_code"] = "permission_denied"
    assert "not today" in error({"plugin_id": OTHER, "command": "fail", "params": refused})
    assert "own" in error({"plugin_id": PROBE, "command": "echo"})
    assert "test.nobody" in error({"plugin_id": "test.nobody", "command": "echo"})
    assert "undeclared" in error({"plugin_id": OTHER, "command": "undeclared"})
    assert "JSON" in error({"plugin_id": OTHER, "command": "garbage"})
    assert "trapped" in error({"plugin_id": OTHER, "command": "trap"})
    assert "plugin_id" in error({"command": "echo"})
    assert json.loads(ask(supervisor, "host_plugin_command", {"plugin_id": OTHER, "command": "count"}))["success"]


@pytest.mark.parametrize(
    ("rule", "is_allowed"),
    [
        (["all"], True),
        ([OTHER], True),
        ([f"{OTHER}:*"], True),
        ([f"{OTHER}:echo"], True),
        ([f"{OTHER}:count"], False),
        (["test"], False),
        (["test.*"], False),
        ([f"{PROBE}:echo"], False),
        (["echo"], False),
        ({"include": ["all"], "exclude": [f"{OTHER}:echo"]}, False),
        ({"include": [f"{OTHER}:echo"], "exclude": [OTHER]}, False),
        ([], False),
    ],
)
def test_the_rule_of_the_calling_plugin_decides(rule: Any, is_allowed: bool, bench: Bench) -> None:
    bench.workspace.grant(execute_commands=rule)
    bench.workspace.grant(OTHER, execute_commands=["all"])  # the target's own rights are no help
    answer = nested(bench.supervisor, "echo", "x")
    if is_allowed:
        assert answer == {"success": True, "data": "x"}
    else:
        assert answer["success"] is False
        assert all(word in answer["error"] for word in (PROBE, "execute_commands", f"{OTHER}:echo"))


def test_a_plugin_without_the_capability_has_no_commands(
    plugins: PluginFolder, workspace: Workspace, supervise: Supervise
) -> None:
    plugins.add()
    plugins.add(OTHER, variant="probe_no_capabilities")
    workspace.grant(execute_commands=["all"])
    answer = nested(supervise(), "echo")
    assert answer["success"] is False
    assert "echo" in answer["error"]


# --- a host's own services ------------------------------------------------------------------------------------------


class Empty:
    """Counts as false, as a service does that is a subclass of ``dict`` and holds nothing yet."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __len__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            self.asked.append(name)
            raise ServiceError("the host's own")

        return refuse


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[tuple[Bench, dict[str, Empty]]]:
    """A supervisor with an empty service of the host's own of each kind."""
    kinds = ("storage", "secrets", "events", "files", "runtime_context", "http", "namespaces", "websockets")
    services = {kind: Empty() for kind in kinds}
    arguments = {"permissions": AllowAll(), **services}
    with open_bench(tmp_path_factory.mktemp("empty"), guest_cache, arguments=arguments) as opened:
        yield opened, services


@pytest.mark.parametrize(
    ("service", "function", "request_"),
    [
        ("storage", "host_storage_get", {"key": "k"}),
        ("secrets", "host_secret_get", {"key": "k"}),
        ("events", "host_emit_event", {}),
        ("files", "host_request_file", {"key": "k"}),
        ("runtime_context", "host_get_runtime_context", {}),
        ("http", "host_http_request", {"url": "http://a.example/", "method": "GET", "headers": {}}),
        ("namespaces", "host_namespace_list", {}),
        (
            "websockets",
            "host_ws_request",
            {"type": "connect", "server_url": "http://a.example", "workspace_id": "w"},
        ),
    ],
)
def test_an_own_service_that_counts_as_false_is_used_all_the_same(
    empty: tuple[Bench, dict[str, Empty]], service: str, function: str, request_: dict[str, Any]
) -> None:
    bench, services = empty
    own = services[service]
    own.asked.clear()
    bench.ask(function, request_)
    assert own.asked


@pytest.mark.usefixtures("one")
def test_an_own_checker_that_counts_as_false_is_used_all_the_same(supervise: Supervise) -> None:
    own = Empty()
    ask(supervise(permissions=own), "host_read_file", {"path": "a.md"})
    assert own.asked


@pytest.mark.usefixtures("two")
def test_a_connection_of_the_hosts_that_fails_to_end_costs_nobody_else_theirs(supervise: Supervise) -> None:
    ended: list[str] = []

    class Failing:
        def __init__(self, plugin_id: str) -> None:
            self.plugin_id = plugin_id

        def send(self, message: bytes | str) -> None: ...

        def close(self, patience_seconds: float = 0.0) -> None:
            ended.append(self.plugin_id)
            raise RuntimeError("cannot end")

    class Sockets:
        def open(self, plugin_id: str, *_: object) -> Failing:
            return Failing(plugin_id)

    supervisor = supervise(permissions=AllowAll(), websockets=Sockets())
    request = {"type": "connect", "server_url": "http://a.example", "workspace_id": "w"}
    for plugin_id in (PROBE, OTHER):
        assert ask(supervisor, "host_ws_request", request, plugin_id) == b'{"ok":true}'
    supervisor.close()
    assert set(ended) == {PROBE, OTHER}
