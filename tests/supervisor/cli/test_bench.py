"""``isoplug bench``, as a person or CI runs it. What comes out is looked at for being there and for making sense, never
for being fast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import BOOT_SECONDS, SCRIPT, at_terminal, needs_script, run_command
from conftest import wait_until
from isoplug.supervisor.bench.goals import GOALS
from isoplug.supervisor.bench.sections import SECTIONS

NAMES = [section.name for section in SECTIONS]
#: The least that each section can measure.
QUICK = ("--short", "--blocks", "1")
#: It measures nothing again: on a busy machine much is far off, and would be five times more, for minutes.
ONCE = [
    sys.executable,
    "-c",
    """import dataclasses
from isoplug.supervisor.bench import lab
lab.SHORT = dataclasses.replace(lab.SHORT, again=0)
from isoplug.supervisor.cli import main
main()""",
    "bench",
]
#: Longer than the path of a socket may be.
TMP = "tmp" * 40

pytestmark = needs_script


def bench(
    folder: Path,
    *arguments: str,
    codes: tuple[int, ...] = (0,),
    command: Sequence[str | Path] = (SCRIPT, "bench"),
) -> tuple[str, str]:
    """stdout and stderr. What is left in ``folder/TMP`` fails the test."""
    (folder / TMP).mkdir(exist_ok=True)
    said = run_command([*command, *arguments], folder, env={"TMPDIR": str(folder / TMP)}, codes=codes)
    assert list((folder / TMP).glob("isoplug*")) == []
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of everything, as briefly as it can be; on a busy machine some goal may be missed by far."""
    out, err = bench(tmp_path_factory.mktemp("whole"), *QUICK, "--json", "-", codes=(0, 1), command=ONCE)
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


