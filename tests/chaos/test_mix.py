"""Every fault there is, mixed at random by a seed, over several plugins and callers, as ``isoplug chaos`` does it.

    ISOPLUG_FAULTS=20000 python -m pytest tests/chaos/test_mix.py -s

has so many strike, by default a few hundred. They are the same ones each time, so that what is found does not depend on
the day; another ``ISOPLUG_CHAOS_SEED`` looks elsewhere.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor.chaos import Plan, Report, Rule, fault_named, fault_names
from isoplug.supervisor.chaos.load import Operation
from isoplug.supervisor.chaos.run import Settings, run
from isoplug.supervisor.chaos.shrink import shrink

PROBES = ("test.a", "test.b", "test.c")
TALLY = "test.tally"
#: That are to strike, at least.
FAULTS = int(os.environ.get("ISOPLUG_FAULTS", "400"))
SEED = int(os.environ.get("ISOPLUG_CHAOS_SEED", "1"))
CALLERS = 4
#: Steps of one run; there are as many runs as it takes.
CALLS = 400
#: Of each fault, for each call or host call: about every second step is struck.
PROBABILITY = 0.02

pytestmark = pytest.mark.timeout(120 + FAULTS)


def load(plugin_id: str, other: str) -> list[Operation]:
    """What is done to a probe: it keeps things, finds them again, asks another one, fails."""

    def host(function: str, **payload: Any) -> dict[str, str]:
        return {"function": function, "input": json.dumps(payload)}

    name = plugin_id.rpartition(".")[2]
    write = [
        [
            host("host_storage_get", key="state"),
            host("host_storage_set", key="state", data=data),
            host("host_write_file", path=f"{name}/{data}.md", content=data),
        ]
        for data in ("eA==", "eQ==")
    ]
    read = [host("host_storage_get", key="state"), host("host_list_files", prefix=f"{name}/")]
    emit = [host("host_emit_event", type="noted", by=plugin_id)]
    params = [("host_then", {"calls": calls}) for calls in (*write, read, emit)]
    nested = {"plugin_id": other, "command": "echo", "params": plugin_id}
    params += [("echo", {"n": 1}), ("call", nested), ("fail", {"message": "no", "error_code": "no"})]
    return [Operation("command", plugin_id, command, given) for command, given in params]


def operations(plugins: PluginFolder, workspace: Workspace, tally: str = "tally") -> tuple[Operation, ...]:
    """With the plugins for them; ``tally`` is the variant of the one that counts."""
    granted = ("read_files", "create_files", "edit_files", "execute_commands", "plugin_storage")
    for plugin_id in (*PROBES, TALLY):
        plugins.add(plugin_id, variant=tally if plugin_id == TALLY else "probe")
        workspace.grant(plugin_id, **{name: ["all"] for name in granted})
    commands = [operation for n, plugin_id in enumerate(PROBES) for operation in load(plugin_id, PROBES[n - 1])]
    commands += [Operation("command", TALLY, command) for command in ("add", "total", "events") for _ in range(3)]
    events = [Operation("event", "", "file_saved", {"path": path}) for path in ("a.md", "b.md")]
    return (*commands, *events)


def mixed(seed: int) -> Plan:
    return Plan(tuple(Rule(fault_named(name), probability=PROBABILITY) for name in fault_names()), seed)


def test_a_mix_of_all_faults_breaks_no_promise(plugins: PluginFolder, workspace: Workspace) -> None:
    what, seed, struck = operations(plugins, workspace), SEED, Counter[str]()
    while struck.total() < FAULTS:
        settings = Settings(plugins.path, workspace.path, mixed(seed), what, callers=CALLERS, calls=CALLS)
        report = run(settings)
        struck += Counter(injection.fault.name for injection in report.injections)
        print(f"seed {seed}: {len(report.injections)} faults in {report.seconds:.0f} s, {struck.total()} of {FAULTS}")
        if report.broken:
            print(what_broke(report))  # now: shrinking takes its time
            smallest = shrink(settings, report).smallest
            pytest.fail(f"{what_broke(report)}\nthe smallest: {smallest and smallest.to_toml()}", pytrace=False)
        seed += 1
    print(dict(sorted(struck.items())))


def test_the_mix_finds_a_plugin_that_loses_its_state_on_restart(plugins: PluginFolder, workspace: Workspace) -> None:
    """So many faults do not hide what they are there to show. With this seed, since others may strike elsewhere."""
    what = operations(plugins, workspace, "tally_keeps_in_memory")
    report = run(Settings(plugins.path, workspace.path, mixed(5), what, callers=CALLERS, calls=CALLS // 2))
    assert [promise.name for promise in report.broken] == ["same-answers"]
    assert TALLY in str(report.broken[0].broken)


def what_broke(report: Report) -> str:
    promises = "\n".join(f"{one.name}: {one.broken}" for one in report.broken)
    repeat = f"ISOPLUG_CHAOS_SEED={report.plan.seed} python -m pytest tests/chaos/test_mix.py"
    return f"{promises}\n{report.plan.to_toml()}\n{repeat}"
