"""The file of a recording: what is written comes back, and of anything else nothing comes but a typed error."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.messages import Failed
from isoplug.supervisor.recording import (
    End,
    Ending,
    HostCall,
    Recording,
    Step,
    Unanswered,
    Unreadable,
    decode,
    encode,
)

texts = st.text(max_size=20)
blobs = st.binary(max_size=50)
endings = st.builds(Ending, st.sampled_from(End), blobs, texts, texts)
calls = st.builds(HostCall, texts, blobs, blobs, st.sampled_from(Unanswered), texts)
steps = st.builds(Step, texts, blobs, st.lists(calls, max_size=3).map(tuple), endings)
recordings = st.builds(
    Recording,
    plugin_id=texts,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    at=st.floats(allow_nan=False),
    served=st.integers(0, 2**40),
    patience_seconds=st.floats(allow_nan=False),
    limits=texts,
    isoplug_version=texts,
    start=st.lists(steps, max_size=2).map(tuple),
    call=steps,
    gap=texts,
)

CALL = Step("echo", b"in", (HostCall("host_get_timestamp", b"", b"1"),), Ending(End.RETURNED, b"out"))
RECORDING = Recording("a.b", "00" * 32, 1.5, 3, 30.0, "{}", "0.1.0", (), CALL)


@given(recordings)
def test_what_was_written_comes_back(recording: Recording) -> None:
    assert decode(encode(recording)) == recording


@given(st.binary(max_size=300))
def test_garbage_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


@given(recordings, st.data())
def test_a_file_that_was_cut_or_changed_is_unreadable(recording: Recording, data: st.DataObject) -> None:
    whole = encode(recording)
    place = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Unreadable):
        decode(whole[:place])
    flipped = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    with pytest.raises(Unreadable):
        decode(whole[:place] + flipped + whole[place + 1 :])


def file_of(*entries: Any) -> bytes:
    body = b"".join(msgpack.packb(entry, unicode_errors="surrogatepass") for entry in entries)
    return body + msgpack.packb(("check", zlib.crc32(body)))


HEAD = ("isoplug recording", 1, "a.b", "0f" * 32, 1.0, 0, 1.0, "{}", "0", "")
END = ("end", "returned", b"", "", "")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (file_of(), "does not begin"),
        (file_of(("isoplug recording", 2, *HEAD[2:]), ("step", "a", b""), END), "version 2"),
        (file_of(HEAD), "not in order"),
        (file_of(HEAD, END), "not in order"),
        (file_of(HEAD, ("step", "a", b"")), "has no end"),
        (file_of(HEAD, ("step", "a", "text")), "no entry"),
        (file_of(HEAD, ("step", "a", b""), ("end", "vanished", b"", "", "")), "vanished"),
        (file_of(HEAD, ("step", "a", b""), ("host", "f", b"", b"", "perhaps", ""), END), "perhaps"),
        (file_of(HEAD, ("step", "a", b""), END) + msgpack.packb(END), "not in order"),
        (file_of((*HEAD[:3], "../" * 21 + "x", *HEAD[4:]), ("step", "a", b""), END), "which module"),
        (file_of((*HEAD[:2], "a" * 5000, *HEAD[3:]), ("step", "a", b""), END), "5000 bytes"),
        (file_of((*HEAD[:9], "a" * 5000), ("step", "a", b""), END), "5000 bytes"),
        (file_of(HEAD, ("step", "a\ud800", b""), END), "not Unicode"),
        (file_of([[["a"]]]), "nested"),
        (b"\x91" * 10_000_000, "nested"),
        (file_of({"a": 1}), "max_map_len"),
        (file_of(["a"] * 100), "max_array_len"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\xc6\xff\xff\xff\xff", "cut off"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        decode(data)


def test_a_file_of_many_tiny_parts_is_refused() -> None:
    part = msgpack.packb(("host", "", b"", b"", "", ""))
    body = b"".join((*map(msgpack.packb, (HEAD, ("step", "a", b""))), part * 500_000, msgpack.packb(END)))
    with pytest.raises(Unreadable, match="more parts"):
        decode(body + msgpack.packb(("check", zlib.crc32(body))))


def test_a_failure_of_a_kind_that_there_is_not_is_a_trap() -> None:
    ending = Ending.of(Failed(1, "nonsense", "whatever"))
    assert (ending.kind, ending.is_crash) == (End.TRAP, True)
