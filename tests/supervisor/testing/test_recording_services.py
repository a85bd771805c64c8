"""The recording services behave as the embedded ones and remember what was asked of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoplug.supervisor import InvalidArgument, Permission, PluginError, ResourceLimitExceeded, ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import MAX_TIMEOUT_SECONDS, Deadline
from isoplug.supervisor.egress import HttpRequest, HttpResponse
from isoplug.supervisor.storage import SqliteStorage, Storage
from isoplug.supervisor.storage.bounds import MAX_KEYS
from isoplug.supervisor.testing import (
    Asked,
    Emitted,
    MemorySecrets,
    RecordingEvents,
    RecordingHttp,
    RecordingPermissions,
    RecordingStorage,
    StorageAccess,
)

PLUGIN = "test.plugin"


def nobody_dies() -> int:
    raise AssertionError("a recording service never waits")


CALLER = Caller(PLUGIN, Deadline.after(MAX_TIMEOUT_SECONDS), nobody_dies)  # made long before it is used


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_are_parsed_and_kept_in_order_with_who_emitted_them() -> None:
    events = RecordingEvents()
    events.emit("a", '{"type": "first", "é": [1]}')
    events.emit("b", '"second"')
    assert events.emitted == [Emitted("a", {"type": "first", "é": [1]}), Emitted("b", "second")]
    assert events.received == [{"type": "first", "é": [1]}, "second"]
    events.clear()
    assert events.received == []


def test_waiting_for_an_event_ends_when_it_comes_and_gives_the_first_that_matches() -> None:
    events = RecordingEvents()
    events.emit("a", '{"n": 1}')
    emitter = threading.Timer(0.05, lambda: [events.emit("a", f'{{"n": {n}}}') for n in (2, 3)])
    emitter.start()
    assert events.wait_for(lambda event: event["n"] > 1, timeout=1000.0) == {"n": 2}
    emitter.join()


def test_waiting_in_vain_fails_the_test_and_shows_what_came_instead() -> None:
    events = RecordingEvents()
    events.emit("a", '{"type": "other"}')
    with pytest.raises(AssertionError, match=r"in vain.*other"):
        events.wait_for(lambda event: event["type"] == "saved", timeout=0.01)


def test_a_guest_cannot_fill_the_memory_with_what_is_recorded() -> None:
    events = RecordingEvents()
    large = '"' + "x" * (20 << 20) + '"'
    for _ in range(3):
        events.emit("a", large)
    with pytest.raises(ServiceError, match="all it can hold"):
        events.emit("a", large)
    assert len(events.received) == 3
    events.clear()
    events.emit("a", large)


# --- storage --------------------------------------------------------------------------------------------------------

Step = tuple[str, str, bytes | None, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["k", "l", "", "é" * 512, "é" * 513, "\ud800"]),
        st.none() | st.binary(max_size=8),
        st.sampled_from([-1, 0, 8, 20, 1 << 40]),
    ),
    max_size=30,
)


def outcome(storage: Storage, step: Step) -> object:
    """What one step answers: a value that is read, None for a write, or the whole error."""
    plugin_id, key, value, quota_bytes = step
    try:
        return storage.get(plugin_id, key) if value is None else storage.set(plugin_id, key, value, quota_bytes)
    except PluginError as error:
        return type(error), str(error), error.plugin_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sqlite")


@given(steps=steps)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # SQLite waits for the disk
def test_storage_in_memory_answers_everything_as_the_embedded_one_does(steps: list[Step], folder: Path) -> None:
    (folder / "storage.sqlite3").unlink(missing_ok=True)
    embedded, recording = SqliteStorage(folder / "storage.sqlite3"), RecordingStorage()
    try:
        for step in steps:
            assert outcome(recording, step) == outcome(embedded, step)
    finally:
        embedded.close()


def test_storage_remembers_reads_and_writes_but_no_refused_ones() -> None:
    storage = RecordingStorage({PLUGIN: {"old": b"1"}})
    storage.get(PLUGIN, "old")
    storage.get(PLUGIN, "absent")
    storage.set(PLUGIN, "new", b"22", 3)
    with pytest.raises(ResourceLimitExceeded):
        storage.set(PLUGIN, "more", b"333", 3)
    storage.set(PLUGIN, "old", b"", 3)
    assert storage.accesses == [
        StorageAccess(PLUGIN, "old", b"1", is_write=False),
        StorageAccess(PLUGIN, "absent", None, is_write=False),
        StorageAccess(PLUGIN, "new", b"22", is_write=True),
        StorageAccess(PLUGIN, "old", b"", is_write=True),
    ]
    assert storage.values(PLUGIN) == {"new": b"22"}
    storage.clear()
    assert storage.accesses == []
    assert storage.values(PLUGIN) == {"new": b"22"}


def test_a_plugin_may_have_as_many_keys_in_memory_as_in_the_embedded_storage() -> None:
    storage = RecordingStorage({PLUGIN: {str(number): b"x" for number in range(MAX_KEYS)}})
    storage.set(PLUGIN, "0", b"y", 1 << 20)
    with pytest.raises(ResourceLimitExceeded, match="storage_keys is 10001"):
        storage.set(PLUGIN, "one more", b"x", 1 << 20)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_in_memory_are_private_bounded_and_deleted() -> None:
    secrets = MemorySecrets({PLUGIN: {"token": "s"}})
    assert secrets.get(PLUGIN, "token") == "s"
    assert secrets.get("other", "token") is None
    secrets.set(PLUGIN, "token", "", 4)  # an empty secret is one
    assert secrets.get(PLUGIN, "token") == ""
    secrets.set(PLUGIN, "token", "éé", 4)
    with pytest.raises(ResourceLimitExceeded, match="secret_bytes"):
        secrets.set(PLUGIN, "second", "x", 4)
    with pytest.raises(ResourceLimitExceeded, match="secret_key_bytes"):
        secrets.set(PLUGIN, "k" * 1025, "x", 4000)
    assert secrets.values(PLUGIN) == {"token": "éé"}
    secrets.delete(PLUGIN, "token")
    secrets.delete(PLUGIN, "absent")
    assert secrets.get(PLUGIN, "token") is None


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_an_http_answer_is_what_was_scripted_for_method_and_url() -> None:
    http = RecordingHttp()
    http.answer("get", "HTTPS://Api.Example", json={"a": 1}, headers={"x-more": "yes"})
    http.answer("GET", "https://api.example/text", "grüße", status=404)
    fields = (("x-more", "yes"), ("content-type", "application/json"))
    assert http.send(CALLER, HttpRequest("GET", "https://api.example/")) == HttpResponse(200, fields, b'{"a": 1}')
    missing = http.send(CALLER, HttpRequest("GET", "https://api.example/text"))
    assert (missing.status, missing.body) == (404, "grüße".encode())
    assert [request.url for request in http.requests] == ["https://api.example/", "https://api.example/text"]
    assert http.sent[0].plugin_id == PLUGIN


def test_a_predicate_sees_the_whole_request_and_a_reply_may_be_computed() -> None:
    http = RecordingHttp()
    http.answer_with(
        "POST", lambda request: b"echo" in request.body, lambda request: HttpResponse(200, (), request.body)
    )
    assert http.send(CALLER, HttpRequest("POST", "http://a.example/", (), b"echo 1")).body == b"echo 1"
    with pytest.raises(ServiceError):
        http.send(CALLER, HttpRequest("POST", "http://a.example/", (), b"other"))


def test_several_answers_for_one_request_come_in_order_and_the_last_one_stays() -> None:
    http, request = RecordingHttp(), HttpRequest("GET", "http://a.example/")
    http.fail("GET", "http://a.example/", "connection refused")
    http.answer("GET", "http://a.example/", "first")
    http.answer("GET", "http://a.example/", "last")
    with pytest.raises(ServiceError, match="connection refused"):
        http.send(CALLER, request)
    assert [http.send(CALLER, request).body for _ in range(3)] == [b"first", b"last", b"last"]


def test_an_unscripted_request_is_refused_with_what_was_scripted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    http, request = RecordingHttp(), HttpRequest("PUT", "http://a.example/x")
    with pytest.raises(ServiceError, match=r"PUT http://a\.example/x; scripted: nothing"):
        http.send(CALLER, request)
    http.answer("GET", "http://a.example/x")
    http.answer("PUT", lambda _request: False)
    with pytest.raises(ServiceError, match=r"scripted: GET http://a\.example/x, PUT \(a predicate\)"):
        http.send(CALLER, request)
    assert http.requests == [request, request]
    assert "http.unscripted" in caplog.text
    http.clear()
    assert http.requests == []


@pytest.mark.parametrize("url", ["api.example/x", "ftp://a.example/", "https://a:b@a.example/", ""])
def test_a_script_for_what_no_guest_can_ask_is_refused_when_it_is_written(url: str) -> None:
    with pytest.raises(InvalidArgument, match="no guest can ask"):
        RecordingHttp().answer("GET", url)


# --- permissions ----------------------------------------------------------------------------------------------------


def test_without_rules_everything_is_allowed_and_with_none_only_storage() -> None:
    everything, nothing = RecordingPermissions(), RecordingPermissions({})
    for permission in Permission:
        assert everything.check(PLUGIN, permission, "anything").is_allowed
        assert nothing.check(PLUGIN, permission, "anything").is_allowed is (permission is Permission.PLUGIN_STORAGE)


def test_rules_are_those_of_the_front_matter_and_a_list_is_what_they_include() -> None:
    rules = {
        "read_files": ["notes"],
        "edit_files": {"include": ["all"], "exclude": ["private"]},
        "http_requests": "example.org",
        "plugin_storage": {"include": ["all"], "quota_bytes": 7},
    }
    permissions = RecordingPermissions(rules)
    allowed = {
        (Permission.READ_FILES, "notes/a.md"): True,
        (Permission.READ_FILES, "other.md"): False,
        (Permission.EDIT_FILES, "other.md"): True,
        (Permission.EDIT_FILES, "private/a.md"): False,
        (Permission.HTTP_REQUESTS, "api.example.org"): True,
        (Permission.DELETE_FILES, "notes/a.md"): False,
    }
    for (permission, target), expected in allowed.items():
        assert permissions.check(PLUGIN, permission, target).is_allowed is expected, (permission, target)
    assert permissions.storage_quota_bytes(PLUGIN) == 7
    permissions.grant({"delete_files": ["all"]})
    assert permissions.check(PLUGIN, Permission.DELETE_FILES, "x").is_allowed
    assert not permissions.check(PLUGIN, Permission.READ_FILES, "notes/a.md").is_allowed
    assert permissions.storage_quota_bytes(PLUGIN) is None


def test_each_different_check_is_remembered_once() -> None:
    permissions = RecordingPermissions({"read_files": ["a"]})
    for target in ("a", "b", "a"):
        permissions.check(PLUGIN, Permission.READ_FILES, target)
    assert permissions.asked == [Asked(PLUGIN, "read_files", "a", True), Asked(PLUGIN, "read_files", "b", False)]
    permissions.clear()
    assert permissions.asked == []


def test_checks_without_end_are_decided_and_not_kept() -> None:
    permissions = RecordingPermissions()
    for number in range(10_001):
        assert permissions.check(PLUGIN, Permission.READ_FILES, f"{number}-" + "x" * 5000).is_allowed
    assert len(permissions.asked) == 10_000
    assert len(permissions.asked[0].target) == 4096


@pytest.mark.parametrize("rules", [{"read_fils": ["all"]}, {"read_files": {"inclood": []}}, {"read_files": [7]}])
def test_rules_that_cannot_be_used_are_refused_at_once_and_named(rules: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=r"permissions(\.|.*)read_fil"):
        RecordingPermissions(rules)
