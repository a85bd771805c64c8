"""The answer of an export that a WebSocket's messages go to: a list of actions for the host, in bytes.

    u16 count, then per action: u8 kind, u32 length, payload       (little-endian)

Decoded whole before anything is done, so that a malformed envelope has no effect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pydantic_core import from_json

from isoplug.shared.limits import ANSWER_JSON_BYTES

__all__ = [
    "Action",
    "DownloadSnapshot",
    "EmitEvent",
    "MalformedEnvelope",
    "SendBinary",
    "SendText",
    "decode_actions",
]

_COUNT = struct.Struct("<H")
_HEAD = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class SendBinary:
    data: bytes


@dataclass(frozen=True, slots=True)
class SendText:
    text: str


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """``event_json`` is any JSON text, kept as it was written."""

    event_json: str


@dataclass(frozen=True, slots=True)
class DownloadSnapshot:
    workspace_id: str


Action: TypeAlias = SendBinary | SendText | EmitEvent | DownloadSnapshot


class MalformedEnvelope(ValueError):
    """The bytes are no envelope; the text says where, and quotes nothing."""


def decode_actions(envelope: bytes) -> tuple[Action, ...]:
    """The actions in order; empty bytes are none. Raises MalformedEnvelope."""
    if not envelope:
        return ()
    if len(envelope) < _COUNT.size:
        raise MalformedEnvelope("it ends within the number of actions")
    (count,) = _COUNT.unpack_from(envelope)
    at = _COUNT.size
    actions = []
    for number in range(1, count + 1):
        action, at = _decode_one(envelope, at, f"action {number} of {count}")
        actions.append(action)
    if at != len(envelope):
        raise MalformedEnvelope(f"{len(envelope) - at} bytes follow its last action")
    return tuple(actions)


def _decode_one(envelope: bytes, at: int, which: str) -> tuple[Action, int]:
    if len(envelope) - at < _HEAD.size:
        raise MalformedEnvelope(f"it ends within the head of {which}")
    kind, length = _HEAD.unpack_from(envelope, at)
    start = at + _HEAD.size
    end = start + length
    if end > len(envelope):
        raise MalformedEnvelope(f"it ends within the payload of {which}")
    make = _KINDS.get(kind)
    if make is None:
        raise MalformedEnvelope(f"{which} is of kind {kind}; there are {', '.join(map(str, _KINDS))}")
    try:
        return make(envelope[start:end]), end
    except ValueError as error:  # not UTF-8, not JSON
        raise MalformedEnvelope(f"the payload of {which} cannot be used: {_brief(error)}") from error


def _text(payload: bytes) -> SendText:
    return SendText(payload.decode("utf-8"))


def _event(payload: bytes) -> EmitEvent:
    if len(payload) > ANSWER_JSON_BYTES:
        raise ValueError(f"an event of {len(payload)} bytes, the limit is {ANSWER_JSON_BYTES}")
    from_json(payload, allow_inf_nan=False)
    return EmitEvent(payload.decode("utf-8"))


def _snapshot(payload: bytes) -> DownloadSnapshot:
    return DownloadSnapshot(payload.decode("utf-8"))


_KINDS: dict[int, Callable[[bytes], Action]] = {0: SendBinary, 1: _text, 2: _event, 3: _snapshot}


def _brief(error: ValueError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
