"""Guests whose answers are meant for the supervisor: not JSON, too deep, too large, with escape sequences in texts.

``parrot`` says whatever the host offers it; ``speaking`` makes a module with any bytes as its manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import wasmtime

from bench import PROBE, Bench, ask, nothing_left_behind, open_bench, peak_growth_bytes
from conftest import PluginFolder
from isoplug.supervisor import (
    CommandError,
    ConfigError,
    GuestTrap,
    LoadError,
    PermissionDenied,
    PluginError,
    ResourceLimitExceeded,
    Supervisor,
    inspect,
)

PARROT = "test.parrot"
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    """PROBE may run the parrot's commands."""
    guests = (PROBE, "probe"), (PARROT, "parrot")
    with open_bench(
        tmp_path_factory.mktemp("answers"), guest_cache, *guests, probe={"execute_commands": ["all"]}
    ) as opened:
        yield opened


@contextmanager
def saying(bench: Bench, export: str, answer: bytes) -> Iterator[None]:
    bench.files.files = {(PARROT, export): answer}
    try:
        yield
    finally:
        bench.files.files = {}


def say(bench: Bench, answer: bytes) -> Any:
    """The parrot's command ``say``, answered with these bytes."""
    with saying(bench, "handle_command", answer):
        return bench.supervisor.command(PARROT, "say", timeout=10.0)


def with_data(data: bytes) -> bytes:
    return b'{"success":true,"data":' + data + b"}"


NOT_JSON = {
    "nothing": b"",
    "white space": b" \n",
    "half": b'{"success":true,',
    "two values": b'{"success":true}{"success":true}',
    "invalid UTF-8": with_data(b'"\xff\xfe"'),
    "a surrogate as bytes": with_data(b'"\xed\xa0\x80"'),
    "a lone surrogate as escape": with_data(rb'"\ud800"'),
    "UTF-16": '{"success":true,"data":1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + with_data(b"1"),
    "NUL": with_data(b"1") + b"\0",
    "NaN": with_data(b"NaN"),
    "Infinity": with_data(b"-Infinity"),
    "a number that no double holds": with_data(b"1e999"),
    "one that is hidden among others": with_data(b'[1.5, {"x": [-1' + b"0" * 400 + b".0]}]"),
    "an integer of 100,000 digits": with_data(b"1" * 100_000),
    "lists 100,000 deep": with_data(b"[" * 100_000 + b"]" * 100_000),
    "lists 900 deep": with_data(b"[" * 900 + b"]" * 900),
    "objects 100,000 deep": with_data(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "open brackets": b"[" * 400_000,
    "a line feed in text": with_data(b'"\n"'),
    "Python": b"{'success': True}",
}
NOT_A_RESPONSE = {
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "an empty object": b"{}",
    "success as text": b'{"success":"true"}',
    "success as number": b'{"success":1}',
    "no success": b'{"data":1}',
}
HOSTILE = {**NOT_JSON, **NOT_A_RESPONSE}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_an_answer_that_is_no_command_response_is_a_command_error(answer: bytes, bench: Bench) -> None:
    with pytest.raises(CommandError) as caught:
        say(bench, answer)
    assert caught.value.plugin_id == PARROT
    assert len(str(caught.value)) < 5000
    assert say(bench, with_data(b'"again"')) == "again"


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_a_plugin_that_called_another_gets_its_failure_in_the_failure_form(answer: bytes, bench: Bench) -> None:
    with saying(bench, "handle_command", answer):
        nested = json.loads(bench.ask("host_plugin_command", {"plugin_id": PARROT, "command": "say"}))
    assert nested["success"] is False
    assert PARROT in nested["error"]


def test_whatever_a_caller_gets_as_data_can_be_sent_on_as_json(bench: Bench) -> None:
    for data in (b'"\\u0000\\u001b[31m"', b"[" * 100 + b"]" * 100, b"1.7e308", b"-0.0", b'{"a":1,"a":2}', b"12" * 500):
        value = say(bench, with_data(data))
        assert json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) == value
        with saying(bench, "handle_command", with_data(data)):
            nested = json.loads(bench.ask("host_plugin_command", {"plugin_id": PARROT, "command": "say"}))
        assert nested == {"success": True, "data": value}


def test_an_answer_beyond_eight_mebibytes_is_refused_unparsed(bench: Bench) -> None:
    with pytest.raises(ResourceLimitExceeded):
        say(bench, with_data(b'"' + b"x" * (9 * MIB) + b'"'))
    assert len(say(bench, with_data(b'"' + b"x" * (7 * MIB) + b'"'))) == 7 * MIB


def test_an_answer_of_too_many_values_is_refused_unparsed(bench: Bench) -> None:
    for bomb in (b"[]", b"{}", b'{"a":[]}'):
        with pytest.raises(
            ResourceLimitExceeded, match="number of lists and objects in a JSON answer is over the limit"
        ):
            say(bench, with_data(b"[" + (bomb + b",") * 600_000 + b"0]"))
    brackets = "[{" * 600_000
    assert say(bench, with_data(json.dumps(brackets).encode())) == brackets
    assert len(say(bench, with_data(b"[" + b'{"path":"a.md","n":1},' * 300_000 + b"0]"))) == 300_001


