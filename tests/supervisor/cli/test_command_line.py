"""The installed ``isoplug`` script, as a person or a shell script runs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import isoplug.supervisor.demo as demo
from commands import BOOT_SECONDS, SCRIPT, needs_script
from conftest import PluginFolder, Workspace, wait_until

PROBE = "test.probe"

pytestmark = needs_script


@dataclass(frozen=True)
class Shell:
    """A folder with plugins and a workspace, and the script."""

    folder: Path

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "XDG_DATA_HOME": str(self.folder / "data")} | options.pop("env", {})
        return subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            encoding="utf-8",
            **options,
        )

    def run(self, *arguments: str, code: int = 0, **options: Any) -> tuple[str, str]:
        """stdout and stderr; the exit code must be ``code``."""
        with self.popen(*arguments, **options) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        assert "Traceback" not in err
        assert "\x1b" not in out + err  # neither ours, as this is no terminal, nor a guest's
        return out, err

    def call(self, plugin: str, command: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        folders = ("--plugins", "plugins", "--workspace", "workspace")
        return self.run("call", plugin, command, *folders, *arguments, code=code)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Shell:
    """One good plugin."""
    folder = tmp_path_factory.mktemp("cli")
    PluginFolder(folder / "plugins", guest_cache).add()
    (folder / "workspace").mkdir()
    Workspace(folder / "workspace").grant(read_files=["open"]).write("open/a.md", "hello")
    return Shell(folder)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Shell:
    """One good plugin among bad ones."""
    folder = tmp_path_factory.mktemp("broken")
    plugins = PluginFolder(folder / "plugins", guest_cache)
    plugins.add()
    plugins.add("bad.newer", variant="probe_protocol_2", folder="newer")
    plugins.add("bad.init", variant="probe_init_trap", folder="init")
    plugins.add_bytes("garbage", b"MZ")
    (folder / "workspace").mkdir()
    return Shell(folder)


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_help_leads_with_examples_and_ends_with_the_exit_codes(shell: Shell) -> None:
    out, err = shell.run("--help")
    assert out.index("Examples:") < out.index("Commands:") < out.index("Exit codes:")
    assert err == ""
    assert "Examples:" in shell.run("call", "-h")[0]
    assert re.fullmatch(r"isoplug, version \d+\.\d+\.\d+\n", shell.run("--version")[0])


def test_the_version_is_that_of_the_installed_package(shell: Shell) -> None:
    assert shell.run("--version")[0].split()[-1] == importlib.metadata.version("isoplug")


def test_help_lists_every_command_with_what_it_does_and_a_name_that_was_misspelt_is_guessed(shell: Shell) -> None:
    listed = shell.run("--help")[0].partition("Commands:")[2].partition("Exit codes:")[0].strip().splitlines()
    names = [line.split()[0] for line in listed]
    assert names == sorted(names)
    assert {"call", "chaos", "list", "run", "sign", "status"} <= set(names)
    for line in listed:
        name, *words = line.split()
        assert " ".join(words).rstrip(".") in " ".join(shell.run(name, "--help")[0].split())
    assert "Did you mean 'status'?" in shell.run("statsu", code=2)[1]


@pytest.mark.parametrize("arguments", [["--version"], ["call", "--help"]])
def test_a_command_line_has_not_imported_what_it_does_not_need(arguments: list[str]) -> None:
    """Each of these takes longer to import than ``isoplug --version`` takes in all."""
    script = f"""import sys; sys.argv[1:] = {arguments}
