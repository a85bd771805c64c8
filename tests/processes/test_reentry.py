"""Plugins that call each other: A → B → A, too deep, too often, and from both ends at once.

Extra instances end at once here; test_warm_instances.py is about those that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import CallTimeout, Supervisor
from isoplug.supervisor.config import Calls, Config

A, B = "test.a", "test.b"


def chain_of(hops: int, last: str = "count", params: Any = None) -> dict[str, Any]:
    """The params of ``call`` in A that go B, A, B, ... ``hops`` times and run ``last`` at the end."""
    target = A if hops % 2 == 0 else B
    request: dict[str, Any] = {"plugin_id": target, "command": last, "params": params}
    for hop in range(hops - 1, 0, -1):
        request = {"plugin_id": A if hop % 2 == 0 else B, "command": "call", "params": request}
    return request


def innermost(answer: Any) -> Any:
    """Through the nested ``{"success": true, "data": ...}`` to the last answer of ``host_plugin_command``."""
    while isinstance(answer, dict) and answer.get("success") and isinstance(answer.get("data"), dict):
        answer = answer["data"]
    return answer


@pytest.fixture
def both(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> Callable[..., Supervisor]:
    for plugin_id in (A, B):
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])

    def start(**calls: Any) -> Supervisor:
        return supervise(config=Config(calls=Calls(**{"extra_idle": 0.0} | calls)))

    return start


def has_only_its_own_workers(supervisor: Supervisor) -> bool:
    return all(len(plugin.status.worker_pids) == 1 for plugin in supervisor.plugins.values())


def test_a_chain_that_comes_back_runs_on_another_instance(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    assert supervisor.command(A, "count") == 1
    answer = supervisor.command(A, "call", chain_of(2))
    assert innermost(answer) == {"success": True, "data": 1}  # a fresh instance counts from the beginning
    assert supervisor.command(A, "count") == 2  # and the first one never noticed
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_the_other_instance_was_configured_and_initialised(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(A, config={"colour": "blue"})
    plugins.add(B)
    workspace.grant(A, execute_commands=["all"]).grant(B, execute_commands=["all"])
    supervisor = supervise()
    answer = innermost(supervisor.command(A, "call", chain_of(2, "events")))
    assert [entry["export"] for entry in answer["data"]] == ["set_config", "init"]


def test_depth_8_is_reached_and_depth_9_is_not(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    assert innermost(supervisor.command(A, "call", chain_of(8)))["success"] is True
    refused = innermost(supervisor.command(A, "call", chain_of(9)))
    assert refused["success"] is False
    assert "depth limit exceeded (max 8)" in refused["error"]
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_a_configured_depth_is_exact(both: Callable[..., Supervisor]) -> None:
    supervisor = both(max_depth=1)
    assert innermost(supervisor.command(A, "call", chain_of(1)))["success"] is True
    assert "depth limit exceeded (max 1)" in innermost(supervisor.command(A, "call", chain_of(2)))["error"]


def test_more_extra_instances_than_allowed_are_refused_with_advice(both: Callable[..., Supervisor]) -> None:
    supervisor = both(max_extra_instances=1)
    assert innermost(supervisor.command(A, "call", chain_of(2)))["success"] is True
    refused = innermost(supervisor.command(A, "call", chain_of(4)))
    assert refused["success"] is False
    assert "max_extra_instances" in refused["error"]
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_the_whole_chain_shares_one_deadline(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    with pytest.raises(CallTimeout) as caught:
        supervisor.command(A, "call", chain_of(4, "spin"), timeout=2.0)
    assert caught.value.timeout_seconds == 2.0
    assert caught.value.plugin_id == A
    assert supervisor.call(A, "echo", b"a") == b"a"
    assert supervisor.call(B, "echo", b"b") == b"b"
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_a_crash_at_the_end_of_a_chain_is_an_answer_to_the_plugin_before_it(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    answer = innermost(supervisor.command(A, "call", chain_of(1, "segv")))
    assert answer["success"] is False
    assert "SIGSEGV" in answer["error"]
    assert supervisor.call(B, "echo", b"b") == b"b"
    assert supervisor.plugins[A].status.restarts == 0


def test_an_extra_instance_that_crashes_does_not_count_against_the_plugin(both: Callable[..., Supervisor]) -> None:
    supervisor = both()
    for _ in range(5):  # the intensity is 3
        answer = innermost(supervisor.command(A, "call", chain_of(2, "segv")))
        assert answer["success"] is False
    assert supervisor.call(A, "echo", b"a") == b"a"
    assert supervisor.plugins[A].status.restarts == 0
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_a_plugin_cannot_call_itself_through_the_host(both: Callable[..., Supervisor]) -> None:
    answer = both().command(A, "call", {"plugin_id": A, "command": "count"})
    assert answer["success"] is False


def test_opposite_chains_from_many_threads_do_not_deadlock(both: Callable[..., Supervisor]) -> None:
    supervisor = both(max_extra_instances=16)
    there = {"plugin_id": B, "command": "echo", "params": "there"}
    back = {"plugin_id": A, "command": "echo", "params": "back"}
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(supervisor.command, *((A, "call", there) if n % 2 else (B, "call", back)), timeout=60.0)
            for n in range(60)
        ]
        answers = [json.dumps(call.result()) for call in calls]
    assert set(answers) == {'{"success": true, "data": "there"}', '{"success": true, "data": "back"}'}
    wait_until(lambda: has_only_its_own_workers(supervisor))


def test_three_plugins_in_a_ring_from_every_side_do_not_deadlock(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    ring = ["test.p0", "test.p1", "test.p2"]
    for plugin_id in ring:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"])
    supervisor = supervise(config=Config(calls=Calls(extra_idle=0.0)))
    with ThreadPoolExecutor(6) as threads:
        calls = []
        for n in range(18):
            first, second, third = (ring[(n + step) % 3] for step in range(3))
            last = {"plugin_id": third, "command": "echo", "params": n}
            request = {"plugin_id": second, "command": "call", "params": last}
            calls.append(threads.submit(supervisor.command, first, "call", request, timeout=60.0))
        assert [innermost(call.result()) for call in calls] == [{"success": True, "data": n} for n in range(18)]
    wait_until(lambda: has_only_its_own_workers(supervisor))
