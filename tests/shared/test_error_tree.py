"""Every error can be told apart, carried between processes, and read by a person."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import isoplug.supervisor
from isoplug.shared import errors
from isoplug.shared.errors import CrashReason, PluginError
from isoplug.shared.record import CallRecord, Outcome

EXAMPLES: tuple[PluginError, ...] = (
    errors.PluginError("something happened to it; look at the log", plugin_id="a.b"),
    errors.SetupError("this does not work here; do that"),
    errors.InvalidArgument("this cannot be used; pass that"),
    errors.ServiceError("the disk is full; free some"),
    errors.SupervisorClosed("a.b"),
    errors.LoadError("cannot be loaded; build it again", plugin_id="a.b"),
    errors.IntegrityError("is another module; install the right one", plugin_id="a.b"),
    errors.ProtocolMismatch("a.b", 7, 1, 1),
    errors.AppVersionTooOld("a.b", "9.0.0", "1.4.1"),
    errors.PluginNotFound("a.b", ("c.d", "e.f")),
    errors.CommandNotFound("a.b", "run", ("walk",)),
    errors.CommandError("a.b", "no", "nope"),
    errors.ConfigError("a.b", "not a JSON object; mend it"),
    errors.GuestTrap("a.b", "command 'x'", "unreachable"),
    errors.ResourceLimitExceeded("a.b", "the size in bytes", 9, 8, "send less"),
    errors.PermissionDenied("a.b", "may not; add a rule", permission="read_files", target="x.md"),
    errors.DepthLimitExceeded("a.b", 8),
    errors.PluginQuarantined("a.b", "killed by SIGKILL"),
    errors.PoisonedInput("a.b", "command 'x'", "abcd", "killed by SIGKILL"),
    errors.PluginBusy("a.b", 100),
    errors.WorkerCrashed("a.b", "killed by SIGKILL", reason=CrashReason.SIGNAL, signal=9),
    errors.WorkerLimitExceeded(
        "a.b",
        "killed by SIGABRT: out of memory",
        reason=CrashReason.OUT_OF_MEMORY,
        limit="the memory of the process in bytes",
        key="limits.process_memory",
        figure=9,
        bound=8,
    ),
    errors.CallTimeout("a.b", "command 'x'", 1.5),
    errors.CallCancelled("a.b", "command 'x'"),
)

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, PluginError)]


def test_every_class_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES} == set(CLASSES)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error: PluginError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.args == error.args


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_can_be_copied(error: PluginError) -> None:
    assert vars(copy.copy(error)) == vars(error)
    assert vars(copy.deepcopy(error)) == vars(error)


def test_a_pickled_error_keeps_its_notes() -> None:
    error = errors.DepthLimitExceeded("a.b", 8)
    error.add_note("while testing")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while testing"]


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [vars(kind).get("code") for kind in CLASSES]
    assert None not in codes
    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)


def test_every_error_says_what_happened_and_hides_nothing() -> None:
    for error in EXAMPLES:
        assert str(error) == error.message
        assert len(str(error)) > 1
        assert "None" not in str(error)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errors.SupervisorClosed(), "start a new Supervisor"),
        (errors.ProtocolMismatch("a.b", 7, 1, 1), "install a build"),
        (errors.AppVersionTooOld("a.b", "9.0.0", "1.4.1"), "update the application"),
        (errors.PluginNotFound("a.b", ("c.d",)), "loaded: c.d"),
        (errors.CommandNotFound("a.b", "run", ("walk",)), "it offers: walk"),
        (errors.PluginQuarantined("a.b", "x"), "reset('a.b')"),
        (errors.CallTimeout("a.b", "x", 1.0), "timeout"),
        (errors.DepthLimitExceeded("a.b", 8), "depth limit exceeded (max 8)"),
    ],
)
def test_the_message_says_what_to_do_next(error: PluginError, advice: str) -> None:
    assert advice in str(error)


def recorded(*effects: tuple[str, str], is_delivered: bool = True) -> CallRecord:
    record = CallRecord()
    record.delivery_count = int(is_delivered)
    for kind, target in effects:
        record.add_effect("a.b", kind, target)
    return record


def test_only_what_may_be_gone_the_next_time_is_retryable() -> None:
    assert {type(error) for error in EXAMPLES if error.retryable} == {
        errors.WorkerCrashed,
        errors.WorkerLimitExceeded,
        errors.CallTimeout,
        errors.PluginBusy,
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_nothing_is_retryable_once_something_was_changed(error: PluginError) -> None:
    error = copy.copy(error)
    error.settle(recorded(("file_written", "a.md")))
    assert error.outcome is Outcome.EFFECTS
    assert not error.retryable


def test_the_error_of_a_call_that_was_cut_short_says_what_it_leaves_behind() -> None:
    error = errors.CallTimeout("a.b", "command 'x'", 1.5)
    error.settle(recorded(("file_written", "a.md"), ("key_set", "one"), ("key_set", "two")))
    assert str(error) == f"{error.message}; by then it had written a.md and set 2 keys: look before you repeat it"
    error.settle(recorded())
    assert str(error) == f"{error.message}; nothing had been done, so it may be repeated"


def test_the_error_of_a_crash_says_where_its_report_is() -> None:
    error = errors.GuestTrap("a.b", "command 'x'", "unreachable")
    error.crash_report = "3f9c1a2b7d4e"
    assert str(error) == f"{error.message} (report: isoplug crashes show 3f9c1a2b7d4e)"
    error.settle(recorded(("file_written", "a.md")))
    assert str(error).startswith(f"{error.message} (report: isoplug crashes show 3f9c1a2b7d4e); by then it had")


@pytest.mark.parametrize(
    ("figure", "bound", "key", "text"),
    [
        (9, 8, "limits.output", "its size is 9, the limit is 8; see limits.output"),
        (None, 8, "limits.wasm_memory", "its size is over the limit of 8; see limits.wasm_memory"),
        (9, 8, None, "its size is 9, the limit is 8"),
        (None, None, None, "its size"),
    ],
)
def test_a_limit_is_named_with_its_key_and_its_figures(
    figure: int | None, bound: int | None, key: str | None, text: str
) -> None:
    assert str(errors.ResourceLimitExceeded("a.b", "its size", figure, bound, key=key)) == text


def test_a_limit_that_was_met_under_way_says_what_the_call_leaves_behind() -> None:
    for is_cut_short in (True, False):
        error = errors.ResourceLimitExceeded("a.b", "its size", 9, 8, is_cut_short=is_cut_short)
        error.settle(recorded(("file_written", "a.md")))
        assert ("by then it had written a.md" in str(error)) is is_cut_short


def test_a_worker_that_died_of_a_limit_has_crashed_and_exceeded_it() -> None:
    (error,) = (error for error in EXAMPLES if isinstance(error, errors.WorkerLimitExceeded))
    assert isinstance(error, errors.WorkerCrashed)
    assert isinstance(error, errors.ResourceLimitExceeded)
    assert str(error) == "the worker of plugin 'a.b' died: killed by SIGABRT: out of memory"
    assert (error.key, error.figure, error.bound) == ("limits.process_memory", 9, 8)


def test_the_error_of_a_call_that_ended_in_good_order_says_only_what_the_guest_said() -> None:
    error = errors.CommandError("a.b", "no")
    error.settle(recorded(("file_written", "a.md")))
    assert str(error) == "no"


def test_an_error_takes_its_record_along_when_it_is_pickled() -> None:
    error = errors.WorkerCrashed("a.b", "killed by SIGKILL", reason=CrashReason.SIGNAL, signal=9)
    record = recorded(("file_written", "a.md"))
    record.add_host_call("a.b", "host_write_file", "a.md", "ok")
    record.add_denial("a.b", "host_read_file", "read_files", "b.md", "no")
    record.add_log_line("a.b", "info", "hello")
    error.settle(record)
    again = pickle.loads(pickle.dumps(error)).record
    for part in ("effects", "host_calls", "denials", "log", "outcome"):
        assert getattr(again, part) == getattr(record, part)


@pytest.mark.parametrize(
    ("signal", "exit_code", "text"),
    [
        (9, None, "killed by SIGKILL"),
        (200, None, "killed by signal 200"),
        (None, 3, "exited with code 3"),
        (None, 0, "exited with code 0"),
        (None, None, "exit status unknown"),
    ],
)
def test_how_a_worker_ended_is_told_in_words(signal: int | None, exit_code: int | None, text: str) -> None:
    assert errors.WorkerCrashed.describe(signal, exit_code) == text


def test_hosts_can_import_every_error_from_the_supervisor() -> None:
    assert set(errors.__all__) <= set(isoplug.supervisor.__all__) | {"ServiceError", "InvalidArgument"}
