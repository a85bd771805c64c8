"""The messages between a supervisor and one worker, and their strict codec.

One message is one frame: a flat msgpack array ``[tag, *fields]``. Nothing in it names a plugin, because the socket it
came through already does. The order of a worker's life:

    worker → Hello · supervisor → Load · worker → Loaded | LoadFailed
    then, again and again: supervisor → Invoke
        worker → HostCall · supervisor → Answer      (any number of times)
        worker → Notice                              (a host call that waits for nothing)
    worker → Returned | Failed
    supervisor → Stop

``decode`` is the only way in. It accepts exactly these shapes and raises ``MalformedMessage`` for everything else; an
array within another is refused when the outer one closes at the latest, so a frame cannot grow into much more memory
than its own size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, get_type_hints

import msgpack

from isoplug.shared.limits import TEXT_BYTES

__all__ = [
    "PROTOCOL",
    "Answer",
    "Failed",
    "FailureKind",
    "FromWorker",
    "Hello",
    "HostCall",
    "Invoke",
    "Load",
    "LoadFailed",
    "Loaded",
    "MalformedMessage",
    "Notice",
    "Returned",
    "Stop",
    "ToWorker",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
    "encode_in_pieces",
]

#: Version of this file's messages. Both sides come from one installation; the check catches a half-done upgrade.
PROTOCOL = 2


class MalformedMessage(ValueError):
    """A frame is not one of the messages its direction allows."""


# --- supervisor → worker ------------------------------------------------------------------------------------------


class Load(NamedTuple):
    """First message to a worker: make the instance."""


class Invoke(NamedTuple):
    call: int
    export: str
    input: bytes


class Answer(NamedTuple):
    """The answer to the host call ``sequence`` of the call under way."""

    call: int
    sequence: int
    payload: bytes


class Stop(NamedTuple):
    """Leave cleanly; the worker exits with code 0."""


# --- worker → supervisor ------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    protocol: int


class Loaded(NamedTuple):
    """The module is instantiated; the worker takes calls."""


class LoadFailed(NamedTuple):
    reason: str


class HostCall(NamedTuple):
    """The guest called a host function and waits for its ``Answer``."""

    call: int
    sequence: int
    function: str
    payload: bytes


class Notice(NamedTuple):
    """The guest called a host function that answers nothing and needs no permission; nobody waits."""

    call: int
    function: str
    payload: bytes


class Returned(NamedTuple):
    call: int
    output: bytes


class FailureKind:
    """Why a call failed inside the worker. After anything but the first two, the worker has to be replaced."""

    MISSING = "missing"  #: the guest has no such export
    GUEST = "guest"  #: the guest ran to its end and reported an error
    TRAP = "trap"  #: WASM trap: globals and memory are in an unknown state
    LIMIT = "limit"  #: it came to a limit of the configuration


class Failed(NamedTuple):
    """Of the kind LIMIT, ``text`` is the limit's key, for example ``limits.output``; ``figure`` is what came, or 0."""

    call: int
    kind: str
    text: str
    figure: int = 0


FromWorker: TypeAlias = Hello | Loaded | LoadFailed | HostCall | Notice | Returned | Failed
ToWorker: TypeAlias = Load | Invoke | Answer | Stop

_FROM_WORKER: tuple[type[Any], ...] = (Hello, Loaded, LoadFailed, HostCall, Notice, Returned, Failed)
_TO_WORKER: tuple[type[Any], ...] = (Load, Invoke, Answer, Stop)

# A tag is the place in its direction's tuple. Field types are read off the annotations, once.
_TAGS = {kind: tag for kinds in (_FROM_WORKER, _TO_WORKER) for tag, kind in enumerate(kinds)}
_FIELDS = {kind: tuple(get_type_hints(kind).values()) for kind in _TAGS}
_LONGEST = 1 + max(len(fields) for fields in _FIELDS.values())

#: From here on a payload is worth not being copied; msgpack writes its length with 32 bits.
_LONG_BYTES = 64 * 1024
#: Of msgpack: empty bytes, and what stands before long ones (0xc6, their length).
_NO_BYTES, _LONG_BINARY = b"\xc4\x00", struct.Struct(">BI")


def encode(message: FromWorker | ToWorker) -> bytes:
    """The frame of ``message``."""
    frame: bytes = msgpack.packb((_TAGS[type(message)], *message))
    return frame


def encode_in_pieces(message: FromWorker | ToWorker) -> list[bytes]:
    """What ``encode`` answers; a long payload, which is always the last field, is a piece by itself, uncopied."""
    payload = message[-1] if message else None
    if type(payload) is not bytes or len(payload) < _LONG_BYTES:
        return [encode(message)]
    head: bytes = msgpack.packb((_TAGS[type(message)], *message[:-1], b""))
    return [head.removesuffix(_NO_BYTES) + _LONG_BINARY.pack(0xC6, len(payload)), payload]


def decode_from_worker(frame: bytes | memoryview) -> FromWorker:
    """Parse a frame that a worker sent; nothing of it is kept. Raises MalformedMessage, and nothing else."""
    message: FromWorker = _decode(frame, _message_from_worker)
    return message


def decode_to_worker(frame: bytes | memoryview) -> ToWorker:
    """Parse a frame that a supervisor sent; nothing of it is kept. Raises MalformedMessage, and nothing else."""
    message: ToWorker = _decode(frame, _message_to_worker)
    return message


def _reader(kinds: tuple[type[Any], ...]) -> Callable[[list[Any]], Any]:
    """What makes a message of an array when that closes. One within another closes first: it is a message by itself or
    malformed, and as a field of the other that is malformed at the latest."""
    shapes = {tag: (kind, (int, *_FIELDS[kind])) for tag, kind in enumerate(kinds)}

    def message_of(items: list[Any]) -> Any:
        kind, types = shapes.get(items[0], _NO_SHAPE) if items else _NO_SHAPE
        if tuple(map(type, items)) != types:
            raise ValueError(f"the fields of {kind.__name__} have other types" if kind else "no known tag")
        return tuple.__new__(kind, items[1:])

    return message_of


_NO_SHAPE: tuple[Any, tuple[type[Any], ...] | None] = (None, None)
_message_from_worker = _reader(_FROM_WORKER)
_message_to_worker = _reader(_TO_WORKER)


def _decode(frame: bytes | memoryview, message_of: Callable[[list[Any]], Any]) -> Any:
    try:
        message = msgpack.unpackb(
            frame,
            list_hook=message_of,
            max_array_len=_LONGEST,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=TEXT_BYTES,
            max_bin_len=len(frame),
        )
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own exceptions are ValueErrors
        raise MalformedMessage(f"not a message: {error}") from error
    if type(message) not in _TAGS:
        raise MalformedMessage("not a message: no array")
    return message
