"""Attacks in calls: messages out of order, or with a content that no worker has."""

from __future__ import annotations

import json
import os

import msgpack

from hostile_worker.acting import IN_A_CALL, fails, in_a_call, packs, says, sleep
from hostile_worker.wire import BIG_LOG_LINE, ESCAPES, FRAME_BYTES, LOG_LINE, Wire, framed
from isoplug.shared.limits import NOTICE_BYTES, TEXT_BYTES
from isoplug.shared.messages import (
    PROTOCOL,
    Answer,
    Failed,
    FailureKind,
    Hello,
    HostCall,
    Loaded,
    LoadFailed,
    Notice,
    Returned,
    Stop,
    encode,
)

# Order, numbers, amounts


@in_a_call
def two_answers(wire: Wire, call: int, data: bytes) -> None:
    wire.write(framed(encode(Returned(call, b"honest"))) + framed(encode(Returned(call, b"forged"))))
    sleep()


@in_a_call
def an_answer_ahead_of_time(wire: Wire, call: int, data: bytes) -> None:
    wire.write(framed(encode(Returned(call, b"honest"))) + framed(encode(Returned(call + 1, b"forged"))))
    sleep()


@in_a_call
def ten_thousand_notices(wire: Wire, call: int, data: bytes) -> None:
    wire.write(framed(encode(Notice(call, "host_log", LOG_LINE))) * 10_000)


@in_a_call
def ten_thousand_host_calls(wire: Wire, call: int, data: bytes) -> None:
    """And no answer is read: they fill the kernel's buffer."""
    for sequence in range(1, 10_001):
        wire.say(HostCall(call, sequence, "host_get_runtime_context", b""))


@in_a_call
def a_flood_of_notices(wire: Wire, call: int, data: bytes) -> None:
    flood = framed(encode(Notice(call, "host_log", LOG_LINE))) * 100
    while True:
        wire.write(flood)


@in_a_call
def a_notice_as_long_as_may_be(wire: Wire, call: int, data: bytes) -> None:
    wire.say(Notice(call, "host_log", LOG_LINE.ljust(NOTICE_BYTES)))


@in_a_call
def a_flood_of_large_notices(wire: Wire, call: int, data: bytes) -> None:
    while True:
        wire.say(Notice(call, "host_log", BIG_LOG_LINE))


@in_a_call
def a_flood_of_frames_at_the_limit(wire: Wire, call: int, data: bytes) -> None:
    flood = framed(encode(Notice(call, "host_log", LOG_LINE + b" " * (FRAME_BYTES - 100))))
    while True:
        wire.write(flood)


@in_a_call
def a_flood_while_another_plugin_is_asked(wire: Wire, call: int, data: bytes) -> None:
    request = json.dumps({"plugin_id": "test.probe", "command": "echo", "params": 1}).encode()
    wire.say(HostCall(call, 1, "host_plugin_command", request))
    while True:
        wire.say(Notice(call, "host_log", LOG_LINE))


@in_a_call
def garbage_while_another_plugin_is_asked(wire: Wire, call: int, data: bytes) -> None:
    request = json.dumps({"plugin_id": "test.probe", "command": "echo", "params": 1}).encode()
    wire.say(HostCall(call, 1, "host_plugin_command", request))
    wire.write(b"\xff" * 1000)
    sleep()


@in_a_call
def a_death_while_another_plugin_is_asked(wire: Wire, call: int, data: bytes) -> None:
    request = json.dumps({"plugin_id": "test.probe", "command": "echo", "params": 1}).encode()
    wire.say(HostCall(call, 1, "host_plugin_command", request))
    os._exit(9)


