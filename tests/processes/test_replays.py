"""Calls that were recorded and are run again: with real guests, which end in every way that a guest can end in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until_computing
from isoplug.supervisor import (
    Config,
    InvalidArgument,
    LoadError,
    PluginError,
    Replayed,
    ResourceLimitExceeded,
    Supervisor,
    replay,
)
from isoplug.supervisor.calls import Delivery, Proceed
from isoplug.supervisor.chaos import Injector, Plan, Rule
from isoplug.supervisor.chaos.faults import fault_named
from isoplug.supervisor.config import Limits
from isoplug.supervisor.recording import MODULES, End, Ending, HostCall, Recording, Unanswered, decode, encode
from isoplug.supervisor.replaying import Verdict, read_recording

PROBE = "test.probe"
RECORD = Config.model_validate({"record": {"enabled": True}})
SECRET = "tops3cret-in-every-place"


@pytest.fixture
def supervisor(plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]) -> Supervisor:
    """One that records its calls."""
    plugins.add(config={"colour": "blue"})
    workspace.grant(plugin_storage=["all"], read_files=["all"], edit_files=["all"], create_files=["all"])
    return supervise(config=RECORD)


@pytest.fixture
def recordings(tmp_path: Path) -> Callable[[], list[Path]]:
    return lambda: sorted((tmp_path / "state" / "recordings").glob("*.isorec"))


Recordings = Callable[[], list[Path]]


def ask(function: str, request: Any = None) -> dict[str, Any]:
    return {"function": function, "input": "" if request is None else json.dumps(request)}


def fails(supervisor: Supervisor, command: str, params: Any = None, **options: Any) -> PluginError:
    with pytest.raises(PluginError) as caught:
        supervisor.command(PROBE, command, params, **options)
    return caught.value


def rewritten(path: Path, **changes: Any) -> Path:
    """The recording with other facts, in a file of its own beside the modules."""
    target = path.parent / "changed.isorec"
    target.write_bytes(encode(replace(read_recording(path), **changes)))
    return target


def with_host_calls(recording: Recording, *calls: HostCall) -> dict[str, Any]:
    return {"call": replace(recording.call, host_calls=calls)}


# --- the same again -------------------------------------------------------------------------------------------------


def test_a_call_has_the_same_result_when_it_is_run_again(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", {"a": [1, 2]})
    (path,) = recordings()
    replayed = replay(path)
    assert replayed.verdict is Verdict.SAME
    assert replayed.is_same
    assert replayed.ending == replayed.recorded
    assert str(replayed).startswith("same result")


def test_a_recording_has_what_the_instance_was_told_before(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "count")
    supervisor.command(PROBE, "count")
    first, second = map(read_recording, recordings())
    assert [step.export for step in first.start] == ["manifest", "set_config", "init"]
    assert json.loads(first.start[1].data) == {"colour": "blue"}
    assert (first.served, second.served) == (0, 1)
    assert first.start == second.start


def test_a_configuration_that_was_changed_since_is_told_again(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.set_config(PROBE, {"colour": "red"})
    supervisor.set_config(PROBE, {"colour": "green"})
    assert json.loads(supervisor.call(PROBE, "get_config")) == {"colour": "green"}
    path = recordings()[-1]
    exports = [step.export for step in read_recording(path).start]
    assert exports == ["manifest", "set_config", "init", "set_config"]
    assert replay(path).is_same


def test_host_calls_are_answered_from_the_recording_and_no_service_is_touched(
    supervisor: Supervisor, recordings: Recordings, workspace: Workspace
) -> None:
    workspace.write("a.md", "then")
    calls = [
        ask("host_get_timestamp"),
        ask("host_read_file", {"path": "a.md"}),
        ask("host_write_file", {"path": "b.md", "content": "written"}),
        ask("host_log", {"level": "info", "message": "said"}),
    ]
    supervisor.command(PROBE, "host_then", {"calls": calls})
    assert (workspace.path / "b.md").read_text() == "written"
    supervisor.close()
    (workspace.path / "b.md").unlink()
    workspace.write("a.md", "now")
    (path,) = recordings()
    assert b"then" in path.read_bytes()
    assert replay(path).verdict is Verdict.SAME
    assert not (workspace.path / "b.md").exists()


def test_an_error_that_the_guest_reports_is_the_same_again(supervisor: Supervisor, recordings: Recordings) -> None:
    with pytest.raises(PluginError):
        supervisor.call(PROBE, "raw_fail", b"not today")
    (path,) = recordings()
    replayed = replay(path)
    assert replayed.verdict is Verdict.SAME
    assert replayed.ending is not None
    assert replayed.ending.text == "not today"


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("trap", "wasm `unreachable` instruction executed"),
        ("recurse", "call stack exhausted"),
        ("segv", "SIGSEGV"),
        ("allocate", "limits.wasm_memory"),
    ],
)
def test_a_crash_happens_again_with_the_same_signature(
    supervisor: Supervisor, recordings: Recordings, command: str, cause: str
) -> None:
    fails(supervisor, command)
    (path,) = recordings()
    replayed = replay(path)
    assert replayed.verdict is Verdict.SAME_CRASH
    assert replayed.recording.signature == f"{PROBE} handle_command: {cause}"
    assert str(replayed).endswith(cause)


def test_a_crash_after_host_calls_happens_again_after_them(supervisor: Supervisor, recordings: Recordings) -> None:
    calls = [ask("host_get_timestamp"), ask("host_storage_set", {"key": "k", "data": "eA=="})]
    fails(supervisor, "host_then", {"calls": calls, "then": "segv"})
    (path,) = recordings()
    assert len(read_recording(path).call.host_calls) == 2
    assert replay(path).verdict is Verdict.SAME_CRASH


def test_a_call_that_its_host_function_aborts_is_aborted_again(supervisor: Supervisor, recordings: Recordings) -> None:
    fails(supervisor, "host", {"function": "host_is_cancelled", "input": "{]"})
    (path,) = recordings()
    assert replay(path).verdict is Verdict.SAME_CRASH


def test_a_call_that_ran_out_of_time_does_so_again(supervisor: Supervisor, recordings: Recordings) -> None:
    fails(supervisor, "spin", timeout=1.0)
    (path,) = recordings()
    replayed = replay(path)
    assert (replayed.verdict, replayed.recorded.cause) == (Verdict.SAME_CRASH, "timeout")


def test_a_crash_while_a_worker_starts_is_recorded_with_what_came_before(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add(config={"init": "trap"})
    supervise(config=RECORD)
    path, *_ = recordings()
    recording = read_recording(path)
    assert (recording.call.export, [step.export for step in recording.start]) == ("init", ["manifest", "set_config"])
    assert replay(path).verdict is Verdict.SAME_CRASH


def test_a_guest_sees_in_a_recording_what_a_fault_has_made_of_its_call(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add()
    plan = Plan(seed=1, rules=(Rule(fault_named("kill", moment="delivery"), every=1),))
    supervisor = supervise(config=RECORD, interceptors=[Injector(plan)])
    fails(supervisor, "echo", "x")
    (path,) = recordings()
    replayed = replay(path)
    assert (replayed.verdict, replayed.recorded.cause) == (Verdict.OTHER_RESULT, "SIGKILL")


class Forger:
    """Answers every host call itself."""

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Any:
        delivery.serve = lambda _function, _request: b"forged"
        return proceed(delivery)


def test_a_recording_has_the_answer_that_the_guest_got_whoever_gave_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add()
    supervise(config=RECORD, interceptors=[Forger()]).command(
        PROBE, "host_then", {"calls": [ask("host_get_timestamp")]}
    )
    (path,) = recordings()
    assert [call.answer for call in read_recording(path).call.host_calls] == [b"forged"]
    assert replay(path).is_same


def test_supervisors_over_one_state_folder_record_side_by_side(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add()
    plugins.add("test.other", variant="minimal")
    config = Config.model_validate({"record": {"enabled": True, "calls": 32}})
    both = [supervise(config=config), supervise(config=config)]
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(one.command, PROBE, "echo", number) for number in range(60) for one in both]
        assert [call.result() for call in calls] == [number for number in range(60) for _ in both]
    left = recordings()
    assert 16 <= len(left) <= 32 + 2 * 3  # each may write a sixteenth and one more between two looks
    assert all(decode(path.read_bytes()).plugin_id == PROBE for path in left)
    assert replay(left[0]).is_same


# --- not the same ---------------------------------------------------------------------------------------------------


def test_a_worker_that_somebody_killed_returns_when_nobody_does(supervisor: Supervisor, recordings: Recordings) -> None:
    plugin = supervisor.plugins[PROBE]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(supervisor.command, PROBE, "busy", {"milliseconds": 10_000})
        wait_until_computing(plugin)
        os.kill(plugin.status.worker_pids[0], signal.SIGKILL)
        assert isinstance(call.exception(), PluginError)
    (path,) = recordings()
    replayed = replay(path)
    assert not replayed.is_same
    assert replayed.recorded.cause == "SIGKILL"


def test_what_an_instance_had_in_memory_is_named_as_what_may_explain_a_difference(
    supervisor: Supervisor, recordings: Recordings
) -> None:
    supervisor.command(PROBE, "count")
    supervisor.command(PROBE, "count")
    _, second = recordings()
    replayed = replay(second)
    assert replayed.verdict is Verdict.OTHER_RESULT
    assert "the instance had answered 1 calls before" in replayed.notes[0]


def test_a_guest_that_asks_something_else_differs_at_that_host_call(
    supervisor: Supervisor, recordings: Recordings
) -> None:
    calls = [ask("host_get_timestamp"), ask("host_read_file", {"path": "b.md"})]
    supervisor.command(PROBE, "host_then", {"calls": calls})
    (path,) = recordings()
    first, second = (recording := read_recording(path)).call.host_calls
    changed = rewritten(path, **with_host_calls(recording, first, replace(second, request=b'{"path": "a.md"}')))
    replayed = replay(changed)
    assert (replayed.verdict, replayed.host_call) == (Verdict.OTHER_HOST_CALL, 2)
    assert str(replayed.then) == 'host_read_file {"path": "a.md"}'
    assert str(replayed.now) == 'host_read_file {"path": "b.md"}'
    assert "host call 2 of handle_command" in str(replayed)


def test_more_host_calls_and_fewer_are_told_apart(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "host_then", {"calls": [ask("host_get_timestamp"), ask("host_get_timestamp")]})
    (path,) = recordings()
    first, second = (recording := read_recording(path)).call.host_calls
    more = replay(rewritten(path, **with_host_calls(recording, first)))
    assert (more.verdict, more.host_call) == (Verdict.MORE_HOST_CALLS, 2)
    fewer = replay(rewritten(path, **with_host_calls(recording, first, second, second)))
    assert (fewer.verdict, fewer.host_call) == (Verdict.FEWER_HOST_CALLS, 3)


def test_a_start_that_goes_another_way_is_where_it_differs(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    manifest, *rest = read_recording(path).start
    other = replace(manifest, ending=replace(manifest.ending, output=b"{}"))
    replayed = replay(rewritten(path, start=(other, *rest)))
    assert (replayed.verdict, replayed.export) == (Verdict.OTHER_RESULT, "manifest")


def test_a_mended_module_can_be_tried_on_the_crash_of_another(
    supervisor: Supervisor, recordings: Recordings, plugins: PluginFolder
) -> None:
    fails(supervisor, "trap")
    (path,) = recordings()
    mended = plugins.add("test.other", variant="minimal")
    replayed = replay(path, module=mended)
    assert not replayed.is_same
    assert "another module" in replayed.notes[0]


def test_a_worker_killed_while_it_waited_for_an_answer_is_killed_there_again(
    supervisor: Supervisor, recordings: Recordings
) -> None:
    supervisor.command(PROBE, "host_then", {"calls": [ask("host_get_timestamp")]})
    (path,) = recordings()
    (call,) = (recording := read_recording(path)).call.host_calls
    gone = replace(call, unanswered=Unanswered.GONE)
    changes = with_host_calls(recording, gone)
    replayed = replay(rewritten(path, **changes))
    assert replayed.ending is not None
    assert replayed.ending.cause == "SIGKILL"
    assert "killed from outside" in replayed.notes[0]


# --- secrets --------------------------------------------------------------------------------------------------------


class Secrets(dict[tuple[str, str], str]):
    def get(self, plugin_id: str, key: str) -> str | None:  # type: ignore[override]
        return super().get((plugin_id, key))

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        self[plugin_id, key] = value

    def delete(self, plugin_id: str, key: str) -> None:
        self.pop((plugin_id, key), None)


class Context:
    def get(self, plugin_id: str) -> dict[str, Any]:
        return {"server_url": None, "auth_token": f"{SECRET}-token", "current_workspace": None}


def test_no_secret_is_in_any_file_and_the_calls_can_be_run_again(
    plugins: PluginFolder,
    workspace: Workspace,
    supervise: Callable[..., Supervisor],
    recordings: Recordings,
    tmp_path: Path,
) -> None:
    plugins.add()
    workspace.grant(plugin_storage=["all"], http_requests=["all"])
    secrets = Secrets({(PROBE, "mine"): SECRET})
    supervisor = supervise(config=RECORD, secrets=secrets, runtime_context=Context())
    request = {"url": "http://127.0.0.1:1/", "method": "GET", "headers": {"Authorization": "Bearer abc-def-ghi-123"}}
    calls = [
        ask("host_secret_get", {"key": "mine"}),
        ask("host_get_runtime_context"),
        ask("host_secret_set", {"key": "new", "value": f"{SECRET} of the caller"}),
        ask("host_http_request", request),
        ask("host_log", {"level": "info", "message": f"it is {SECRET}"}),
    ]
    answers = supervisor.command(PROBE, "host_then", {"calls": calls})
    assert SECRET in str(answers)  # the guest got it, and returned it
    with pytest.raises(PluginError):
        supervisor.call(PROBE, "raw_fail", SECRET.encode())
    fails(supervisor, "host_then", {"calls": [ask("host_log", {"level": "info", "message": SECRET})], "then": "trap"})
    supervisor.close()
    files = [path for name in ("recordings", "crashes") for path in (tmp_path / "state" / name).rglob("*")]
    contents = [path.read_bytes() for path in files if path.is_file()]
    assert len(contents) == 5
    assert not [content for content in contents if SECRET.encode() in content or b"abc-def-ghi-123" in content]
    for path in recordings():
        replayed = replay(path)
        assert replayed.is_same, str(replayed)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_call_that_is_too_long_is_recorded_without_its_contents_and_refused(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add()
    supervisor = supervise(config=Config.model_validate({"record": {"enabled": True, "size": "1MiB"}}))
    supervisor.call(PROBE, "echo", bytes(200_000))
    (path,) = recordings()
    assert path.stat().st_size < 10_000
    with pytest.raises(InvalidArgument, match="cannot be run again: it and its host calls take more than 131072 bytes"):
        replay(path)


def test_host_calls_without_end_do_not_fill_the_disk(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], recordings: Recordings
) -> None:
    plugins.add()
    supervisor = supervise(config=Config.model_validate({"record": {"enabled": True, "size": "1MiB"}}))
    supervisor.call(PROBE, "host_many", json.dumps({"calls": [ask("host_get_timestamp")], "repeat": 2_000}).encode())
    (path,) = recordings()
    assert path.stat().st_size < 10_000
    assert read_recording(path).gap


def test_without_being_asked_nothing_is_recorded(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add()
    supervisor = supervise()
    fails(supervisor, "trap")
    assert not (tmp_path / "state" / "recordings").exists()


def test_only_this_user_can_read_recordings(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_full_disk_costs_one_line_and_no_call(
    supervisor: Supervisor,
    recordings: Recordings,
    tmp_path: Path,
    mounted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "state" / "recordings"
    place.mkdir(0o700)
    mounted(place, "-t", "tmpfs", "-o", "size=256k,mode=700")
    filler = place / "filler"
    with suppress(OSError):
        filler.write_bytes(bytes(1 << 20))
    for number in range(5):
        assert supervisor.command(PROBE, "echo", number) == number
    assert caplog.text.count("recording.failed") == 1
    assert not [path for path in place.iterdir() if path != filler and path.name != MODULES]
    filler.unlink()
    supervisor.command(PROBE, "echo", "room again")
    assert "recording.resumed missed=5" in caplog.text
    (path,) = recordings()
    assert replay(path).is_same


def test_recordings_outlive_a_supervisor_that_is_killed(
    plugins: PluginFolder, host: Callable[[str], Any], tmp_path: Path, recordings: Recordings
) -> None:
    plugins.add()
    process = host("""
        from isoplug.supervisor import Config
        supervisor = make(config=Config.model_validate({"record": {"enabled": True}}))
        for number in range(20):
            supervisor.command("test.probe", "echo", number)
        say("done")
        time.sleep(60)
    """)
    assert process.read() == ["done"]
    process.kill()
    assert len(recordings()) == 20
    assert replay(recordings()[-1]).is_same


# --- files of other people ------------------------------------------------------------------------------------------


def test_what_is_not_a_recording_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"garbage", b"\x91" * 1000, os.urandom(5000)):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InvalidArgument, match="not a recording that can be read"):
            replay(tmp_path / "file")


def test_files_that_cannot_be_read_are_refused_with_advice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(1 << 30)
    for name in ("fifo", "huge", "missing", "."):
        with pytest.raises(InvalidArgument, match="recordings lie in the folder recordings"):
            replay(tmp_path / name)


def test_a_recording_may_not_ask_for_more_than_this_host_allows(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    limits = json.loads(read_recording(path).limits)
    greedy = rewritten(path, limits=json.dumps({**limits, "process_memory": 1 << 40}))
    with pytest.raises(InvalidArgument, match=r"limits\.process_memory = 1099511627776, here 536870912 is allowed"):
        replay(greedy)
    with pytest.raises(InvalidArgument, match=r"limits\.wasm_module"):
        replay(rewritten(path, limits=json.dumps({**limits, "wasm_module": 1 << 30})))
    bounded = Config(limits=Limits(cpu_per_call=10.0))
    with pytest.raises(InvalidArgument, match=r"limits\.cpu_per_call = inf, here 10\.0 is allowed"):
        replay(path, config=bounded)
    assert replay(rewritten(path, limits=json.dumps({**limits, "cpu_per_call": 9.0})), config=bounded).is_same
    for nonsense in ("", "{", '{"frame": "much"}', '{"unknown": 1}'):
        with pytest.raises(InvalidArgument, match="make no sense"):
            replay(rewritten(path, limits=nonsense))


def test_an_input_that_is_larger_than_its_own_limits_is_refused(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.call(PROBE, "echo", b"1")
    (path,) = recordings()
    recording = read_recording(path)
    limits = json.dumps({**json.loads(recording.limits), "frame": 65536})
    large = rewritten(path, limits=limits, call=replace(recording.call, data=bytes(100_000)))
    with pytest.raises(ResourceLimitExceeded):
        replay(large, config=Config.model_validate({"limits": {"frame": 65536}}))


def test_what_a_recording_says_is_cut_short_in_messages(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    call = read_recording(path).call
    for ending in (Ending(End.REFUSED, text="x" * 100_000), Ending(End.DIED, cause="x" * 100_000)):
        assert len(str(replay(rewritten(path, call=replace(call, ending=ending))))) < 10_000


def test_of_a_call_with_too_many_secrets_for_its_length_only_the_end_is_kept(
    supervisor: Supervisor, workspace: Workspace, recordings: Recordings
) -> None:
    workspace.grant(plugin_storage=["all"])
    calls = [ask("host_secret_set", {"key": f"k{n}", "value": f"{SECRET} {n}"}) for n in range(200)]
    supervisor.command(PROBE, "host_then", {"calls": calls, "then": "echo", "padding": "x" * (3 << 20)})
    (path,) = recordings()
    assert path.stat().st_size < 10_000
    assert SECRET.encode() not in path.read_bytes()
    with pytest.raises(InvalidArgument, match="too long to look for so many secrets"):
        replay(path)


def test_times_that_make_no_sense_do_no_harm(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    for seconds in (float("nan"), float("inf"), -1.0):
        assert replay(rewritten(path, patience_seconds=seconds, at=seconds)).is_same


def test_a_module_that_is_gone_or_was_changed_is_named(
    supervisor: Supervisor, recordings: Recordings, tmp_path: Path
) -> None:
    supervisor.command(PROBE, "echo", 1)
    (path,) = recordings()
    alone = Path(shutil.copy(path, tmp_path))
    with pytest.raises(InvalidArgument, match="name it with --module"):
        replay(alone)
    (module,) = (path.parent / MODULES).iterdir()
    assert replay(alone, module=module).is_same
    module.write_bytes(module.read_bytes() + b"\0")
    with pytest.raises(InvalidArgument, match="was changed"):
        replay(path)
    module.write_bytes(b"not wasm")
    with pytest.raises(LoadError):
        replay(path, module=module)


def test_a_replay_can_be_printed_as_json(supervisor: Supervisor, recordings: Recordings) -> None:
    supervisor.call(PROBE, "echo", b"\xff\x00")
    (path,) = recordings()
    replayed: Replayed = replay(path)
    facts = json.loads(json.dumps(replayed.to_json()))
    assert (facts["verdict"], facts["same"], facts["call"]) == ("same", True, "echo")
    assert decode(path.read_bytes()).call.data == b"\xff\x00"
