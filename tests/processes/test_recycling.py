"""Workers that are fine are replaced after so many calls, at an age, or at a size; nobody who calls notices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import PluginFolder, wait_until
from faults import workers
from isoplug.supervisor import Plugin, Supervisor
from isoplug.supervisor.config import Calls, Config, Recycle, Restart

PROBE = "test.probe"
MIB = 1 << 20


def is_replaced(plugin: Plugin, pids: tuple[int, ...]) -> bool:
    """There is another worker, and it is the only one."""
    now = plugin.status.worker_pids
    return len(now) == 1 and now != pids


def counts_of_workers(supervisor: Supervisor, workers: int) -> list[list[int]]:
    """The answers of ``count``, a list for each worker, until so many were replaced."""
    counts: list[list[int]] = [[]]
    while len(counts) <= workers:
        answer = supervisor.command(PROBE, "count")
        if answer == 1 and counts[-1]:
            counts.append([])
        counts[-1].append(answer)
    return counts[:-1]


@pytest.fixture
def wasm(plugins: PluginFolder) -> Path:
    return plugins.add(PROBE)


@pytest.fixture
def recycling(wasm: Path, supervise: Callable[..., Supervisor]) -> Callable[..., Supervisor]:
    def start(bounds: dict[str, Any], **sections: Any) -> Supervisor:
        return supervise(config=Config(recycle=Recycle(**bounds), **sections))

    return start


def test_after_so_many_calls_the_next_worker_takes_over_and_no_call_fails(
    recycling: Callable[..., Supervisor],
) -> None:
    supervisor = recycling({"calls": 3})
    plugin = supervisor.plugins[PROBE]
    for answers in counts_of_workers(supervisor, 3):
        assert answers == list(range(1, len(answers) + 1))
        assert len(answers) >= 3  # and more while the successor is being started
    assert plugin.status.restarts == 0
    assert plugin.status.last_failure is None
    assert plugin.status.failures == 0


def test_no_bound_means_never(recycling: Callable[..., Supervisor]) -> None:
    supervisor = recycling({})
    assert [supervisor.command(PROBE, "count") for _ in range(50)] == list(range(1, 51))


def test_the_old_worker_gets_shutdown_and_the_new_one_its_configuration_and_init(
    wasm: Path, recycling: Callable[..., Supervisor]
) -> None:
    wasm.with_name("config.json").write_text('{"colour": "blue"}')
    supervisor = recycling({"calls": 1})
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    supervisor.call(PROBE, "echo", b"x")
    wait_until(lambda: is_replaced(plugin, pids))
    life = supervisor.command(PROBE, "events")
    assert [entry["export"] for entry in life] == ["set_config", "init"]
    request = {"function": "host_storage_get", "input": '{"key":"shutdown"}'}
    assert supervisor.command(PROBE, "host", request)["answer"] == '{"data":"ZG9uZQ=="}'


def test_an_old_worker_is_replaced_while_nobody_calls(recycling: Callable[..., Supervisor]) -> None:
    supervisor = recycling({"age": 0.3})
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    wait_until(lambda: is_replaced(plugin, pids))
    assert plugin.status.restarts == 0


def test_a_worker_that_has_grown_is_replaced(recycling: Callable[..., Supervisor]) -> None:
    supervisor = recycling({"memory": 100 * MIB})
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    assert plugin.status.rss_bytes < 100 * MIB
    big = bytes(30 * MIB)
    assert supervisor.call(PROBE, "echo", big) == big
    wait_until(lambda: is_replaced(plugin, pids))
    assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_plugins_own_bound_counts_for_it_alone(
    plugins: PluginFolder, wasm: Path, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add("test.other")
    supervisor = supervise(config=Config(recycle=Recycle(calls=2), plugins={"test.other": {"recycle": {"calls": 0}}}))
    assert [supervisor.command("test.other", "count") for _ in range(30)] == list(range(1, 31))
    assert counts_of_workers(supervisor, 1)


def test_under_load_from_many_threads_no_call_is_lost(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE, variant="probe_stateless")
    sections = {PROBE: {"workers": 2, "recycle": {"calls": 20}}}
    supervisor = supervise(config=Config(plugins=sections))
    plugin = supervisor.plugins[PROBE]
    first = set(wait_until(lambda: len(plugin.status.worker_pids) == 2 and plugin.status.worker_pids))
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda n: supervisor.call(PROBE, "echo", b"%d" % n), range(400)))
    assert answers == [b"%d" % n for n in range(400)]

    def calls_on_until_both_are_gone() -> bool:  # one of them may have had fewer than twenty until here
        assert supervisor.call(PROBE, "echo", b"x") == b"x"
        return not first & set(plugin.status.worker_pids)

    wait_until(calls_on_until_both_are_gone)
    assert plugin.status.failures == plugin.status.restarts == 0


def test_a_worker_serves_on_when_its_successor_does_not_start(wasm: Path, recycling: Callable[..., Supervisor]) -> None:
    supervisor = recycling({"calls": 2}, restart=Restart(backoff_initial=600.0, backoff_max=600.0))
    plugin = supervisor.plugins[PROBE]
    wasm.with_name("config.json").write_text('{"init": "trap"}')
    assert [supervisor.command(PROBE, "count") for _ in range(2)] == [1, 2]
    wait_until(lambda: plugin.status.last_failure)
    assert [supervisor.command(PROBE, "count") for _ in range(10)] == list(range(3, 13))
    assert plugin.status.state == "ready"
    pids = plugin.status.worker_pids
    wasm.with_name("config.json").unlink()
    supervisor.reset(PROBE)  # ends the back-off
    wait_until(lambda: is_replaced(plugin, pids))


def test_goodbyes_that_never_end_hold_up_no_call_and_do_not_pile_up(
    wasm: Path, recycling: Callable[..., Supervisor]
) -> None:
    wasm.with_name("config.json").write_text('{"shutdown": "spin"}')
    supervisor = recycling({"calls": 1}, calls=Calls(shutdown_timeout=60.0))
    replaced = 0
    while replaced < 15:
        replaced += supervisor.command(PROBE, "count") == 1
    assert len(workers()) < 15
    supervisor.close(timeout=0.1)
    assert psutil.Process().children(recursive=True) == []


def test_closing_in_the_midst_of_it_leaves_nothing(wasm: Path, recycling: Callable[..., Supervisor]) -> None:
    for number in range(5):
        supervisor = recycling({"calls": 1 + number % 2, "age": 0.05}, calls=Calls(shutdown_timeout=0.5))
        for _ in range(5):
            supervisor.call(PROBE, "echo", b"x")
        supervisor.close()
        assert psutil.Process().children(recursive=True) == []
