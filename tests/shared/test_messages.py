"""The codec between a supervisor and a worker: what one side encodes the other decodes, and nothing else gets in."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared import messages
from isoplug.shared.limits import TEXT_BYTES
from isoplug.shared.messages import (
    Answer,
    Failed,
    Hello,
    HostCall,
    Invoke,
    Load,
    Loaded,
    LoadFailed,
    MalformedMessage,
    Notice,
    Returned,
    Stop,
    decode_from_worker,
    decode_to_worker,
    encode,
    encode_in_pieces,
)

FROM_WORKER = (Hello, Loaded, LoadFailed, HostCall, Notice, Returned, Failed)
TO_WORKER = (Load, Invoke, Answer, Stop)

VALUES = {
    int: st.integers(0, 2**63 - 1),
    str: st.text(max_size=TEXT_BYTES).filter(lambda text: len(text.encode()) <= TEXT_BYTES),
    bytes: st.binary(max_size=300),
}


def instances(kinds: tuple[type[Any], ...]) -> st.SearchStrategy[Any]:
    def of(kind: type[Any]) -> st.SearchStrategy[Any]:
        return st.builds(kind, *(VALUES[hint] for hint in get_type_hints(kind).values()))

    return st.one_of(*map(of, kinds))


def both_ways(frame: bytes) -> None:
    for decode in (decode_from_worker, decode_to_worker):
        with suppress(MalformedMessage):
            decode(frame)


@given(instances(FROM_WORKER))
def test_what_a_worker_encodes_the_supervisor_decodes(message: Any) -> None:
    decoded = decode_from_worker(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


@given(instances(TO_WORKER))
def test_what_a_supervisor_encodes_the_worker_decodes(message: Any) -> None:
    decoded = decode_to_worker(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1 << 20])
def test_a_message_in_pieces_is_the_same_message(size: int) -> None:
    for message in (Returned(1, bytes(size)), HostCall(1, 2, "host_log", bytes(size))):
        pieces = encode_in_pieces(message)
        assert decode_from_worker(b"".join(pieces)) == message
        assert len(pieces) == (2 if size >= 65_536 else 1)
    answer = Answer(1, 2, bytes(size))
    assert decode_to_worker(b"".join(encode_in_pieces(answer))) == answer
    assert b"".join(encode_in_pieces(Load())) == encode(Load())


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_a_message_or_malformed(frame: bytes) -> None:
    both_ways(frame)


@given(instances(FROM_WORKER + TO_WORKER), st.data())
def test_a_mutated_frame_is_a_message_or_malformed(message: Any, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    both_ways(bytes(frame))
    both_ways(bytes(frame[:cut]))
    both_ways(bytes(frame) + bytes(frame[:cut]))


any_value = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(any_value)
def test_msgpack_that_is_no_message_is_malformed(value: Any) -> None:
    both_ways(msgpack.packb(value))


@given(instances(FROM_WORKER), st.integers(0, 3), any_value)
def test_a_field_of_another_type_is_malformed(message: Any, place: int, value: Any) -> None:
    fields = list(message)
    if place >= len(fields) or type(value) is type(fields[place]):
        return
    fields[place] = value
    with pytest.raises(MalformedMessage):
        decode_from_worker(msgpack.packb([FROM_WORKER.index(type(message)), *fields]))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb([True, 1]),
        msgpack.packb([0.0, 1]),
        msgpack.packb([-1]),
        msgpack.packb([len(FROM_WORKER)]),
        msgpack.packb([0]),
        msgpack.packb([0, 1, 2]),
        msgpack.packb([0, True]),
        msgpack.packb([2, "x" * (TEXT_BYTES + 1)]),
        msgpack.packb([2, b"bytes, not text"]),
        b"\x92\x02\xa1\xff",  # text that is not UTF-8
        b"\x92\x02\xa3\xed\xa0\x80",  # text with a lone surrogate
        msgpack.packb(msgpack.ExtType(1, b"x")),
        msgpack.packb(msgpack.Timestamp(1)),
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion, by its header
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
)
def test_these_frames_are_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_from_worker(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x91" * 1_000_000,  # nested arrays
        b"\x94" + b"\x94" * 1_000_000,
        b"\x81\x01" * 500_000,  # nested maps
        b"\x98" + b"\x90" * 1_000_000,
        b"\xdc\xff\xff" + b"\x00" * 65_535,
        b"\x00" * 1_000_000,
        b"\x95\x91\x01\x91\x01\x91\x01\x91\x01" * 100_000,  # messages in messages
        b"\x93\x05\x00" + b"\xdd\x00\x0f\xff\xff" + b"\xc0" * 1_000_000,
    ],
)
def test_a_hostile_frame_costs_no_more_memory_than_a_few_times_its_size(frame: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            decode_from_worker(frame)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(frame)


def test_a_worker_cannot_send_what_only_a_supervisor_may() -> None:
    for message in (Load(), Invoke(1, "x", b""), Answer(1, 1, b"")):
        try:
            decoded = decode_from_worker(encode(message))
        except MalformedMessage:
            continue
        assert not isinstance(decoded, TO_WORKER)  # tags count per direction


def test_every_message_is_listed() -> None:
    listed = {kind.__name__ for kind in FROM_WORKER + TO_WORKER}
    declared = {name for name in messages.__all__ if isinstance(getattr(messages, name), type)} - {
        "MalformedMessage",
        "FailureKind",
    }
    assert listed == declared
