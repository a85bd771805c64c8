"""The URL of a server's WebSocket, made of what a guest says."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.websockets import sync_target

SOCKET_OF = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
STEP = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=8).filter(
    lambda step: step.strip(".") and step not in ("sync", "sync2")
)
ENDINGS = st.lists(st.sampled_from(["/", "/sync", "/sync2", "/sync/", "/sync2//"]), max_size=4).map("".join)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.sampled_from(sorted(SOCKET_OF)),
    st.lists(STEP, max_size=3),
    ENDINGS,
    TEXT,
    st.none() | TEXT,
    st.none() | TEXT,
)
def test_every_spelling_of_a_server_leads_to_its_endpoint(
    scheme: str, steps: list[str], ending: str, workspace_id: str, token: str | None, session: str | None
) -> None:
    base = "".join(f"/{step}" for step in steps)
    url = urlsplit(sync_target(f" {scheme}://example.org:81{base}{ending} ", workspace_id, token, session, True).url)
    assert (url.scheme, url.netloc, url.path) == (SOCKET_OF[scheme], "example.org:81", f"{base}/sync2")
    expected = [("workspace_id", workspace_id), ("token", token), ("session", session)]
    assert parse_qsl(url.query, keep_blank_values=True) == [pair for pair in expected if pair[1] is not None]
    assert url.geturl().isascii()


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://sync", "wss://sync/sync2?workspace_id=w"),
        ("HTTPS://Example.ORG/", "wss://example.org/sync2?workspace_id=w"),
        ("http://example.org/mysync", "ws://example.org/mysync/sync2?workspace_id=w"),
        ("http://example.org/sync/v1/sync", "ws://example.org/sync/v1/sync2?workspace_id=w"),
        ("ws://[::1]:8080/sync2", "ws://[::1]:8080/sync2?workspace_id=w"),
        ("wss://example.org:443", "wss://example.org/sync2?workspace_id=w"),
    ],
)
def test_only_whole_steps_at_the_end_of_the_path_are_taken_off(server: str, expected: str) -> None:
    assert sync_target(server, "w", None, None, True).url == expected


@pytest.mark.parametrize(
    "server",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///sync2",
        "https://allowed.org:x@evil.org/",
        "https://user@evil.org",
        "https://example.org/?x=1",
        "https://example.org/#x",
        "https://example.org:0",
        "https://example.org:65536",
        "https://exa mple.org",
        "https://example.org\\@evil.org",
        "https://example.org\r\nX: y",
        "https://example.org/\0",
        "http://2130706433/",
        "http://0x7f.1/",
        "wss://[::1%25lo]/",
        "https://" + "x" * 20_000,
    ],
)
def test_what_is_no_server_is_refused_without_being_quoted(server: str) -> None:
    with pytest.raises(ServiceError) as caught:
        sync_target(server, "w", "s3cret", None, True)
    assert "s3cret" not in str(caught.value)
    assert "evil" not in str(caught.value)


def test_a_target_shows_neither_url_nor_token() -> None:
    target = sync_target("https://example.org", "w", "s3cret", "c0de", True)
    assert target.host == "example.org"
    assert "s3cret" not in repr(target)
    assert "c0de" not in repr(target)


def test_targets_are_the_same_when_they_lead_to_the_same() -> None:
    one = sync_target("https://example.org/sync2/", "w", "t", None, True)
    assert one == sync_target("wss://EXAMPLE.org:443", "w", "t", None, True)
    others = [("http://example.org", "w", "t", None, True), ("https://example.org", "x", "t", None, True)]
    others += [("https://example.org", "w", "u", None, True), ("https://example.org", "w", "t", "s", True)]
    assert all(one != sync_target(*other) for other in [*others, ("https://example.org", "w", "t", None, False)])
