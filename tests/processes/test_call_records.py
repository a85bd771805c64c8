"""The caller always knows: what a call had done when it failed, what it was refused, and whether to make it again."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from bench import Bench, nothing_left_behind, open_bench
from conftest import PluginFolder, wait_until, wait_until_computing
from isoplug.supervisor import (
    CallCancelled,
    CallRecord,
    CallTimeout,
    Cancellation,
    CommandError,
    CrashReason,
    GuestTrap,
    HttpRequest,
    HttpResponse,
    InvalidArgument,
    Outcome,
    PermissionDenied,
    PluginError,
    PluginNotFound,
    PluginQuarantined,
    ServiceError,
    Supervisor,
    SupervisorClosed,
    WorkerCrashed,
)
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.config import Calls, Config, Restart
from isoplug.supervisor.egress import NothingDone

A, B = "test.a", "test.b"
MANY = Config(restart=Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0))


def everything() -> dict[str, Any]:
    """Rules that allow all but requests; new ones each time, since front matter has no aliases."""
    kinds = ("read_files", "create_files", "edit_files", "delete_files", "plugin_storage", "execute_commands")
    return {kind: ["all"] for kind in kinds}


class Client:
    """A host's HTTP client that does what the path says."""

    def send(self, caller: Caller, request: HttpRequest) -> HttpResponse:
        match request.url.rpartition("/")[2].partition("?")[0]:
            case "unreachable":
                raise NothingDone("no connection could be made")
            case "lost":
                raise ServiceError("it closed the connection before it had answered")
            case "broken":
                raise RuntimeError("a fault of the host's own")
            case "onward":
                return HttpResponse(302, (("Location", "https://elsewhere.example/lost"),))
            case "forbidden":
                return HttpResponse(302, (("Location", "https://forbidden.example/"),))
            case _:
                return HttpResponse(200)


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Any) -> Iterator[Bench]:
    http = ["host.example", "elsewhere.example"]
    with open_bench(
        tmp_path_factory.mktemp("bench"),
        guest_cache,
        (A, "probe"),
        (B, "probe"),
        arguments={"config": MANY, "http": Client()},
        a={**everything(), "http_requests": http},
        b=everything(),
    ) as bench:
        yield bench


def request(function: str, **payload: Any) -> dict[str, str]:
    return {"function": function, "input": json.dumps(payload)}


def write(path: str) -> dict[str, str]:
    return request("host_write_file", path=path, content="x")


def store(key: str) -> dict[str, str]:
    return request("host_storage_set", key=key, data="eA==")


def fetch(url: str, method: str = "GET") -> dict[str, str]:
    return request("host_http_request", url=url, method=method, headers={})


def nested(target: str, command: str, params: Any = None) -> dict[str, str]:
    return request("host_plugin_command", plugin_id=target, command=command, params=params)


def do(bench: Bench, *calls: dict[str, str], then: str = "", **options: Any) -> CallRecord:
    """The record of a command of A that makes these host calls, however it ends."""
    record = CallRecord()
    with suppress(PluginError):
        bench.supervisor.command(A, "host_then", {"calls": calls, "then": then}, record=record, **options)
    bench.supervisor.clear_poisoned(A)
    return record


def kinds(record: CallRecord) -> list[tuple[str, str, bool]]:
    return [(effect.kind, effect.target, effect.is_certain) for effect in record.effects]


# --- effects ------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_after_it_wrote_a_file_leaves_effects(bench: Bench) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        bench.supervisor.command(A, "host_then", {"calls": [write("a.md"), store("k"), store("l")], "then": "segv"})
    error = caught.value
    assert error.outcome is Outcome.EFFECTS
    assert not error.retryable
    assert error.reason is CrashReason.SIGNAL
    assert error.record is not None
    assert kinds(error.record) == [("file_written", "a.md", True), ("key_set", "k", True), ("key_set", "l", True)]
    assert [entry.result for entry in error.record.host_calls] == ["ok", "ok", "ok"]
    assert str(error).endswith("; by then it had written a.md and set 2 keys: look before you repeat it")


def test_a_worker_that_dies_after_it_only_read_leaves_none(bench: Bench) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        bench.supervisor.command(
            A, "host_then", {"calls": [request("host_read_file", path="README.md")], "then": "segv"}
        )
    assert caught.value.outcome is Outcome.NO_EFFECTS
    assert caught.value.retryable
    assert str(caught.value).endswith("; nothing had been done, so it may be repeated")


