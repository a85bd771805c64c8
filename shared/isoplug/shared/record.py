"""What a call did: the record that a caller can hand in, and that every failed call carries.

It answers the one question that matters after a failure: may the call be made again? Everything in it is bounded,
because a guest decides how much happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from isoplug.shared.limits import clip

__all__ = ["CallRecord", "Denial", "Effect", "HostCallEntry", "LogLine", "Outcome"]

#: Effects and denials that are kept with their targets; further ones are only counted.
_MAX_KEPT = 1_000
#: The last host calls and log lines, which are what explains a crash.
_MAX_LAST = 20
#: Of a target, a reason or a log line, in bytes.
_TEXT_BYTES = 500


class Outcome(StrEnum):
    """What a failed call has left behind. What the guest kept in memory does not count: its worker is gone."""

    NOT_DELIVERED = "not_delivered"  #: no worker was asked
    NO_EFFECTS = "no_effects"  #: a worker was asked, and changed nothing
    EFFECTS = "effects"  #: something was changed, or may have been


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that a host call has changed.

    ``kind`` is for example ``file_written``, ``key_set``, ``request_sent``, ``command_run``; ``target`` the path, key,
    URL without its query, or ``plugin:command``. ``is_certain`` is False when the call ended before it was known
    whether that had been done.
    """

    plugin_id: str
    kind: str
    target: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.target}{'' if self.is_certain else ' (perhaps)'}"


@dataclass(frozen=True, slots=True)
class Denial:
    """A host call that a rule refused. ``permission`` is a SPEC section 4 name such as ``read_files``."""

    plugin_id: str
    function: str
    permission: str | None
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostCallEntry:
    """A host call and how it ended: ``result`` is ``ok``, ``denied: ...``, ``failed: ...`` or ``under way``."""

    plugin_id: str
    function: str
    target: str
    result: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """What a guest said with ``host_log``."""

    plugin_id: str
    level: str
    message: str


class CallRecord:
    """The record of one call from outside, with all that it caused in other plugins.

    Hand a new one to ``Supervisor.command(..., record=record)`` to see what a call did, also when it succeeds; errors
    of calls have it as ``error.record``. ``attempts`` counts how often the call was made (``retries=``). Written by the
    thread of the call; read it when that has ended.
    """

    def __init__(self) -> None:
        self.attempts = 0
        #: How often a worker was asked, in nested commands too.
        self.delivery_count = 0
        #: How many there were, of which the first thousand are kept.
        self.effect_count = 0
        self.denial_count = 0
        self._effects: list[Effect] = []
        self._denials: list[Denial] = []
        # As plain tuples, which are made ten times as quickly: every host call makes one, and few are ever looked at.
        # In lists, which cost nothing as long as they are empty: every call makes a record.
        self._host_calls: list[tuple[str, str, str, str]] = []
        self._log: list[LogLine] = []

    @property
    def is_delivered(self) -> bool:
        return self.delivery_count > 0

    @property
    def outcome(self) -> Outcome:
        if self.effect_count:
            return Outcome.EFFECTS
        return Outcome.NO_EFFECTS if self.is_delivered else Outcome.NOT_DELIVERED

    @property
    def effects(self) -> tuple[Effect, ...]:
        return tuple(self._effects)

    @property
    def denials(self) -> tuple[Denial, ...]:
        return tuple(self._denials)

    @property
    def host_calls(self) -> tuple[HostCallEntry, ...]:
        """The last ones, in the order in which they ended; one that had not ended is the last. ``host_log`` is not
        among them: see ``log``."""
        return tuple(HostCallEntry(*entry) for entry in self._host_calls)

    @property
    def log(self) -> tuple[LogLine, ...]:
        """The last lines."""
        return tuple(self._log)

    def summary(self) -> str:
        """The effects in words that follow "it had": ``written a.md, set 2 keys and perhaps sent GET https://…``."""
        groups: dict[tuple[str, bool], list[str]] = {}
        for effect in self._effects:
            groups.setdefault((effect.kind, effect.is_certain), []).append(effect.target)
        parts = [_phrase(kind, is_certain, targets) for (kind, is_certain), targets in groups.items()]
        if self.effect_count > len(self._effects):
            parts.append(f"done {self.effect_count - len(self._effects)} things more")
        return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))

    # --- for the runner -------------------------------------------------------------------------------------------

    def add_effect(self, plugin_id: str, kind: str, target: str, *, is_certain: bool = True) -> None:
        self.effect_count += 1
        if len(self._effects) < _MAX_KEPT:
            self._effects.append(Effect(plugin_id, kind, _clip(target), is_certain))

    def add_denial(self, plugin_id: str, function: str, permission: str | None, target: str, reason: str) -> None:
        self.denial_count += 1
        if len(self._denials) < _MAX_KEPT:
            self._denials.append(Denial(plugin_id, function, permission, _clip(target), _clip(reason)))

    def add_host_call(self, plugin_id: str, function: str, target: str, result: str) -> None:
        self._host_calls.append((plugin_id, function, _clip(target), _clip(result)))
        del self._host_calls[:-_MAX_LAST]

    def add_log_line(self, plugin_id: str, level: str, message: str) -> None:
        self._log.append(LogLine(plugin_id, _clip(level), _clip(message)))
        del self._log[:-_MAX_LAST]


def _clip(text: str) -> str:
    return text if len(text) <= _TEXT_BYTES and text.isascii() else clip(text, _TEXT_BYTES)


#: What a call has done, by the kind of effect: the verb, and what there are several of.
_WORDS = {
    "file_written": ("written", "files"),
    "file_deleted": ("deleted", "files"),
    "key_set": ("set", "keys"),
    "key_deleted": ("deleted", "keys"),
    "secret_set": ("set", "secrets"),
    "secret_deleted": ("deleted", "secrets"),
    "request_sent": ("sent", "requests"),
    "websocket_opened": ("connected to", "servers"),
    "websocket_sent": ("sent", "messages"),
    "websocket_closed": ("ended", "connections"),
    "namespace_created": ("made", "namespaces"),
    "object_written": ("written", "objects"),
    "object_deleted": ("deleted", "objects"),
    "audience_set": ("set", "audiences"),
    "audience_deleted": ("deleted", "audiences"),
    "email_sent": ("sent", "e-mails"),
    "namespace_built": ("built", "namespaces"),
    "command_run": ("run", "commands"),
    "event_emitted": ("emitted", "events"),
}
_SHOWN_CHARACTERS = 80


def _phrase(kind: str, is_certain: bool, targets: list[str]) -> str:
    verb, things = _WORDS.get(kind, (kind, "times"))
    what = f"{len(targets)} {things}" if len(targets) > 1 else clip(targets[0], _SHOWN_CHARACTERS)
    return f"{'' if is_certain else 'perhaps '}{verb} {what}"
