"""Native code in a worker's place: what a guest does that has broken out of WASM. It writes any bytes to its socket.

It is imported into the zygote (``zygotes_run_hostile_code``); plugins that are not marked as hostile get the real
worker. Two ways to call it:

- The module of a plugin contains ``HOSTILE``: the worker behaves until a raw call names one of ``IN_A_CALL`` as its
  export; what that one returns, if it returns, is the call's honest answer.
- The module *is* ``AT_START_MARK`` with a name: the worker runs that one of ``AT_START`` instead of starting.

It needs ``lockdown = "off"``, and that is as it should be: the socket has to hold whatever the machine offers.
"""

from __future__ import annotations

import array
import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgpack

from isoplug.shared.limits import FRAME_OVERHEAD_BYTES, NOTICE_BYTES, TEXT_BYTES
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

if TYPE_CHECKING:
    import pytest

HOSTILE: Final = "test.hostile"
AT_START_MARK: Final = b"hostile at start: "
FRAME_BYTES: Final = 32 << 20
"""``limits.frame`` by default."""

MORE, LONG, COMMAND = 1, 2, 4
#: Tags of messages to a worker.
INVOKE, STOP = 1, 3
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type\0\0\0\x04PAIR\x08Identity\0\0\0\0"
#: What a terminal and a log would do with it, were it written as it is.
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00.000Z ERROR forged plugin=x \u202e\x9b31m\x00"
LOG_LINE = b'{"level":"info","message":"x"}'
BIG_LOG_LINE = b'{"level":"info","message":"' + b"x" * 60_000 + b'"}'


def take_over() -> None:
    """In the zygote, before it begins."""
    from isoplug.worker import main, template

    honest_live, honest_blueprint = main.live, template.Blueprint

    def blueprint(wasm: bytes, *rest: Any) -> Any:
        is_hostile = wasm.startswith(AT_START_MARK) or HOSTILE.encode() in wasm
        return wasm[:200] if is_hostile else honest_blueprint(wasm, *rest)

    def live(cell: Any, plan: Any, courier: Any, fields: Any, lifeline_fd: int, link_fd: int) -> int:
        if not isinstance(plan, bytes):
            return honest_live(cell, plan, courier, fields, lifeline_fd, link_fd)
        cell.move_in(lifeline_fd, link_fd)
        if plan.startswith(AT_START_MARK):
            AT_START[plan.removeprefix(AT_START_MARK).decode()](link_fd)
            sleep()
        return serve(Wire(link_fd))

    patched: Any = template
    patched.Blueprint = blueprint
    main.live = live


def zygotes_run_hostile_code(patch: pytest.MonkeyPatch) -> None:
    """Those that are started from now on."""
    from zygotes import zygotes_run

    zygotes_run(patch, "import hostile_worker; hostile_worker.take_over()")


# --- the wire ---------------------------------------------------------------------------------------------------------


def framed(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | LONG,)) + len(body).to_bytes(8, "big") + body


def long_header(size: int, flags: int = 0) -> bytes:
    return bytes((flags | LONG,)) + size.to_bytes(8, "big")


class Wire:
    """ZMTP by hand. ``unread`` counts the bytes of the last frame that were left where they are."""

    def __init__(self, fd: int, *, greets: bool = True) -> None:
        self.socket = socket.socket(fileno=fd)
        self.unread = 0
        self._has_heard = False
        if greets:
            self.write(GREETING + framed(READY, COMMAND))

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self, body: bytes, flags: int = 0) -> None:
        self.write(framed(body, flags))

    def say(self, message: Any) -> None:
        self.frame(encode(message))

    def hear(self) -> list[Any]:
        """[tag, *fields]; the last field of an ``Invoke`` whose export begins with "unread" is cut off."""
        if not self._has_heard:
            self._has_heard = True
            self._exactly(64)
            self._exactly(self._exactly(2)[1])
        flags = self._exactly(1)[0]
        size = int.from_bytes(self._exactly(8), "big") if flags & LONG else self._exactly(1)[0]
        head = self._exactly(min(size, 200))
        self.unread = size - len(head)
        parser = msgpack.Unpacker()
        parser.feed(head)
        length = parser.read_array_header()
        fields = [parser.unpack() for _ in range(min(length, 3))]
        if fields[0] == INVOKE and fields[2].startswith("unread"):
            return fields
        body = head + self._exactly(self.unread)
        self.unread = 0
        return list(msgpack.unpackb(body))

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self.socket.recv(min(size - len(data), 1 << 16))
            if not chunk:
                os._exit(0)
            data += chunk
        return bytes(data)


