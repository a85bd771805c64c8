"""``host_run_wasi_module`` (SPEC section 5): real guests ask, real programs run."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from bench import PROBE, Bench, nothing_left_behind, open_bench
from guests.wasi import wasi_program

OTHER = "test.other"


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path, runtime_base: Path) -> Iterator[Bench]:
    guests = [(PROBE, "probe"), (OTHER, "probe")]
    with open_bench(tmp_path_factory.mktemp("wasi"), guest_cache, *guests) as opened:
        store(opened, "program", wasi_program(guest_cache))
        yield opened
        assert not list(runtime_base.glob("isoplug-*/wasi-*"))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def store(bench: Bench, key: str, content: bytes) -> None:
    assert bench.ask("host_storage_set", {"key": key, "data": encoded(content)}) == b""


def run(bench: Bench, *arguments: str, plugin_id: str = PROBE, **more: Any) -> dict[str, Any]:
    """The answer; contents in ``files`` and ``stdin`` are bytes, and so is ``stdout``."""
    request: dict[str, Any] = {"module_key": "program", "args": arguments, **more}
    if "stdin" in more:
        request["stdin"] = encoded(more["stdin"])
    if "files" in more:
        request["files"] = {name: encoded(content) for name, content in more["files"].items()}
    answer: dict[str, Any] = json.loads(bench.ask("host_run_wasi_module", request, plugin_id))
    answer["stdout"] = base64.b64decode(answer["stdout"])
    for name, content in (answer.get("files") or {}).items():
        answer["files"][name] = base64.b64decode(content)
    return answer


def refused(bench: Bench, request: dict[str, Any], plugin_id: str = PROBE) -> str:
    """The message of the failure form."""
    answer = json.loads(bench.ask("host_run_wasi_module", {"args": [], "module_key": "program"} | request, plugin_id))
    message = answer["error"]
    assert answer == {"exit_code": -1, "stdout": "", "stderr": message, "files": None, "error": message}
    assert isinstance(message, str)
    return message


# --- what a program gets and gives ----------------------------------------------------------------------------------


def test_a_program_reads_its_standard_input_and_writes_its_standard_output(bench: Bench) -> None:
    everything = bytes(range(256)) * 500
    assert run(bench, "cat", stdin=everything) == {"exit_code": 0, "stdout": everything, "stderr": ""}


def test_without_standard_input_it_is_empty(bench: Bench) -> None:
    assert run(bench, "wc")["stdout"] == b"0 0 0\n"
    assert run(bench, "wc", stdin=b"two words\n")["stdout"] == b"1 2 10\n"


def test_arguments_arrive_as_they_are_after_the_name_program(bench: Bench) -> None:
    arguments = ["arguments", "Grüße", "", "a b", "--", "$HOME"]
    assert run(bench, *arguments)["stdout"].decode().splitlines() == ["program", *arguments]


def test_a_program_sees_no_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOPLUG_TEST_SECRET", "of the host")
    assert run(bench, "environment") == {"exit_code": 0, "stdout": b"", "stderr": ""}


@pytest.mark.parametrize("given", ["a.txt", "/a.txt", "./a.txt", "deep/er/a.txt", "Grüße.txt"])
@pytest.mark.parametrize("absolute", [False, True])
def test_files_are_found_by_relative_and_by_absolute_names(given: str, absolute: bool, bench: Bench) -> None:
    name = given.removeprefix("./").removeprefix("/")
    answer = run(bench, "read", f"/{name}" if absolute else name, files={given: b"\x00content\xff"})
    assert answer == {"exit_code": 0, "stdout": b"\x00content\xff", "stderr": ""}


def test_output_files_come_back_under_the_name_they_were_asked_by(bench: Bench) -> None:
    answer = run(bench, "write", "out.txt", "made", output_files=["out.txt", "/out.txt", "./out.txt", "missing.txt"])
    assert answer["files"] == dict.fromkeys(["out.txt", "/out.txt", "./out.txt"], b"made")


def test_without_any_output_file_there_is_no_field_for_them(bench: Bench) -> None:
    assert "files" not in run(bench, "write", "out.txt", "made")
    assert "files" not in run(bench, "exit", "0", output_files=["missing.txt"])


def test_a_file_that_was_given_may_be_replaced_and_asked_for(bench: Bench) -> None:
    answer = run(
        bench, "write", "a.txt", "new", files={"a.txt": b"old", "b.txt": b"kept"}, output_files=["a.txt", "b.txt"]
    )
    assert answer["files"] == {"a.txt": b"new", "b.txt": b"kept"}


def test_two_runs_share_no_file(bench: Bench) -> None:
    run(bench, "write", "left.txt", "x")
    assert run(bench, "list", "/")["stdout"].split() == [b".", b".."]


@pytest.mark.parametrize("code", [0, 3, 125])
def test_the_exit_code_is_the_programs(code: int, bench: Bench) -> None:
    assert run(bench, "exit", str(code))["exit_code"] == code


def test_standard_error_is_text(bench: Bench) -> None:
    assert run(bench, "complain", 'Grüße "quoted"\n') == {"exit_code": 0, "stdout": b"", "stderr": 'Grüße "quoted"\n'}


def test_a_trap_is_a_failure_that_names_it_and_keeps_the_last_words(bench: Bench) -> None:
    message = refused(bench, {"args": ["trap"]})
    assert "unreachable" in message
    assert "last words" in message
    assert "call stack exhausted" in refused(bench, {"args": ["recurse"]})


# --- what it may not reach ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/../../../../../../etc/passwd", "/etc/passwd", "a/../../../../etc/passwd"]
)
def test_a_program_cannot_leave_its_folder(name: str, bench: Bench) -> None:
    answer = run(bench, "read", name, files={"a/b": b""})
    assert answer["exit_code"] == 9
    assert answer["stdout"] == b""


def test_a_link_out_of_the_folder_leads_nowhere(bench: Bench) -> None:
    target = "../" * 12 + "etc/passwd"
    assert "files" not in run(bench, "symlink", target, "out.txt", output_files=["out.txt"])
    assert run(bench, "symlink", "/etc/passwd", "out.txt")["exit_code"] == 9


def test_links_and_folders_are_no_output_files(bench: Bench) -> None:
    assert "files" not in run(bench, "symlink", "a.txt", "out", files={"a.txt": b"x"}, output_files=["out"])
    assert "files" not in run(bench, "symlink", "a", "link", files={"a/f": b"x"}, output_files=["link/f"])
    assert "files" not in run(bench, "link", "a", "out", output_files=["out", "a"])
    assert "files" not in run(bench, "mkdir", "out", output_files=["out"])


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "..", "../x", "a/../../x", "/../x", "..\\x", "a\0b", "x" * 300, "d/" * 200 + "f", ".isoplug-1.tmp"],
)
def test_names_that_are_none_in_the_folder_are_refused_before_anything_runs(name: str, bench: Bench) -> None:
    assert refused(bench, {"files": {name: ""}})
    assert refused(bench, {"output_files": [name]})


def test_names_that_stand_for_a_file_and_a_folder_are_refused(bench: Bench) -> None:
    message = refused(bench, {"files": {"a": "", "a/b": ""}})
    assert "'a/b'" in message
    assert "wasi-" not in message  # the folder of the host


def test_the_answer_has_to_fit_into_a_frame(bench: Bench) -> None:
    assert "33554432 bytes together; see limits.frame" in refused(bench, {"args": ["grow"], "output_files": ["big"]})


def test_an_answer_that_only_its_encoding_makes_too_large_is_refused_as_well(bench: Bench) -> None:
    names = ["a", "./a", "/a", "//a", ".//a"]  # 30 MB together, and 40 as base64
    request = {"args": ["exit", "0"], "files": {"a": encoded(bytes(6_000_000))}, "output_files": names}
    assert "the size of the answer" in refused(bench, request)


# --- what cannot be run ---------------------------------------------------------------------------------------------

COMMAND = '(func (export "_start"))'


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (b"hello", "no WebAssembly module"),
        (b"(module)", "no WebAssembly module"),
        (b"\0asm\x0d\0\x01\0", "component"),
        (b"\0asm\x01\0\0\0\xff\xff", "cannot be run"),
        ("(module)", "_start"),
        ('(module (func (export "_start") (param i32)))', "_start"),
        ('(module (global (export "_start") i32 (i32.const 0)))', "_start"),
        (f'(module (import "env" "f" (func)) {COMMAND})', "env::f"),
        (f'(module (import "extism:host/user" "host_log" (func (param i64) (result i64))) {COMMAND})', "host_log"),
        (f"(module (memory 1) (memory 1) {COMMAND})", "cannot be run"),
        (f"(module (table 2000000 funcref) {COMMAND})", "cannot be run"),
        (f"(module (func $f unreachable) (start $f) {COMMAND})", "unreachable"),
    ],
    ids=str,
)
def test_what_is_no_wasi_command_is_refused_and_told_why(module: bytes | str, message: str, bench: Bench) -> None:
    store(bench, "broken", bytes(wasmtime.wat2wasm(module)) if isinstance(module, str) else module)
    assert message in refused(bench, {"module_key": "broken"})


def test_a_module_that_is_not_stored_is_refused(bench: Bench) -> None:
    assert "'nothing'" in refused(bench, {"module_key": "nothing"})


def test_a_module_of_another_plugin_is_not_found(bench: Bench) -> None:
    assert "no module is stored" in refused(bench, {}, OTHER)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stdin": "not base64!"},
        {"files": {"a": "===="}},
        {"files": ["a"]},
        {"files": {"a": None}},
        {"args": "cat"},
        {"args": [1]},
        {"args": ["a\0b"]},
        {"args": ["x"] * 10_001},
        {"output_files": "a"},
        {"output_files": [f"{number}" for number in range(10_001)]},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_malformed_requests_are_refused(wrong: dict[str, Any], bench: Bench) -> None:
    assert refused(bench, wrong)
    assert bench.answers()


def test_without_the_runtime_the_message_says_what_to_install(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wasmtime.py").write_text("raise ModuleNotFoundError(\"No module named 'wasmtime'\")")
    monkeypatch.syspath_prepend(tmp_path)  # the process of a program looks for its packages where this one does
    assert "pip install 'isoplug[wasi]'" in refused(bench, {})
