"""Every host function answers in exactly the forms of SPEC section 5: a table, and what is asked of each of its rows.

The guest is real, in a real worker; its export ``host`` calls any host function with any bytes. Three plugins with
the same code and different rules: PROBE may do everything, BARRED is excluded from everything, STRANGER has no rules.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bench import PROBE, Bench, nothing_left_behind, open_bench
from isoplug.supervisor import GuestTrap
from isoplug.supervisor.host import HOST_FUNCTIONS

BARRED, STRANGER = "test.barred", "test.stranger"
FILE_RULES = ("read_files", "edit_files", "create_files", "delete_files")


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    everything = {name: ["all"] for name in (*FILE_RULES, "execute_commands")}
    nothing = {name: {"include": ["all"], "exclude": ["all"]} for name in (*everything, "plugin_storage")}
    guests = [(plugin_id, "probe") for plugin_id in (PROBE, BARRED, STRANGER)]
    with open_bench(tmp_path_factory.mktemp("forms"), guest_cache, *guests, probe=everything, barred=nothing) as opened:
        yield opened


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """With what the inputs of the table name."""
    shared.workspace.write("note.md", "Grüße\n")
    shared.workspace.write("folder/inner.md", "inner")
    shared.ask("host_storage_set", {"key": "k", "data": "AAE="})
    return shared


# --- forms: each takes an answer and asserts ------------------------------------------------------------------------

Form: TypeAlias = Callable[[bytes], None]


def exactly(expected: bytes) -> Form:
    def check(answer: bytes) -> None:
        assert answer == expected

    return check


empty = exactly(b"")


def matching(pattern: str) -> Form:
    def check(answer: bytes) -> None:
        assert re.fullmatch(pattern, answer.decode())

    return check


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def envelope(answer: bytes) -> None:
    """``{"error":"..."}``: one key, no white space, so that the prefix ``{"error"`` tells it."""
    parsed = json.loads(answer)
    assert list(parsed) == ["error"]
    assert isinstance(parsed["error"], str)
    assert parsed["error"]
    assert answer == compact(parsed)


def error_string(answer: bytes) -> None:
    """A plain string, not empty, and not by accident something that parses as an answer."""
    assert answer.decode()
    assert not answer.startswith((b"{", b"[", b'"'))


def with_message(template: dict[str, Any]) -> Form:
    """Compact JSON with the fields of ``template`` in its order; ``...`` stands for the error's text, the same in
    every place."""

    def check(answer: bytes) -> None:
        message = json.loads(answer)["error"]
        assert isinstance(message, str)
        assert message
        assert answer == compact({name: message if value is ... else value for name, value in template.items()})

    return check


http_failure = with_message({"status": 0, "headers": {}, "body": ..., "error": ...})
wasi_failure = with_message({"exit_code": -1, "stdout": "", "stderr": ..., "files": None, "error": ...})
socket_failure = with_message({"ok": False, "error": ...})
command_failure = with_message({"success": False, "error": ...})
no_metadata = exactly(b'{"exists":false,"size_bytes":null,"modified_at_ms":null}')


def metadata(answer: bytes) -> None:
    assert re.fullmatch(rb'\{"exists":true,"size_bytes":8,"modified_at_ms":\d{13}\}', answer)


def paths(*names: str) -> Form:
    return exactly(compact(list(names)))


def runtime_context(answer: bytes) -> None:
    context = json.loads(answer)
    assert list(context) == ["server_url", "auth_token", "current_workspace"]
    assert sorted(context["current_workspace"]) == ["id", "path", "provider_links"]


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """``failed`` is None for functions without an error form, and the same as ``success`` for those that this host
    does not have. ``fields`` are the required fields of the input, all of them text."""

    function: str
    valid: Any
    success: Form
    failed: Form | None
    is_permitted_by_rule: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        if not isinstance(self.valid, dict) or self.is_unavailable:
            return ()
        return tuple(name for name in self.valid if name != "params")

    @property
    def is_unavailable(self) -> bool:
        return self.success is self.failed

    def __str__(self) -> str:
        return self.function


def unavailable(function: str, form: Form, valid: Any) -> Row:
    return Row(function, valid, form, form)


NS = {"ns_id": "n1"}
FILE = base64.b64encode("Grüße\n".encode()).decode()
HASH = hashlib.sha256("Grüße\n".encode()).hexdigest()

TABLE = [
    Row("host_log", {"level": "info", "message": "hello"}, empty, None),
    Row("host_read_file", {"path": "note.md"}, exactly("Grüße\n".encode()), envelope, True),
    Row("host_read_binary", {"path": "note.md"}, exactly(compact({"data": FILE})), envelope, True),
    Row("host_list_files", {"prefix": "folder"}, paths("folder/inner.md"), envelope, True),
    Row("host_list_dir", {"path": "folder"}, paths("folder/inner.md"), envelope, True),
    Row("host_workspace_file_set", {}, paths("README.md"), error_string, True),
    Row("host_file_exists", {"path": "note.md"}, exactly(b"true"), exactly(b"false"), True),
    Row("host_file_metadata", {"path": "note.md"}, metadata, no_metadata, True),
    Row("host_hash_file", {"path": "note.md"}, exactly(compact({"hash": HASH})), empty, True),
    Row("host_write_file", {"path": "new.md", "content": "x"}, empty, error_string, True),
    Row("host_write_binary", {"path": "new.bin", "content": "AAE="}, empty, error_string, True),
    Row("host_delete_file", {"path": "note.md"}, empty, error_string, True),
    Row("host_emit_event", '{"type": "anything"}', empty, None),
    Row("host_storage_get", {"key": "k"}, exactly(b'{"data":"AAE="}'), empty, True),
    Row("host_storage_set", {"key": "k", "data": "AAE="}, empty, error_string, True),
    unavailable("host_secret_get", empty, {"key": "k"}),
    unavailable("host_secret_set", error_string, {"key": "k", "value": "v"}),
    unavailable("host_secret_delete", error_string, {"key": "k"}),
    Row("host_get_timestamp", b"", matching(r"\d{13}"), None),
    Row("host_get_now", b"", matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"), None),
    unavailable("host_http_request", http_failure, {"url": "http://example.org/", "method": "GET", "headers": {}}),
    unavailable("host_proxy_request", http_failure, {"proxy_id": "p"}),
    Row("host_request_file", {"key": "offered"}, exactly(b"\x00offered\xff"), empty),
    Row(
        "host_plugin_command",
        {"plugin_id": STRANGER, "command": "echo", "params": {"x": [1]}},
        exactly(b'{"success":true,"data":{"x":[1]}}'),
        command_failure,
        True,
    ),
    Row("host_get_runtime_context", b"", runtime_context, exactly(b"{}")),
    unavailable("host_run_wasi_module", wasi_failure, {"module_key": "m", "args": []}),
    unavailable("host_ws_request", socket_failure, {"type": "connect", "server_url": "ws://x", "workspace_id": "w"}),
    Row("host_is_cancelled", {"token": "t"}, exactly(b'{"cancelled":false}'), None),
    unavailable("host_namespace_create", envelope, {}),
    unavailable("host_namespace_list", envelope, {}),
    unavailable(
        "host_namespace_put_object", envelope, {**NS, "key": "k", "body_base64": "AAE=", "mime_type": "text/plain"}
    ),
    unavailable("host_namespace_get_object", envelope, {**NS, "key": "k"}),
    unavailable("host_namespace_get_objects_batch", envelope, {**NS, "keys": ["k"]}),
    unavailable("host_namespace_get_objects_batches_concurrent", envelope, {**NS, "batches": [["k"]]}),
    unavailable("host_namespace_delete_object", envelope, {**NS, "key": "k"}),
    unavailable("host_namespace_list_objects", envelope, NS),
    unavailable("host_namespace_sync_audience", envelope, {**NS, "audience": "a", "gates": []}),
    unavailable("host_namespace_list_audiences", envelope, NS),
    unavailable("host_namespace_delete_audience", envelope, {**NS, "audience": "a"}),
    unavailable("host_namespace_send_email", envelope, {**NS, "audience": "a", "subject": "s"}),
    unavailable("host_namespace_build", envelope, NS),
]

every_function = pytest.mark.parametrize("row", TABLE, ids=str)
#: Functions that look at their input.
PARSING = [row for row in TABLE if row.fields or row.function == "host_emit_event"]


def broken_inputs(row: Row) -> Iterator[tuple[str, bytes]]:
    """Inputs that no reading of the row's contract accepts, each with what is wrong with it."""
    yield "empty", b""
    yield "not JSON", b"{]"
    yield "cut off", b'{"path": "note.md'
    yield "invalid UTF-8", b'{"path":"\xff\xfe","key":"\xc3\x28","prefix":"\x80"}'
    yield "nested 60,000 deep", b"[" * 60_000
    yield "nested 30,000 deep and closed", b"[" * 30_000 + b"]" * 30_000
    yield "a NUL byte outside of text", b'{"path":"note.md"}\0'
    yield "a byte order mark", b"\xef\xbb\xbf{}"
    yield "NaN", b"NaN"
    yield "a number of 5,000 digits", b"1" * 5000
    yield "a lone surrogate as bytes", b'"\xed\xa0\x80"'
    yield "a lone surrogate as escape", rb'"\ud800"'
    if not row.fields:
        return
    yield "a list", b"[]"
    yield "null", b"null"
    yield "text", b'"note.md"'
    for name in row.fields:
        rest = {key: value for key, value in row.valid.items() if key != name}
        yield f"{name} missing", json.dumps(rest).encode()
        for wrong in (None, 7, True, [], {}, ["note.md"]):
            yield f"{name} is {wrong!r}", json.dumps({**rest, name: wrong}).encode()
        yield f"{name} has a lone surrogate", json.dumps({**rest, name: "\ud800"}).encode()


# --- what is asked of every row -------------------------------------------------------------------------------------


def test_the_table_has_each_of_the_41_host_functions_once() -> None:
    assert sorted(row.function for row in TABLE) == sorted(HOST_FUNCTIONS)
    assert len(TABLE) == 41


@every_function
def test_a_valid_call_that_is_allowed_is_answered_in_the_form_of_success(row: Row, bench: Bench) -> None:
    row.success(bench.ask(row.function, row.valid, files={"offered": b"\x00offered\xff"}))


@pytest.mark.parametrize("row", [row for row in TABLE if row.is_permitted_by_rule], ids=str)
def test_a_call_without_permission_is_answered_in_the_form_of_denial(row: Row, bench: Bench) -> None:
    is_free_without_a_rule = "storage" in row.function  # it is private to the plugin
    payload = {**row.valid, "plugin_id": PROBE} if row.function == "host_plugin_command" else row.valid
    for plugin_id in (BARRED,) if is_free_without_a_rule else (BARRED, STRANGER):
        row.failed(bench.ask(row.function, payload, plugin_id))
    assert (bench.workspace.path / "note.md").exists()


@pytest.mark.parametrize("row", [row for row in PARSING if row.failed is not None], ids=str)
def test_malformed_input_is_answered_in_the_error_form_and_the_call_goes_on(row: Row, bench: Bench) -> None:
    pids = bench.supervisor.status()[PROBE].worker_pids
    for what, payload in broken_inputs(row):
        try:
            row.failed(bench.ask(row.function, payload))
        except AssertionError as error:
            raise AssertionError(f"input that is {what}: {error}") from error
    assert bench.supervisor.status()[PROBE].worker_pids == pids


@pytest.mark.parametrize("function", ["host_log", "host_emit_event", "host_is_cancelled"])
def test_malformed_input_of_a_function_without_error_form_ends_the_call_and_names_the_function(
    function: str, bench: Bench
) -> None:
    (row,) = (row for row in TABLE if row.function == function)
    bench.events.clear()
    for what, payload in islice(broken_inputs(row), 20):  # each costs a worker
        try:
            with pytest.raises(GuestTrap, match=function) as caught:
                bench.ask(function, payload)
        except BaseException as error:
            raise AssertionError(f"input that is {what}: {error}") from error
        assert caught.value.plugin_id == PROBE
    assert bench.answers()
    assert bench.events == []


@pytest.mark.parametrize("row", [row for row in TABLE if row not in PARSING], ids=str)
def test_functions_that_take_no_input_do_not_mind_what_they_are_sent(row: Row, bench: Bench) -> None:
    for _, payload in broken_inputs(row):
        row.success(bench.ask(row.function, payload))


@every_function
def test_input_of_a_megabyte_where_a_name_belongs_is_refused_and_nothing_else_happens(row: Row, bench: Bench) -> None:
    fields = row.fields or ("key",)
    payload = json.dumps({**(row.valid if row.fields else {}), fields[0]: "x" * (1 << 20)}).encode()
    if row.function in ("host_log", "host_emit_event"):
        bench.ask(row.function, payload)  # a long line and a large event are what they are
    elif row.failed is None:
        with pytest.raises(GuestTrap, match=row.function):
            bench.ask(row.function, payload)
    else:
        row.failed(bench.ask(row.function, payload))
    assert bench.answers()


@pytest.mark.parametrize("row", [row for row in PARSING if row.failed is not None], ids=str)
def test_fields_of_newer_guests_are_ignored(row: Row, bench: Bench) -> None:
    offered = {"offered": b"\x00offered\xff"}
    row.success(bench.ask(row.function, {**row.valid, "of_a_newer_guest": {"x": [None]}}, files=offered))


# --- forms that the table cannot say --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in TABLE if row.is_unavailable and row.failed is not empty], ids=str)
def test_what_this_host_does_not_have_says_so(row: Row, bench: Bench) -> None:
    assert b"not available on this host" in bench.ask(row.function, row.valid)


@pytest.mark.parametrize(
    ("function", "permission"),
    [
        ("host_read_file", "read_files"),
        ("host_write_file", "edit_files"),
        ("host_delete_file", "delete_files"),
    ],
)
def test_denials_name_plugin_permission_and_target_and_what_to_add(
    function: str, permission: str, bench: Bench
) -> None:
    payload = {"path": "note.md", "content": ""}
    denied = bench.ask(function, payload, BARRED).decode()
    assert all(word in denied for word in (BARRED, permission, "note.md"))
    not_configured = bench.ask(function, payload, STRANGER).decode()
    assert f"plugins.{STRANGER}.permissions.{permission}" in not_configured


def test_the_clock_is_the_supervisors(bench: Bench) -> None:
    before = time.time()
    timestamp = int(bench.ask("host_get_timestamp")) / 1000
    now = datetime.fromisoformat(bench.ask("host_get_now").decode())
    after = time.time()
    assert before - 0.001 <= timestamp <= after
    assert int(before) <= now.timestamp() <= after
    assert now.utcoffset() == datetime.now().astimezone().utcoffset()


def test_a_token_is_cancelled_for_its_plugin_only(bench: Bench) -> None:
    bench.supervisor.cancel(PROBE, "job 7")
    assert bench.ask("host_is_cancelled", {"token": "job 7"}) == b'{"cancelled":true}'
    assert bench.ask("host_is_cancelled", {"token": "job 8"}) == b'{"cancelled":false}'
    assert bench.ask("host_is_cancelled", {"token": "job 7"}, BARRED) == b'{"cancelled":false}'


def test_events_reach_the_host_as_they_were_written(bench: Bench) -> None:
    bench.events.clear()
    texts = ['{"type": "x",  "n": 1}', "[]", '"text"', "null", "7.50", '{"name":"Grüße\\u0000"}']
    for text in texts:
        assert bench.ask("host_emit_event", text) == b""
    assert bench.events == [(PROBE, text) for text in texts]


def test_log_lines_carry_the_plugin_and_cannot_forge_others(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "isoplug.guest")
    evil = "fine\n2026-01-01 ERROR forged plugin=other\x1b[2J\x1b]0;title\x07\u202e\x00"
    for level in ("error", "warn", "info", "debug", "trace", "unheard\x1b[31m"):
        bench.ask("host_log", {"level": level, "message": evil})
    assert bench.answers()
    lines = [record.getMessage() for record in caplog.records if record.name == "isoplug.guest"]
    assert len(lines) == 6
    assert [record.levelname for record in caplog.records if record.name == "isoplug.guest"][:3] == [
        "ERROR",
        "WARNING",
        "INFO",
    ]
    for line in lines:
        assert f"plugin={PROBE}" in line
        assert line.isprintable()
