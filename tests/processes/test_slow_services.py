"""A host's own service that does not return holds up nobody beyond the call's deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from conftest import PluginFolder
from isoplug.supervisor import (
    AllowAll,
    Caller,
    CallTimeout,
    Decision,
    HttpRequest,
    HttpResponse,
    Permission,
    ServiceError,
    Supervisor,
)
from isoplug.supervisor.namespaces import HttpNamespaces, Server

PROBE = "test.probe"
ASK_FOR_A_FILE = {"function": "host_request_file", "input": '{"key": "k"}'}


class Stuck:
    """Blocks until the test lets it go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def read(self, plugin_id: str, key: str) -> bytes | None:
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

    def check(self, plugin_id: str, permission: Permission, target: str) -> Decision:
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
