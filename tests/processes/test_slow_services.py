"""A host's own service that does not return holds up nobody beyond the call's deadline."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import WAIT_SECONDS, PluginFolder, Workspace, wait_until
from isoplug.supervisor import (
    AllowAll,
    CallCancelled,
    Caller,
    CallTimeout,
    Cancellation,
    Decision,
    HttpRequest,
    HttpResponse,
    Outcome,
    Permission,
    ServiceError,
    Supervisor,
    WorkerCrashed,
)
from isoplug.supervisor.deadline import patience_seconds
from isoplug.supervisor.namespaces import HttpNamespaces, Server

PROBE = "test.probe"
ASK_FOR_A_FILE = {"function": "host_request_file", "input": '{"key": "k"}'}


class Stuck:
    """Blocks until the test lets it go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = 0

    def emit(self, plugin_id: str, event_json: str) -> None:
        self.go_on.wait()

    def read(self, plugin_id: str, key: str) -> bytes | None:
        self.asked += 1
        self.go_on.wait()
        return f"{plugin_id} {key}".encode()


class StuckClient(Stuck):
    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        self.go_on.wait()
        raise ServiceError("too late")


class Person(AllowAll):
    """A checker that asks somebody, who answers when the test says so."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.was_asked = False

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
        self.was_asked = True
        self.asked.wait()
        return super().check(plugin_id, permission, target)


def test_a_file_source_that_hangs_ends_the_call_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    source = Stuck()
    supervisor = supervise(files=source)
    started_at = time.monotonic()
    with pytest.raises(CallTimeout):
        supervisor.command(PROBE, "host", ASK_FOR_A_FILE, timeout=0.5)
    assert time.monotonic() - started_at < 10
    assert supervisor.call(PROBE, "echo", b"next") == b"next"
    source.go_on.set()
    assert supervisor.command(PROBE, "host", ASK_FOR_A_FILE)["answer"] == "test.probe k"


def test_a_cancelled_call_does_not_wait_for_a_file_source_that_hangs(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    source, cancellation = Stuck(), Cancellation()
    supervisor = supervise(files=source)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "host", ASK_FOR_A_FILE, cancellation=cancellation)
        wait_until(lambda: source.asked == 1)
        cancellation.cancel()
        with pytest.raises(CallCancelled):
            call.result(WAIT_SECONDS)  # the call had 30 seconds
    source.go_on.set()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


@pytest.mark.parametrize("kind", ["service", "checker at a nested command"])
def test_a_worker_that_dies_while_a_service_hangs_is_noticed_at_once(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], kind: str
) -> None:
    plugins.add()
    plugins.add("test.other")
    source, person = Stuck(), Person()
    if kind == "service":
        supervisor = supervise(files=source)
        command: tuple[str, dict[str, object]] = ("host", ASK_FOR_A_FILE)
    else:
        supervisor = supervise(permissions=person)
        command = ("call", {"plugin_id": "test.other", "command": "echo", "params": 1})
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, *command, timeout=100.0)
        wait_until(lambda: source.asked or person.was_asked)
        os.kill(supervisor.plugins[PROBE].status.worker_pids[0], signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            call.result(WAIT_SECONDS)
    source.go_on.set()
    person.asked.set()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


def test_an_event_sink_that_hangs_while_a_plugin_is_configured_ends_that_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    sink = Stuck()
    supervisor = supervise(events=sink)
    with pytest.raises(CallTimeout):
        supervisor.set_config(PROBE, {"ask": True}, timeout=0.5)
    sink.go_on.set()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


def test_a_checker_that_asks_a_person_for_too_long_ends_the_call_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    person = Person()
    plugins.add()
    supervisor = supervise(permissions=person)
    with pytest.raises(CallTimeout):
        supervisor.command(PROBE, "host", {"function": "host_read_file", "input": '{"path": "README.md"}'}, timeout=0.5)
    person.asked.set()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


def test_a_checker_that_hangs_at_a_nested_command_ends_the_call_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    person = Person()
    plugins.add()
    plugins.add("test.other")
    supervisor = supervise(permissions=person)
    with pytest.raises(CallTimeout):
        supervisor.command(PROBE, "call", {"plugin_id": "test.other", "command": "echo", "params": 1}, timeout=0.5)
    person.asked.set()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


@pytest.mark.parametrize(
    ("function", "payload"),
    [
        ("host_write_file", {"path": "late.md", "content": "late"}),
        ("host_storage_set", {"key": "late", "data": "bGF0ZQ=="}),
    ],
)
def test_what_a_checker_permits_after_its_call_has_ended_is_not_done(
    plugins: PluginFolder,
    workspace: Workspace,
    supervise: Callable[..., Supervisor],
    function: str,
    payload: dict[str, str],
) -> None:
    person = Person()
    plugins.add()
    supervisor = supervise(permissions=person)
    with pytest.raises(CallTimeout) as caught:
        supervisor.command(PROBE, "host", {"function": function, "input": json.dumps(payload)}, timeout=0.5)
    assert caught.value.outcome is Outcome.NO_EFFECTS
    person.asked.set()
    wait_until(lambda: not any(thread.name == "isoplug-service" for thread in threading.enumerate()))
    assert not (workspace.path / "late.md").exists()
    stored = supervisor.command(PROBE, "host", {"function": "host_storage_get", "input": '{"key": "late"}'})
    assert stored["answer"] == ""


def test_namespaces_over_a_host_s_own_http_client_that_hangs_end_the_call_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    client = StuckClient()
    release = threading.Timer(10.0, client.go_on.set)  # or nothing would end the test if this were wrong
    release.start()
    try:
        namespaces = HttpNamespaces(client, Server("https://server.example/api"))
        supervisor = supervise(namespaces=namespaces, permissions=AllowAll())
        with pytest.raises(CallTimeout):
            supervisor.command(PROBE, "host", {"function": "host_namespace_list", "input": "{}"}, timeout=0.5)
        assert not client.go_on.is_set()
    finally:
        release.cancel()
        client.go_on.set()


def test_whatever_a_service_raises_is_an_error_answer_of_the_function(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    class Broken:
        def get(self, plugin_id: str) -> dict[str, object]:
            raise RuntimeError("no")

    plugins.add()
    supervisor = supervise(runtime_context=Broken())
    answer = supervisor.command(PROBE, "host", {"function": "host_get_runtime_context", "input": ""})["answer"]
    assert answer == "{}"


def test_a_service_s_thread_knows_how_long_its_call_has(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    class Patient:
        """Would wait for a day, as a service with a database of its own might."""

        def __init__(self) -> None:
            self.patience_seconds = 0.0

        def read(self, plugin_id: str, key: str) -> bytes | None:
            self.patience_seconds = patience_seconds(86_400.0)
            return None

    plugins.add()
    source = Patient()
    supervise(files=source).command(PROBE, "host", ASK_FOR_A_FILE, timeout=60)
    assert 0 < source.patience_seconds <= 60