def serve(wire: Wire) -> int:
    """A worker's life, until an attack is asked for."""
    wire.say(Hello(PROTOCOL))
    wire.hear()
    wire.say(Loaded())
    return go_on(wire)


def go_on(wire: Wire) -> int:
    while True:
        tag, *fields = wire.hear()
        if tag == STOP:
            return 0
        call, export, data = (*fields, b"")[:3]
        if export == "manifest":
            manifest = {"id": HOSTILE, "name": "x", "version": "1", "description": "x", "capabilities": []}
            wire.say(Returned(call, json.dumps(manifest).encode()))
        elif attack := IN_A_CALL.get(export):
            answer = attack(wire, call, data)
            wire.say(Returned(call, b"honest" if answer is None else answer))
        else:
            wire.say(Failed(call, FailureKind.MISSING, ""))


# --- the attacks ------------------------------------------------------------------------------------------------------

Attack = Callable[[Wire, int, bytes], bytes | None]

#: By name; the tests say what has to come of each.
IN_A_CALL: dict[str, Attack] = {}
AT_START: dict[str, Callable[[int], None]] = {}


def in_a_call(attack: Attack) -> Attack:
    IN_A_CALL[attack.__name__] = attack
    return attack


def at_start(attack: Callable[[int], None]) -> Callable[[int], None]:
    AT_START[attack.__name__] = attack
    return attack


def sleep() -> None:
    while True:
        time.sleep(10)


def says(name: str, message: Callable[[int], Any]) -> None:
    """An attack: one message, well framed, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(message(call))
        sleep()

    IN_A_CALL[name] = attack


def fails(name: str, kind: str, text: str) -> None:
    """An attack: the call fails, and the worker goes on."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(Failed(call, kind, text))
        os._exit(go_on(wire))

    IN_A_CALL[name] = attack


