"""Every host function answers in exactly the forms of SPEC section 5: a table, and what is asked of each of its rows.

The guest is real, in a real worker; its export ``host`` calls any host function with any bytes. Three plugins with
the same code and different rules: PROBE may do everything, BARRED is excluded from everything, STRANGER has no rules.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import pytest
from wasmtime import wat2wasm

from bench import PROBE, Bench, nothing_left_behind, open_bench
from isoplug.supervisor import GuestTrap
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.config import Config, Server
from isoplug.supervisor.egress import HttpRequest, HttpResponse
from isoplug.supervisor.host import HOST_FUNCTIONS

BARRED, STRANGER = "test.barred", "test.stranger"
FILE_RULES = ("read_files", "edit_files", "create_files", "delete_files")


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


class answers_everything:
    """A host's own HttpClient; what the embedded one does is asked in test_http.py."""

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        return HttpResponse(201, (("X-One", "1"), ("x-one", "2")), b"hi\xff")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    everything = {name: ["all"] for name in (*FILE_RULES, "execute_commands", "http_requests")}
    nothing = {name: {"include": ["all"], "exclude": ["all"]} for name in (*everything, "plugin_storage")}
    guests = [(plugin_id, "probe") for plugin_id in (PROBE, BARRED, STRANGER)]
    folder = tmp_path_factory.mktemp("forms")
    arguments = {
        "http": answers_everything(),
        "config": Config(server=Server(url="https://server.example", auth_token_env="FORMS_TOKEN")),
    }
    with (
        mock.patch.dict(os.environ, FORMS_TOKEN="token"),
        open_bench(folder, guest_cache, *guests, arguments=arguments, probe=everything, barred=nothing) as opened,
    ):
        with closing(sqlite3.connect(folder / "state" / "namespaces.sqlite3")) as database, database:
            database.execute("INSERT INTO namespaces VALUES (?, 'n1', 7, '{\"x\":[1]}')", (PROBE,))
        yield opened


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """With what the inputs of the table name."""
    shared.workspace.write("note.md", "Grüße\n")
    shared.workspace.write("folder/inner.md", "inner")
    shared.ask("host_storage_set", {"key": "k", "data": "AAE="})
    shared.ask("host_storage_set", {"key": "m", "data": WASI_PROGRAM})
    shared.ask("host_secret_set", {"key": "k", "value": "v"})
    shared.ask("host_namespace_put_object", {**NS, "key": "k", "body_base64": "AAE=", "mime_type": "text/plain"})
    shared.ask("host_namespace_sync_audience", {**NS, "audience": "a", "gates": []})
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


done = exactly(b'{"ok":true}')
batch = exactly(b'{"objects":{"k":{"data":"AAE=","mime_type":"text/plain","encoding":"base64"}}}')


def created(answer: bytes) -> None:
    made = json.loads(answer)
    assert list(made) == ["id", "owner_user_id", "created_at"]
    assert abs(made["created_at"] - time.time()) < 100


def namespaces(answer: bytes) -> None:
    assert {"id": "n1", "owner_user_id": "local", "created_at": 7, "metadata": {"x": [1]}} in json.loads(answer)


def objects(answer: bytes) -> None:
    (told,) = json.loads(answer)
    assert abs(told.pop("updated_at") - time.time()) < 100
    expected = {"key": "k", "namespace_id": "n1", "mime_type": "text/plain", "size_bytes": 2}
    assert told == {**expected, "content_hash": hashlib.sha256(b"\0\1").hexdigest()}


def needs_server(answer: bytes) -> None:
    envelope(answer)
    assert b"needs a Diaryx server" in answer


def runtime_context(answer: bytes) -> None:
    context = json.loads(answer)
    assert list(context) == ["server_url", "auth_token", "current_workspace"]
    assert sorted(context["current_workspace"]) == ["id", "path", "provider_links"]


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """``failed`` is None for functions without an error form. ``fields`` are the required fields of the input, all of
    them text."""

    function: str
    valid: Any
    success: Form
    failed: Form | None
    is_permitted_by_rule: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        if not isinstance(self.valid, dict):
            return ()
        return tuple(name for name, value in self.valid.items() if isinstance(value, str))

    def __str__(self) -> str:
        return self.function


