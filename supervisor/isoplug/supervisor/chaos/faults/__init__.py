"""The faults, each a small class that says what it imitates in real life."""

from __future__ import annotations

from isoplug.supervisor.chaos.faults.base import CallFault, Fault, HostCallFault, fault_named, fault_names, register
from isoplug.supervisor.chaos.faults.frames import (
    DuplicateFrame,
    GarbageFrame,
    GarbageToWorker,
    LateFrame,
    MissingFrame,
    OversizeFrame,
    StaleFrame,
    Trap,
)
from isoplug.supervisor.chaos.faults.host_calls import HostCallLate, HostCallUnanswered, KillInHostCall
from isoplug.supervisor.chaos.faults.machine import ClockJump, DescriptorsExhausted, DiskFull
from isoplug.supervisor.chaos.faults.processes import (
    Crash,
    Kill,
    OutOfMemory,
    Stop,
    TemplateKilled,
    TemplateStopped,
    ZygoteKilled,
)
from isoplug.supervisor.chaos.faults.services import ServiceFails, ServiceFull, ServiceLocked, ServiceSlow

__all__ = [
    "CallFault",
    "ClockJump",
    "Crash",
    "DescriptorsExhausted",
    "DiskFull",
    "DuplicateFrame",
    "Fault",
    "GarbageFrame",
    "GarbageToWorker",
    "HostCallFault",
    "HostCallLate",
    "HostCallUnanswered",
    "Kill",
    "KillInHostCall",
    "LateFrame",
    "MissingFrame",
    "OutOfMemory",
    "OversizeFrame",
    "ServiceFails",
    "ServiceFull",
    "ServiceLocked",
    "ServiceSlow",
    "StaleFrame",
    "Stop",
    "TemplateKilled",
    "TemplateStopped",
    "Trap",
    "ZygoteKilled",
    "fault_named",
    "fault_names",
    "register",
]