@pytest.mark.parametrize("then", ["trap", "spin", "segv", "fail", ""])
def test_the_record_is_the_same_however_the_call_ends(bench: Bench, then: str) -> None:
    assert bench.answers(A)  # also after a test that has cost it its worker
    timeout = {"timeout": 2.0} if then == "spin" else {}
    record = do(bench, write(f"{then}.md"), request("host_delete_file", path=f"{then}.md"), then=then, **timeout)
    assert kinds(record) == [("file_written", f"{then}.md", True), ("file_deleted", f"{then}.md", True)]
    assert record.attempts == 1


def test_what_certainly_did_not_happen_is_no_effect(bench: Bench) -> None:
    record = do(
        bench,
        request("host_delete_file", path="missing.md"),
        request("host_write_file", path="../outside.md", content="x"),
        request("host_write_file", path=7),
        request("host_storage_set", key="k", data="not base64"),
        fetch("https://host.example/unreachable"),
        fetch("ftp://host.example/"),
        then="segv",
    )
    assert record.outcome is Outcome.NO_EFFECTS
    assert all(entry.result.startswith("failed: ") for entry in record.host_calls)


@pytest.mark.parametrize(("path", "is_certain"), [("lost", False), ("broken", False), ("onward", True)])
def test_a_request_that_failed_on_its_way_may_have_arrived(bench: Bench, path: str, is_certain: bool) -> None:
    record = do(bench, fetch(f"https://user:hunter2@host.example/{path}?token=secret", "POST"))
    assert kinds(record) == []  # user info is refused
    assert "secret" not in repr(record.host_calls)
    assert "hunter2" not in repr(record.host_calls)
    record = do(bench, fetch(f"https://host.example/{path}?token=secret", "POST"))
    assert kinds(record) == [("request_sent", f"POST https://host.example/{path}", is_certain)]
    assert "secret" not in repr(record.effects) + repr(record.host_calls)


def test_a_redirect_chain_is_one_request_also_when_its_second_hop_is_refused(bench: Bench) -> None:
    record = do(bench, fetch("https://host.example/forbidden"))
    assert kinds(record) == [("request_sent", "GET https://host.example/forbidden", True)]
    assert [denial.permission for denial in record.denials] == ["http_requests"]


def test_an_answered_request_is_an_effect(bench: Bench) -> None:
    assert kinds(do(bench, fetch("https://host.example/x?q=1"))) == [
        ("request_sent", "GET https://host.example/x", True)
    ]


def test_secrets_are_named_and_not_shown(bench: Bench) -> None:
    record = do(bench, request("host_secret_set", key="pin", value="1234567"), request("host_secret_delete", key="pin"))
    assert kinds(record) == [("secret_set", "pin", True), ("secret_deleted", "pin", True)]
    assert "1234567" not in repr(vars(record))


def test_events_that_reach_the_host_and_namespace_writes_are_effects(bench: Bench) -> None:
    record = do(bench, request("host_emit_event", type="counted"), request("host_namespace_create", metadata=None))
    assert [(kind, certain) for kind, _, certain in kinds(record)] == [
        ("event_emitted", True),
        ("namespace_created", True),
    ]
    assert record.effects[0].target == "counted"


def test_log_lines_are_kept_apart_from_the_other_host_calls(bench: Bench) -> None:
    record = do(bench, request("host_log", level="warn", message="watch out"), then="trap")
    assert [(line.level, line.message) for line in record.log] == [("warn", "watch out")]
    assert record.host_calls == ()
    assert record.outcome is Outcome.NO_EFFECTS


def test_a_million_host_calls_leave_a_small_record(bench: Bench) -> None:
    record = CallRecord()
    calls = {"calls": [write("same.md"), request("host_read_file", path="x" * 5000)], "repeat": 600}
    bench.supervisor.call(A, "host_many", json.dumps(calls).encode(), record=record, timeout=200.0)
    assert record.effect_count == 600
    calls["repeat"] = 600
    record = CallRecord()
    bench.supervisor.call(A, "host_many", json.dumps({**calls, "repeat": 1100}).encode(), record=record, timeout=200.0)
    assert (record.effect_count, len(record.effects), len(record.host_calls)) == (1100, 1000, 20)
    assert max(len(entry.target) for entry in record.host_calls) <= 500


# --- nested commands ----------------------------------------------------------------------------------------------