try:
    from isoplug.supervisor.cli import main; main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stderr.split())
    assert "click" in modules
    assert not modules & {"aiohttp", "asyncio", "importlib.metadata", "msgpack", "psutil", "pydantic", "rich"}
    assert not modules & {"isoplug.supervisor.supervisor", "isoplug.supervisor.cli.chaos"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list"], "no plugins: give --plugins DIR, or a --config FILE"),
        (["list", "--plugins", "nowhere"], "nowhere is not a folder; make it, or name another"),
        (["list", "--plugins", "plugins", "--workspace", ""], "workspace: must be a path"),
        (["list", "--config", "nowhere.toml"], "cannot read the configuration"),
        (["call", PROBE, "echo", "--plugins", "plugins", "--params", "{half"], "--params is not JSON"),
        (["call", PROBE, "echo", "--plugins", "plugins", "--params", "NaN"], "params cannot be sent as JSON"),
        (["call", PROBE, "echo", "--plugins", "plugins", "--file", "archive"], "--file takes key=path"),
        (["call", PROBE, "echo", "--plugins", "plugins", "--file", "a=no.zip"], "the file offered as 'a' cannot be"),
        (["call", PROBE, "echo", "--plugins", "plugins", "--timeout", "0"], "timeout must be"),
        (["event", "file_saved", "--plugins", "plugins"], "needs path in its payload"),
        (["event", "file_saved", "--plugins", "plugins", "--payload", "[]"], "--payload must be a JSON object"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_of_usage_is_2_and_says_what_to_do(shell: Shell, arguments: list[str], text: str) -> None:
    out, err = shell.run(*arguments, code=2)
    assert out == ""
    assert text in err


# --- results ----------------------------------------------------------------------------------------------------------


def test_call_prints_the_result_as_json_and_nothing_else(shell: Shell) -> None:
    out, err = shell.call(PROBE, "echo", "--params", '{"ä": ["\\u009b31m", "\\u202e", 1]}')
    assert json.loads(out) == {"ä": ["\x9b31m", "\u202e", 1]}
    assert "ä" in out
    assert "\x9b" not in out
    assert "\u202e" not in out
    assert err == ""
    assert shell.call(PROBE, "echo", "--params", '{"a": [1]}', "--json")[0] == '{"a": [1]}\n'


def test_a_terminal_without_unicode_gets_escapes(shell: Shell) -> None:
    out, _ = shell.run(
        "call", PROBE, "echo", "--plugins", "plugins", "--params", '"ä😀"', env={"PYTHONIOENCODING": "ascii"}
    )
    assert json.loads(out) == "ä😀"
    assert out.isascii()


def test_call_offers_files(shell: Shell) -> None:
    (shell.folder / "old=1.zip").write_bytes(b"content")
    ask = json.dumps({"function": "host_request_file", "input": '{"key": "archive"}'})
    out, _ = shell.call(PROBE, "host", "--params", ask, "--file", "archive=old=1.zip")
    assert json.loads(out)["answer"] == "content"


def test_list_shows_a_row_a_plugin(shell: Shell) -> None:
    out, err = shell.run("list", "--plugins", "plugins", "--workspace", "workspace")
    heading, row = out.splitlines()
    assert heading.split()[:3] == ["plugin", "state", "pid"]
    assert row.split()[:3] == [PROBE, "1.0.0", "ready"]
    assert err == ""
    (status,) = json.loads(shell.run("list", "--plugins", "plugins", "--json")[0])["plugins"]
    assert (status["id"], status["state"]) == (PROBE, "ready")


def test_inspect_shows_the_manifest(shell: Shell) -> None:
    wasm = "plugins/test.probe/plugin.wasm"
    out, err = shell.run("inspect", wasm)
    assert re.search(r"^id +test\.probe *$", out, re.MULTILINE)
    assert err == ""
    assert json.loads(shell.run("inspect", wasm, "--json")[0])["id"] == PROBE


def test_event_says_how_many_got_it_and_logs_failures_to_stderr(shell: Shell) -> None:
    options = ["--plugins", "plugins"]
    out, err = shell.run("event", "file_saved", "--payload", '{"path": "a.md"}', *options)
    assert (out, err) == ("file_saved: delivered to 1 plugin\n", "")
    out, err = shell.run("event", "file_saved", "--payload", '{"path": "fail"}', "--json", *options)
    assert json.loads(out) == {"receivers": 1}
    assert "event.failed plugin=test.probe code=command_error" in err


def test_a_configuration_file_replaces_the_options(shell: Shell) -> None:
    (shell.folder / "isoplug.toml").write_text('plugins_dir = "plugins"\nworkspace = "workspace"\n')
    assert shell.run("call", PROBE, "echo", "--config", "isoplug.toml", "--params", "5")[0] == "5\n"


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "params", "code", "text"),
    [
        ("fail", '{"message": "no ink", "error_code": "printer"}', 1, "isoplug: command_error: no ink"),
        ("dance", "null", 1, "isoplug: command_not_found: plugin 'test.probe' has no 'dance'; it offers: alloc"),
        ("trap", "null", 1, "isoplug: guest_trap: plugin 'test.probe' trapped in command 'trap'"),
        ("fail", '{"message": "not yours", "error_code": "permission_denied"}', 3, "permission_denied: not yours"),
        ("spin", "null", 4, "did not finish command 'spin' within 0.5 s"),
        ("segv", "null", 5, "died: killed by SIGSEGV"),
    ],
)
def test_each_failure_has_its_exit_code_and_its_words_on_stderr(
    shell: Shell, command: str, params: str, code: int, text: str
) -> None:
    timeout = ("--timeout", "0.5") if command == "spin" else ()
    out, err = shell.call(PROBE, command, "--params", params, *timeout, code=code)
    assert out == ""
    assert text in err


