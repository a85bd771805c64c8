"""The error tree of isoplug, split first by whose fault it is.

Every class has a stable ``code`` (for logs, JSON and exit codes), says in ``retryable`` whether the same call may be
made again without doing anything twice, and is built from facts: the constructor writes the sentence, so that every
message says what happened, where, and what to try next. This module imports nothing of isoplug.
"""

from __future__ import annotations

import signal as _signal
from typing import Any, ClassVar

__all__ = [
    "AppVersionTooOld",
    "CallCancelled",
    "CallTimeout",
    "CommandError",
    "CommandNotFound",
    "ConfigError",
    "DepthLimitExceeded",
    "GuestTrap",
    "InvalidArgument",
    "LoadError",
    "PermissionDenied",
    "PluginError",
    "PluginNotFound",
    "PluginQuarantined",
    "ProtocolMismatch",
    "ResourceLimitExceeded",
    "ServiceError",
    "SetupError",
    "SupervisorClosed",
    "WorkerCrashed",
]


class PluginError(Exception):
    """Root of everything isoplug raises.

    Attributes:
        plugin_id: the plugin concerned, or None when there is none (set-up, arguments).
        retryable: True when repeating the call cannot repeat an effect and may well succeed.
        code: stable snake_case name of the class.
    """

    code: ClassVar[str] = "plugin_error"
    retryable: bool = False

    def __init__(self, message: str, *, plugin_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.plugin_id = plugin_id

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors take facts, not the sentence, so the default (cls, args) cannot rebuild them; hosts do pickle
        # errors, for example to carry them out of a process pool.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[PluginError], args: tuple[Any, ...], state: dict[str, Any]) -> PluginError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# --- the host's side: set-up, arguments, services -----------------------------------------------------------------


class SetupError(PluginError):
    """The supervisor cannot start here: platform, folders, state or configuration. The text says what to do."""

    code = "setup_error"


class InvalidArgument(PluginError, ValueError):
    """The caller passed something that cannot be used; nothing was sent to any plugin."""

    code = "invalid_argument"


class ServiceError(PluginError):
    """A host service (files, storage, ...) could not do what a guest asked; guests see the text in the error form."""

    code = "service_error"


class SupervisorClosed(PluginError):
    """The supervisor is closed or closing; make a new one."""

    code = "supervisor_closed"

    def __init__(self, plugin_id: str | None = None) -> None:
        super().__init__(
            "the supervisor is closed or shutting down; start a new Supervisor to make calls", plugin_id=plugin_id
        )


# --- loading ------------------------------------------------------------------------------------------------------


class LoadError(PluginError):
    """A plugin could not be loaded. ``plugin_id`` is its id, or its folder's name when it never told one."""

    code = "load_error"


class ProtocolMismatch(LoadError):
    """The guest speaks a protocol version outside ``minimum..=maximum``."""

    code = "protocol_mismatch"

    def __init__(self, plugin_id: str, guest_version: int, minimum: int, maximum: int) -> None:
        super().__init__(
            f"plugin {plugin_id!r} speaks protocol version {guest_version}, this host supports {minimum}..={maximum}; "
            "install a build of the plugin for this protocol",
            plugin_id=plugin_id,
        )
        self.guest_version, self.minimum, self.maximum = guest_version, minimum, maximum


class AppVersionTooOld(LoadError):
    """The guest asks for a newer application (``min_app_version``), or for one that cannot be read."""

    code = "app_version_too_old"

    def __init__(self, plugin_id: str, required: str, running: str) -> None:
        super().__init__(
            f"plugin {plugin_id!r} needs application version {required!r} or later, this is {running!r}; update the "
            "application, or install an older build of the plugin (hosts set theirs with app_version=)",
            plugin_id=plugin_id,
        )
        self.required, self.running = required, running


# --- the caller asked for what is not there -----------------------------------------------------------------------


class PluginNotFound(PluginError):
    """No loaded plugin has this id."""

    code = "plugin_not_found"

    def __init__(self, plugin_id: str, known: tuple[str, ...] = ()) -> None:
        loaded = ", ".join(sorted(known)) or "none"
        super().__init__(f"no plugin {plugin_id!r} is loaded; loaded: {loaded}", plugin_id=plugin_id)


class CommandNotFound(PluginError):
    """The plugin does not declare this command (``known`` are those that it does), or its module does not export what
    is needed for it (``known`` is None)."""

    code = "command_not_found"

    def __init__(self, plugin_id: str, command: str, known: tuple[str, ...] | None = None) -> None:
        if known is None:
            why = "its module exports no function for that"
        else:
            why = f"it offers: {', '.join(sorted(known)) or 'none'}"
        super().__init__(f"plugin {plugin_id!r} has no {command!r}; {why}", plugin_id=plugin_id)
        self.command = command


# --- the guest's own failures -------------------------------------------------------------------------------------


class CommandError(PluginError):
    """The guest ran to its end and said no, or answered something that is not a command response."""

    code = "command_error"

    def __init__(self, plugin_id: str, message: str, error_code: str | None = None) -> None:
        super().__init__(message, plugin_id=plugin_id)
        self.error_code = error_code


class ConfigError(PluginError):
    """A plugin's configuration cannot be used: the guest refused it, or its sidecar is not a JSON object."""

    code = "config_error"

    def __init__(self, plugin_id: str, message: str) -> None:
        super().__init__(message, plugin_id=plugin_id)


class GuestTrap(PluginError):
    """The guest's code stopped with a WASM trap; ``trap`` is the runtime's text. Its worker is replaced."""

    code = "guest_trap"

    def __init__(self, plugin_id: str, doing: str, trap: str) -> None:
        super().__init__(f"plugin {plugin_id!r} trapped in {doing}: {trap}", plugin_id=plugin_id)
        self.trap = trap


class ResourceLimitExceeded(PluginError):
    """A bound was met. ``limit`` says which and in which unit; ``figure`` and ``bound`` are None when a worker told it
    in words only."""

    code = "resource_limit_exceeded"

    def __init__(
        self, plugin_id: str | None, limit: str, figure: int | None = None, bound: int | None = None, advice: str = ""
    ) -> None:
        numbers = "" if figure is None else f" is {figure}, the limit is {bound}"
        tail = f"; {advice}" if advice else ""
        super().__init__(f"{limit}{numbers}{tail}", plugin_id=plugin_id)
        self.limit, self.figure, self.bound = limit, figure, bound


# --- refused by a rule --------------------------------------------------------------------------------------------


class PermissionDenied(PluginError):
    """A rule, or the absence of one, refuses this. ``permission`` is a SPEC section 4 name such as ``read_files``."""

    code = "permission_denied"

    def __init__(
        self, plugin_id: str, message: str, *, permission: str | None = None, target: str | None = None
    ) -> None:
        super().__init__(message, plugin_id=plugin_id)
        self.permission, self.target = permission, target


class DepthLimitExceeded(PluginError):
    """A chain of plugin commands went deeper than ``maximum``; nothing was sent to the target."""

    code = "depth_limit_exceeded"

    def __init__(self, plugin_id: str, maximum: int) -> None:
        super().__init__(f"depth limit exceeded (max {maximum})", plugin_id=plugin_id)
        self.maximum = maximum


class PluginQuarantined(PluginError):
    """The plugin's worker died too often; calls fail at once until ``reset``."""

    code = "plugin_quarantined"

    def __init__(self, plugin_id: str, last_failure: str) -> None:
        super().__init__(
            f"plugin {plugin_id!r} is quarantined after too many failures (last: {last_failure}); find the cause, then "
            f"call reset({plugin_id!r})",
            plugin_id=plugin_id,
        )
        self.last_failure = last_failure


# --- the worker's process -----------------------------------------------------------------------------------------


#: What a worker's own exit codes mean (``limits.EXIT_PROTOCOL``, ``limits.EXIT_BUG``; this module imports nothing).
_MEANINGS = {70: " (it did not understand its supervisor)", 71: " (its own code failed: out of memory, most likely)"}


class WorkerCrashed(PluginError):
    """The worker died, or was destroyed for breaking the protocol, while it served this call.

    Exactly one of ``signal`` (number) and ``exit_code`` is set when the kernel reported one; ``cause`` says it in
    words. The call may have had effects, so it is not retryable.
    """

    code = "worker_crashed"

    def __init__(self, plugin_id: str, cause: str, *, signal: int | None = None, exit_code: int | None = None) -> None:
        super().__init__(f"the worker of plugin {plugin_id!r} died: {cause}", plugin_id=plugin_id)
        self.cause, self.signal, self.exit_code = cause, signal, exit_code

    @staticmethod
    def describe(signal: int | None, exit_code: int | None) -> str:
        """``killed by SIGKILL``, ``exited with code 3`` or ``exit status unknown``."""
        if signal is not None:
            try:
                name = _signal.Signals(signal).name
            except ValueError:
                name = f"signal {signal}"
            return f"killed by {name}"
        if exit_code is not None:
            return f"exited with code {exit_code}" + _MEANINGS.get(exit_code, "")
        return "exit status unknown"


class CallTimeout(PluginError):
    """The call did not end by its deadline. If it had reached a worker, that was killed and is replaced; if it was
    still waiting for one (``was_delivered`` is False), nothing happened and it may be retried."""

    code = "call_timeout"

    def __init__(self, plugin_id: str, doing: str, timeout_seconds: float, *, was_delivered: bool = True) -> None:
        super().__init__(
            f"plugin {plugin_id!r} did not finish {doing} within {timeout_seconds:g} s; if it needs more, "
            "raise the call's timeout (while a plugin starts: calls.start_timeout)",
            plugin_id=plugin_id,
        )
        self.timeout_seconds = timeout_seconds
        self.was_delivered = was_delivered
        self.retryable = not was_delivered


class CallCancelled(PluginError):
    """The caller gave the call up; its worker was killed and is replaced."""

    code = "call_cancelled"

    def __init__(self, plugin_id: str, doing: str) -> None:
        super().__init__(f"{doing} of plugin {plugin_id!r} was cancelled", plugin_id=plugin_id)
