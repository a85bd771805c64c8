"""Fault injection: put plugins and hosts through every fault that isoplug survives, and repeat a run exactly.

    from isoplug.supervisor.chaos import Injector, Kill, Plan, Rule

    plan = Plan((Rule(Kill("reply"), every=3),), seed=7)
    with Supervisor("plugins", "journal", interceptors=[Injector(plan)]) as supervisor:
        ...

``isoplug chaos`` does it for a folder of plugins, under pytest there is a marker for it
(``isoplug.supervisor.testing.pytest_plugin``).
"""

from __future__ import annotations

from isoplug.supervisor.chaos.faults import (
    CallFault,
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
    Kill,
    KillInHostCall,
    LateFrame,
    MissingFrame,
    OutOfMemory,
    OversizeFrame,
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
    register,
)
from isoplug.supervisor.chaos.hosts import Host, HostFactory, PlainHost
from isoplug.supervisor.chaos.injector import Injection, Injector
from isoplug.supervisor.chaos.load import Operation, operations_of, parse_operation
from isoplug.supervisor.chaos.place import Place, Step, stepping
from isoplug.supervisor.chaos.plan import Plan, Rule, mixed_plan
from isoplug.supervisor.chaos.report import Broken, CallEntry, Ending, FaultRow, Promise, Report, Restart
from isoplug.supervisor.chaos.run import Progress, Settings, run
from isoplug.supervisor.chaos.shrink import shrink
from isoplug.supervisor.chaos.watch import Watch

__all__ = [
    "Broken",
    "CallEntry",
    "CallFault",
    "ClockJump",
    "Crash",
    "DescriptorsExhausted",
    "DiskFull",
    "DuplicateFrame",
    "Ending",
    "Fault",
    "FaultRow",
    "GarbageFrame",
    "GarbageToWorker",
    "Host",
    "HostCallFault",
    "HostCallLate",
    "HostCallUnanswered",
    "HostFactory",
    "Injection",
    "Injector",
    "Kill",
    "KillInHostCall",
    "LateFrame",
    "MissingFrame",
    "Operation",
    "OutOfMemory",
    "OversizeFrame",
    "Place",
    "PlainHost",
    "Plan",
    "Progress",
    "Promise",
    "Report",
    "Restart",
    "Rule",
    "ServiceFails",
    "ServiceFull",
    "ServiceLocked",
    "ServiceSlow",
    "Settings",
    "StaleFrame",
    "Step",
    "Stop",
    "TemplateKilled",
    "TemplateStopped",
    "Trap",
    "Watch",
    "ZygoteKilled",
    "fault_named",
    "fault_names",
    "mixed_plan",
    "operations_of",
    "parse_operation",
    "register",
    "run",
    "shrink",
    "stepping",
]
