"""A guest comes to a limit of its configuration: the error names it and the figures, the worker is replaced, the plugin
is not blamed as for a crash, and other plugins notice nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import WAIT_SECONDS, PluginFolder, wait_until
from isoplug.supervisor import (
    CrashReason,
    LoadError,
    Outcome,
    ResourceLimitExceeded,
    Supervisor,
    WorkerLimitExceeded,
)
from isoplug.supervisor.config import Config, Limits, OwnPlugin, Restart
from isoplug.supervisor.config.model import OwnLimits
from isoplug.supervisor.pool import Launcher
from isoplug.supervisor.pool.worker import WorkerProcess

PROBE, OTHER = "test.probe", "test.other"
MIB = 1 << 20
#: What counts as a crash would quarantine the plugin at once.
NONE = Restart(max_restarts=0)

Start = Callable[..., Supervisor]


@pytest.fixture
def start(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> Start:
    def start(**limits: Any) -> Supervisor:
        plugins.add(PROBE)
        return supervise(config=Config(restart=NONE, limits=Limits(**limits)))

    return start


def exceeded(supervisor: Supervisor, command: str, params: Any = None, **call: Any) -> ResourceLimitExceeded:
    """What comes of the command; afterwards the plugin serves on, with another worker."""
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(ResourceLimitExceeded) as caught:
        supervisor.command(PROBE, command, params, **call)
    assert supervisor.call(PROBE, "echo", b"next") == b"next"
    assert supervisor.plugins[PROBE].status.worker_pids != pids
    assert supervisor.plugins[PROBE].status.state in ("ready", "busy")
    return caught.value


def in_one_second(supervisor: Supervisor) -> Supervisor:
    """For the rates of the worker that there is, no time passes: a busy machine may be too slow for a flood."""
    (member,) = supervisor.plugins[PROBE].pool._crew.members
    member.worker.budget._now = lambda: 0.0
    return supervisor


def test_cpu_time_of_a_call_is_bounded(start: Start) -> None:
    error = exceeded(start(cpu_per_call=0.3), "spin")
    assert (error.key, error.bound) == ("limits.cpu_per_call", 300)
    assert error.figure is not None
    assert 300 < error.figure < 30_000  # it spins on until somebody looks at the clock
    assert str(error).startswith(f"plugin {PROBE!r}, command 'spin': the CPU time of the call in milliseconds is ")
    assert error.message.endswith("the limit is 300; see limits.cpu_per_call")
    assert error.outcome is Outcome.NO_EFFECTS


def test_cpu_time_of_a_call_counts_also_between_host_calls(start: Start) -> None:
    error = exceeded(start(cpu_per_call=0.3, host_calls_per_call=0), "spin_host")
    assert error.key == "limits.cpu_per_call"


def test_waiting_is_not_cpu_time_and_each_call_begins_anew(start: Start) -> None:
    supervisor = start(cpu_per_call=0.3)
    pids = supervisor.plugins[PROBE].status.worker_pids
    for _ in range(4):
        supervisor.command(PROBE, "busy", {"milliseconds": 100})
    assert supervisor.plugins[PROBE].status.worker_pids == pids


@pytest.mark.parametrize(
    ("limits", "command", "key", "bound"),
    [
        ({"log_lines_per_second": 50}, "log_flood", "limits.log_lines_per_second", 50),
        ({"host_calls_per_second": 50}, "spin_host", "limits.host_calls_per_second", 50),
        ({"host_calls_per_call": 500}, "spin_host", "limits.host_calls_per_call", 500),
        ({"host_calls_per_call": 500, "log_lines_per_second": 0}, "log_flood", "limits.host_calls_per_call", 500),
    ],
)
def test_floods_of_host_calls_are_stopped(
    start: Start, limits: dict[str, int], command: str, key: str, bound: int
) -> None:
    error = exceeded(in_one_second(start(**limits)), command)
    assert (error.key, error.figure, error.bound) == (key, bound + 1, bound)
    assert len(error.record.log if command == "log_flood" and error.record else ()) <= 20


@pytest.mark.parametrize("command", ["spin_host", "log_flood"])
def test_the_defaults_stop_a_flood(start: Start, command: str) -> None:
    limits = {"host_calls_per_call": 20_000} if command == "spin_host" else {}
    key = "limits.host_calls_per_call" if command == "spin_host" else "limits.log_lines_per_second"
    assert exceeded(in_one_second(start(**limits)), command, timeout=200.0).key == key


def test_an_answer_is_bounded(start: Start) -> None:
    supervisor = start(output=64 << 10)
    assert len(supervisor.command(PROBE, "big", {"bytes": 60_000})) == 60_000
    error = exceeded(supervisor, "big", {"bytes": 100_000})
    assert (error.key, error.bound) == ("limits.output", 64 << 10)
    assert error.figure is not None
    assert error.figure > 100_000


def test_memory_of_a_guest_is_bounded(start: Start) -> None:
    error = exceeded(start(wasm_memory=16 * MIB, process_memory=512 * MIB), "alloc_kernel")
    assert (error.key, error.figure, error.bound) == ("limits.wasm_memory", None, 16 * MIB)
    assert "is over the limit of 16777216; see limits.wasm_memory" in str(error)


def test_what_a_call_had_done_before_it_came_to_a_limit_is_told(start: Start) -> None:
    supervisor = start(host_calls_per_call=1, output=1 << 10)
    stored = {"function": "host_storage_set", "input": json.dumps({"key": "k", "data": "YQ=="})}
    error = exceeded(supervisor, "host_then", {"calls": [stored, stored]})
    assert error.outcome is Outcome.EFFECTS
    assert "by then it had set k: look before you repeat it" in str(error)


def test_limits_that_were_met_never_quarantine(start: Start) -> None:
    supervisor = start(log_lines_per_second=10, output=64 << 10)
    for _ in range(3):
        exceeded(supervisor, "log_flood")
        exceeded(supervisor, "big", {"bytes": 100_000})


def test_the_cpu_time_of_a_worker_s_life_is_bounded_and_no_input_is_blamed_for_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the process that forked it knows the figure, and on a busy machine it may take its time to tell.
    monkeypatch.setattr(WorkerProcess.exit_status, "__defaults__", (WAIT_SECONDS,))
    plugins.add(PROBE)
    supervisor = supervise(config=Config(restart=NONE, limits=Limits(cpu_total=1.0)))
    for _ in range(2):
        with pytest.raises(WorkerLimitExceeded) as caught:
            supervisor.command(PROBE, "spin")
    error = caught.value
    assert (error.reason, error.key, error.bound) == (CrashReason.CPU_TIME, "limits.cpu_total", 1)
    assert error.figure in (1, 2)
    assert "out of CPU time" in str(error)
    assert not supervisor.poisoned()
    assert supervisor.call(PROBE, "echo", b"next") == b"next"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a plugin a user id of its own")
def test_the_kernel_counts_the_processes_of_a_plugin_that_has_a_user_id_of_its_own(start: Start) -> None:
    supervisor = start(processes=77)
    (pid,) = supervisor.plugins[PROBE].status.worker_pids
    if psutil.Process(pid).uids().real == 0:
        pytest.skip("this machine gives it none")
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "Max processes" in line]
    assert line.split()[2:4] == ["77", "77"]


# --- limits of one plugin ---------------------------------------------------------------------------------------------


def own(**limits: Any) -> OwnPlugin:
    return OwnPlugin(limits=OwnLimits(**limits))


def test_a_plugin_has_limits_of_its_own_and_its_neighbour_has_the_general_ones(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    plugins.add(OTHER)
    config = Config(restart=NONE, plugins={PROBE: own(output=1 << 10, wasm_memory=8 * MIB)})
    supervisor = supervise(config=config)
    assert exceeded(supervisor, "big", {"bytes": 2_000}).bound == 1 << 10
    assert len(supervisor.command(OTHER, "big", {"bytes": 2_000})) == 2_000
    for plugin_id, bound in ((PROBE, 8 * MIB), (OTHER, 256 * MIB)):
        with pytest.raises(ResourceLimitExceeded) as caught:
            supervisor.command(plugin_id, "allocate")
        assert (caught.value.key, caught.value.bound) == ("limits.wasm_memory", bound)


def test_the_limits_are_those_of_the_id_that_the_plugin_has_whatever_its_folder_is_called(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    """The first worker is started with the limits of the folder's name, for nothing else is known by then."""
    plugins.add(PROBE, folder="innocent")
    config = Config(restart=NONE, plugins={PROBE: own(output=1 << 10), "innocent": own(output=1 * MIB)})
    supervisor = supervise(config=config)
    assert not supervisor.load_errors
    assert exceeded(supervisor, "big", {"bytes": 2_000}).bound == 1 << 10