def test_a_nested_command_that_was_answered_is_an_effect(bench: Bench) -> None:
    assert kinds(do(bench, nested(B, "count"))) == [("command_run", f"{B}:count", True)]


def test_a_nested_command_that_failed_in_good_order_is_perhaps_one(bench: Bench) -> None:
    record = do(bench, nested(B, "fail", {"message": "no", "error_code": "x"}))
    assert kinds(record) == [("command_run", f"{B}:fail", False)]


@pytest.mark.parametrize("command", ["trap", "segv"])
def test_a_nested_command_that_took_its_worker_along_is_none(bench: Bench, command: str) -> None:
    record = do(bench, nested(B, command))
    bench.supervisor.clear_poisoned(B)
    assert record.outcome is Outcome.NO_EFFECTS


def test_a_nested_command_whose_worker_died_after_effects_is_perhaps_one(bench: Bench) -> None:
    record = do(bench, nested(B, "host_then", {"calls": [store("k")], "then": "segv"}))
    bench.supervisor.clear_poisoned(B)
    assert kinds(record) == [("key_set", "k", True), ("command_run", f"{B}:host_then", False)]
    assert [effect.plugin_id for effect in record.effects] == [B, A]


def test_a_nested_command_that_was_not_delivered_is_none(bench: Bench) -> None:
    record = do(bench, nested(B, "no such command"), nested("test.nobody", "x"), nested(A, "count"))
    assert record.outcome is Outcome.NO_EFFECTS


# --- under way ----------------------------------------------------------------------------------------------------


class Stuck:
    def __init__(self) -> None:
        self.go_on = threading.Event()

    def get(self, plugin_id: str, key: str) -> bytes | None:
        self.go_on.wait()
        return None

    def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
        self.go_on.wait()


@pytest.mark.parametrize(
    ("call", "outcome"),
    [(store("k"), Outcome.EFFECTS), (request("host_storage_get", key="k"), Outcome.NO_EFFECTS)],
    ids=["set", "get"],
)
def test_what_a_call_was_doing_at_its_deadline_is_the_last_entry(
    plugins: PluginFolder, workspace: Any, supervise: Callable[..., Supervisor], call: dict[str, str], outcome: Outcome
) -> None:
    plugins.add(A)
    workspace.grant(A, plugin_storage=["all"])
    storage = Stuck()
    supervisor = supervise(storage=storage)
    try:
        with pytest.raises(CallTimeout) as caught:
            supervisor.command(A, "host_then", {"calls": [call]}, timeout=2.0)
        assert caught.value.outcome is outcome
        record = caught.value.record
        assert record is not None
        assert [(entry.target, entry.result) for entry in record.host_calls] == [("k", "under way")]
        assert kinds(record) == ([("key_set", "k", False)] if outcome is Outcome.EFFECTS else [])
    finally:
        storage.go_on.set()


# --- denials ------------------------------------------------------------------------------------------------------

DENIED = fetch("https://forbidden.example/")


def test_a_refusal_that_the_guest_passes_over_is_in_the_record(bench: Bench) -> None:
    record = do(bench, DENIED)
    (denial,) = record.denials
    assert (denial.plugin_id, denial.function, denial.permission) == (A, "host_http_request", "http_requests")
    assert denial.target == "forbidden.example"
    assert record.outcome is Outcome.NO_EFFECTS


def test_a_write_that_the_root_index_is_guarded_against_is_a_refusal(bench: Bench) -> None:
    with pytest.raises(PermissionDenied) as caught:
        bench.supervisor.command(
            A, "host_then", {"calls": [request("host_delete_file", path="README.md")]}, strict=True
        )
    assert (caught.value.permission, caught.value.target) == ("delete_files", "README.md")
    assert caught.value.outcome is Outcome.NO_EFFECTS


def test_a_file_has_one_name_in_records_however_it_is_spelled(bench: Bench) -> None:
    record = do(bench, write("spelled.md"), write("./spelled.md"), write(f"{bench.workspace.path}/spelled.md"))
    assert kinds(record) == [("file_written", "spelled.md", True)] * 3