def test_an_error_text_is_bounded_and_of_the_type_that_its_code_says(bench: Bench) -> None:
    for code, kind in {"permission_denied": PermissionDenied, "config_error": ConfigError, "x": CommandError}.items():
        answer = {"success": False, "error": "E" * MIB, "error_code": code}
        with pytest.raises(kind) as caught:
            say(bench, json.dumps(answer).encode())
        assert type(caught.value) is kind
        assert len(str(caught.value)) <= 4096
    for error, code in ((None, None), (7, 7), ("", []), ({"a": 1}, {"permission_denied": 1}), ([], "c" * MIB)):
        with pytest.raises(CommandError) as caught:
            say(bench, json.dumps({"success": False, "error": error, "error_code": code}).encode())
        assert str(caught.value)
        assert len(caught.value.error_code or "") <= 4096


ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00.000Z ERROR forged plugin=x \u202e\x9b31m\x00"


def test_texts_of_guests_cannot_forge_log_lines_or_reach_a_terminal(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with saying(bench, "on_event", ESCAPES.encode()):
        bench.supervisor.emit("file_saved", {"path": ESCAPES})
        assert bench.supervisor.flush_events(60.0)
    with saying(bench, "on_event", b"\xff\xfe" + ESCAPES.encode()):
        bench.supervisor.emit("file_saved", {"path": "a.md"})
        assert bench.supervisor.flush_events(60.0)
    bench.ask("host_read_file", {"path": ESCAPES})
    bench.ask("host_read_file", {"path": ESCAPES.replace("\0", "")})
    bench.ask("host_plugin_command", {"plugin_id": ESCAPES, "command": ESCAPES})
    bench.ask("host_plugin_command", {"plugin_id": PARROT, "command": ESCAPES})
    with pytest.raises(CommandError):
        say(bench, json.dumps({"success": False, "error": ESCAPES}).encode())
    for export in (ESCAPES, "x" * 100_000):
        with pytest.raises(PluginError):
            bench.supervisor.call(PROBE, export)
    with pytest.raises(GuestTrap):
        bench.ask("host_is_cancelled", ESCAPES)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("isoplug")]
    assert any("forged" in message for message in messages)
    assert [message for message in messages if not message.isprintable()] == []
    assert bench.answers()


def test_configurations_that_guests_answer_are_no_trouble(bench: Bench) -> None:
    sidecar = bench.supervisor.plugins[PARROT].config_path
    hostile = [*NOT_JSON.values(), b'{"config":[]}', b'{"config":{"x":1e999}}', b"7"]
    deep = b'{"config":' + b'{"a":' * 150 + b"1" + b"}" * 151
    for answer in [*hostile, deep, b'{"config":{"x":' + b"1" * 4000 + b"}}", b'{"permission_request":"\\u001b"}']:
        with saying(bench, "set_config", answer):
            try:
                bench.supervisor.set_config(PARROT, {"a": 1})
            except PluginError as error:
                assert error.plugin_id == PARROT  # noqa: PT017  it may be refused, in a typed way
        assert json.loads(sidecar.read_bytes()) == {"a": 1}
        with saying(bench, "get_config", answer):
            try:
                json.dumps(bench.supervisor.get_config(PARROT), allow_nan=False).encode()
            except PluginError as error:
                assert error.plugin_id == PARROT  # noqa: PT017
    with saying(bench, "set_config", b'{"config":{"corrected":true}}'):
        bench.supervisor.set_config(PARROT, {"a": 1})
    assert json.loads(sidecar.read_bytes()) == {"corrected": True}


# --- memory ---------------------------------------------------------------------------------------------------------


MEMORY_BOMBS = {
    "empty lists": with_data(b"[" + b"[]," * 450_000 + b"0]"),
    "small objects": with_data(b"[" + b'{"":0},' * 450_000 + b"0]"),
    "one long text of escapes": with_data(b'"' + rb"\u20ac" * MIB + b'"'),
    "small numbers with a point": with_data(b"[" + b"0.5," * MIB + b"0]"),
}


@pytest.mark.parametrize("answer", MEMORY_BOMBS.values(), ids=MEMORY_BOMBS)
def test_the_supervisors_memory_stays_within_forty_times_the_answer(answer: bytes, bench: Bench) -> None:
    assert len(answer) <= 8 * MIB

    assert peak_growth_bytes(lambda: say(bench, answer)) < 40 * len(answer) + 64 * MIB


