"""The messages between a supervisor and one worker, and their strict codec.

One message is one frame: a flat msgpack array ``[tag, *fields]``. Nothing in it names a plugin, because the socket it
came through already does. The order of a worker's life:

    worker → Hello · supervisor → Load · worker → Loaded | LoadFailed
    then, again and again: supervisor → Invoke
        worker → HostCall · supervisor → Answer      (any number of times)
        worker → Notice                              (a host call that waits for nothing)
    worker → Returned | Failed
    supervisor → Stop

``decode`` is the only way in. It accepts exactly these shapes and raises ``MalformedMessage`` for everything else; a
nested array is refused as soon as the first one closes, so a frame cannot grow into more memory than its own size.
"""

from __future__ import annotations

from itertools import count
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


def encode(message: FromWorker | ToWorker) -> bytes:
    """The frame of ``message``."""
    frame: bytes = msgpack.packb((_TAGS[type(message)], *message))
    return frame


def decode_from_worker(frame: bytes) -> FromWorker:
    """Parse a frame that a worker sent. Raises MalformedMessage, and nothing else."""
    message: FromWorker = _decode(frame, _FROM_WORKER)
    return message


def decode_to_worker(frame: bytes) -> ToWorker:
    """Parse a frame that a supervisor sent. Raises MalformedMessage, and nothing else."""
    message: ToWorker = _decode(frame, _TO_WORKER)
    return message


def _decode(frame: bytes, kinds: tuple[type[Any], ...]) -> Any:
    arrays = count()

    def only_one(items: list[Any]) -> list[Any]:
        # Called when an array closes, innermost first: a second call means that the first was nested.
        if next(arrays):
            raise ValueError("nested array")
        return items

    try:
        items = msgpack.unpackb(
            frame,
            list_hook=only_one,
            max_array_len=_LONGEST,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=TEXT_BYTES,
            max_bin_len=len(frame),
        )
    except (ValueError, TypeError, RecursionError) as error:  # msgpack's own exceptions are ValueErrors
        raise MalformedMessage(f"not a message: {error}") from error
    if type(items) is not list or not items or type(items[0]) is not int or not 0 <= items[0] < len(kinds):
        raise MalformedMessage("not a message: no known tag")
    kind = kinds[items[0]]
    fields = items[1:]
    if tuple(map(type, fields)) != _FIELDS[kind]:
        raise MalformedMessage(f"not a message: the fields of {kind.__name__} have other types")
    return kind(*fields)
