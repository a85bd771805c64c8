"""What is fuzzed: one function each, from any bytes to nothing. It raises when a promise is broken, and any exception
that is not of the reader's own type is a broken promise.

``TARGETS`` has them by name, with inputs to begin from. ``modules`` has the one that needs processes.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgpack

import isoplug.supervisor
from isoplug.shared import messages
from isoplug.shared.errors import LoadError, ServiceError, SetupError
from isoplug.shared.messages import MalformedMessage, decode_from_worker, encode
from isoplug.supervisor.config import load_config
from isoplug.supervisor.egress.url import HttpUrl
from isoplug.supervisor.integrity import Signature
from isoplug.supervisor.integrity.digest import parse_checksums
from isoplug.supervisor.integrity.signature import parse_signature
from isoplug.supervisor.permissions.rules import MalformedRules, Permission, PluginRules, Rule, check, parse_plugins
from isoplug.supervisor.plugins.manifest import parse_manifest
from isoplug.supervisor.recording import End, Ending, HostCall, Recording, Step, Unreadable
from isoplug.supervisor.recording import decode as decode_recording
from isoplug.supervisor.recording import encode as encode_recording
from isoplug.supervisor.websockets.url import sync_target
from isoplug.supervisor.workspace import WorkspacePath, frontmatter
from isoplug.supervisor.workspace.rootindex import Header
from isoplug.worker.module import ModuleRefused, prepare

__all__ = ["PIECES", "TARGETS", "Target"]

#: Of an error's text, which goes into logs and to guests, whatever the input was.
_MESSAGE_CHARACTERS = 5_000

_MEMORY_BYTES = 64 << 20
#: Maxima that are put in, and the name of an export. Each maximum takes at most five bytes.
_REWRITE_BYTES = 4096


class Target(NamedTuple):
    """``feed`` takes any bytes, also none."""

    feed: Callable[[bytes], None]
    seeds: Sequence[bytes]


def _text(data: bytes) -> str:
    """Any text that a header or a host program can carry: with lone surrogates, which requests of guests never have."""
    return data.decode(errors="surrogateescape")


def _halves(data: bytes) -> tuple[bytes, bytes]:
    first, _, second = data.partition(b"\n\n")
    return first, second


def _require_short(error: Exception) -> None:
    assert len(str(error)) <= _MESSAGE_CHARACTERS, f"an error of {len(str(error))} characters"


# --- from workers and guests ------------------------------------------------------------------------------------------


def frames(data: bytes) -> None:
    """What is accepted says the same when it is written anew, and is no larger than what came."""
    try:
        message = decode_from_worker(data)
    except MalformedMessage as error:
        _require_short(error)
        return
    assert decode_from_worker(encode(message)) == message
    assert sum(len(part) for part in message if isinstance(part, (bytes, str))) <= len(data)


def recordings(data: bytes) -> None:
    """What is accepted says the same when it is written anew; also what somebody has given the right checksum."""
    sealed = data + msgpack.packb(("check", zlib.crc32(data)))
    for file in (data, sealed):
        try:
            recording = decode_recording(file)
        except Unreadable as error:
            _require_short(error)
            continue
        again = decode_recording(encode_recording(recording))
        assert repr(again) == repr(recording)  # NaN is not equal to itself


def manifests(data: bytes) -> None:
    """What is accepted is accepted again from the cache, and is the same."""
    try:
        manifest = parse_manifest(data, "folder")
    except LoadError as error:
        _require_short(error)
        return
    text = json.dumps(manifest.to_json_object()).encode()
    assert parse_manifest(text, "folder") == manifest
    assert manifest.id.isprintable()


# --- rules ------------------------------------------------------------------------------------------------------------


def rules(data: bytes) -> None:
    """A ``plugins`` mapping as JSON, an empty line, and a target: more excluded never means more allowed."""
    first, second = _halves(data)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = {"a": {"permissions": {name: {"include": [_text(first)]} for name in Permission}}}
    try:
        plugins = parse_plugins(value)
    except MalformedRules as error:
        _require_short(error)
        return
    target = _text(second)
    for entry in plugins.values():
        _require_short(ValueError(entry.problem))
        for permission, rule in entry.rules.items():
            _check_rule(permission, rule, target)


def _check_rule(permission: Permission, rule: Rule, target: str) -> None:
    def is_allowed(changed: Rule) -> bool:
        return check(PluginRules({permission: changed}), permission, target).is_allowed

    nothing = Rule(include=(), exclude=rule.exclude)
    assert not is_allowed(nothing), "allowed by a rule that includes nothing"
    if not is_allowed(rule):
        return
    for scope in ("all", target):
        is_still_allowed = is_allowed(Rule(rule.include, (*rule.exclude, scope)))
        is_storage = permission is Permission.PLUGIN_STORAGE  # where only "all" says anything
        assert not is_still_allowed or (is_storage and scope.strip().lower() != "all"), f"allowed against {scope!r}"


def front_matter(data: bytes) -> None:
    """Reading the head of a file says what reading all of it does, and void headers grant nothing."""
    try:
        values = frontmatter.parse(data)
    except frontmatter.FrontmatterError as error:
        _require_short(error)
        values = {}
    header = Header.parse(data)
    assert Header.parse(data[: frontmatter.HEAD_BYTES]) == header
    _require_short(ValueError(header.problem))
    if header.problem:
        assert not header.plugins
    with suppress(MalformedRules):
        for entry in parse_plugins(values.get("plugins", "")).values():
            for permission in entry.rules:
                check(entry, permission, "journal/a.md")


# --- names ------------------------------------------------------------------------------------------------------------


def paths(data: bytes) -> None:
    """Every accepted path is inside the workspace, and is its own spelling."""
    root, text = Path("/srv/journal"), _text(data)
    try:
        path = WorkspacePath.parse(text, root)
    except ServiceError as error:
        _require_short(error)
        return
    inside = os.path.normpath(os.path.join(root, path.text))
    assert inside == str(root) or inside.startswith(f"{root}/"), inside
    assert os.path.join(root, path.text).rstrip("/") == inside
    assert WorkspacePath.parse(path.text, root) == path


def urls(data: bytes) -> None:
    """A URL, an empty line and a redirect: what is accepted reads the same anew, to others too."""
    first, second = map(_text, _halves(data))
    with suppress(ServiceError):
        of_guest = second.encode(errors="replace").decode()
        assert sync_target(first, of_guest, of_guest, None, False).host
    try:
        url = HttpUrl.parse(first)
        _check_url(url)
        _check_url(url.join(second))
    except ServiceError as error:
        _require_short(error)


def _check_url(url: HttpUrl) -> None:
    other = urlsplit(url.text)
    assert url.text.isascii()
    assert (other.scheme, other.hostname, other.username, other.password) == (url.scheme, url.host, None, None)
    assert (other.port or {"http": 80, "https": 443}[url.scheme]) == url.port
    assert HttpUrl.parse(url.text) == url


# --- files beside modules, and the configuration ----------------------------------------------------------------------


def checksums(data: bytes) -> None:
    try:
        sha256 = parse_checksums(data, "plugin.wasm")
    except ValueError as error:
        _require_short(error)
        return
    assert len(bytes.fromhex(sha256)) == 32
    assert sha256 == sha256.lower()


def signatures(data: bytes) -> None:
    try:
        signature = parse_signature(data)
    except ValueError as error:
        _require_short(error)
        return
    assert parse_signature(signature.to_text().encode()) == signature
    assert (len(signature.key), len(signature.signature), len(signature.sha256)) == (32, 64, 64)


def configs(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            load_config(Path(file.name))
        except SetupError as error:
            _require_short(error)


def rewrites(data: bytes) -> None:
    """What a template makes of a module before it compiles it: hardly larger, and nothing is left to change."""
    try:
        prepared = prepare(data, _MEMORY_BYTES)
    except ModuleRefused as error:
        _require_short(error)
        return
    assert len(prepared.wasm) <= len(data) + _REWRITE_BYTES
    assert prepare(prepared.wasm, _MEMORY_BYTES).wasm == prepared.wasm


# --- where to begin ---------------------------------------------------------------------------------------------------

_MANIFEST = {
    "id": "test.probe",
    "name": "Probe",
    "version": "1.0.0",
    "description": "",
    "capabilities": ["custom_commands", "file_events"],
    "commands": ["echo"],
    "cli": [{"name": "x"}],
    "requested_permissions": {"defaults": {"read_files": {"include": ["all"]}}, "reasons": {"read_files": "because"}},
    "server_functions": [{"name": "f", "method": "GET", "path": "/f", "description": ""}],
    "min_app_version": "1.4.1",
    "protocol_version": 1,
    "stateless": True,
}
_RULES = {
    "test.probe": {
        "permissions": {
            "read_files": {"include": ["[Daily](/journal/daily/daily.md)"], "exclude": ["journal/private"]},
            "http_requests": {"include": ["example.org"], "exclude": ["127.0.0.1"]},
            "execute_commands": {"include": ["a.b:*"], "exclude": ["a.b:c"]},
            "plugin_storage": {"include": ["all"], "quota_bytes": 4096},
        },
        "download": "https://example.org/plugin.wasm",
        "config": {},
    }
}
_FRONT_MATTER = b"""---
title: Journal
contents: ["[Daily](/daily/daily.md)"]
plugins:
  test.probe:
    permissions:
      read_files: {include: [all], exclude: [private]}
      plugin_storage:
        include: [all]
        quota_bytes: 4096
