"""The action envelope: what is one, and that everything else is refused whole."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.limits import ANSWER_JSON_BYTES
from isoplug.supervisor.websockets import (
    Action,
    DownloadSnapshot,
    EmitEvent,
    MalformedEnvelope,
    SendBinary,
    SendText,
    decode_actions,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ACTIONS = st.one_of(
    st.builds(SendBinary, st.binary()),
    st.builds(SendText, st.text()),
    st.builds(EmitEvent, st.builds(json.dumps, JSON)),
    st.builds(DownloadSnapshot, st.text()),
)


def packed(kind: int, payload: bytes) -> bytes:
    return struct.pack("<BI", kind, len(payload)) + payload


def encoded(action: Action) -> bytes:
    match action:
        case SendBinary(data):
            return packed(0, data)
        case SendText(text):
            return packed(1, text.encode())
        case EmitEvent(event_json):
            return packed(2, event_json.encode())
        case DownloadSnapshot(workspace_id):
            return packed(3, workspace_id.encode())


def envelope(*actions: bytes, count: int | None = None) -> bytes:
    return struct.pack("<H", len(actions) if count is None else count) + b"".join(actions)


@given(st.lists(ACTIONS, max_size=6))
def test_what_was_encoded_is_decoded(actions: list[Action]) -> None:
    assert decode_actions(envelope(*map(encoded, actions))) == tuple(actions)


@given(st.lists(ACTIONS, min_size=1, max_size=4), st.data())
def test_an_envelope_that_is_cut_off_anywhere_is_refused(actions: list[Action], data: st.DataObject) -> None:
    whole = envelope(*map(encoded, actions))
    with pytest.raises(MalformedEnvelope):
        decode_actions(whole[: data.draw(st.integers(1, len(whole) - 1))])


@given(st.binary(max_size=64))
def test_bytes_from_anywhere_are_decoded_or_refused_and_nothing_else(noise: bytes) -> None:
    with suppress(MalformedEnvelope):
        assert isinstance(decode_actions(noise), tuple)


def test_no_output_is_no_actions() -> None:
    assert decode_actions(b"") == ()
    assert decode_actions(b"\0\0") == ()


def test_sixty_five_thousand_actions_are_one_envelope() -> None:
    assert len(decode_actions(envelope(*[packed(0, b"")] * 65_535))) == 65_535


@pytest.mark.parametrize(
    ("malformed", "why"),
    [
        (b"\1", "ends within the number of actions"),
        (envelope(count=1), "ends within the head of action 1 of 1"),
        (envelope(packed(0, b"x"), count=2), "ends within the head of action 2 of 2"),
        (envelope(packed(0, b"xx")[:-1]), "ends within the payload of action 1"),
        (envelope(struct.pack("<BI", 0, 0xFFFF_FFFF)), "ends within the payload of action 1"),
        (envelope(packed(0, b"")) + b"!", "1 bytes follow its last action"),
        (envelope(packed(4, b"")), "of kind 4; there are 0, 1, 2, 3"),
        (envelope(packed(255, b"")), "of kind 255"),
        (envelope(packed(1, b"\xff")), "action 1 of 1 cannot be used: it is not UTF-8"),
        (envelope(packed(1, b"\xed\xa0\x80")), "not UTF-8"),
        (envelope(packed(3, b"\xc3\x28")), "not UTF-8"),
        (envelope(packed(0, b""), packed(2, b"")), "action 2 of 2 cannot be used"),
        (envelope(packed(2, b"{]")), "cannot be used"),
        (envelope(packed(2, b"NaN")), "cannot be used"),
        (envelope(packed(2, b"[" * 100_000)), "cannot be used"),
        (envelope(packed(2, b'"' + b"x" * ANSWER_JSON_BYTES + b'"')), "the limit is"),
    ],
)
def test_a_malformed_envelope_is_refused_with_where_and_why(malformed: bytes, why: str) -> None:
    with pytest.raises(MalformedEnvelope, match=why):
        decode_actions(malformed)
