"""Every error can be told apart, carried between processes, and read by a person."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import isoplug.supervisor
from isoplug.shared import errors
from isoplug.shared.errors import PluginError

EXAMPLES: tuple[PluginError, ...] = (
    errors.PluginError("something happened to it; look at the log", plugin_id="a.b"),
    errors.SetupError("this does not work here; do that"),
    errors.InvalidArgument("this cannot be used; pass that"),
    errors.ServiceError("the disk is full; free some"),
    errors.SupervisorClosed("a.b"),
    errors.LoadError("cannot be loaded; build it again", plugin_id="a.b"),
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
    errors.WorkerCrashed("a.b", "killed by SIGKILL", signal=9),
    errors.CallTimeout("a.b", "command 'x'", 1.5, was_delivered=False),
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


def test_only_a_call_that_never_reached_a_worker_may_be_retried() -> None:
    assert [error for error in EXAMPLES if error.retryable] == [
        error for error in EXAMPLES if isinstance(error, errors.CallTimeout) and not error.was_delivered
    ]
    assert not errors.CallTimeout("a.b", "x", 1.0).retryable


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
