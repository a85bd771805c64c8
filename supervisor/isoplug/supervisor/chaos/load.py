"""What callers do to plugins while faults strike: operations, and which caller does which of them when.

A run has rounds, a round has stages. In a stage every caller makes its steps, at the same time as the others; then,
with all callers at rest, the events of the stage are sent, one after the other. So it is known which event came after
which call, in each run the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isoplug.shared.errors import InvalidArgument
from isoplug.supervisor.chaos.place import EVENTS, Step
from isoplug.supervisor.events.kinds import EVENT_KINDS, encode_event
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["Operation", "Stage", "cut", "operations_of", "parse_operation", "stages_of"]

_EVENT_PREFIX = "EVENT"
_ADVICE = "write PLUGIN:COMMAND, PLUGIN:COMMAND=JSON or EVENT:TYPE=JSON"
#: Steps that a caller makes before the events of a stage.
_STAGE_STEPS = 10
#: What an event carries when nobody says it.
_EXAMPLES: dict[str, Any] = {
    "changed_paths": ["README.md"],
    "path": "README.md",
    "old_path": "README.md",
    "new_path": "README.md",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a caller does: a command of a plugin, or an event for all that have the capability for it.
    ``plugin_id`` is empty for events; ``params`` is JSON, of an event its payload."""

    kind: Literal["command", "event"]
    plugin_id: str
    name: str
    params: Any = None

    @property
    def text(self) -> str:
        """As reports call it."""
        return f"event {self.name}" if self.kind == "event" else f"{self.plugin_id}:{self.name}"

    def __hash__(self) -> int:
        return hash(self.text)  # params need not be hashable


@dataclass(frozen=True, slots=True)
class Stage:
    """``steps``: who does what, one tuple for each caller, in its order; then ``events``, one after the other."""

    steps: tuple[tuple[tuple[Step, Operation], ...], ...]
    events: tuple[tuple[Step, Operation], ...]

    @property
    def size(self) -> int:
        return sum(len(steps) for steps in self.steps) + len(self.events)


def parse_operation(text: str) -> Operation:
    """``PLUGIN:COMMAND``, ``PLUGIN:COMMAND=JSON`` or ``EVENT:TYPE=JSON``. Raises InvalidArgument."""
    what, has_params, json_text = text.partition("=")
    target, colon, name = what.partition(":")
    if not colon or not target or not name:
        raise InvalidArgument(f"{text!r} is no operation; {_ADVICE}")
    try:
        params = json.loads(json_text) if has_params else None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{text!r}: what follows the = must be JSON ({error}); {_ADVICE}") from error
    if target != _EVENT_PREFIX:
        return Operation("command", target, name, params)
    if params is not None and not isinstance(params, dict):
        raise InvalidArgument(f"{text!r}: an event carries a JSON object; {_ADVICE}")
    operation = _event(name, params)
    encode_event(name, {"workspace_root": None, **operation.params})  # which the supervisor fills in
    return operation


def operations_of(supervisor: Supervisor) -> tuple[Operation, ...]:
    """What the loaded plugins declare: each command, without parameters, and each event that one of them receives."""
    plugins = sorted(supervisor.plugins.items())
    commands = [
        Operation("command", plugin_id, command)
        for plugin_id, plugin in plugins
        if "custom_commands" in plugin.manifest.capabilities
        for command in plugin.manifest.commands
    ]
    received = {capability for _, plugin in plugins for capability in plugin.manifest.capabilities}
    events = [_event(name, None) for name, kind in EVENT_KINDS.items() if kind.capability in received]
    return (*commands, *events)


def stages_of(operations: Sequence[Operation], callers: int, round_calls: int, seed: int, number: int) -> list[Stage]:
    """The stages of round ``number``, in which each caller makes ``round_calls`` steps; the same for the same
    arguments.

    Callers share plugins as little as possible: the first caller drives the first plugin, and so on; where there are
    fewer plugins than callers, several drive the same one.
    """
    events = [operation for operation in operations if operation.kind == "event"]
    loads = _loads([operation for operation in operations if operation.kind == "command"], callers)
    choices = [random.Random(f"{seed}/{number}/{caller}") for caller in range(len(loads))]
    choose_event = random.Random(f"{seed}/{number}/{EVENTS}")
    steps_done = events_done = 0
    stages = []
    while steps_done < round_calls:
        count = min(_STAGE_STEPS, round_calls - steps_done)
        steps = [
            tuple(
                (Step(number, f"caller-{caller + 1}", steps_done + nth), choice.choice(load))
                for nth in range(1, count + 1)
            )
            for caller, (load, choice) in enumerate(zip(loads, choices, strict=True))
        ]
        event_count = -(-count * len(events) // len(operations))
        stage_events = tuple(
            (Step(number, EVENTS, events_done + nth), choose_event.choice(events)) for nth in range(1, event_count + 1)
        )
        stages.append(Stage(tuple(steps), stage_events))
        steps_done, events_done = steps_done + count, events_done + event_count
    return stages


def cut(stages: Sequence[Stage], calls: int) -> list[Stage]:
    """The first ``calls`` steps: of the stage that is cut, those of the first callers."""
    kept = []
    for stage in stages:
        if calls <= 0:
            break
        steps = []
        for caller_steps in stage.steps:
            steps.append(caller_steps[:calls])
            calls -= len(steps[-1])
        kept.append(Stage(tuple(steps), stage.events[:calls]))
        calls -= len(kept[-1].events)
    return kept


def _loads(commands: Sequence[Operation], callers: int) -> list[list[Operation]]:
    """What each caller chooses from; there are no callers where there are no commands."""
    plugin_ids = sorted({operation.plugin_id for operation in commands})
    if not plugin_ids:
        return []
    driven = [set(plugin_ids[caller::callers] or [plugin_ids[caller % len(plugin_ids)]]) for caller in range(callers)]
    return [[operation for operation in commands if operation.plugin_id in plugins] for plugins in driven]


def _event(name: str, payload: dict[str, Any] | None) -> Operation:
    """Fields that every such event has are filled in when ``payload`` does not say them."""
    kind = EVENT_KINDS.get(name)
    # ``workspace_root`` is the supervisor's to fill in.
    names = [] if kind is None else [field for field in kind.fields if field != "workspace_root"]
    return Operation("event", "", name, {field: _EXAMPLES[field] for field in names} | (payload or {}))
