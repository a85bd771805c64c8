"""A guest fails within its sandbox, or meets a bound: a typed error, a fresh worker, no quarantine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import PluginFolder, wait_until
from isoplug.supervisor import CommandError, GuestTrap, PluginError, ResourceLimitExceeded, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Limits

PROBE = "test.probe"
MIB = 1 << 20


@pytest.fixture
def supervisor(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Supervisor:
    plugins.add()
    limits = Limits(wasm_memory=32 * MIB, process_memory=160 * MIB, frame=1 * MIB)
    return supervise(config=Config(limits=limits))


def is_replaced(supervisor: Supervisor, pids: tuple[int, ...]) -> bool:
    assert supervisor.call(PROBE, "echo", b"next") == b"next"
    return supervisor.plugins[PROBE].status.worker_pids != pids


@pytest.mark.parametrize("command", ["trap", "recurse"])
def test_a_trap_is_a_guest_trap_and_its_worker_is_replaced(supervisor: Supervisor, command: str) -> None:
    supervisor.command(PROBE, "count")
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(GuestTrap) as caught:
        supervisor.command(PROBE, command)
    assert command in str(caught.value)
    assert is_replaced(supervisor, pids)
    assert supervisor.command(PROBE, "count") == 1  # nothing of the old instance is left


@pytest.mark.parametrize("command", ["allocate", "alloc_kernel"])
def test_memory_without_end_is_stopped_at_the_limit(supervisor: Supervisor, command: str) -> None:
    try:
        granted_bytes = supervisor.command(PROBE, command)
    except PluginError as error:
        assert isinstance(error, (GuestTrap, ResourceLimitExceeded)), repr(error)  # noqa: PT017
    else:
        assert 8 * MIB <= granted_bytes <= 160 * MIB
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


def test_traps_never_quarantine(supervisor: Supervisor) -> None:
    for _ in range(8):  # the intensity is 3
        with pytest.raises(GuestTrap):
            supervisor.command(PROBE, "trap")
    status = supervisor.plugins[PROBE].status
    assert status.state != "quarantined"
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_an_error_that_the_guest_reports_keeps_the_worker(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "count") == 1
    for export in ("raw_fail", "no_such_export"):
        with pytest.raises(PluginError):
            supervisor.call(PROBE, export, b"no")
    with pytest.raises(PluginError):
        supervisor.command(PROBE, "garbage")
    assert supervisor.command(PROBE, "count") == 2


def test_an_error_of_the_rust_sdk_keeps_the_worker(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "count") == 1
    with pytest.raises(CommandError) as caught:
        supervisor.call(PROBE, "raw_fail_as_rust", b"no such note")
    assert str(caught.value) == "no such note"
    assert supervisor.command(PROBE, "count") == 2


@pytest.mark.parametrize("text", [b"harmless", b"", b"call to f returned with error message: "])
def test_an_error_that_was_set_before_a_trap_does_not_hide_it(supervisor: Supervisor, text: bytes) -> None:
    supervisor.command(PROBE, "count")
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(GuestTrap):
        supervisor.call(PROBE, "fail_then_trap", text)
    assert is_replaced(supervisor, pids)


@pytest.mark.parametrize(
    ("command", "trap"), [("trap", "wasm `unreachable` instruction executed"), ("recurse", "call stack exhausted")]
)
def test_a_guest_trap_says_which_trap_it_was(supervisor: Supervisor, command: str, trap: str) -> None:
    with pytest.raises(GuestTrap) as caught:
        supervisor.command(PROBE, command)
    assert caught.value.trap.startswith(f"wasm trap: {trap}\n")
    assert trap in str(supervisor.plugins[PROBE].status.last_failure)


def test_an_output_over_the_frame_limit_is_a_resource_limit(supervisor: Supervisor) -> None:
    supervisor.command(PROBE, "count")
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(ResourceLimitExceeded):
        supervisor.command(PROBE, "big", {"bytes": 2 * MIB})
    assert is_replaced(supervisor, pids)


def test_an_output_just_under_the_frame_limit_arrives(supervisor: Supervisor) -> None:
    assert len(supervisor.command(PROBE, "big", {"bytes": MIB - 200})) == MIB - 200


def test_an_output_with_wrapped_bounds_is_a_resource_limit(supervisor: Supervisor) -> None:
    with pytest.raises(ResourceLimitExceeded):
        supervisor.call(PROBE, "bad_output")
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


def test_an_input_over_the_frame_limit_is_refused_and_costs_nothing(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "count") == 1
    with pytest.raises(ResourceLimitExceeded) as caught:
        supervisor.call(PROBE, "echo", bytes(MIB + 1))
    assert (caught.value.figure, caught.value.bound) == (MIB + 1, MIB)
    assert supervisor.command(PROBE, "count") == 2


def test_an_input_of_exactly_the_frame_limit_arrives(supervisor: Supervisor) -> None:
    assert supervisor.call(PROBE, "echo", bytes(MIB)) == bytes(MIB)


def test_a_crash_counts_and_a_trap_does_not(supervisor: Supervisor) -> None:
    plugin = supervisor.plugins[PROBE]
    with pytest.raises(GuestTrap):
        supervisor.command(PROBE, "trap")
    wait_until(lambda: plugin.status.state == "ready")
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    wait_until(lambda: plugin.status.state == "ready")  # the first that counts: no back-off
    with pytest.raises(WorkerCrashed):
        supervisor.command(PROBE, "segv")
    assert plugin.status.state in ("backing_off", "starting", "ready")
    assert plugin.status.restarts >= 2