def test_an_unknown_plugin_is_named_with_those_that_there_are(shell: Shell) -> None:
    assert "no plugin 'nobody' is loaded; loaded: test.probe" in shell.call("nobody", "x", code=1)[1]


def test_a_guest_cannot_write_to_the_terminal_through_an_error_or_a_log(shell: Shell) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\rok\u202e"
    params = json.dumps({"message": evil, "error_code": "x"})
    _, err = shell.call(PROBE, "fail", "--params", params, code=1)
    assert "ok" in err
    assert not set(evil) & set("\x1b\x07\x9b\r\u202e") & set(err)
    log = json.dumps({"function": "host_log", "input": json.dumps({"level": "error", "message": evil})})
    _, err = shell.call(PROBE, "host", "--params", log)
    assert "guest.log" in err
    assert not set("\x1b\x07\x9b\r\u202e") & set(err)


def test_a_plugin_that_did_not_load_is_6_by_folder_and_by_id_whatever_the_reason(broken: Shell) -> None:
    assert "isoplug: protocol_mismatch" in broken.call("newer", "echo", code=6)[1]
    assert "isoplug: guest_trap" in broken.call("bad.init", "echo", code=6)[1]


def test_the_other_plugins_work_and_stderr_says_what_did_not_load(broken: Shell) -> None:
    out, err = broken.call(PROBE, "echo", "--params", "7")
    assert out == "7\n"
    assert err.count("plugin.load_failed") == 3


def test_an_unknown_plugin_may_be_one_that_could_not_be_loaded(broken: Shell) -> None:
    _, err = broken.call("nobody", "x", code=1)
    assert (
        "no plugin 'nobody' is loaded; loaded: test.probe; could not be loaded, by folder: garbage, init, newer" in err
    )


def test_list_reports_what_did_not_load_with_6(broken: Shell) -> None:
    out, err = broken.run("list", "--plugins", "plugins", "--json", code=6)
    report = json.loads(out)
    assert {name: error["code"] for name, error in report["load_errors"].items()} == {
        "garbage": "load_error",
        "init": "guest_trap",
        "newer": "protocol_mismatch",
    }
    assert [status["id"] for status in report["plugins"]] == [PROBE]
    assert err.count("plugin.load_failed") == 3


def test_inspect_of_a_module_that_cannot_load_is_6_and_an_incompatible_one_is_a_warning(broken: Shell) -> None:
    assert "not a WebAssembly module" in broken.run("inspect", "plugins/garbage/plugin.wasm", code=6)[1]
    out, err = broken.run("inspect", "plugins/newer/plugin.wasm", "--json")
    assert json.loads(out)["protocol_version"] == 2
    assert "WARNING plugin.incompatible" in err