def test_a_disk_that_fails_may_have_done_it_all_the_same(
    plugins: PluginFolder, workspace: Any, supervise: Callable[..., Supervisor]
) -> None:
    class Failing:
        def set(self, plugin_id: str, key: str, value: bytes, quota_bytes: int) -> None:
            number = errno.EIO if key == "broken" else errno.ENOSPC
            raise ServiceError("cannot be stored") from OSError(number, os.strerror(number))

    plugins.add(A)
    workspace.grant(A, plugin_storage=["all"])
    supervisor = supervise(storage=Failing())
    record = CallRecord()
    supervisor.command(A, "host_then", {"calls": [store("broken"), store("full")]}, record=record)
    assert kinds(record) == [("key_set", "broken", False)]


def test_strict_turns_the_first_refusal_into_an_error_and_lets_the_guest_finish(bench: Bench) -> None:
    record = CallRecord()
    with pytest.raises(PermissionDenied) as caught:
        bench.supervisor.command(A, "host_then", {"calls": [DENIED, write("after.md")]}, strict=True, record=record)
    assert (caught.value.permission, caught.value.target) == ("http_requests", "forbidden.example")
    assert caught.value.record is record
    assert kinds(record) == [("file_written", "after.md", True)]
    assert caught.value.outcome is Outcome.EFFECTS


@pytest.mark.parametrize(
    ("then", "cause"), [("trap", GuestTrap), ("segv", WorkerCrashed), ("spin", CallTimeout), ("fail", CommandError)]
)
def test_strict_says_the_refusal_first_and_the_end_as_its_cause(
    bench: Bench, then: str, cause: type[PluginError]
) -> None:
    assert bench.answers(A)
    timeout = 2.0 if then == "spin" else None
    with pytest.raises(PermissionDenied) as caught:
        bench.supervisor.command(A, "host_then", {"calls": [DENIED], "then": then}, strict=True, timeout=timeout)
    assert type(caught.value.__cause__) is cause
    bench.supervisor.clear_poisoned(A)


def test_strict_hears_of_refusals_in_nested_plugins(bench: Bench) -> None:
    with pytest.raises(PermissionDenied) as caught:
        bench.supervisor.command(A, "host_then", {"calls": [nested(B, "host_then", {"calls": [DENIED]})]}, strict=True)
    assert caught.value.plugin_id == B


def test_a_refusal_that_only_a_guest_speaks_of_is_no_denial(bench: Bench) -> None:
    record = CallRecord()
    claim = {"message": "I may not", "error_code": "permission_denied"}
    bench.supervisor.command(A, "host_then", {"calls": [nested(B, "fail", claim)]}, strict=True, record=record)
    assert record.denial_count == 0
    assert record.host_calls[-1].result == "failed: I may not"


@pytest.mark.parametrize(
    "url",
    [
        "host.example/x?key=hidden",
        "https:me:hidden@host.example/",
        "https:\\\\me:hidden@host.example",
        "https://a:hidden@b/",
    ],
)
def test_nothing_of_a_url_that_cannot_be_used_is_repeated(bench: Bench, url: str) -> None:
    record = do(bench, request("host_http_request", url=url, method="GET", headers={}))
    assert record.host_calls[-1].target == "GET (no usable URL)"
    assert "hidden" not in repr(record.host_calls)


def test_strict_leaves_a_call_without_refusals_alone(bench: Bench) -> None:
    assert bench.supervisor.command(A, "echo", 7, strict=True) == 7


# --- retries ------------------------------------------------------------------------------------------------------


def test_a_call_is_repeated_while_nothing_was_done(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    class KillsOnce:
        """A host whose plugin loses its worker over the first file that it asks for."""

        asked = 0

        def read(self, plugin_id: str, key: str) -> bytes | None:
            self.asked += 1
            if self.asked == 1:
                kill(supervisor.plugins[A].status.worker_pids[0])
            return b""

    plugins.add(A)
    files, record = KillsOnce(), CallRecord()
    supervisor = supervise(files=files)
    asks = {"calls": [request("host_request_file", key="k")]}
    supervisor.command(A, "host_then", asks, retries=3, record=record)
    assert record.attempts == files.asked == 2
    assert record.outcome is Outcome.NO_EFFECTS


def test_a_call_that_had_effects_is_not_repeated(bench: Bench) -> None:
    assert do(bench, write("once.md"), then="segv", retries=5).attempts == 1


def test_what_no_repetition_mends_is_not_repeated(bench: Bench) -> None:
    assert do(bench, then="trap", retries=5).attempts == 1
    assert do(bench, then="fail", retries=5).attempts == 1


def test_retries_end_at_the_deadline(bench: Bench) -> None:
    assert do(bench, then="spin", retries=5, timeout=0.3).attempts == 1


@pytest.mark.parametrize("retries", [-1, 101, True, 1.0, None])
def test_retries_have_to_be_a_small_number(bench: Bench, retries: Any) -> None:
    with pytest.raises(InvalidArgument, match="retries"):
        bench.supervisor.command(A, "echo", retries=retries)


def test_a_record_is_for_one_call(bench: Bench) -> None:
    record = CallRecord()
    bench.supervisor.command(A, "echo", record=record)
    with pytest.raises(InvalidArgument, match="record"):
        bench.supervisor.command(A, "echo", record=record)


# --- cancellation -------------------------------------------------------------------------------------------------


def test_a_cancelled_call_ends_and_costs_only_its_worker(bench: Bench) -> None:
    cancellation, record = Cancellation(), CallRecord()

    def cancel() -> None:
        wait_until_computing(bench.supervisor.plugins[A])
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CallCancelled) as caught:
        bench.supervisor.command(A, "spin", cancellation=cancellation, record=record, retries=3)
    thread.join()
    assert caught.value.record is record
    assert record.attempts == 1
    assert bench.answers(A)