says("another_call", lambda call: Returned(call + 1, b"forged"))
says("an_old_call", lambda call: Returned(call - 1, b"replayed"))
says("call_zero", lambda call: Returned(0, b"forged"))
says("a_negative_call", lambda call: Returned(-call, b"forged"))
says("call_2_to_the_64", lambda call: Returned((1 << 64) - 1, b"forged"))
says("a_failure_of_another_call", lambda call: Failed(call + 7, FailureKind.GUEST, "x"))
says("sequence_zero", lambda call: HostCall(call, 0, "host_get_timestamp", b""))
says("sequence_ahead", lambda call: HostCall(call, 2, "host_get_timestamp", b""))
says("a_negative_sequence", lambda call: HostCall(call, -1, "host_get_timestamp", b""))
says("a_host_call_of_another_call", lambda call: HostCall(call - 1, 1, "host_get_timestamp", b""))
says("a_notice_of_another_call", lambda call: Notice(call + 1, "host_log", LOG_LINE))
says("hello_again", lambda call: Hello(PROTOCOL))
says("loaded_again", lambda call: Loaded())
says("load_failed_in_a_call", lambda call: LoadFailed("x"))
says("the_supervisors_answer", lambda call: Answer(call, 1, b""))
says("the_supervisors_stop", lambda call: Stop())


@in_a_call
def a_replayed_sequence(wire: Wire, call: int, data: bytes) -> None:
    for _ in range(2):
        wire.say(HostCall(call, 1, "host_get_timestamp", b""))
    sleep()


@in_a_call
def a_replayed_answer(wire: Wire, call: int, data: bytes) -> None:
    """That of the first call of this worker."""
    wire.say(Returned(1, b"replayed"))
    sleep()


# Names and texts

for label, function in {
    "unknown": "host_rm_rf",
    "empty": "",
    "long": "x" * TEXT_BYTES,
    "dunder": "__class__",
    "path": "../../../etc/passwd",
    "escapes": ESCAPES,
    "nul": "host_log\0",
    "surrogate-like": "host_log\ufffd",
}.items():
    says(f"a_function_{label}", lambda call, name=function: HostCall(call, 1, name, b""))
    says(f"a_notice_{label}", lambda call, name=function: Notice(call, name, b""))
says("a_notice_too_long", lambda call: Notice(call, "host_log", LOG_LINE.ljust(NOTICE_BYTES + 1)))
says("a_function_too_long", lambda call: HostCall(call, 1, "x" * (TEXT_BYTES + 1), b""))
fails("a_trap_with_escapes", FailureKind.TRAP, ESCAPES)
fails("a_failure_with_escapes", FailureKind.GUEST, ESCAPES)
fails("a_limit_with_escapes", FailureKind.LIMIT, ESCAPES)
fails("a_failure_of_no_kind", ESCAPES, ESCAPES)
fails("a_failure_without_text", "", "")
fails("a_huge_trap", FailureKind.TRAP, "T" * TEXT_BYTES)
fails("a_huge_failure", FailureKind.GUEST, "T" * TEXT_BYTES)
fails("a_failure_too_huge", FailureKind.TRAP, "T" * (TEXT_BYTES + 1))
fails("names_no_limit", FailureKind.LIMIT, "limits.nonsense")
says("lies_about_a_limit", lambda call: Failed(call, FailureKind.LIMIT, "limits.output", -(1 << 62)))
says("the_event_no_json", lambda call: Notice(call, "host_emit_event", b"\xff{"))
says("the_event_deep", lambda call: Notice(call, "host_emit_event", b"[" * 60_000))
says("the_log_no_json", lambda call: Notice(call, "host_log", b"\xff" * 1000))
says("the_log_other_types", lambda call: Notice(call, "host_log", b'{"level":[],"message":{}}'))


@in_a_call
def log_lines_with_escapes(wire: Wire, call: int, data: bytes) -> None:
    for level in ("info", "error", ESCAPES):
        wire.say(Notice(call, "host_log", json.dumps({"level": level, "message": ESCAPES}).encode()))


@in_a_call
def events_with_escapes(wire: Wire, call: int, data: bytes) -> None:
    wire.say(Notice(call, "host_emit_event", json.dumps({ESCAPES: ESCAPES}).encode()))


@in_a_call
def a_permission_as_a_notice(wire: Wire, call: int, data: bytes) -> None:
    """Nobody waits, and the rules hold all the same."""
    wire.say(Notice(call, "host_write_file", b'{"path":"stolen.md","content":"x"}'))