# --- pipes and signals ------------------------------------------------------------------------------------------------


def test_a_closed_pipe_is_no_traceback(shell: Shell) -> None:
    for arguments in (["list", "--plugins", "plugins"], ["call", PROBE, "big", "--params", '{"bytes": 900000}']):
        reader, writer = os.pipe()
        os.close(reader)
        with shell.popen(*arguments, "--plugins", "plugins", stdout=writer) as process:
            os.close(writer)
            _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert "Exception" not in err


@pytest.mark.parametrize("arguments", [("inspect", f"plugins/{PROBE}/plugin.wasm", "--json"), ("--help",)])
def test_a_full_disk_is_one_line(shell: Shell, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full, shell.popen(*arguments, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "isoplug: cannot write the result: No space left on device; free space\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_spinning_call_ends_it_at_once_and_leaves_nothing(
    shell: Shell, number: signal.Signals
) -> None:
    with shell.popen("call", PROBE, "spin", "--plugins", "plugins", start_new_session=True) as process:
        family = psutil.Process(process.pid)

        def is_spinning() -> bool:
            with suppress(psutil.NoSuchProcess):  # one that was there a moment ago
                templates = [template for zygote in family.children() for template in zygote.children()]
                workers = [worker for template in templates for worker in template.children()]
                return any(worker.cpu_times().user > 0.3 for worker in workers)
            return False

        wait_until(is_spinning, "the guest to spin", BOOT_SECONDS)
        children = family.children(recursive=True)
        os.killpg(process.pid, number)
        sent_at = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - sent_at < 15  # the call has 30 s
        assert process.returncode != 0
        assert out == ""
        assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_terminal_gets_colour(shell: Shell) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        colourful = {"TERM": "xterm", "NO_COLOR": ""}
        with shell.popen("list", "--plugins", "plugins", stdout=theirs, env=colourful) as process:
            os.close(theirs)
            seen = b""
            while True:
                try:
                    seen += os.read(ours, 65536)
                except OSError:  # EIO: the other end is closed
                    break
            process.wait(30)
    finally:
        os.close(ours)
    assert b"\x1b[" in seen


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_shows_every_scene_and_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    out, err = shell.run("demo", env={"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    assert err == ""
    assert not list(tmp_path.iterdir())
    for scene in (
        r"PermissionDenied: .*read_files on 'private/letter-never-sent\.md'",
        r"WorkerCrashed: the worker of plugin 'demo\.trouble' died: killed by SIGKILL",
        r"'reached': 8, .*depth limit exceeded \(max 8\)",
        r"(?m)^demo\.trouble 1\.0\.0 +ready +\d+ +\d+ +1 +1 +\d+ MiB +\d+\.\d\d s",
        r"(?m)^diaryx\.words 1\.0\.0 +ready +\d+ \+3 ",  # extra instances, still warm
        r"new journal/\d{4}/\d\d/\d{4}-\d\d-\d\d\.md",
        r"All processes have ended, all files of the demo are removed",
    ):
        assert re.search(scene, out), scene


def test_the_demos_folders_serve_as_a_first_workspace(tmp_path: Path) -> None:
    here = Path(demo.__path__[0])
    for part in ("plugins", "journal"):
        shutil.copytree(here / part, tmp_path / part)
    shell = Shell(tmp_path)
    options = ("--plugins", "plugins", "--workspace", "journal")
    first = json.loads(shell.run("call", "diaryx.words", "count", *options)[0])
    second = json.loads(shell.run("call", "diaryx.words", "count", *options)[0])
    assert (first["previous"], second["previous"], second["difference"]) == (None, first["total"], 0)
    ask = '{"path": "private/letter-never-sent.md"}'
    assert "front matter" in shell.run("call", "demo.trouble", "peek", *options, "--params", ask, code=3)[1]
