"""Reports of crashes: what they join, how few they are, and that they cost no call."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until_computing
from isoplug.supervisor import Config, GuestTrap, PluginError, Supervisor, WorkerCrashed, replay
from isoplug.supervisor.config import Restart
from isoplug.supervisor.recording import CRASHES, RECORDINGS, CrashReport, read_crashes

PROBE, OTHER = "test.probe", "test.other"
PATIENT = Restart(max_restarts=1000, period=0.001, backoff_initial=0.001, backoff_jitter=0)


@pytest.fixture
def reports(tmp_path: Path) -> Callable[[], list[CrashReport]]:
    return lambda: read_crashes(tmp_path / "state" / CRASHES)


Reports = Callable[[], list[CrashReport]]


def crash(supervisor: Supervisor, command: str, params: Any = None) -> PluginError:
    with pytest.raises(PluginError) as caught:
        supervisor.command(PROBE, command, params)
    supervisor.clear_poisoned(PROBE)
    return caught.value


def ask(function: str, request: Any) -> dict[str, Any]:
    return {"function": function, "input": json.dumps(request)}


@pytest.mark.parametrize(
    ("command", "cause", "code"),
    [
        ("trap", "wasm `unreachable` instruction executed", "guest_trap"),
        ("segv", "SIGSEGV", "worker_crashed"),
        ("allocate", "limits.wasm_memory", "resource_limit_exceeded"),
    ],
)
def test_a_crash_leaves_a_report(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports, command: str, cause: str, code: str
) -> None:
    plugins.add()
    error = crash(supervise(), command)
    (report,) = reports()
    assert report.signature == f"{PROBE} handle_command: {cause}"
    assert (report.code, report.count, report.export) == (code, 1, "handle_command")
    assert report.message == error.message
    assert f"{error.message} (report: isoplug crashes show {report.id})" in str(error)
    assert report.latest.doing == f"command '{command}'"
    assert report.latest.outcome == "no_effects"
    assert report.latest.recording is None
    if isinstance(error, GuestTrap):
        assert report.trap == error.trap
        assert "wasm function" in error.trap
    if isinstance(error, WorkerCrashed):
        assert (report.reason, report.evidence) == (error.reason.value, error.evidence)


def test_a_report_has_effects_host_calls_and_log_lines(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add()
    workspace.grant(edit_files=["all"], create_files=["all"])
    calls = [
        ask("host_write_file", {"path": "a.md", "content": "private words"}),
        ask("host_read_file", {"path": "b.md"}),
        ask("host_log", {"level": "warn", "message": "the last words"}),
    ]
    crash(supervise(), "host_then", {"calls": calls, "then": "segv"})
    (report,) = reports()
    assert report.latest.outcome == "effects"
    assert report.effects == ["file_written a.md"]
    assert [call[1:3] for call in report.host_calls] == [["host_write_file", "a.md"], ["host_read_file", "b.md"]]
    assert report.host_calls[1][3].startswith("denied")
    assert report.log == [[PROBE, "warn", "the last words"]]


def test_a_report_has_nothing_of_the_input_of_the_call(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports, tmp_path: Path
) -> None:
    plugins.add()
    crash(supervise(), "trap", {"diary": "private words"})
    (path,) = (tmp_path / "state" / CRASHES).iterdir()
    assert b"private words" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_report_leads_to_the_recording_when_there_is_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports, tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise(config=Config.model_validate({"record": {"enabled": True}}))
    supervisor.command(PROBE, "echo", 1)
    crash(supervisor, "segv")
    (report,) = reports()
    assert report.latest.recording is not None
    replayed = replay(tmp_path / "state" / RECORDINGS / report.latest.recording)
    assert replayed.recording.signature == report.signature
    assert replayed.is_same


def test_the_same_crash_is_one_report_that_counts(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=PATIENT))
    for _ in range(12):
        crash(supervisor, "segv")
    crash(supervisor, "trap")
    trapped, died = reports()  # the latest first
    assert (trapped.count, died.count) == (1, 12)
    assert len(died.occurrences) == 10
    assert died.first_at < died.occurrences[-1].at <= died.latest.at
    assert trapped.id != died.id


def test_a_worker_killed_from_outside_is_a_crash_with_that_signal(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add()
    supervisor = supervise()
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "spin")
        wait_until_computing(plugin)
        pid = plugin.status.worker_pids[0]
        os.kill(pid, signal.SIGKILL)
        assert isinstance(call.exception(), WorkerCrashed)
    (report,) = reports()
    assert report.signature == f"{PROBE} handle_command: SIGKILL"
    assert report.pid == pid


def test_a_crash_while_a_plugin_starts_leaves_a_report(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add(config={"init": "trap"})
    supervisor = supervise()
    (report,) = reports()
    assert report.export == "init"
    (error,) = supervisor.load_errors.values()
    assert str(error) == f"{error.message} (report: isoplug crashes show {report.id})"


def test_a_plugin_that_asked_another_hears_of_its_crash_and_not_of_the_report(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add()
    plugins.add(OTHER)
    workspace.grant(execute_commands=["all"])
    supervisor = supervise()
    request = ask("host_plugin_command", {"plugin_id": OTHER, "command": "trap", "params": None})
    answer = json.loads(supervisor.command(PROBE, "host", request)["answer"])
    (report,) = reports()
    assert answer["error"] == report.message


def test_errors_that_cost_no_worker_leave_no_report(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise()
    crash(supervisor, "fail", {"message": "no"})
    with pytest.raises(PluginError):
        supervisor.command(PROBE, "spin", timeout=0.2)  # slow is not broken
    assert not (tmp_path / "state" / CRASHES).exists()


def test_a_storm_of_crashes_leaves_one_small_file(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports, tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=PATIENT))
    for _ in range(50):
        crash(supervisor, "trap")
    (report,) = reports()
    assert report.count == 50
    (path,) = (tmp_path / "state" / CRASHES).iterdir()
    assert path.stat().st_size < 100_000


def test_reports_are_bounded_and_the_oldest_go(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports, tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise()
    folder = tmp_path / "state" / CRASHES
    crash(supervisor, "trap")
    (kept,) = reports()
    for number in range(300):
        copy = kept.model_copy(update={"id": f"{number:012x}"})
        (folder / f"{copy.id}.json").write_text(copy.model_dump_json())
        os.utime(folder / f"{copy.id}.json", (number, number))
    for command in ("segv", "recurse") * 11:  # it looks every twenty
        supervisor.reset(PROBE)
        crash(supervisor, command)
    names = {report.id for report in reports()}
    assert len(names) <= 200
    assert kept.id in names
    assert f"{0:012x}" not in names


def test_garbage_among_reports_is_skipped_with_a_line_each_and_written_over(
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    reports: Reports,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins.add()
    supervisor = supervise()
    crash(supervisor, "trap")
    (report,) = reports()
    folder = tmp_path / "state" / CRASHES
    for number, content in enumerate(
        (b"", b"{", b"[]", b'{"id": 1}', os.urandom(100), report.model_dump_json().encode())
    ):
        (folder / f"{number:012x}.json").write_bytes(content)
    (folder / "notes.txt").write_text("mine")
    assert [one.id for one in reports()] == [report.id]
    assert caplog.text.count("crash.report_skipped") == 6
    (folder / f"{report.id}.json").write_bytes(b"garbage")
    crash(supervisor, "trap")
    assert [one.count for one in reports()] == [1]


@pytest.mark.parametrize(
    "changed",
    [
        {"first_at": 1e300},
        {"first_at": float("nan")},
        {"first_at": -1e12},
        {"count": 10**4000},
        {"effect_count": -1},
        {"host_calls": [[]]},
        {"log": [["info"]]},
        {"occurrences": [{"at": 1e13, "doing": "", "outcome": "", "recording": None}]},
        {"occurrences": [{"at": 1.0, "doing": "", "outcome": "", "recording": "x" * 5000}]},
        {"occurrences": [{"at": 1.0, "doing": "", "outcome": "", "recording": "a; rm -rf b"}]},
    ],
)
def test_a_report_that_could_not_be_shown_is_skipped(tmp_path: Path, changed: dict[str, Any]) -> None:
    occurrence = {"at": 1.0, "doing": "", "outcome": "", "recording": "a-1.isorec"}
    report = dict.fromkeys(("signature", "plugin_id", "export", "code", "message"), "")
    report |= dict.fromkeys(("reason", "trap", "evidence", "pid", "calls_served"))
    report |= {"id": "0" * 12, "count": 1, "first_at": 1.0, "occurrences": [occurrence], "effects": []}
    report |= {"effect_count": 0, "host_calls": [["", "", "", ""]], "log": [["", "", ""]]}
    place = tmp_path / f"{'0' * 12}.json"
    place.write_text(json.dumps(report))
    assert len(read_crashes(tmp_path)) == 1
    place.write_text(json.dumps(report | changed))
    assert read_crashes(tmp_path) == []


def test_a_full_disk_costs_one_line_and_the_caller_hears_of_the_crash_itself(
    plugins: PluginFolder,
    supervise: Callable[..., Supervisor],
    reports: Reports,
    tmp_path: Path,
    mounted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins.add()
    supervisor = supervise(config=Config(restart=PATIENT))
    place = tmp_path / "state" / CRASHES
    place.mkdir(0o700)
    mounted(place, "-t", "tmpfs", "-o", "size=64k,mode=700")
    with suppress(OSError):
        (place / "filler").write_bytes(bytes(1 << 20))
    for _ in range(3):
        error = crash(supervisor, "trap")
        assert isinstance(error, GuestTrap)
        assert error.crash_report is None
        assert str(error) == error.message
    assert caplog.text.count("crash.not_reported") == 1
    assert [path.name for path in place.iterdir()] == ["filler"]
    (place / "filler").unlink()
    crash(supervisor, "trap")
    assert [report.count for report in reports()] == [1]


def test_two_supervisors_over_one_state_folder_do_not_harm_each_other(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], reports: Reports
) -> None:
    plugins.add()
    config = Config(restart=PATIENT)
    both = [supervise(config=config), supervise(config=config)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda one: [crash(one, "trap") for _ in range(10)], both))
    (report,) = reports()
    # Of two at the same moment one may not be counted, and one that is held up writes over all that came meanwhile.
    assert 2 <= report.count <= 20
    for number, one in enumerate(both, 1):
        crash(one, "trap")
        assert [each.count for each in reports()] == [report.count + number]