PAYLOADS = {
    "nested_json": b"[" * (8 << 20),
    "json_of_nan": b'{"path":NaN}',
    "json_of_a_huge_integer": b'{"path":' + b"9" * 1_000_000 + b"}",
    "json_of_duplicates": b'{"path":"a","path":7}',
    "json_of_a_surrogate": b'{"path":"\\ud800"}',
    "no_utf8": b"\xff\xfe" * 100,
    "nuls": bytes(1 << 20),
}


def asks(name: str, payload: bytes) -> None:
    """Every file function is asked; the answers come, and the worker goes on."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        for sequence, function in enumerate(("host_read_file", "host_write_file", "host_plugin_command"), 1):
            wire.say(HostCall(call, sequence, function, payload))
            wire.hear()

    IN_A_CALL[name] = attack


for label, content in PAYLOADS.items():
    asks(f"asks_with_{label}", content)


# msgpack

packs("no_bytes_of_msgpack", lambda call: b"\xc1")
packs("an_empty_array", lambda call: b"\x90")
packs("half_an_array", lambda call: b"\x93\x05")
packs("an_array_in_an_array", lambda call: msgpack.packb([5, call, [b"x"]]))
packs("half_a_million_arrays", lambda call: b"\x91" * 500_000)
packs("half_a_million_maps", lambda call: b"\x81\x00" * 500_000)
packs("an_array_of_ten_million", lambda call: b"\xdd" + (10_000_000).to_bytes(4, "big") + bytes(10_000_000))
packs("an_array_of_four_billion", lambda call: b"\xdd\xff\xff\xff\xff")
packs("a_map_of_four_billion", lambda call: b"\xdf\xff\xff\xff\xff")
packs("bytes_of_four_billion", lambda call: b"\x93\x05\x01\xc6\xff\xff\xff\xff")
packs("text_of_four_billion", lambda call: b"\x93\x05\x01\xdb\xff\xff\xff\xff")
packs("a_map", lambda call: msgpack.packb({0: 5, 1: call}))
packs("an_empty_map", lambda call: b"\x80")
packs("a_map_of_duplicates", lambda call: b"\x82\x00\x05\x00\x05")
packs("a_map_as_a_field", lambda call: msgpack.packb([5, call, {}]))
packs("an_extension", lambda call: msgpack.packb([5, call, msgpack.ExtType(5, b"x")]))
packs("an_empty_extension", lambda call: b"\x93\x05\x01\xc7\x00\x05")
packs("a_timestamp", lambda call: msgpack.packb([5, call, msgpack.Timestamp(1, 2)]))
packs("a_timestamp_of_year_many", lambda call: b"\x93\x05\x01\xc7\x0c\xff" + b"\x7f" * 12)
packs("no_utf8_as_a_name", lambda call: b"\x94\x04\x01\xa2\xff\xfe\xc4\x00")
packs("a_surrogate_as_a_name", lambda call: b"\x94\x04\x01\xa3\xed\xa0\x80\xc4\x00")
packs("nan_as_a_call", lambda call: msgpack.packb([5, float("nan"), b""]))
packs("a_float_as_a_call", lambda call: msgpack.packb([5, float(call), b""]))
packs("a_boolean_as_a_call", lambda call: msgpack.packb([5, True, b""]))
packs("nothing_as_a_call", lambda call: msgpack.packb([5, None, b""]))
packs("text_as_output", lambda call: msgpack.packb([5, call, "text"]))
packs("bytes_as_a_name", lambda call: msgpack.packb([3, call, 1, b"host_log", b""]))
packs("a_field_too_many", lambda call: msgpack.packb([5, call, b"", b""]))
packs("a_field_too_few", lambda call: msgpack.packb([5, call]))
packs("a_trailing_byte", lambda call: encode(Returned(call, b"")) + b"\xc0")
packs("two_messages_in_a_frame", lambda call: encode(Returned(call, b"")) * 2)
packs("a_tag_unknown", lambda call: msgpack.packb([7, call, b""]))
packs("a_tag_negative", lambda call: msgpack.packb([-2, call, b""]))
packs("a_tag_of_text", lambda call: msgpack.packb(["Returned", call, b""]))
packs("a_tag_of_truth", lambda call: msgpack.packb([True, call, b""]))
packs("a_tag_of_2_to_the_64", lambda call: msgpack.packb([(1 << 64) - 1, call, b""]))
