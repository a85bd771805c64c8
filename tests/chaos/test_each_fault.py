"""Each fault alone, against a real plugin: a call is answered rightly or ends as the fault says, the fault has its
effect, the plugin answers afterwards, and the same plan and seed give the same run again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from conftest import PluginFolder, Workspace
from faults import templates_of, workers_of, zygotes
from isoplug.supervisor import (
    CallTimeout,
    GuestTrap,
    PluginError,
    ResourceLimitExceeded,
    Supervisor,
    WorkerCrashed,
)
from isoplug.supervisor.chaos import (
    ClockJump,
    Crash,
    DescriptorsExhausted,
    DiskFull,
    DuplicateFrame,
    Fault,
    GarbageFrame,
    GarbageToWorker,
    HostCallFault,
    HostCallLate,
    HostCallUnanswered,
    Injector,
    Kill,
    KillInHostCall,
    LateFrame,
    MissingFrame,
    OutOfMemory,
    OversizeFrame,
    Plan,
    Rule,
    ServiceFails,
    ServiceFull,
    ServiceLocked,
    ServiceSlow,
    StaleFrame,
    Stop,
    TemplateKilled,
    TemplateStopped,
    Trap,
    ZygoteKilled,
    fault_named,
    fault_names,
)
from isoplug.supervisor.config import Config, Restart

PROBE = "test.probe"
CALLS = 30
#: A worker's death is forgotten after a millisecond, so that hundreds do not end in quarantine.
FORGIVING = Config(
    restart=Restart(max_restarts=1000, period=0.001, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0)
)

TOLD = "the guest is told"
REPLACED = "the worker is replaced, the call is answered"
PARENTS = "a process that others are forked from is gone"
SLOW = "it takes longer"
#: How a strike shows: by the error that a call ends with, or as one of these says.
Effect = type[PluginError] | str

CASES: tuple[tuple[Fault, Effect], ...] = (
    (Kill("before"), WorkerCrashed),
    (Kill("sending"), WorkerCrashed),
    (Kill("delivery"), WorkerCrashed),
    (Kill("replying"), WorkerCrashed),
    (Kill("reply"), REPLACED),
    (Crash("SEGV"), WorkerCrashed),
    (Crash("ABRT"), WorkerCrashed),
    (Crash("BUS"), WorkerCrashed),
    (Crash("FPE"), WorkerCrashed),
    (Crash("ILL"), WorkerCrashed),
    (Stop(), CallTimeout),
    (Stop(seconds=0.02), SLOW),
    (OutOfMemory("limit"), ResourceLimitExceeded),
    (OutOfMemory("kernel"), WorkerCrashed),
    (ZygoteKilled(), PARENTS),
    (TemplateKilled(), PARENTS),
    (TemplateKilled(worker=True), WorkerCrashed),
    (TemplateStopped(), WorkerCrashed),
    (GarbageFrame("bytes"), WorkerCrashed),
    (GarbageFrame("frame"), WorkerCrashed),
    (GarbageFrame("message"), WorkerCrashed),
    (OversizeFrame(), WorkerCrashed),
    (DuplicateFrame("reply"), REPLACED),
    (DuplicateFrame("host-call"), WorkerCrashed),
    (MissingFrame(), CallTimeout),
    (LateFrame(), SLOW),
    (StaleFrame(), WorkerCrashed),
    (GarbageToWorker(), WorkerCrashed),
    (Trap(), GuestTrap),
    (KillInHostCall("before"), WorkerCrashed),
    (KillInHostCall("after"), WorkerCrashed),
    (HostCallUnanswered("before"), CallTimeout),
    (HostCallUnanswered("after"), CallTimeout),
    (HostCallLate(), SLOW),
    (ServiceSlow(), SLOW),
    (ServiceFails(), TOLD),
    (ServiceFails(unexpected=True), TOLD),
    (ServiceFull(), TOLD),
    (ServiceLocked(), TOLD),
    (ClockJump(), TOLD),
    (DescriptorsExhausted(), TOLD),
    (DiskFull(), TOLD),
)


@dataclass
class Run:
    """``endings``: for each call the error's name, or its answer."""

    endings: list[str] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)
    took_seconds: list[float] = field(default_factory=list)
    strikes: list[str] = field(default_factory=list)
    processes: list[tuple[list[int], list[int], list[int]]] = field(default_factory=list)


