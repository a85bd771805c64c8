"""The bounds of one plugin's pool."""

from __future__ import annotations

from dataclasses import dataclass

from isoplug.supervisor import config
from isoplug.supervisor.pool.policy import RestartPolicy
from isoplug.supervisor.pool.recycling import RecyclePolicy

__all__ = ["PoolSettings"]


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """``config.Calls`` and ``config.PluginSettings`` say what they mean."""

    workers: int
    queue: int
    max_extra_instances: int
    extra_idle_seconds: float
    start_timeout_seconds: float
    shutdown_timeout_seconds: float
    restart: RestartPolicy
    recycle: RecyclePolicy
    sleep_after_seconds: float

    @classmethod
    def of(cls, settings: config.Config, plugin_id: str) -> PoolSettings:
        """As configured for this plugin."""
        own, calls = settings.of_plugin(plugin_id), settings.calls
        return cls(
            workers=own.workers,
            queue=calls.queue,
            max_extra_instances=calls.max_extra_instances,
            extra_idle_seconds=calls.extra_idle,
            start_timeout_seconds=calls.start_timeout,
            shutdown_timeout_seconds=calls.shutdown_timeout,
            restart=RestartPolicy.of(own.restart),
            recycle=RecyclePolicy.of(own.recycle),
            sleep_after_seconds=own.sleep.after,
        )