NS = {"ns_id": "n1"}  # is made behind the host's back, since it gives ids that nobody can foresee
FILE = base64.b64encode("Grüße\n".encode()).decode()
HASH = hashlib.sha256("Grüße\n".encode()).hexdigest()
HTTP_ANSWER = compact({"status": 201, "headers": {"x-one": "1, 2"}, "body": "hi\ufffd", "body_base64": "aGn/"})
WASI_PROGRAM = base64.b64encode(wat2wasm('(module (func (export "_start")))')).decode()
WASI_ANSWER = compact({"exit_code": 0, "stdout": "", "stderr": ""})

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
    Row("host_secret_get", {"key": "k"}, exactly(b'{"value":"v"}'), empty, True),
    Row("host_secret_set", {"key": "k", "value": "v"}, empty, error_string, True),
    Row("host_secret_delete", {"key": "k"}, empty, error_string, True),
    Row("host_get_timestamp", b"", matching(r"\d{13}"), None),
    Row("host_get_now", b"", matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"), None),
    Row(
        "host_http_request",
        {"url": "http://example.org/", "method": "GET", "headers": {}},
        exactly(HTTP_ANSWER),
        http_failure,
        True,
    ),
    Row("host_proxy_request", {"proxy_id": "p"}, exactly(HTTP_ANSWER), http_failure, True),
    Row("host_request_file", {"key": "offered"}, exactly(b"\x00offered\xff"), empty),
    Row(
        "host_plugin_command",
        {"plugin_id": STRANGER, "command": "echo", "params": {"x": [1]}},
        exactly(b'{"success":true,"data":{"x":[1]}}'),
        command_failure,
        True,
    ),
    Row("host_get_runtime_context", b"", runtime_context, exactly(b"{}")),
    Row("host_run_wasi_module", {"module_key": "m", "args": []}, exactly(WASI_ANSWER), wasi_failure, True),
    Row(
        "host_ws_request",
        {"type": "connect", "server_url": "ws://server.example", "workspace_id": "w"},
        done,
        socket_failure,
        True,
    ),
    Row("host_is_cancelled", {"token": "t"}, exactly(b'{"cancelled":false}'), None),
    Row("host_namespace_create", {}, created, envelope, True),
    Row("host_namespace_list", {}, namespaces, envelope, True),
    Row(
        "host_namespace_put_object",
        {**NS, "key": "k", "body_base64": "AAE=", "mime_type": "text/plain"},
        done,
        envelope,
        True,
    ),
    Row("host_namespace_get_object", {**NS, "key": "k"}, exactly(b'{"data":"AAE="}'), envelope, True),
    Row("host_namespace_get_objects_batch", {**NS, "keys": ["k"]}, batch, envelope, True),
    Row("host_namespace_get_objects_batches_concurrent", {**NS, "batches": [["k"]]}, batch, envelope, True),
    Row("host_namespace_delete_object", {**NS, "key": "k"}, done, envelope, True),
    Row("host_namespace_list_objects", NS, objects, envelope, True),
    Row("host_namespace_sync_audience", {**NS, "audience": "a", "gates": []}, done, envelope, True),
    Row("host_namespace_list_audiences", NS, exactly(b'{"audiences":["a"]}'), envelope, True),
    Row("host_namespace_delete_audience", {**NS, "audience": "a"}, done, envelope, True),
    Row("host_namespace_send_email", {**NS, "audience": "a", "subject": "s"}, needs_server, envelope, True),
    Row("host_namespace_build", NS, needs_server, envelope, True),
]

every_function = pytest.mark.parametrize("row", TABLE, ids=str)
#: Functions that look at their input.
PARSING = [row for row in TABLE if row.fields or row.function in ("host_emit_event", "host_namespace_create")]


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
    private = ("host_storage", "host_secret", "host_namespace", "host_run_wasi")  # to the plugin
    is_free_without_a_rule = row.function.startswith(private)
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


@pytest.mark.parametrize("filler", ["[],", '"",', "{},", ","])
@pytest.mark.parametrize("name", [name for name, known in HOST_FUNCTIONS.items() if known.max_input_bytes is None])
def test_an_input_of_very_many_values_is_refused_before_it_is_parsed(name: str, filler: str, bench: Bench) -> None:
    """Parsing one holds up the whole host, for seconds at 32 MiB."""
    payload = f'{{"x":[{filler * 200_000}0]}}'
    if HOST_FUNCTIONS[name].refuse is None:
        with pytest.raises(GuestTrap, match="more than 200000 values"):
            bench.ask(name, payload)
    else:
        assert b"more than 200000 values" in bench.ask(name, payload)


def test_a_long_text_is_one_value_whatever_is_in_it(bench: Bench) -> None:
    content = '[{"a\\", ' * 300_000
    assert bench.ask("host_write_file", {"path": "note.md", "content": content}) == b""
    assert bench.ask("host_read_file", {"path": "note.md"}).decode() == content


# --- forms that the table cannot say --------------------------------------------------------------------------------


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
