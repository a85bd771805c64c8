"""Extra instances stay warm for the next chain that would wait for itself, for a while, and cost nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Calls, Config

A, B = "test.a", "test.b"
FOR_EVER = 600.0


def back(command: str, params: Any = None) -> dict[str, Any]:
    """The params of ``call`` in A that go to B and back to A, to run ``command`` in another instance of A."""
    return {
        "plugin_id": B,
        "command": "call",
        "params": {"plugin_id": A, "command": command, "params": params},
    }


def come_back(supervisor: Supervisor, command: str = "count") -> Any:
    return supervisor.command(A, "call", back(command))["data"]


def pids(supervisor: Supervisor) -> tuple[int, ...]:
    return supervisor.plugins[A].status.worker_pids


@pytest.fixture
def both(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> Callable[..., Supervisor]:
    for plugin_id in (A, B):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])

    def start(**calls: Any) -> Supervisor:
        return supervise(config=Config(calls=Calls(**{"extra_idle": FOR_EVER} | calls)))

    return start


def test_the_next_chain_gets_the_instance_of_the_last_one_again(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    assert come_back(supervisor) == {"success": True, "data": 1}
    own, extra = pids(supervisor)
    assert come_back(supervisor) == {"success": True, "data": 2}
    assert pids(supervisor) == (own, extra)


def test_ordinary_calls_never_get_it(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    come_back(supervisor)
    assert [supervisor.command(A, "count") for _ in range(3)] == [1, 2, 3]
    assert come_back(supervisor)["data"] == 2
    assert supervisor.plugins[A].status.state == "ready"


def test_it_ends_when_its_time_is_over_and_is_told_so_before(
    plugins: PluginFolder, workspace: Workspace, both: Callable[..., Supervisor]
) -> None:
    supervisor = both(extra_idle=0.2)
    come_back(supervisor)
    wait_until(lambda: len(pids(supervisor)) == 1)
    request = {"function": "host_storage_get", "input": '{"key":"shutdown"}'}
    assert supervisor.command(A, "host", request)["answer"] == '{"data":"ZG9uZQ=="}'
    assert supervisor.plugins[A].status.restarts == 0


def test_warm_ones_leave_room_for_those_that_are_needed(both: Callable[..., Supervisor]) -> None:
    supervisor = both(max_extra_instances=1)
    for count in range(1, 6):
        assert come_back(supervisor) == {"success": True, "data": count}
    assert len(pids(supervisor)) == 2


def test_the_death_of_a_warm_one_is_noticed_and_costs_nothing(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    for _ in range(5):  # the intensity is 3
        assert come_back(supervisor) == {"success": True, "data": 1}
        own, extra = pids(supervisor)
        os.kill(extra, signal.SIGKILL)
        wait_until(lambda own=own: pids(supervisor) == (own,))
    assert supervisor.plugins[A].status.restarts == 0
    assert supervisor.plugins[A].status.last_failure is None


def test_one_that_is_lost_in_a_call_is_not_kept(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    assert come_back(supervisor, "trap")["success"] is False
    assert len(pids(supervisor)) == 1
    assert come_back(supervisor) == {"success": True, "data": 1}


def test_one_that_knows_an_older_configuration_serves_nobody(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    come_back(supervisor)
    own, extra = pids(supervisor)
    supervisor.set_config(A, {"colour": "blue"})
    wait_until(lambda: pids(supervisor) == (own,))
    life = come_back(supervisor, "events")["data"]
    assert [entry["input"] for entry in life if entry["export"] == "set_config"] == [{"colour": "blue"}]
    assert extra not in pids(supervisor)


def test_a_quarantined_plugin_has_no_instance_of_any_kind(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    come_back(supervisor)
    for _ in range(4):
        (own, *_) = wait_until(lambda: supervisor.plugins[A].status.state == "ready" and pids(supervisor))
        os.kill(own, signal.SIGKILL)
        wait_until(lambda own=own: own not in pids(supervisor))
    wait_until(lambda: supervisor.plugins[A].status.state == "quarantined" and not pids(supervisor))
    supervisor.reset(A)
    assert come_back(supervisor) == {"success": True, "data": 1}


def test_unloading_a_plugin_ends_its_warm_instances(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    come_back(supervisor)
    plugin = supervisor.plugins[A]
    assert len(plugin.status.worker_pids) == 2
    supervisor.unload(A)
    assert plugin.status.worker_pids == ()
