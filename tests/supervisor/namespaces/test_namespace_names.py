"""What guests may call namespaces, objects and audiences."""

from __future__ import annotations

import pytest

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.namespaces.names import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    check_key,
    check_keys,
    check_mime_type,
    check_name,
    json_text,
)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "files/sub/note.md",
        ".hidden",
        "a..b/..c",
        "Übersicht ☃.md",
        "a?b#c",
        "100%.md",
        "a\\b",
        "x/%2F/y",
        "\u00a0",
    ],
)
def test_keys_are_paths_of_any_text(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "../audiences/public",
        "%2e%2e/audiences/public",
        "a/%252E%252e/b",
        "..%2faudiences%2fpublic",
        "..\\audiences",
        "..;x/audiences",
        "a\nb",
        "a\r\nX-Audience: public",
        "a\0b",
        "a\x7f",
    ],
)
def test_keys_that_name_another_place_or_end_a_line_are_refused(key: str) -> None:
    with pytest.raises(ServiceError, match="key"):
        check_key(key)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "%2e%2e", "a\nb", "..%2fobjects"])
def test_names_that_name_another_place_are_refused(name: str) -> None:
    with pytest.raises(ServiceError, match="audience"):
        check_name(name, "audience")


def test_names_may_hold_slashes_since_they_are_encoded_as_a_whole() -> None:
    assert check_name("friends/close", "audience") == "friends/close"


def test_lengths_are_bounded_in_utf8_bytes() -> None:
    check_key("ü" * (MAX_KEY_BYTES // 2))
    with pytest.raises(ResourceLimitExceeded, match=f"is {MAX_KEY_BYTES + 1}, the limit is {MAX_KEY_BYTES}"):
        check_key("ü" * (MAX_KEY_BYTES // 2) + "a")
    check_name("n" * MAX_NAME_BYTES, "ns_id")
    with pytest.raises(ResourceLimitExceeded, match="ns_id"):
        check_name("n" * (MAX_NAME_BYTES + 1), "ns_id")


def test_a_batch_has_each_key_once_in_its_order_and_a_bounded_number() -> None:
    assert check_keys(["b", "a", "b"]) == ("b", "a")
    with pytest.raises(ResourceLimitExceeded, match="number of keys"):
        check_keys(["k"] * (MAX_BATCH_KEYS + 1))


@pytest.mark.parametrize("mime_type", ["", " text/plain", "text/plain\r\nX: y", "tëxt/plain", "x" * 256])
def test_mime_types_are_values_of_a_header(mime_type: str) -> None:
    check_mime_type("text/markdown; charset=utf-8")
    with pytest.raises(ServiceError, match="mime_type"):
        check_mime_type(mime_type)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": 10**5000}])
def test_numbers_that_cannot_be_written_again_are_refused(value: object) -> None:
    assert json_text({"ü": [1.5]}) == '{"ü":[1.5]}'
    with pytest.raises(ServiceError, match="number"):
        json_text(value)