@pytest.fixture
def run(plugins: PluginFolder, workspace: Workspace, tmp_path: Path) -> Iterator[Callable[[Fault, int], Run]]:
    plugins.add(PROBE)
    workspace.grant(PROBE, plugin_storage=["all"], read_files=["all"], edit_files=["all"], create_files=["all"])
    runs = 0

    def with_fault(fault: Fault, every: int) -> Run:
        nonlocal runs
        runs += 1
        place = tmp_path / f"run{runs}"
        shutil.copytree(workspace.path, place / "workspace")
        plan = Plan((Rule(fault, every=every),), seed=7)
        injector = Injector(plan)
        with Supervisor(
            plugins.path, place / "workspace", state_dir=place / "state", interceptors=[injector], config=FORGIVING
        ) as supervisor:
            result = _drive(supervisor)
        result.strikes = [f"{strike.fault} at {strike.place}" for strike in injector.injections]
        return result

    return with_fault


def _drive(supervisor: Supervisor) -> Run:
    run = Run()
    for number in range(CALLS):
        began = time.monotonic()
        try:
            run.endings.append(supervisor.call(PROBE, "host_many", _request(number)).decode())
        except PluginError as error:
            run.errors.append(error)
            run.endings.append(type(error).__name__)
            supervisor.clear_poisoned(PROBE)
        run.took_seconds.append(time.monotonic() - began)
        probe = [PROBE]
        run.processes.append((workers_of(supervisor, probe), templates_of(supervisor, probe), zygotes()))
    assert supervisor.call(PROBE, "echo", b"still there") == b"still there"
    return run


def _request(number: int) -> bytes:
    calls = [
        ("host_storage_set", {"key": f"key {number % 5}", "data": "eA=="}),
        ("host_storage_get", {"key": f"key {number % 5}"}),
        ("host_write_file", {"path": f"page {number % 5}.md", "content": f"{number}"}),
        ("host_read_file", {"path": f"page {number % 5}.md"}),
        ("host_get_now", {}),
    ]
    return json.dumps({"calls": [{"function": name, "input": json.dumps(value)} for name, value in calls]}).encode()


def _is_right(number: int, ending: str) -> bool:
    *answers, now = json.loads(ending)
    is_now = abs(datetime.fromisoformat(now) - datetime.now().astimezone()) < timedelta(minutes=30)
    return is_now and answers == ["", '{"data":"eA=="}', "", str(number)]


def _without_time(ending: str) -> str:
    return json.dumps(json.loads(ending)[:-1]) if ending.startswith("[") else ending


def test_every_fault_is_among_the_cases() -> None:
    ours = {name for name in fault_names() if type(fault_named(name)).__module__.startswith("isoplug.")}
    assert {fault.name for fault, _ in CASES} == ours


@pytest.mark.parametrize(("fault", "effect"), CASES, ids=lambda value: str(value) if isinstance(value, Fault) else "")
def test_a_fault_ends_calls_as_it_says_and_the_plugin_goes_on(
    fault: Fault, effect: Effect, run: Callable[[Fault, int], Run]
) -> None:
    every = 4 if isinstance(fault, HostCallFault) else 5
    if isinstance(effect, type) and isinstance(fault, HostCallFault):
        every = 16  # each one ends its call
    struck, again = run(fault, every), run(fault, every)
    wrong = [
        ending
        for number, ending in enumerate(struck.endings)
        if ending.startswith("[") and not _is_right(number, ending)
    ]

    assert struck.strikes
    for error in struck.errors:
        assert isinstance(error, fault.ends), error
    assert not wrong or fault.is_told
    assert fault.may_answer or len(struck.errors) >= len(struck.strikes)

    match effect:
        case type():
            assert any(isinstance(error, effect) for error in struck.errors)
        case "the guest is told":
            assert wrong
        case "the worker is replaced, the call is answered":
            assert not struck.errors
            assert len({tuple(workers) for workers, _, _ in struck.processes if workers}) > 1
        case "a process that others are forked from is gone":
            assert not struck.errors
            assert struck.processes[-1][1:] != struck.processes[0][1:]
        case "it takes longer":
            assert not struck.errors
            assert max(struck.took_seconds) >= getattr(fault, "seconds", 0.0)

    assert [*map(_without_time, again.endings)] == [*map(_without_time, struck.endings)]
    assert again.strikes == struck.strikes
