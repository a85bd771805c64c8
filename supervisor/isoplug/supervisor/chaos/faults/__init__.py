"""The faults, each a small class that says what it imitates in real life."""

from __future__ import annotations

from isoplug.supervisor.chaos.faults import processes
from isoplug.supervisor.chaos.faults.base import CallFault, Fault, HostCallFault, fault_named, fault_names, register

__all__ = ["CallFault", "Fault", "HostCallFault", "fault_named", "fault_names", "processes", "register"]
