"""The error tree of isoplug, split first by whose fault it is.

Every class has a stable ``code`` (for logs, JSON and exit codes), says in ``retryable`` whether the same call may be
made again without doing anything twice, and is built from facts: the constructor writes the sentence, so that every
message says what happened, where, and what to try next.
"""

from __future__ import annotations

import signal as _signal
from enum import StrEnum
from typing import Any, ClassVar

from isoplug.shared.limits import clip
from isoplug.shared.record import CallRecord, Outcome

__all__ = [
    "AppVersionTooOld",
    "CallCancelled",
    "CallTimeout",
    "CommandError",
    "CommandNotFound",
    "ConfigError",
    "CrashReason",
    "DepthLimitExceeded",
    "GuestTrap",
    "IntegrityError",
    "InvalidArgument",
    "LoadError",
    "PermissionDenied",
    "PluginBusy",
    "PluginError",
    "PluginNotFound",
    "PluginQuarantined",
    "PoisonedInput",
    "ProtocolMismatch",
    "ResourceLimitExceeded",
    "ServiceError",
    "SetupError",
    "SupervisorClosed",
    "WorkerCrashed",
    "WorkerLimitExceeded",
]


#: Of names that a plugin has chosen, in a message.
_LIST_BYTES = 1_000


class PluginError(Exception):
    """Root of everything isoplug raises.

    Attributes:
        plugin_id: the plugin concerned, or None when there is none (set-up, arguments).
        code: stable snake_case name of the class.
        outcome: what the call had done before it failed.
        record: the same in detail, when it was a call that failed.
        is_transient: True when the cause may be gone the next time.
        crash_report: the id of the report that was kept of it, for ``isoplug crashes show``; None: there is none.
    """

    code: ClassVar[str] = "plugin_error"
    #: The call was cut short, so that its message says what had been done by then.
    is_cut_short: bool = False
    is_transient: bool = False
    outcome: Outcome = Outcome.NOT_DELIVERED
    record: CallRecord | None = None
    crash_report: str | None = None

    def __init__(self, message: str, *, plugin_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.plugin_id = plugin_id

    @property
    def retryable(self) -> bool:
        """True when repeating the call cannot repeat an effect and may well succeed."""
        return self.is_transient and self.outcome is not Outcome.EFFECTS

    def settle(self, record: CallRecord) -> None:
        """It ends the call that ``record`` is of."""
        self.record, self.outcome = record, record.outcome

    def __str__(self) -> str:
        """The message; of a crash also where its report is, and of a call that was cut short what it leaves behind."""
        report = self.crash_report
        message = self.message if report is None else f"{self.message} (report: isoplug crashes show {report})"
        if self.record is None or not self.is_cut_short:
            return message
        if self.outcome is Outcome.EFFECTS:
            return f"{message}; by then it had {self.record.summary()}: look before you repeat it"
        if self.is_transient:
            return f"{message}; nothing had been done, so it may be repeated"
        return message

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
    is_cut_short = True

    def __init__(
        self,
        plugin_id: str | None = None,
        message: str = "the supervisor is closed or shutting down; start a new Supervisor to make calls",
    ) -> None:
        super().__init__(message, plugin_id=plugin_id)


# --- loading ------------------------------------------------------------------------------------------------------


class LoadError(PluginError):
    """A plugin could not be loaded. ``plugin_id`` is its id, or its folder's name when it never told one."""

    code = "load_error"


class IntegrityError(LoadError):
    """A module is not the one that was pinned, or not signed as the configuration demands. Nothing of it was run; of
    one that is pinned by its id, which only the module itself can tell, no more than its ``manifest``."""

    code = "integrity_error"


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

    def __init__(self, plugin_id: str, known: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> None:
        """``refused``: folders of plugins that could not be loaded; it may be one of them, whose id nobody knows."""
        message = f"no plugin {plugin_id!r} is loaded; loaded: {', '.join(sorted(known)) or 'none'}"
        if refused:
            message += f"; could not be loaded, by folder: {', '.join(sorted(refused))}"
        super().__init__(message, plugin_id=plugin_id)


class CommandNotFound(PluginError):
    """The plugin does not declare this command (``known`` are those that it does), or its module does not export what
    is needed for it (``known`` is None)."""

    code = "command_not_found"

    def __init__(self, plugin_id: str, command: str, known: tuple[str, ...] | None = None) -> None:
        if known is None:
            why = "its module exports no function for that"
        else:
            why = f"it offers: {clip(', '.join(sorted(known)), _LIST_BYTES) or 'none'}"
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
    is_cut_short = True

    def __init__(self, plugin_id: str, doing: str, trap: str) -> None:
        super().__init__(f"plugin {plugin_id!r} trapped in {doing}: {trap}", plugin_id=plugin_id)
        self.trap = trap


class ResourceLimitExceeded(PluginError):
    """A bound was met. ``limit`` says which and in which unit, ``figure`` is what it came to, when that is known, and
    ``bound`` what is allowed; ``key`` is the bound's in the configuration, such as ``limits.output``, when it has one.
    ``is_cut_short``: the call was under way, and its worker is replaced."""

    code = "resource_limit_exceeded"

    def __init__(
        self,
        plugin_id: str | None,
        limit: str,
        figure: int | None = None,
        bound: int | None = None,
        advice: str = "",
        *,
        key: str | None = None,
        is_cut_short: bool = False,
    ) -> None:
        numbers = f" is {figure}, the limit is {bound}"
        if figure is None:
            numbers = "" if bound is None else f" is over the limit of {bound}"
        tail = advice or (f"see {key}" if key else "")
        super().__init__(f"{limit}{numbers}{f'; {tail}' if tail else ''}", plugin_id=plugin_id)
        self.limit, self.figure, self.bound, self.key = limit, figure, bound, key
        self.is_cut_short = is_cut_short


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
            f"call reset({plugin_id!r}), or isoplug reset {plugin_id} for a service",
            plugin_id=plugin_id,
        )
        self.last_failure = last_failure


class PoisonedInput(PluginError):
    """This very input has killed the plugin's worker twice and is set aside: nothing was sent. ``fingerprint`` is what
    ``clear_poisoned`` takes; ``last_failure`` says how the worker died."""

    code = "poisoned_input"

    def __init__(self, plugin_id: str, doing: str, fingerprint: str, last_failure: str) -> None:
        super().__init__(
            f"the input of {doing} has killed plugin {plugin_id!r} twice (last: {last_failure}) and is set aside; find "
            f"the cause, then call clear_poisoned({plugin_id!r}, {fingerprint!r}), or isoplug poisoned {plugin_id} "
            "--clear for a service",
            plugin_id=plugin_id,
        )
        self.fingerprint, self.last_failure = fingerprint, last_failure


class PluginBusy(PluginError):
    """As many calls wait for the plugin as may (``bound``); nothing was sent. Try again later."""

    code = "plugin_busy"
    is_cut_short = True
    is_transient = True

    def __init__(self, plugin_id: str, bound: int) -> None:
        super().__init__(
            f"{bound} calls wait for plugin {plugin_id!r} already; try again later, or raise calls.queue",
            plugin_id=plugin_id,
        )
        self.bound = bound


# --- the worker's process -----------------------------------------------------------------------------------------


#: What a worker's own exit codes mean (``limits.EXIT_PROTOCOL``, ``limits.EXIT_BUG``).
_MEANINGS = {70: " (it did not understand its supervisor)", 71: " (its own code failed)"}


class CrashReason(StrEnum):
    SIGNAL = "signal"
    EXIT = "exit"
    OUT_OF_MEMORY = "out_of_memory"
    CPU_TIME = "cpu_time"
    PROTOCOL_BREACH = "protocol_breach"
    UNKNOWN = "unknown"  #: nobody was there to see how it ended: its template had died


class WorkerCrashed(PluginError):
    """The worker died, or was destroyed for breaking the protocol, while it served this call.

    ``cause`` says it in words, ``reason`` in one. At most one of ``signal`` (number) and ``exit_code`` is set.
    ``evidence`` is what the kernel and the process itself had to say: peak memory, last words.
    """

    code = "worker_crashed"
    is_cut_short = True
    is_transient = True

    def __init__(
        self,
        plugin_id: str,
        cause: str,
        *,
        reason: CrashReason,
        signal: int | None = None,
        exit_code: int | None = None,
        evidence: str = "",
    ) -> None:
        # Not super(): of ``WorkerLimitExceeded`` that is ResourceLimitExceeded, which writes another sentence.
        PluginError.__init__(self, f"the worker of plugin {plugin_id!r} died: {cause}", plugin_id=plugin_id)
        self.cause, self.reason, self.signal, self.exit_code = cause, reason, signal, exit_code
        self.evidence = evidence

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


class WorkerLimitExceeded(WorkerCrashed, ResourceLimitExceeded):
    """The worker died of a limit that the kernel keeps: ``limits.process_memory`` (then ``figure`` is the most memory
    that was resident, which is not all that counts) or ``limits.cpu_total``."""

    code = "worker_limit_exceeded"
    is_cut_short = True

    def __init__(
        self,
        plugin_id: str,
        cause: str,
        *,
        reason: CrashReason,
        limit: str,
        key: str,
        figure: int | None,
        bound: int | None,
        signal: int | None = None,
        exit_code: int | None = None,
        evidence: str = "",
    ) -> None:
        super().__init__(plugin_id, cause, reason=reason, signal=signal, exit_code=exit_code, evidence=evidence)
        self.limit, self.figure, self.bound, self.key = limit, figure, bound, key


class CallTimeout(PluginError):
    """The call did not end by its deadline. If it had reached a worker, that was killed and is replaced."""

    code = "call_timeout"
    is_cut_short = True
    is_transient = True

    def __init__(self, plugin_id: str, doing: str, timeout_seconds: float) -> None:
        super().__init__(
            f"plugin {plugin_id!r} did not finish {doing} within {timeout_seconds:g} s; if it needs more, "
            "raise the call's timeout (while a plugin starts: calls.start_timeout)",
            plugin_id=plugin_id,
        )
        self.timeout_seconds = timeout_seconds


class CallCancelled(PluginError):
    """The caller gave the call up; its worker was killed and is replaced."""

    code = "call_cancelled"
    is_cut_short = True

    def __init__(self, plugin_id: str, doing: str) -> None:
        super().__init__(f"{doing} of plugin {plugin_id!r} was cancelled", plugin_id=plugin_id)