def test_many_hostile_calls_leave_no_memory_behind(bench: Bench) -> None:
    def round_of_calls() -> None:
        for answer in (b"[" * MIB, with_data(b"1" * 100_000), b"\xff" * MIB, with_data(b'"' + b"x" * MIB + b'"')):
            with saying(bench, "handle_command", answer):
                bench.ask("host_plugin_command", {"plugin_id": PARROT, "command": "say"})
        bench.ask("host_log", {"level": "info", "message": "x" * MIB})
        bench.ask("host_write_file", {"path": "x" * 100_000, "content": "x" * MIB})
        bench.ask("host_read_file", "[" * 100_000)
        bench.supervisor.cancel(PROBE, "x" * 1000)

    for _ in range(4):
        round_of_calls()
    before = psutil.Process().memory_info().rss
    for _ in range(10):
        round_of_calls()
    assert psutil.Process().memory_info().rss - before < 48 * MIB


# --- manifests ------------------------------------------------------------------------------------------------------


def speaking(manifest: bytes) -> bytes:
    """A module whose ``manifest`` answers these bytes."""
    escaped = "".join(f"\\{byte:02x}" for byte in manifest)
    return bytes(
        wasmtime.wat2wasm(f"""(module
          (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
          (import "extism:host/env" "store_u8" (func $store (param i64 i32)))
          (import "extism:host/env" "output_set" (func $output (param i64 i64)))
          (memory {len(manifest) // 65536 + 1})
          (data (i32.const 0) "{escaped}")
          (func (export "manifest") (result i32) (local $i i32) (local $at i64)
            (local.set $at (call $alloc (i64.const {len(manifest)})))
            (loop $next
              (call $store (i64.add (local.get $at) (i64.extend_i32_u (local.get $i))) (i32.load8_u (local.get $i)))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $i) (i32.const {len(manifest)}))))
            (call $output (local.get $at) (i64.const {len(manifest)}))
            (i32.const 0)))""")
    )


GOOD = {"id": "test.spoken", "name": "n", "version": "1.0.0", "description": "d", "capabilities": []}


def manifest(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD_MANIFESTS = {
    "NaN": manifest(x=float("nan")),
    "a number that no double holds": manifest()[:-1] + b',"x":1e999}',
    "a huge integer": manifest()[:-1] + b',"protocol_version":' + b"9" * 4000 + b"}",
    "a lone surrogate": manifest(name="\ud800"),
    "150 levels": manifest()[:-1] + b',"x":' + b"[" * 150 + b"]" * 150 + b"}",
    "an id with escape sequences": manifest(id="\x1b[2Jx"),
    "an id that is a path": manifest(id="../../x"),
    "an id that is all": manifest(id="ALL"),
    "an id of a megabyte": manifest(id="x" * 900_000),
    "two megabytes": manifest(x="x" * 2 * MIB),
    "300,000 values": manifest(x=[0] * 300_000),
    "duplicate ids": manifest()[:-1] + b',"id":7}',
    "a version that is no text": manifest(version=1),
    "commands that are no list": manifest(commands="echo"),
}
BAD_VARIANTS = [
    "bad_manifest_deep",
    "bad_manifest_empty",
    "bad_manifest_fail",
    "bad_manifest_huge",
    "bad_manifest_missing_id",
    "bad_manifest_not_json",
    "bad_manifest_not_object",
    "bad_manifest_not_utf8",
    "bad_manifest_trap",
    "bad_manifest_wrong_types",
]


def test_plugins_with_hostile_manifests_are_reported_and_stop_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    for number, wasm in enumerate(map(speaking, BAD_MANIFESTS.values())):
        plugins.add_bytes(f"spoken-{number:02}", wasm)
    for variant in BAD_VARIANTS:
        plugins.add(variant, variant=variant)
    plugins.add_bytes("z-good", speaking(manifest()))
    supervisors: list[Supervisor] = []
    growth = peak_growth_bytes(lambda: supervisors.append(supervise()))
    supervisor = supervisors[0]
    expected = {f"spoken-{number:02}" for number in range(len(BAD_MANIFESTS))} | set(BAD_VARIANTS)
    assert set(supervisor.load_errors) == expected
    assert set(supervisor.plugins) == {PROBE, "test.spoken"}
    for name, error in supervisor.load_errors.items():
        assert isinstance(error, (LoadError, GuestTrap, ResourceLimitExceeded)), (name, error)
        assert error.plugin_id in (name, "test.spoken"), (name, error.plugin_id)
        assert len(str(error)) < 5000
        if not isinstance(error, GuestTrap):  # the runtime's backtrace has lines
            assert str(error).isprintable(), str(error)
    assert ask(supervisor, "host_get_timestamp").isdigit()
    assert growth < 300 * MIB


def test_inspecting_hostile_manifests_fails_in_a_typed_way(plugins: PluginFolder) -> None:
    for name in ("150 levels", "an id with escape sequences", "NaN"):
        wasm = plugins.add_bytes(name.replace(" ", "-"), speaking(BAD_MANIFESTS[name]))
        with pytest.raises(LoadError):
            inspect(wasm)
        assert not wasm.with_name("manifest.json").exists()