def test_a_cancellation_that_was_used_before_lets_no_call_begin(bench: Bench) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    assert bench.answers(A)
    pids = bench.supervisor.plugins[A].status.worker_pids
    with pytest.raises(CallCancelled) as caught:
        bench.supervisor.command(A, "spin", cancellation=cancellation)
    assert caught.value.outcome is Outcome.NOT_DELIVERED
    assert bench.supervisor.plugins[A].status.worker_pids == pids


def test_a_cancellation_afterwards_changes_nothing(bench: Bench) -> None:
    cancellation = Cancellation()
    assert bench.answers(A)
    pids = bench.supervisor.plugins[A].status.worker_pids
    assert bench.supervisor.command(A, "echo", 1, cancellation=cancellation) == 1
    cancellation.cancel()
    assert bench.answers(A)
    assert bench.supervisor.plugins[A].status.worker_pids == pids


def test_a_cancellation_reaches_a_nested_command(bench: Bench) -> None:
    cancellation = Cancellation()

    def cancel() -> None:
        wait_until_computing(bench.supervisor.plugins[B])
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CallCancelled):
        bench.supervisor.command(
            A, "call", {"plugin_id": B, "command": "spin", "params": None}, cancellation=cancellation
        )
    thread.join()
    assert bench.answers(A)
    assert bench.answers(B)


def test_a_cancellation_ends_the_wait_before_a_retry(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(A)
    never = Restart(max_restarts=10, backoff_initial=60.0, backoff_max=60.0)
    supervisor = supervise(config=Config(calls=Calls(timeout=50.0), restart=never))
    for pid in supervisor.plugins[A].status.worker_pids:
        kill(pid)
    wait_until(lambda: supervisor.plugins[A].status.restarts == 1)
    wait_until(lambda: supervisor.plugins[A].status.state == "ready")
    cancellation, record = Cancellation(), CallRecord()

    def cancel() -> None:
        wait_until(lambda: supervisor.plugins[A].status.state == "backing_off")
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CallCancelled):
        supervisor.command(A, "segv", retries=5, cancellation=cancellation, record=record)
    thread.join()


# --- errors before and after --------------------------------------------------------------------------------------


def test_a_call_that_was_never_sent_says_so(bench: Bench) -> None:
    for plugin_id, command in (("test.nobody", "x"), (A, "no such command")):
        with pytest.raises(PluginError) as caught:
            bench.supervisor.command(plugin_id, command)
        assert caught.value.outcome is Outcome.NOT_DELIVERED
        assert caught.value.record is not None
    with pytest.raises(PluginNotFound):
        bench.supervisor.poisoned("test.nobody")


def test_a_quarantined_plugin_and_a_closed_supervisor_were_sent_nothing(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(A)
    supervisor = supervise(config=Config(restart=Restart(max_restarts=0)))
    with pytest.raises(WorkerCrashed):
        supervisor.command(A, "segv")
    with pytest.raises(PluginQuarantined) as quarantined:
        supervisor.command(A, "echo")
    supervisor.close()
    with pytest.raises(SupervisorClosed) as closed:
        supervisor.command(A, "echo")
    for caught in (quarantined, closed):
        assert caught.value.outcome is Outcome.NOT_DELIVERED
        assert caught.value.record is not None
        assert not caught.value.retryable


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
