"""Worker processes: starting them, lending them to callers, noticing their end, starting them again."""

from __future__ import annotations

from isoplug.supervisor.pool.launcher import Launcher
from isoplug.supervisor.pool.lease import Chain, LeaseBook
from isoplug.supervisor.pool.policy import RestartBudget, RestartPolicy
from isoplug.supervisor.pool.pool import Lease, Pool, State
from isoplug.supervisor.pool.worker import Worker

__all__ = ["Chain", "Launcher", "Lease", "LeaseBook", "Pool", "RestartBudget", "RestartPolicy", "State", "Worker"]
