"""The file of a recording: a stream of flat msgpack arrays, so that no file grows into more memory than a few times its
own size, and nothing of it is executed.

    ["isoplug recording", version, plugin_id, sha256, at, served, patience_seconds, limits, isoplug_version, gap]
    ["step", export, data]                                     the start's, then the call
    ["host", function, request, answer, unanswered, text]      any number, in their order
    ["end", kind, output, text, cause]                         of the step
    ["check", CRC-32 of everything before]

``decode`` is the only way in, and the file may be anybody's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import msgpack

from isoplug.shared.limits import clip
from isoplug.supervisor.recording.tape import End, Ending, HostCall, Recording, Step, Unanswered

__all__ = ["MAX_FILE_BYTES", "MAX_RECORDED_BYTES", "Unreadable", "decode", "encode", "size_of"]

#: What is kept of one call, start included.
MAX_RECORDED_BYTES = 8 << 20
#: The rest is msgpack's, and placeholders that are longer than what they stand for.
MAX_FILE_BYTES = 2 * MAX_RECORDED_BYTES

_MAGIC = "isoplug recording"
_VERSION = 1
_LONGEST = 16
_REASON_BYTES = 200
#: Of an id, an export, a version: they stand in messages and names of files.
_NAME_BYTES = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Of a host call in memory and in the file, beside its contents; this also bounds how many there can be.
_ENTRY_BYTES = 64
_MAX_ENTRIES = MAX_RECORDED_BYTES // _ENTRY_BYTES + 1_000

_TYPES: dict[str, tuple[type, ...]] = {
    _MAGIC: (int, str, str, float, int, float, str, str, str),
    "step": (str, bytes),
    "host": (str, bytes, bytes, str, str),
    "end": (str, bytes, str, str),
    "check": (int,),
}


class Unreadable(ValueError):
    """It is not a recording, or not all of one."""


def size_of(call: HostCall) -> int:
    """What it takes of ``MAX_RECORDED_BYTES``."""
    return _ENTRY_BYTES + len(call.request) + len(call.answer) + len(call.text)


def encode(recording: Recording) -> bytes:
    packer = msgpack.Packer(autoreset=False, unicode_errors="surrogatepass")
    packer.pack(
        (
            _MAGIC,
            _VERSION,
            recording.plugin_id,
            recording.sha256,
            recording.at,
            recording.served,
            recording.patience_seconds,
            recording.limits,
            recording.isoplug_version,
            recording.gap,
        )
    )
    for step in (*recording.start, recording.call):
        packer.pack(("step", step.export, step.data))
        for call in step.host_calls:
            packer.pack(("host", call.function, call.request, call.answer, call.unanswered.value, call.text))
        ending = step.ending
        packer.pack(("end", ending.kind.value, ending.output, ending.text, ending.cause))
    body: bytes = packer.bytes()
    check: bytes = msgpack.packb(("check", zlib.crc32(body)))
    return body + check


def decode(data: bytes) -> Recording:
    """Raises Unreadable, and nothing else."""
    entries = _entries(data)
    tag, *head = next(entries, ("",))
    if tag != _MAGIC:
        raise Unreadable("it does not begin as one")
    version, plugin_id, sha256, at, served, patience_seconds, limits, isoplug_version, gap = head
    if version != _VERSION:
        raise Unreadable(f"it has version {version} of the format, this isoplug reads version {_VERSION}")
    _require_names(plugin_id, isoplug_version, gap)
    if not _SHA256.fullmatch(sha256):
        raise Unreadable("it does not say of which module it is")
    *start, call = _steps(entries)
    return Recording(plugin_id, sha256, at, served, patience_seconds, limits, isoplug_version, tuple(start), call, gap)


def _steps(entries: Iterator[list[Any]]) -> list[Step]:
    steps: list[Step] = []
    for tag, *fields in entries:
        if tag == "check":
            if not steps or next(entries, None) is not None:
                break
            return steps
        if tag != "step":
            break
        steps.append(_step(fields[0], fields[1], entries))
    raise Unreadable("its parts are not in order, or its end is missing")


def _require_names(*names: str) -> None:
    for name in names:
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise Unreadable("a name in it is not Unicode") from error
        if size > _NAME_BYTES:
            raise Unreadable(f"a name in it has {size} bytes, {_NAME_BYTES} are allowed")


def _step(export: str, data: bytes, entries: Iterator[list[Any]]) -> Step:
    _require_names(export)
    calls: list[HostCall] = []
    for tag, *fields in entries:
        try:
            if tag == "host":
                function, request, answer, unanswered, text = fields
                calls.append(HostCall(function, request, answer, Unanswered(unanswered), text))
                continue
            if tag == "end":
                kind, output, text, cause = fields
                return Step(export, data, tuple(calls), Ending(End(kind), output, text, cause))
        except ValueError as error:
            raise Unreadable(clip(str(error), _REASON_BYTES)) from error
        break
    raise Unreadable("a part of it has no end")


def _entries(data: bytes) -> Iterator[list[Any]]:
    """The arrays, each of one of the known shapes, the last one checked."""
    unpacker = msgpack.Unpacker(
        list_hook=_flat,
        max_buffer_size=max(1, len(data)),
        max_array_len=_LONGEST,
        max_map_len=0,
        max_ext_len=0,
        max_str_len=len(data),
        max_bin_len=len(data),
        unicode_errors="surrogatepass",
    )
    unpacker.feed(data)
    for _ in range(_MAX_ENTRIES):
        begins_at = unpacker.tell()
        try:
            entry = unpacker.unpack()
        except msgpack.OutOfData:
            if begins_at != len(data):
                raise Unreadable("it is cut off") from None
            return
        except msgpack.StackError as error:
            raise Unreadable("nested array") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise Unreadable(clip(str(error), _REASON_BYTES) or type(error).__name__) from error
        if type(entry) is not list or not entry or type(entry[0]) is not str:
            raise Unreadable("one of its parts is not an entry")
        if tuple(map(type, entry[1:])) != _TYPES.get(entry[0]):
            raise Unreadable("one of its parts is no entry that this isoplug knows")
        if entry[0] == "check" and entry[1] != zlib.crc32(memoryview(data)[:begins_at]):
            raise Unreadable("its checksum is another: it was changed, or damaged")
        yield entry
    raise Unreadable("it has more parts than a recording may")


def _flat(items: list[Any]) -> list[Any]:
    if any(type(item) is list for item in items):
        raise ValueError("nested array")
    return items