def test_the_cached_manifest_says_which_limits_to_start_with(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.add(PROBE, folder="innocent")
    config = Config(restart=NONE, plugins={PROBE: own(output=1 << 10)})
    launches: list[int] = []
    launch = Launcher.launch

    def counted(launcher: Launcher, template: Any, deadline: Any) -> Any:
        launches.append(template.limits.output)
        return launch(launcher, template, deadline)

    monkeypatch.setattr(Launcher, "launch", counted)
    supervise(config=config).close()
    assert launches == [32 * MIB, 1 << 10]
    supervise(config=config).close()
    assert launches[2:] == [1 << 10]


def test_a_plugin_that_changes_its_id_to_get_other_limits_is_refused(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.fickle", variant="fickle")
    supervisor = supervise(config=Config(plugins={"test.fickle": own(output=1 << 10)}))
    error = supervisor.load_errors["test.fickle"]
    assert isinstance(error, LoadError)
    assert "it must have one id" in str(error)


# --- idle workers -----------------------------------------------------------------------------------------------------


def test_an_idle_worker_that_rests_is_left_alone(start: Start) -> None:
    supervisor = start()
    pids = supervisor.plugins[PROBE].status.worker_pids
    for size in (1, MIB, 20 * MIB):
        supervisor.call(PROBE, "echo", bytes(size))
    keeper, pool = supervisor._loader._keeper, supervisor.plugins[PROBE].pool
    keeper.visit(pool)
    wait_until(lambda: keeper._visits.get(pool))  # it has been there, and has said when it comes again
    assert supervisor.plugins[PROBE].status.worker_pids == pids
