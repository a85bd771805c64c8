"""``isoplug chaos``, as a person or a shell script runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import BOOT_SECONDS, SCRIPT, at_terminal, needs_script, run_command
from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor.chaos import Plan, fault_names

ECHO = ("--command", "test.probe:echo=[1]")
#: It counts in memory, which its plugin loses with every worker: the promise that answers stay the same cannot hold.
COUNT = ("--command", "test.probe:count")

pytestmark = needs_script


@pytest.fixture
def folder(tmp_path: Path, plugins: PluginFolder, workspace: Workspace) -> Path:
    """``plugins`` with one plugin, and ``workspace``."""
    plugins.add()
    workspace.write("note.md", "dear diary")
    return tmp_path


def chaos(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """stdout and stderr."""
    return run_command([SCRIPT, "chaos", *arguments], folder, env={"TMPDIR": "/tmp"}, codes=[code])


def run(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    return chaos(folder, "--plugins", "plugins", "--workspace", "workspace", *arguments, code=code)


def document(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run(folder, "--json", *arguments, code=code)[0])
    return value


# --- what it says -----------------------------------------------------------------------------------------------------


def test_every_fault_is_listed_with_what_it_imitates(tmp_path: Path) -> None:
    out, err = chaos(tmp_path, "--list")
    assert [line.partition(":")[0] for line in out.splitlines() if not line.startswith(" ")] == list(fault_names())
    assert "kill: The worker is killed by SIGKILL" in out
    assert err == ""
    listed = json.loads(chaos(tmp_path, "--list", "--json")[0])["faults"]
    assert [fault["name"] for fault in listed] == list(fault_names())
    assert {fault["strikes"] for fault in listed} <= {"call", "host call"}
    assert all(fault["imitates"].endswith((".", ":")) for fault in listed)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no plugins: give --plugins DIR"),
        (["--plugins", "nowhere"], "is not a folder; make it, or name another"),
        (["--plugins", "plugins", "--faults", "kil"], "there is no fault 'kil'; there are"),
        (["--plugins", "plugins", "--faults", "kill", "--plan", "a.toml"], "--plan FILE or --faults NAMES, not both"),
        (["--plugins", "plugins", "--plan", "nowhere.toml"], "cannot read the fault plan nowhere.toml"),
        (["--plugins", "plugins", "--duration", "10"], "--duration: "),
        (["--plugins", "plugins", "--duration", "1s", "--calls", "5"], "--duration TIME or --calls N, not both"),
        (["--plugins", "plugins", "--faults", ""], "--faults names none: give names, such as kill,oom"),
        (["--plugins", "plugins", "--timeout", "1ms"], "--timeout: give 100ms or more, not 1ms"),
        (["--plugins", "plugins", "--command", "test.prob:echo"], "there is no such plugin; there are: test.probe"),
        (["--plugins", "plugins", "--command", "echo"], "'echo' is no operation"),
        (["--plugins", "plugins", "--report", "nowhere/out.html"], "--report: nowhere is not a folder"),
        (["--plugins", "plugins", "--report", "plugins"], "--report: plugins is a folder; name a file"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_a_mistake_is_2_before_anything_runs(folder: Path, arguments: list[str], text: str) -> None:
    before = sorted(folder.rglob("*"))
    out, err = chaos(folder, *arguments, code=2)
    assert out == ""
    assert text in err
    assert sorted(folder.rglob("*")) == before


# --- a run in which all is well ---------------------------------------------------------------------------------------


def test_a_run_shows_faults_and_promises_and_how_to_repeat_it(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out, err = run(folder, "--faults", "kill", "--calls", "40", "--callers", "2", "--seed", "5", *ECHO)
    heading, row, *rest = out.splitlines()
    assert heading.split() == ["fault", "injected", "answered", "failed", "wrong", "late", "p50", "p99", "max"]
    name, injected, *_, wrong, late, _, _, _, _, _, _ = row.split()
    assert (name, wrong, late) == ("kill", "0", "0")
    assert int(injected) > 0
    assert not [line for line in rest if line.startswith("✗")]
    assert [line for line in rest if line.startswith("✓")]
    assert "on copies of plugins and workspace, with seed 5" in err
    repeat = next(line for line in rest if line.startswith("The same again: ")).partition(": ")[2]
    assert shlex.split(repeat)[:6] == ["isoplug", "chaos", "--plugins", "plugins", "--workspace", "workspace"]
    assert shlex.split(repeat)[6:] == [
        "--faults", "kill", "--seed", "5", "--calls", "40", "--callers", "2", "--command", "test.probe:echo=[1]",
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command_that_it_prints_repeats_the_run(folder: Path) -> None:
    first = document(folder, "--faults", "kill", "--duration", "100ms", "--callers", "2", *ECHO)
    assert first["holds"] is True
    again = json.loads(chaos(folder, *shlex.split(first["repeat"])[2:], "--json")[0])
    for key in ("totals", "plan", "promises", "repeat"):
        assert again[key] == first[key]
    places = ("step", "delivery", "host_call", "fault", "parameters")
    assert [[one[key] for key in places] for one in again["injections"]] == [
        [one[key] for key in places] for one in first["injections"]
    ]


def test_a_run_without_faults_is_no_test_and_says_so(folder: Path) -> None:
    (folder / "none.toml").touch()
    out, _ = run(folder, "--plan", "none.toml", "--calls", "4", "--report", "out.html", "--command", "test.probe:nix")
    assert "No fault struck: this run has tested nothing." in out
    assert "Failed without faults as well: test.probe:nix (CommandNotFound)." in out
    assert "- events: no event is lost" in out
    page = (folder / "out.html").read_text("utf-8")
    assert "isoplug chaos: no fault struck" in page
    assert "Failed without faults as well: " in page


def test_calls_that_hang_end_at_the_timeout_which_the_repeating_command_has_too(folder: Path) -> None:
    spin = ("--command", "test.probe:spin", "--faults", "kill", "--callers", "1", "--seed", "1")
    out, err = run(folder, "--timeout", "200ms", "--duration", "100ms", *spin)
    assert "test.probe:spin (CallTimeout)" in out
    assert "not 0.1 s: what has begun is finished" in err
    assert "--callers 1 --timeout 200ms --command test.probe:spin" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_copies_and_does_not_say_that_a_promise_broke(
    folder: Path, number: signal.Signals
) -> None:
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [SCRIPT, "chaos", "--plugins", "plugins", "--workspace", "workspace", "--duration", "10m", *ECHO],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        wait_until(lambda: any((folder / "tmp").glob("isoplug-chaos-*/state/storage.sqlite3")), seconds=BOOT_SECONDS)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert out == ""
    assert "stopped has no result" in err
    assert "Traceback" not in err
    assert list((folder / "tmp").glob("isoplug-chaos-*")) == []


def test_a_run_that_is_stopped_writes_the_page_that_was_asked_for_of_what_it_has_done(folder: Path) -> None:
    arguments = ["--duration", "10m", "--callers", "1", "--faults", "kill", "--seed", "3", "--report", "out.html"]
    with at_terminal([SCRIPT, "chaos", "--plugins", "plugins", *arguments, *ECHO], folder) as (process, terminal):
        # The next round has begun.
        wait_until(lambda: re.search("comparing.*running", terminal.text, re.DOTALL), seconds=BOOT_SECONDS)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert out == b""
    assert "the page, of what was done until then, is out.html" in terminal.text
    page = (folder / "out.html").read_text("utf-8")
    assert "every promise held, stopped before its end</title>" in page
    assert "Stopped before its end: " in page
    assert "no fault struck" not in page


def test_a_run_that_is_stopped_before_it_has_done_anything_says_that_there_is_no_page(folder: Path) -> None:
    (folder / "tmp").mkdir()
    spin = ["--command", "test.probe:spin", "--timeout", "10m", "--report", "out.html"]
    with subprocess.Popen(
        [SCRIPT, "chaos", "--plugins", "plugins", *spin],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            wait_until(
                lambda: any((folder / "tmp").glob("isoplug-chaos-*/state/storage.sqlite3")), seconds=BOOT_SECONDS
            )
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert "there is no page: not one round was whole by then" in err
    assert not (folder / "out.html").exists()


def test_the_next_run_removes_the_copies_of_one_that_was_killed(folder: Path) -> None:
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [SCRIPT, "chaos", "--plugins", "plugins", "--workspace", "workspace"]
    with subprocess.Popen(
        [*command, "--duration", "10m", *ECHO], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: any((folder / "tmp").glob("isoplug-chaos-*/workspace/note.md")), seconds=BOOT_SECONDS)
        finally:
            process.kill()
    (copies,) = (folder / "tmp").glob("isoplug-chaos-*")
    subprocess.run(
        [*command, "--calls", "1", *ECHO], cwd=folder, env=environment, capture_output=True, timeout=240, check=True
    )
    assert not copies.exists()
    assert list((folder / "tmp").glob("isoplug-chaos-*")) == []


def test_the_page_is_written_where_it_is_wanted(folder: Path) -> None:
    _, err = run(folder, "--calls", "20", "--seed", "1", "--faults", "kill", "--report", "out.html", *ECHO)
    assert "every promise held" in (folder / "out.html").read_text("utf-8")
    assert "the page is out.html" in err


def test_without_a_seed_each_run_has_one_of_its_own_and_names_it(folder: Path) -> None:
    seeds = {document(folder, "--calls", "1", "--callers", "1", "--faults", "kill", *ECHO)["seed"] for _ in range(2)}
    assert len(seeds) > 1


def test_a_terminal_gets_a_bar_with_counts_and_a_program_gets_none(folder: Path) -> None:
    command = [SCRIPT, "chaos", "--plugins", "plugins", "--calls", "60", "--faults", "kill", *ECHO]
    with at_terminal(command, folder) as (process, terminal):
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, terminal.text
    assert "faults: " in terminal.text
    assert b"\x1b" not in out


# --- a promise that breaks --------------------------------------------------------------------------------------------


def test_a_broken_promise_is_1_with_a_counter_example_and_the_smallest_plan(folder: Path) -> None:
    arguments = ("--faults", "kill", "--calls", "20", "--seed", "3", *COUNT)
    out, err = run(folder, *arguments, code=1)
    saved = folder / "isoplug-chaos-3.toml"
    assert "the smallest plan is in isoplug-chaos-3.toml" in err
    broken = next(number for number, line in enumerate(out.splitlines()) if line.startswith("✗"))
    assert "round 1, caller-1 " in out.splitlines()[broken + 1]
    plan = Plan.load(saved)
    assert len(plan.rules) == 1
    assert plan.to_toml().strip() in out
    with_it = out.splitlines()[-1].partition("With it: ")[2]
    again = json.loads(chaos(folder, *shlex.split(with_it)[2:], "--json", code=1)[0])
    assert again["holds"] is False
    assert again["totals"]["injected"] == 1
    # The plan that was given is not written over.
    assert Plan.load(saved) == plan
    assert (folder / "isoplug-chaos-3-2.toml").exists()


def test_what_is_no_plan_is_never_written_over(folder: Path) -> None:
    (folder / "out.smallest.toml").write_text('important = "yes"\n')
    arguments = ("--faults", "kill", "--calls", "20", "--callers", "1", "--seed", "3", "--report", "out.html", *COUNT)
    _, err = run(folder, *arguments, code=1)
    assert (folder / "out.smallest.toml").read_text() == 'important = "yes"\n'
    assert "the smallest plan is in out.smallest-2.toml" in err
    assert "1 promise broke" in (folder / "out.html").read_text("utf-8")
    assert "The smallest plan that still breaks it" in (folder / "out.html").read_text("utf-8")


def test_shrinking_can_be_left_out(folder: Path) -> None:
    arguments = ("--faults", "kill", "--calls", "20", "--callers", "1", "--seed", "3", "--no-shrink", *COUNT)
    report = document(folder, *arguments, code=1)
    assert report["smallest"] is None
    assert not list(folder.glob("*.toml"))
