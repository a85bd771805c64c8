"""A plugin as its WebSocket needs it: calls from outside, whose answers are action envelopes."""

from __future__ import annotations

from isoplug.shared.errors import CommandError, CommandNotFound
from isoplug.supervisor.calls.runner import CallRunner
from isoplug.supervisor.host import Services
from isoplug.supervisor.plugins.table import Plugin
from isoplug.supervisor.websockets import Action, MalformedEnvelope, decode_actions

__all__ = ["SocketGuest"]


class SocketGuest:
    """See ``websockets.Guest``."""

    def __init__(self, runner: CallRunner, services: Services, plugin: Plugin) -> None:
        self._runner = runner
        self._services = services
        self._plugin = plugin

    @property
    def plugin_id(self) -> str:
        return self._plugin.id

    @property
    def instance(self) -> int:
        return self._plugin.pool.instance

    def call(self, export: str, data: bytes, instance: int) -> tuple[Action, ...]:
        plugin = self._plugin
        with self._runner.open_frame(self._runner.deadline(None)) as frame:
            try:
                output = self._runner.call(plugin, export, data, frame, instance=instance)
            except CommandNotFound:
                return ()
        try:
            return decode_actions(output)
        except MalformedEnvelope as error:
            plugin.counters.fail()
            raise CommandError(plugin.id, f"export {export!r} answered no action envelope: {error}") from error

    def emit(self, event_json: str) -> None:
        self._services.emit(self._plugin.id, event_json)
