"""Guests for the tests: small C and WAT files, compiled when first asked for and kept in a cache folder.

``guest(name, cache)`` answers the path of a module; ``name`` is an entry of ``VARIANTS``.
``renamed(wasm, plugin_id)`` makes another plugin of a built ``probe`` by writing a new id into its bytes, so
that a hundred plugins cost one compilation.

**probe** (id ``test.probe``) is the one most tests use. It imports all 41 host functions. Raw exports, bytes
to bytes:

==============  ===================================================  ==================================
export          input                                                output
==============  ===================================================  ==================================
``echo``        any bytes                                            the same
``host``        ``{"function": "host_read_file", "input": "text"}``  the host function's raw answer
                or ``"input_base64"`` for arbitrary bytes; neither:
                no input
``host_many``   ``{"calls": [as above, ...], "repeat": 1000}``       JSON list, the last round's answers
``raw_fail``    any bytes                                            none: the bytes are the error text
``bad_output``  ignored                                              ``output_set`` with wrapped bounds
==============  ===================================================  ==================================

Commands, through ``handle_command``:

================  =======================================  ============================================
command           params                                   data
================  =======================================  ============================================
``echo``          anything                                 the params
``host``          as the raw export                        ``{"answer": text, "answer_base64": ...}``
``call``          ``{"plugin_id", "command", "params"}``   the raw answer of ``host_plugin_command``
``count``         ignored                                  1, 2, 3, ...: lost with the instance
``events``        ignored                                  ``[{"export": "init", "input": {...}}, ...]``:
                                                           each ``set_config``, ``init``, ``on_event``
                                                           of this instance, in order
``big``           ``{"bytes": n}``                         a string of n ``x``
``busy``          ``{"milliseconds": n}``                  null, after n ms by ``host_get_timestamp``
``fail``          ``{"message": m, "error_code": c}``      none: fails with these
``garbage``       ignored                                  none: output that is not JSON
``spin``          ignored                                  none: an endless loop
``spin_host``     ignored                                  none: ``host_is_cancelled`` in an endless loop
``log_flood``     ignored                                  none: ``host_log`` in an endless loop
``host_then``     ``{"calls": [as above, ...], "then": h}``  the answers; with "then" an end: ``trap``, ``spin``,
                                                           ``segv`` or ``fail``
``trap``          ignored                                  none: ``unreachable``
``recurse``       ignored                                  none: the call stack overflows
``allocate``      ignored                                  bytes of linear memory granted, all touched;
                                                           under ``max_pages`` none: ``oom``
``alloc_kernel``  ignored                                  the same with Extism's memory
``segv``          ignored                                  none: SIGSEGV in the process that hosts it
================  =======================================  ============================================

Life cycle: ``set_config`` fails for ``{"reject": true}`` and for ``{"normalize": true}`` answers
``{"config": {..., "normalized": true}}``, for ``{"ask": true}`` asks for a permission; ``{"set_config": how}``,
``{"init": how}`` and ``{"shutdown": how}`` with ``"trap"`` or ``"spin"`` (and ``"fail"`` for init) misbehave in that
export.
``get_config`` answers what was set. ``on_event`` does what a payload's ``path`` says when it is ``trap``,
``spin``, ``segv`` or ``fail``; ``segv_after_write`` stores something first. ``shutdown`` stores ``done`` under the key
``shutdown``.

**socket** (id ``test.socket``) has a WebSocket and emits an event for everything that arrives on it. ``request`` is
``host_ws_request`` as a raw export. It sends binary messages back. A text message is an order: ``{"do": "trap"}``,
``spin``, ``fail``, ``{"do": "answer", "envelope": base64}``, or ``{"do": "request", "request": {...}}``, which asks the
host and emits its answer (with ``"then_spin": true`` it does not end); anything else is only heard. The configuration
may hold orders under ``on_connected``, ``on_disconnected`` and ``init``, and requests to the host under
``request_in_init`` and ``request_in_shutdown``.

**tally** (id ``test.tally``) counts calls (``add``, ``total``) and ``file_events`` (``events``) in its storage; its
variants get that wrong.

Further variants by macro, ``guest("probe", cache, "GUEST_PROTOCOL=2")``: the top of ``probe.c`` lists them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime

from isoplug.supervisor import sdk

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VARIANTS", "build_all", "guest", "renamed"]

_SOURCES = Path(__file__).parent

# name -> (source file, macros)
VARIANTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "probe": ("probe.c", ()),
    "probe_protocol_2": ("probe.c", ("GUEST_PROTOCOL=2",)),
    "probe_app_99": ("probe.c", ("GUEST_MIN_APP=99.0.0",)),
    "probe_app_unreadable": ("probe.c", ("GUEST_MIN_APP=soon",)),
    "probe_init_trap": ("probe.c", ("INIT_TRAP",)),
    "probe_init_spin": ("probe.c", ("INIT_SPIN",)),
    "probe_no_handle_command": ("probe.c", ("NO_HANDLE_COMMAND",)),
    "probe_stateless": ("probe.c", ("GUEST_STATELESS",)),
    "probe_no_capabilities": ("probe.c", ("GUEST_CAPABILITIES=[]",)),
    "fickle": ("fickle.c", ()),
    "minimal": ("minimal.c", ()),
    "network": ("network.c", ()),
    "parrot": ("parrot.c", ()),
    "socket": ("socket.c", ()),
    "tally": ("tally.c", ()),
    "tally_keeps_in_memory": ("tally.c", ("KEEPS_IN_MEMORY",)),
    "tally_redoes": ("tally.c", ("REDOES",)),
    "tally_forgets_events": ("tally.c", ("FORGETS_EVENTS",)),
    "unknown_import": ("unknown_import.c", ()),
    "bad_manifest_empty": ("bad_manifest.c", ("EMPTY",)),
    "bad_manifest_not_json": ("bad_manifest.c", ("NOT_JSON",)),
    "bad_manifest_not_object": ("bad_manifest.c", ("NOT_OBJECT",)),
    "bad_manifest_missing_id": ("bad_manifest.c", ("MISSING_ID",)),
    "bad_manifest_wrong_types": ("bad_manifest.c", ("WRONG_TYPES",)),
    "bad_manifest_not_utf8": ("bad_manifest.c", ("NOT_UTF8",)),
    "bad_manifest_huge": ("bad_manifest.c", ("HUGE",)),
    "bad_manifest_deep": ("bad_manifest.c", ("DEEP",)),
    "bad_manifest_fail": ("bad_manifest.c", ("FAIL",)),
    "bad_manifest_trap": ("bad_manifest.c", ("TRAP",)),
    "bad_manifest_spin": ("bad_manifest.c", ("SPIN",)),
    "start_trap": ("start_trap.wat", ()),
    "start_spin": ("start_spin.wat", ()),
    "start_host_call": ("start_host_call.wat", ()),
    "initialize_trap": ("initialize_trap.wat", ()),
    "table_grow": ("table_grow.wat", ()),
    "talker": ("talker.wat", ()),
}


def guest(name: str, cache: Path, *defines: str) -> Path:
    """The module of a variant, built unless ``cache`` holds it for this source, header and set of macros.

    Safe to call from several test processes at once: a module appears in the cache whole or not at all.
    """
    file_name, macros = VARIANTS[name]
    source = _SOURCES / file_name
    macros += defines
    digest = hashlib.sha256()
    for part in (source.read_bytes(), sdk.HEADER.read_bytes(), "\n".join(macros).encode()):
        digest.update(hashlib.sha256(part).digest())  # of fixed length, so that parts cannot run together
    module = cache / f"{name}-{digest.hexdigest()[:16]}.wasm"
    if not module.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".wat":
            _assemble(source, module)
        else:
            sdk.build(source, module, defines=macros)
    return module


def build_all(target: Path) -> dict[str, Path]:
    """Every variant, by name; ``target`` is the cache folder."""
    return {name: guest(name, target) for name in VARIANTS}


def renamed(wasm: bytes, plugin_id: str) -> bytes:
    """A built ``probe`` with another id of up to 64 bytes; everything else stays the same."""
    mark, room = b"isoplug:guestid\0", 64
    encoded = plugin_id.encode()
    if not 0 < len(encoded) <= room or wasm.count(mark) != 1:
        raise ValueError(f"cannot rename to {plugin_id!r}: needs 1 to {room} bytes and a build of probe.c")
    start = wasm.index(mark) + len(mark)
    return wasm[:start] + encoded.ljust(room, b"\0") + wasm[start + room :]


def _assemble(source: Path, module: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=module.parent, delete=False) as file:
        file.write(wasmtime.wat2wasm(source.read_text(encoding="utf-8")))
    os.replace(file.name, module)
