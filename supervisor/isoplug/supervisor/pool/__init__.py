"""Worker processes: starting them, lending them to callers, noticing their end, replacing them."""

from __future__ import annotations

from isoplug.supervisor.pool.keeper import Keeper
from isoplug.supervisor.pool.launcher import Launcher
from isoplug.supervisor.pool.lease import Chain, Lease, LeaseBook
from isoplug.supervisor.pool.policy import ExitReason, Loss, RestartBudget, RestartPolicy
from isoplug.supervisor.pool.pool import Pool, PoolClosed, State
from isoplug.supervisor.pool.settings import PoolSettings
from isoplug.supervisor.pool.worker import Worker

__all__ = [
    "Chain",
    "ExitReason",
    "Keeper",
    "Launcher",
    "Lease",
    "LeaseBook",
    "Loss",
    "Pool",
    "PoolClosed",
    "PoolSettings",
    "RestartBudget",
    "RestartPolicy",
    "State",
    "Worker",
]