---
Welcome.
"""
_CONFIG = b"""plugins_dir = "plugins"
[calls]
timeout = "30s"
[limits]
frame = "1MiB"
[http]
allow_private = ["localhost"]
[signatures]
trusted_keys = ["author.pub"]
[plugins."a.b"]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
[plugins."a.b".restart]
max_restarts = 1
"""
_FROM_WORKER = (
    messages.Hello(1),
    messages.Loaded(),
    messages.LoadFailed("why"),
    messages.HostCall(1, 2, "host_read_file", b'{"path": "a.md"}'),
    messages.Notice(1, "host_log", b"{}"),
    messages.Returned(1, b"output"),
    messages.Failed(1, messages.FailureKind.TRAP, "unreachable"),
)
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_DEMO = Path(isoplug.supervisor.__file__).parent / "demo"
_JOURNAL = sorted(_DEMO.glob("journal/*.md"))
#: One function, which is the start section's, and a table, a memory and an export of each.
_STARTING = bytes.fromhex(
    "0061736d01000000 010401600000 03020100 040401700001 0503010001 070d0301660000 01740100 016d0200080100 0a040102000b"
)

#: What parsers stumble over: ends, escapes, numbers out of range, marks of order, other scripts, nesting.
PIECES = [
    b"\0", b"\n", b"\r\n", b"\n\n", b"---\n", b'"', b"'", b"\\", b"/", b"../", b"@", b":",
    b"%00", b"%", b"#", b"?", b"{", b"}", b"[", b"]", b"[" * 200, b"{" * 200, b"&a ", b"*a",
    b"!!python/object ", b"<<: ", b"- ", b"null", b"true", b"NaN", b"1e999", b"-1", b"9" * 40,
    b"all", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\\ud800", "\u202e".encode(),
    "\u2028".encode(), "\uff0f".encode(), "\u0661".encode(), "\u00df".encode(), b"\xc1", b"\x93",
    b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8,
]  # fmt: skip

_RECORDED = Recording(
    "a.b",
    "00" * 32,
    1.5,
    2,
    30.0,
    "{}",
    "0.1.0",
    (Step("init", b"{}", (), Ending(End.RETURNED)),),
    Step("echo", b"in", (HostCall("host_get_timestamp", b"", b"1"),), Ending(End.TRAP, text="t", cause="t")),
)

TARGETS = {
    "frames": Target(frames, [encode(message) for message in _FROM_WORKER]),
    "recordings": Target(recordings, [encode_recording(_RECORDED), encode_recording(_RECORDED)[:-12]]),
    "manifests": Target(manifests, [json.dumps(_MANIFEST).encode()]),
    "rules": Target(
        rules,
        [
            json.dumps(_RULES).encode() + b"\n\n" + target
            for target in (b"journal/daily/a.md", b"api.example.org", b"a.b:run", b"all")
        ],
    ),
    "front_matter": Target(front_matter, [_FRONT_MATTER, *(path.read_bytes() for path in _JOURNAL)]),
    "paths": Target(paths, [b"journal/a.md", b"/srv/journal/a/../b.md", b"a\\.\\b.md", b"./a//b/", "/ä".encode()]),
    "urls": Target(
        urls,
        [
            b"https://user:pass@example.org:8080/a%20b/?q=1#f\n\n../x?y",
            b"http://[::1%25eth0]:80/\n\n//evil.example/",
            "https://bücher.example/ä\n\nhttp://2130706433/".encode(),
            b"wss://server.example/sync2\n\nworkspace",
        ],
    ),
    "checksums": Target(
        checksums,
        [
            _SHA256.encode(),
            f"{_SHA256}  plugin.wasm\n{_SHA256} *other.wasm\n".encode(),
            f"SHA256 (plugin.wasm) = {_SHA256}\n".encode(),
        ],
    ),
    "signatures": Target(signatures, [Signature(_SHA256, bytes(32), bytes(64)).to_text().encode()]),
    "configs": Target(configs, [_CONFIG]),
    "rewrites": Target(rewrites, [_STARTING, *(path.read_bytes() for path in _DEMO.glob("plugins/*/plugin.wasm"))]),
}