@pytest.fixture(scope="module")
def a_file(tmp_path_factory: pytest.TempPathFactory, whole: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("report") / "bench.json"
    path.write_text(json.dumps(whole))
    return path


# --- what it measures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", NAMES)
def test_every_section_measures_something_and_all_of_it_takes_time_or_room(whole: dict[str, Any], section: str) -> None:
    figures = [figure for figure in whole["figures"] if figure["section"] == section]
    assert figures
    assert all(figure["samples"] >= 1 for figure in figures)
    # A difference of two times may come out below nothing on a busy machine, as may that of two memories.
    differences = ("worker start, ", "supervisor's memory per plugin, ")
    assert all(figure["least"] > 0 for figure in figures if not figure["name"].startswith(differences))


def test_names_are_unique_and_every_goal_is_measured_unless_something_is_missing(whole: dict[str, Any]) -> None:
    names = [figure["name"] for figure in whole["figures"]]
    assert len(names) == len(set(names))
    assert [goal["name"] for goal in whole["goals"]] == [goal.name for goal in GOALS]
    unmeasured = [goal["name"] for goal in whole["goals"] if goal["value"] is None]
    too_few = ["kill -9 to next answer, p99"]  # of which one block has a handful
    assert unmeasured == too_few + ([] if os.geteuid() == 0 else ["private memory of an idle worker"])
    assert set(whole["missing"]) & set(names) == set()


def test_the_report_says_on_what_machine_and_with_what_protection(whole: dict[str, Any]) -> None:
    facts = whole["facts"]
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert {"extism", "pyzmq"} <= facts["packages"].keys()
    assert "seccomp" in facts["lockdown"]["applied"] or "seccomp" in facts["lockdown"]["missing"]
    assert whole["options"]["sections"] == NAMES
    assert whole["options"]["blocks"] == 1


def test_it_measures_the_sections_that_were_asked_for_in_the_order_of_the_list(tmp_path: Path) -> None:
    out, _ = bench(tmp_path, *QUICK, "--only", "recording, lockdown", codes=(0, 1))
    lines = [line.strip() for line in out.splitlines()]
    assert lines.index("lockdown") < lines.index("recording")
    assert "calls" not in lines
    assert "not measured" in next(line for line in lines if line.startswith("AsyncSupervisor call ÷"))


def test_sections_may_be_named_at_once_or_one_by_one(tmp_path: Path) -> None:
    for only in (["--only", "files,lockdown"], ["--only", "files", "--only", "lockdown"]):
        out, _ = bench(tmp_path, *only, "--blocks", "1", codes=(0, 1))
        assert {"files", "lockdown"} <= set(map(str.strip, out.splitlines()))


def test_what_is_not_installed_is_named_with_what_to_install_and_the_rest_is_measured(tmp_path: Path) -> None:
    without = """import sys
sys.modules.update(pebble=None, loky=None, ray=None)  # how Python is told that there is none
from isoplug.supervisor.cli import main
main()"""
    command = [sys.executable, "-c", without, "bench"]
    out, _ = bench(tmp_path, "--only", "calls,recovery", "--blocks", "1", codes=(0, 1), command=command)
    for name in ("pebble", "loky", "kill -9 to next answer, loky"):
        assert f"not measured: {name}: not installed (pip install 'isoplug[bench]')" in out
    assert "not measured: Ray actor: not installed (pip install 'isoplug[ray]')" in out
    (pools,) = (line for line in out.splitlines() if line.startswith("isolated call ÷ best process pool"))
    assert "not measured" not in pools  # Python's own is there


# --- what it shows and writes -----------------------------------------------------------------------------------------


def test_a_report_is_shown_and_drawn_again_without_measuring(a_file: Path, tmp_path: Path) -> None:
    arguments = ("--json", "again.json", "--picture", "a.svg", "--picture", "a.png")
    out, err = bench(tmp_path, "--from", str(a_file), *arguments, codes=(0, 1))
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(a_file.read_text())
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [line.rpartition(" ")[2] for line in err.splitlines()] == ["again.json", "a.svg", "a.png"]
    for text in ("bare ZeroMQ PAIR ping-pong", "isoplug --version ÷ import extism", "goal", "p99"):
        assert text in out


def test_the_exit_code_is_1_beyond_twice_a_goal_and_with_strict_beyond_the_goal(a_file: Path, tmp_path: Path) -> None:
    document = json.loads(a_file.read_text())

    def code(call_us: float, *arguments: str) -> int:
        medians = {"isoplug call": call_us, "ProcessPoolExecutor": 100.0}
        figures = [one for one in document["figures"] if one["name"] in medians]
        for figure in figures:
            figure |= dict.fromkeys(("least", "p10", "p50", "p90", "p99", "most"), medians[figure["name"]])
        (tmp_path / "made.json").write_text(json.dumps({**document, "figures": figures}))
        command = [SCRIPT, "bench", "--from", "made.json", *arguments]
        return subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=60, check=False).returncode

    assert [code(40), code(40, "--strict")] == [0, 0]
    assert [code(90), code(90, "--strict")] == [0, 1]
    assert [code(110), code(110, "--strict")] == [1, 1]


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    with at_terminal([SCRIPT, "bench", *QUICK, "--only", "payloads"], tmp_path) as (process, terminal):
        out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, terminal.text
    assert "payloads" in terminal.text
    assert b"\x1b" not in out


