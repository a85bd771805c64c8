"""What is left out of recordings, by place and by value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.recording.redaction import REDACTED, KnownSecrets, TooMuchToScrub, redacted_request
from isoplug.supervisor.recording.tape import End, Ending, HostCall, Step

SECRET = 'tops3cret-"quoted"-ünd-more'


def noted(function: str, request: Any, answer: Any) -> tuple[Any, Any, KnownSecrets]:
    known = KnownSecrets()
    kept = known.note(function, json.dumps(request).encode(), json.dumps(answer).encode())
    return *map(json.loads, kept), known


def test_a_secret_that_a_guest_gets_is_replaced_by_a_text_of_its_length() -> None:
    _, answer, _ = noted("host_secret_get", {"key": "k"}, {"value": SECRET})
    assert answer["value"].startswith("isoplug-secret-1")
    assert len(answer["value"]) == len(SECRET)


def test_a_short_secret_is_left_out_by_place() -> None:
    _, answer, known = noted("host_secret_get", {"key": "k"}, {"value": "true"})
    assert answer["value"] != "true"
    assert known.scrub(b"true") == b"true"


def test_a_secret_that_a_guest_sets_is_left_out() -> None:
    request, _, known = noted("host_secret_set", {"key": "k", "value": SECRET}, "")
    assert request == {"key": "k", "value": REDACTED}
    assert SECRET.encode() not in known.scrub(SECRET.encode())


def test_the_token_of_the_runtime_context_is_left_out_and_the_rest_is_not() -> None:
    context = {"server_url": "https://a.example", "auth_token": SECRET, "current_workspace": None}
    _, answer, _ = noted("host_get_runtime_context", "", context)
    assert answer == {**context, "auth_token": answer["auth_token"]}
    assert answer["auth_token"] != SECRET


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "Cookie", "PRIVATE-TOKEN", "X-Amz-Security-Token"])
def test_headers_with_credentials_are_left_out_of_requests_and_their_values_everywhere(name: str) -> None:
    request, _, known = noted("host_http_request", {"url": "https://a/", "headers": {name: "Bearer abcdefgh123"}}, {})
    assert request["headers"] == {name: REDACTED}
    assert b"abcdefgh123" not in known.scrub(b'{"body":"abcdefgh123"}')


def test_cookies_that_a_server_sets_are_left_out_of_its_answer() -> None:
    _, answer, _ = noted(
        "host_http_request", {"headers": {}}, {"status": 200, "headers": {"set-cookie": "s=1", "a": "b"}}
    )
    assert answer["headers"] == {"set-cookie": REDACTED, "a": "b"}


def test_credentials_in_urls_are_left_out() -> None:
    url = "https://me:pw@a.example/path?page=2&access_token=abc&sig=x"
    request, _, _ = noted("host_http_request", {"url": url, "headers": {}}, {})
    assert request["url"] == f"https://{REDACTED}@a.example/path?page=2&access_token={REDACTED}&sig={REDACTED}"


def test_tokens_of_connections_are_left_out() -> None:
    connect = {"type": "connect", "server_url": "s", "workspace_id": "w", "auth_token": SECRET, "session_code": "abc"}
    request, _, _ = noted("host_ws_request", connect, {"ok": True})
    assert request == {**connect, "auth_token": REDACTED, "session_code": REDACTED}


def test_passwords_of_gates_are_left_out() -> None:
    audience = {"ns_id": "n", "audience": "a", "gates": [{"kind": "password", "password": SECRET}, {"kind": "link"}]}
    request, _, known = noted("host_namespace_sync_audience", audience, "")
    assert request["gates"] == [{"kind": "password", "password": REDACTED}, {"kind": "link"}]
    assert known.scrub(SECRET.encode()) != SECRET.encode()


def test_of_a_request_that_is_not_json_nothing_is_kept() -> None:
    assert redacted_request("host_secret_set", b'{"value": "tops3cret') == REDACTED.encode()


def test_what_has_no_secrets_is_kept_byte_by_byte() -> None:
    assert redacted_request("host_read_file", b' {"path" : "a"}') == b' {"path" : "a"}'
    assert KnownSecrets().note("host_read_file", b"{ }", b"[ ]") == (b"{ }", b"[ ]")


def test_a_known_secret_is_left_out_of_every_part_of_a_step() -> None:
    known = KnownSecrets()
    known.learn(SECRET)
    raw, escaped = SECRET.encode(), json.dumps({"a": SECRET}).encode()
    calls = (HostCall("host_log", escaped, raw, text=SECRET),)
    (step,) = known.scrub_steps([Step("echo", escaped, calls, Ending(End.REFUSED, raw, SECRET, f"trap {SECRET}"))])
    for part in (SECRET, json.dumps(SECRET)[1:-1]):
        assert part not in repr(step)
        assert repr(part.encode())[2:-1] not in repr(step)
    assert json.loads(step.data)["a"] == known.learn(SECRET)


def test_many_secrets_do_not_take_memory_without_bound() -> None:
    known = KnownSecrets()
    for number in range(1000):
        known.learn(f"secret number {number}")
    assert known.scrub(b"secret number 999") != b"secret number 999"
    assert known.scrub(b"secret number 0") == b"secret number 0"


def test_a_plugin_with_many_secrets_has_none_of_anothers_forgotten() -> None:
    known = KnownSecrets()
    known.learn(SECRET, "test.a")
    for number in range(1000):
        known.learn(f"secret number {number}", "test.b")
    assert SECRET.encode() not in known.scrub(SECRET.encode())
    assert known.scrub(b"secret number 0") == b"secret number 0"


urls = st.text("abkey:/?#[]@&=%. \u2100", max_size=20).map("http://".__add__)


def test_secrets_that_stand_in_placeholders_do_not_let_a_text_grow_without_bound() -> None:
    known = KnownSecrets()
    placeholder = known.learn("AAAAAAAA")
    for size in range(8, len(placeholder)):
        for place in range(len(placeholder) - size):
            known.learn(placeholder[place : place + size])
    with pytest.raises(TooMuchToScrub):
        known.scrub(b"A" * 8_000)


def test_many_secrets_are_not_looked_for_in_much_data() -> None:
    known = KnownSecrets()
    for number in range(200):
        known.learn(f"secret number {number}")
    calls = tuple(HostCall("host_log", b"", b"") for _ in range(100_000))
    for step in (
        Step("echo", bytes(8 << 20), (), Ending(End.RETURNED)),
        Step("echo", b"", calls, Ending(End.RETURNED)),
    ):
        with pytest.raises(TooMuchToScrub):
            known.scrub_steps([step])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | urls,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["value", "headers", "url", "path", "auth_token", "session_code", "key", "gates"])


@given(
    st.sampled_from(["host_secret_set", "host_ws_request", "host_http_request", "host_namespace_sync_audience"]),
    st.dictionaries(fields, json_values | st.dictionaries(st.sampled_from(["Cookie", "a"]), json_values)),
)
def test_requests_of_any_shape_are_taken_and_redacting_twice_changes_nothing(function: str, request: Any) -> None:
    data = json.dumps(request).encode()
    KnownSecrets().note(function, data, data)
    once = redacted_request(function, data)
    assert redacted_request(function, once) == once


@given(st.sampled_from(["host_secret_get", "host_http_request", "host_ws_request"]), st.binary(max_size=40))
def test_requests_and_answers_of_any_bytes_are_taken(function: str, data: bytes) -> None:
    KnownSecrets().note(function, data, data)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deeply_nested_requests_are_taken(depth: int) -> None:
    data = b'{"value": ' + b"[" * depth + b"]" * depth + b"}"
    KnownSecrets().note("host_secret_set", data, data)
    assert b"[" not in redacted_request("host_secret_set", data)