def packs(name: str, body: Callable[[int], bytes]) -> None:
    """An attack: one frame with this body, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.frame(body(call))
        sleep()

    IN_A_CALL[name] = attack


def writes(name: str, *pieces: bytes) -> None:
    """An attack: these bytes, and silence."""

    def attack(wire: Wire, call: int, data: bytes) -> None:
        for piece in pieces:
            wire.write(piece)
        sleep()

    IN_A_CALL[name] = attack


@in_a_call
def behaves(wire: Wire, call: int, data: bytes) -> None:
    """None at all."""


@in_a_call
def leaves(wire: Wire, call: int, data: bytes) -> None:
    os._exit(0)


# Frames

writes("more_flag", framed(b"a", MORE))
writes("multipart", framed(b"a", MORE) + framed(b"b", MORE) + framed(b"c"))
writes("more_flag_on_a_long_frame", long_header(1 << 20, MORE))
writes("ping", framed(b"\x04PING\0\x0a", COMMAND))
writes("error_command", framed(b"\x05ERROR\x03bad", COMMAND))
writes("second_ready", framed(READY, COMMAND))
writes("second_greeting", GREETING)
writes("long_command", framed(b"\x04PING" + bytes(1 << 20), COMMAND))
writes("reserved_bit_3", b"\x08\x01a")
writes("reserved_bit_7", b"\x80\x01a")
writes("every_bit", b"\xff" * 4096)
writes("long_of_2_to_the_63", long_header(1 << 63))
writes("long_of_minus_one", long_header((1 << 64) - 1))
writes("long_of_one_too_many", long_header(FRAME_BYTES + FRAME_OVERHEAD_BYTES + 1))
writes("zero_size", b"\0\0")
writes("long_zero_size", long_header(0))
writes("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
writes("newlines", b"\n" * 100_000)


@in_a_call
def multipart_bomb(wire: Wire, call: int, data: bytes) -> None:
    part = framed(bytes(1 << 20), MORE)
    while True:
        wire.write(part)


@in_a_call
def multipart_bomb_of_nothing(wire: Wire, call: int, data: bytes) -> None:
    parts = framed(b"", MORE) * 10_000
    while True:
        wire.write(parts)


@in_a_call
def long_form_of_a_short_frame(wire: Wire, call: int, data: bytes) -> None:
    body = encode(HostCall(call, 1, "host_get_timestamp", b""))
    wire.write(long_header(len(body)) + body)
    wire.hear()


@in_a_call
def an_output_at_the_limit(wire: Wire, call: int, data: bytes) -> bytes:
    return bytes(FRAME_BYTES)


@in_a_call
def a_frame_at_the_limit(wire: Wire, call: int, data: bytes) -> bytes:
    header = len(encode(Returned(call, bytes(1 << 17)))) - (1 << 17)
    return bytes(FRAME_BYTES + FRAME_OVERHEAD_BYTES - header)


@in_a_call
def one_byte_too_many(wire: Wire, call: int, data: bytes) -> None:
    size = FRAME_BYTES + FRAME_OVERHEAD_BYTES + 1
    wire.frame(bytes(size))
    sleep()


HALVES = {
    "half_a_header": long_header(1 << 20)[:5],
    "half_a_frame": long_header(1 << 20) + bytes(1 << 19),
    "all_but_a_byte": long_header(1 << 10) + bytes((1 << 10) - 1),
    "only_the_flags": b"\0",
}
ENDINGS: dict[str, Callable[[Wire], object]] = {
    "and_silence": lambda wire: sleep(),
    "and_close": lambda wire: wire.socket.close(),
    "and_half_close": lambda wire: wire.socket.shutdown(socket.SHUT_WR),
    "and_death": lambda wire: os._exit(9),
    "and_sigkill": lambda wire: os.kill(os.getpid(), signal.SIGKILL),
    "and_sigstop": lambda wire: os.kill(os.getpid(), signal.SIGSTOP),
}


def ends(name: str, data: bytes, ending: Callable[[Wire], object]) -> None:
    def attack(wire: Wire, call: int, _: bytes) -> None:
        wire.write(data)
        ending(wire)
        sleep()

    IN_A_CALL[name] = attack


for half, begun in HALVES.items():
    for end, how in ENDINGS.items():
        ends(f"{half}_{end}", begun, how)
for end, how in ENDINGS.items():
    ends(f"nothing_{end}", b"", how)


@in_a_call
def one_byte_at_a_time(wire: Wire, call: int, data: bytes) -> None:
    for byte in framed(encode(HostCall(call, 1, "host_get_timestamp", b""))):
        wire.write(bytes((byte,)))
        time.sleep(0.0005)
    wire.hear()


@in_a_call
def one_byte_in_a_while(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(FRAME_BYTES))
    while True:
        wire.write(b"x")
        time.sleep(0.05)


@in_a_call
def a_large_frame_in_single_bytes(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(FRAME_BYTES))
    while True:
        wire.socket.send(b"x")


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


# The socket itself


@in_a_call
def passes_a_descriptor(wire: Wire, call: int, data: bytes) -> None:
    pass_descriptors(wire.socket, 1, framed(encode(HostCall(call, 1, "host_get_timestamp", b""))))
    wire.hear()


@in_a_call
def passes_253_descriptors_a_hundred_times(wire: Wire, call: int, data: bytes) -> None:
    for _ in range(100):
        pass_descriptors(wire.socket, 253, framed(encode(Notice(call, "host_log", LOG_LINE))))


@in_a_call
def passes_its_own_socket(wire: Wire, call: int, data: bytes) -> None:
    pass_descriptors(wire.socket, 1, framed(encode(HostCall(call, 1, "host_get_timestamp", b""))), wire.socket.fileno())
    wire.hear()


@in_a_call
def passes_a_connection_that_lingers(wire: Wire, call: int, data: bytes) -> None:
    """Whoever closes it last waits a minute: the supervisor, which is kept busy until this process has closed it."""
    busy = json.dumps({"plugin_id": "test.probe", "command": "busy", "params": {"milliseconds": 300}}).encode()
    wire.say(HostCall(call, 1, "host_plugin_command", busy))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as connection:
        connection.connect(server.getsockname())
        peer, _ = server.accept()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection.send(bytes(1 << 20))
        notice = framed(encode(Notice(call, "host_log", LOG_LINE)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        if not pass_descriptors(wire.socket, 1, notice, connection.fileno()):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
    wire.hear()
    peer.close()


def pass_descriptors(connection: socket.socket, count: int, data: bytes, fd: int = 0) -> bool:
    """Beside ``data``, which goes alone when the other side refuses them (False)."""
    rights = array.array("i", [fd] * count)
    try:
        connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except PermissionError:
        connection.sendall(data)
        return False
    return True


@in_a_call
def urgent_bytes_and_silence(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.send(b"!", socket.MSG_OOB)
    sleep()


@in_a_call
def a_flood_of_urgent_bytes(wire: Wire, call: int, data: bytes) -> None:
    while True:
        wire.socket.send(b"!", socket.MSG_OOB)


@in_a_call
def urgent_bytes_within_a_frame(wire: Wire, call: int, data: bytes) -> None:
    wire.write(long_header(100) + b"x")
    wire.socket.send(b"!", socket.MSG_OOB)
    sleep()


@in_a_call
def listens_no_more(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_RD)
    wire.say(HostCall(call, 1, "host_get_timestamp", b""))
    sleep()


@in_a_call
def a_child_that_goes_on(wire: Wire, call: int, data: bytes) -> None:
    """The worker dies; its child holds the socket, and ends when the supervisor has closed it."""
    if os.fork():
        os._exit(9)
    while wire.socket.recv(1):
        pass
    os._exit(0)


@in_a_call
def a_child_that_talks_on(wire: Wire, call: int, data: bytes) -> None:
    if os.fork():
        os._exit(9)
    try:
        while True:
            wire.say(Notice(call, "host_log", LOG_LINE))
    except OSError:
        os._exit(0)


# While the supervisor sends 32 MiB


@in_a_call
def unread_and_silence(wire: Wire, call: int, data: bytes) -> None:
    sleep()


@in_a_call
def unread_and_close(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.close()
    sleep()


@in_a_call
def unread_and_half_close(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_RD)
    sleep()


@in_a_call
def unread_and_no_more_words(wire: Wire, call: int, data: bytes) -> None:
    wire.socket.shutdown(socket.SHUT_WR)
    sleep()


@in_a_call
def unread_and_death(wire: Wire, call: int, data: bytes) -> None:
    os._exit(9)


@in_a_call
def unread_and_sigstop(wire: Wire, call: int, data: bytes) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@in_a_call
def unread_and_a_flood(wire: Wire, call: int, data: bytes) -> None:
    """Both directions are full: whoever waited for the other would wait for ever."""
    while True:
        wire.say(Notice(call, "host_log", BIG_LOG_LINE))


@in_a_call
def unread_and_a_child(wire: Wire, call: int, data: bytes) -> None:
    if os.fork():
        os._exit(9)
    while wire.socket.recv(1 << 16):
        time.sleep(0.01)
    os._exit(0)


@in_a_call
def unread_and_slow(wire: Wire, call: int, data: bytes) -> None:
    while wire.unread:
        wire.unread -= len(wire.socket.recv(min(wire.unread, 1 << 18)))
        time.sleep(0.001)


@in_a_call
def unread_and_slower(wire: Wire, call: int, data: bytes) -> None:
    while wire.unread:
        wire.unread -= len(wire.socket.recv(1))
        time.sleep(0.01)


# While nobody asks. The call is answered, then:


def idles(name: str, then: Callable[[Wire, int], object]) -> None:
    def attack(wire: Wire, call: int, data: bytes) -> None:
        wire.say(Returned(call, b"honest"))
        then(wire, call)
        sleep()

    IN_A_CALL[f"idle_{name}"] = attack


def flood(wire: Wire, data: bytes) -> None:
    """By write(2), which the kernel counts in /proc/<pid>/io."""
    while True:
        os.write(wire.socket.fileno(), data)


def compute() -> None:
    while True:
        pass


idles("and_computes", lambda wire, call: compute())
idles("and_speaks", lambda wire, call: wire.say(Returned(call + 1, b"forged")))
idles("and_floods", lambda wire, call: flood(wire, framed(encode(Returned(call, bytes(100))))))
idles("and_floods_large", lambda wire, call: flood(wire, framed(encode(Returned(call, bytes(900_000))))))
idles("and_floods_parts", lambda wire, call: flood(wire, framed(bytes(60_000), MORE)))
idles("and_floods_nothing", lambda wire, call: flood(wire, b"\0\0"))
idles("and_begins_a_frame", lambda wire, call: wire.write(long_header(1 << 20) + b"x"))
idles("and_begins_a_message", lambda wire, call: wire.write(framed(b"x", MORE)))
idles("and_passes_descriptors", lambda wire, call: pass_descriptors(wire.socket, 253, b"x"))
idles("and_is_urgent", lambda wire, call: wire.socket.send(b"!", socket.MSG_OOB))
idles("and_closes", lambda wire, call: wire.socket.close())
idles("and_half_closes", lambda wire, call: wire.socket.shutdown(socket.SHUT_WR))
idles("and_dies", lambda wire, call: os._exit(4))
idles("and_stops", lambda wire, call: os.kill(os.getpid(), signal.SIGSTOP))


# Anything at all


@in_a_call
def at_random(wire: Wire, call: int, data: bytes) -> None:
    """``data`` is the seed: a conversation that would be honest, damaged, in random pieces, with a random end."""
    dice = random.Random(data)
    frames = []
    for sequence in range(1, dice.randrange(4)):
        frames.append(framed(encode(HostCall(call, sequence, "host_get_timestamp", b""))))
        frames.append(framed(encode(Notice(call, "host_log", LOG_LINE))))
    frames.append(framed(encode(Returned(call, bytes(dice.randrange(600))))))
    conversation = bytearray(b"".join(frames)) if dice.random() < 0.8 else bytearray(dice.randbytes(200))
    for _ in range(dice.randrange(6)):
        damage(conversation, dice)
    at = 0
    while at < len(conversation):
        size = dice.choice((1, 2, 9, 100, 1 << 16))
        wire.write(conversation[at : at + size])
        at += size
    dice.choice(list(ENDINGS.values()))(wire)
    sleep()


def damage(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    match dice.randrange(5):
        case 0:
            data[at : at + 1] = bytes((dice.randrange(256),))
        case 1:
            data[at : at + dice.randrange(20)] = b""
        case 2:
            data[at:at] = dice.randbytes(dice.randrange(20))
        case 3:
            data[at:at] = data[: dice.randrange(len(data) + 1)]
        case 4:
            data[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7)))


# At the start


def greets(name: str, data: bytes, ending: Callable[[Wire], object] = lambda wire: None) -> None:
    """An attack: this is its first word."""

    def attack(fd: int) -> None:
        wire = Wire(fd, greets=False)
        wire.write(data)
        ending(wire)
        sleep()

    AT_START[name] = attack


def begins(name: str, *messages: Any) -> None:
    """An attack: shakes hands, says these messages without waiting, and is silent."""
    greets(name, GREETING + framed(READY, COMMAND) + b"".join(framed(encode(message)) for message in messages))


HANDSHAKE = GREETING + framed(READY, COMMAND)
HELLO_AND_LOADED = framed(encode(Hello(PROTOCOL))) + framed(encode(Loaded()))


@at_start
def never_speaks(fd: int) -> None:
    sleep()


@at_start
def dies_before_it_speaks(fd: int) -> None:
    os._exit(9)


@at_start
def stops_before_it_speaks(fd: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


greets("greets_with_http", b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: " + b"x" * 100 + b"\r\n\r\n")
greets("greets_with_tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
greets("greets_with_zeros", bytes(64))
greets("greets_unsigned", b"\xff" + bytes(9) + GREETING[10:])
greets("greets_with_zmtp_2", GREETING[:10] + b"\x01\x00" + GREETING[12:])
greets("greets_with_curve", GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:])
greets("greets_with_plain", GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:])
greets("greets_for_ever", b"", lambda wire: flood(wire, b"\xff" * 65_536))
greets("greets_with_descriptors", b"", lambda wire: pass_descriptors(wire.socket, 253, GREETING[:1]))
greets("greets_urgently", GREETING[:30], lambda wire: wire.socket.send(b"!", socket.MSG_OOB))
for end, how in ENDINGS.items():
    greets(f"nothing_{end}", b"", how)
    greets(f"half_a_greeting_{end}", GREETING[:40], how)
    greets(f"no_ready_{end}", GREETING, how)
    greets(f"half_a_ready_{end}", HANDSHAKE[:80], how)
    greets(f"half_a_hello_{end}", HANDSHAKE + b"\0", how)
    greets(f"hello_{end}", HANDSHAKE + framed(encode(Hello(PROTOCOL))), how)
greets("ready_of_another_type", GREETING + framed(READY.replace(b"PAIR", b"PUSH"), COMMAND))
greets("ready_of_no_type", GREETING + framed(b"\x05READY", COMMAND))
greets("ready_as_a_message", GREETING + framed(READY))
greets("ready_with_more", GREETING + framed(READY, COMMAND | MORE))
greets("ready_too_long", GREETING + framed(READY + bytes(500), COMMAND))
greets("ready_of_2_to_the_63", GREETING + long_header(1 << 63, COMMAND))
greets("ready_without_end", GREETING + long_header(512, COMMAND) + READY)
greets("another_command", GREETING + framed(b"\x05HELLO", COMMAND))
greets("ready_twice", HANDSHAKE + framed(READY, COMMAND))
begins("hello_of_another_version", Hello(PROTOCOL + 1))
begins("hello_twice", Hello(PROTOCOL), Hello(PROTOCOL))
begins("loaded_before_hello", Loaded(), Hello(PROTOCOL))
begins("failed_before_hello", LoadFailed("x"))
begins("a_result_before_hello", Returned(1, b"forged"))
begins("a_result_before_load", Hello(PROTOCOL), Returned(1, b"forged"))
begins("a_host_call_before_load", Hello(PROTOCOL), HostCall(0, 1, "host_get_timestamp", b""))
begins("a_notice_before_load", Hello(PROTOCOL), Notice(0, "host_log", LOG_LINE))
begins("loaded_before_load", Hello(PROTOCOL), Loaded())
begins("failed_with_escapes", Hello(PROTOCOL), LoadFailed(ESCAPES))
begins("failed_at_length", Hello(PROTOCOL), LoadFailed("T" * TEXT_BYTES))
begins("failed_at_too_great_length", Hello(PROTOCOL), LoadFailed("T" * (TEXT_BYTES + 1)))
greets("a_version_to_come", HANDSHAKE[:10] + b"\x0f\xff" + HANDSHAKE[12:] + HELLO_AND_LOADED)
greets("oversize_before_load", HANDSHAKE + framed(encode(Hello(PROTOCOL))) + long_header(1 << 40))
greets("garbage_for_hello", HANDSHAKE + framed(b"\xc1"))
greets("hello_by_the_million", HANDSHAKE, lambda wire: flood(wire, framed(encode(Hello(PROTOCOL))) * 1000))


@at_start
def greets_slowly(fd: int) -> None:
    """As a worker under load would."""
    wire = Wire(fd, greets=False)
    for byte in HANDSHAKE + framed(encode(Hello(PROTOCOL))):
        wire.write(bytes((byte,)))
        time.sleep(0.0005)
    wire.hear()
    wire.say(Loaded())
    sleep()  # with its socket open


@at_start
def greets_too_slowly(fd: int) -> None:
    wire = Wire(fd, greets=False)
    for byte in HANDSHAKE:
        wire.write(bytes((byte,)))
        time.sleep(0.05)


@at_start
def lets_its_child_speak(fd: int) -> None:
    """What says hello is another process, which behaves, and ends when the supervisor has hung up."""
    if os.fork():
        sleep()
    os._exit(serve(Wire(fd)))