def test_the_sections_are_listed(tmp_path: Path) -> None:
    assert [line.split()[0] for line in bench(tmp_path, "--list")[0].splitlines()] == NAMES


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "speed"], "no section 'speed'; there are calls, payloads"),
        (["--only", " "], "--only names none"),
        (["--only", ",,"], "--only names none"),
        (["--blocks", "0"], "0 is not in the range"),
        (["--picture", "bench.gif"], "name a file that ends in .svg or .png"),
        (["--picture", "nowhere/bench.svg"], "--picture: nowhere is not a folder"),
        (["--json", "nowhere/bench.json"], "--json: nowhere is not a folder"),
        (["--json", "."], "--json: . is a folder; name a file"),
        (["--from", "nowhere.json"], "cannot read nowhere.json"),
        (["--from", "garbage.json"], "garbage.json is no report of isoplug bench"),
        (["--from", "list.json"], "this is no report of isoplug bench"),
        (["--from", "list.json", "--short"], "--from measures nothing"),
        (["--speed"], "No such option"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(arguments: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "garbage.json").write_text("{half")
    (tmp_path / "list.json").write_text("[]")
    out, err = bench(tmp_path, *arguments, codes=(2,))
    assert text in err
    assert out == ""


def test_a_full_disk_costs_the_file_and_not_the_table(
    a_file: Path, tmp_path: Path, mounted: Callable[..., None]
) -> None:
    (tmp_path / "full").mkdir()
    mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=4k")
    arguments = ("--json", "full/b.json", "--picture", "full/b.svg", "--picture", "b.png")
    out, err = bench(tmp_path, "--from", str(a_file), *arguments, codes=(2,))
    assert "isoplug call" in out
    assert "setup_error: cannot write full/b.json: No space left on device; free space, or name another file" in err
    assert "\n      cannot write full/b.svg: No space left on device" in err  # each file that is not there is named
    assert (tmp_path / "b.png").exists()
    assert list((tmp_path / "full").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    tmp_path: Path, mounted: Callable[..., None]
) -> None:
    (tmp_path / "full").mkdir()
    mounted(tmp_path / "full", "-t", "tmpfs", "-o", "ro")
    for option, name in (("--json", "b.json"), ("--picture", "b.svg")):
        _, err = bench(tmp_path, option, f"full/{name}", codes=(2,))
        assert err == f"isoplug: setup_error: {option}: cannot write in {tmp_path}/full; name another folder\n"


def test_a_temporary_folder_that_is_full_is_one_line(tmp_path: Path, mounted: Callable[..., None]) -> None:
    (tmp_path / TMP).mkdir()
    mounted(tmp_path / TMP, "-t", "tmpfs", "-o", "size=64k")
    _, err = bench(tmp_path, "--only", "files", "--blocks", "1", codes=(1, 2))
    assert err.count("\n") == 1
    assert "free space" in err


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "sign", "number"),
    [
        ("calls", "loky", signal.SIGINT),
        ("throughput", "isoplug.worker.zygote", signal.SIGINT),
        ("recovery", "multiprocessing.spawn", signal.SIGINT),
        ("memory", "isoplug.supervisor.bench.sections.memory", signal.SIGINT),
        ("commands", "isoplug --version", signal.SIGINT),
        ("calls", "isoplug.worker.zygote", signal.SIGTERM),
    ],
)
def test_ctrl_c_leaves_nothing_behind(section: str, sign: str, number: signal.Signals, tmp_path: Path) -> None:
    """The signal goes to the whole group, as a terminal's does, when a process with ``sign`` in its command line is
    there."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [SCRIPT, "bench", "--only", section, "--blocks", "10000"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", process_group=0
    ) as process:
        try:
            below = psutil.Process(process.pid)
            wait_until(
                lambda: any(sign in _words(child) for child in below.children(recursive=True)), seconds=BOOT_SECONDS
            )
            time.sleep(0.2)  # somewhere in what it does; where is not important
            everybody = below.children(recursive=True)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number, (out, err)
    assert out == ""
    said = "isoplug: stopping; a run that was stopped has no result\n"
    assert said in err
    if section != "recovery":  # there, processes of other pools get the signal as well, and say so
        assert err == said
    wait_until(lambda: not any(child.is_running() for child in everybody))
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_removes_what_one_that_was_killed_has_left(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    command = [SCRIPT, "bench", "--only", "files", "--blocks", "10000"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            below = psutil.Process(process.pid)
            wait_until(
                lambda: any("isoplug.worker.zygote" in _words(child) for child in below.children()),
                seconds=BOOT_SECONDS,
            )
            everybody = below.children(recursive=True)
        finally:
            process.kill()
    wait_until(lambda: not any(child.is_running() for child in everybody))
    assert len(list((tmp_path / "tmp").glob("isoplug-bench-*"))) == 1
    bench(tmp_path, "--only", "files", "--blocks", "1", codes=(0, 1))  # it looks at what is left


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
