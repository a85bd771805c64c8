"""Which faults strike where: rules and a seed, in Python or as TOML.

    seed = 7

    [[fault]]
    name = "kill"            # which fault; further keys that are not below are its parameters
    moment = "reply"
    every = 3                # every third call of those that match ...
    plugin = "diaryx.daily"  # ... of this plugin

    [[fault]]
    name = "service-fails"
    probability = 0.1        # each matching host call with this probability, which the seed decides
    function = "host_storage_set"

    [[fault]]
    name = "kill"
    at = [{ round = 0, caller = "", number = 5, delivery = 1 }]  # exactly there

The same plan and the same seed give the same faults against the same calls: what a rule decides depends on the seed and
the place (``Place``), never on time or on other callers. ``after`` is the exception: it waits for a time.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from isoplug.shared.errors import InvalidArgument, SetupError
from isoplug.supervisor.chaos.faults import Fault, HostCallFault, fault_named, fault_names
from isoplug.supervisor.chaos.place import Place, Step
from isoplug.supervisor.config.values import parse_duration
from isoplug.supervisor.files import read_bounded, reason

__all__ = ["Plan", "Rule", "mixed_plan"]

#: Of a plan's file: a plan of one fault each in a hundred thousand places.
_MAX_BYTES = 16 << 20
_RULE_KEYS = ("name", "plugin", "export", "function", "every", "probability", "at", "after", "times")


@dataclass(frozen=True, slots=True)
class Rule:
    """``fault``, and where it strikes: calls (for a HostCallFault: host calls) that match ``plugin``, ``export`` and
    ``function``, and of those, exactly one of

    - ``every``: each n-th, counted for each caller;
    - ``probability``: each with this probability, from 0 to 1;
    - ``at``: those at these places;
    - ``after_seconds``: the first one when so much time has passed since the run began.

    With none of the four, each. ``times`` bounds how often, for each caller. What a worker is told before and after its
    pool has it (``init``, ``set_config``, ``manifest``, ``shutdown``) is struck only when ``export`` names it.

    Raises InvalidArgument.
    """

    fault: Fault
    plugin: str | None = None
    export: str | None = None
    function: str | None = None
    every: int | None = None
    probability: float | None = None
    at: tuple[Place, ...] = ()
    after_seconds: float | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        given = [self.every is not None, self.probability is not None, bool(self.at), self.after_seconds is not None]
        if sum(given) > 1:
            raise InvalidArgument(f"fault {self.fault.name!r}: give one of every, probability, at and after")
        if self.function is not None and not isinstance(self.fault, HostCallFault):
            raise InvalidArgument(
                f"fault {self.fault.name!r} strikes calls, not host calls; leave function out, or take another fault"
            )
        _require_whole(self, "every", self.every)
        _require_whole(self, "times", self.times)
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise InvalidArgument(f"fault {self.fault.name!r}: probability is from 0 to 1, not {self.probability}")

    def matches(self, plugin_id: str, export: str, function: str, *, is_lent: bool) -> bool:
        if self.plugin not in (None, plugin_id) or self.function not in (None, function):
            return False
        return self.export == export if self.export is not None else is_lent

    def to_toml(self) -> dict[str, Any]:
        """A ``[[fault]]`` table."""
        table: dict[str, Any] = {"name": self.fault.name, **self.fault.parameters()}
        for name in ("plugin", "export", "function", "every", "probability", "times"):
            if getattr(self, name) is not None:
                table[name] = getattr(self, name)
        if self.after_seconds is not None:
            table["after"] = f"{self.after_seconds:.3f}s"
        if self.at:
            table["at"] = [_place_to_toml(place) for place in self.at]
        return table

    @classmethod
    def from_toml(cls, table: Mapping[str, Any]) -> Self:
        """Raises InvalidArgument, which names the key."""
        name = table.get("name")
        if not isinstance(name, str):
            raise InvalidArgument('a [[fault]] needs a name, such as name = "kill"')
        fault = fault_named(name, **{key: value for key, value in table.items() if key not in _RULE_KEYS})
        for key, kinds in (("plugin", str), ("export", str), ("function", str), ("every", int), ("times", int)):
            if key in table and (not isinstance(table[key], kinds) or isinstance(table[key], bool)):
                raise InvalidArgument(f"fault {name!r}: {key} must be {_WORDS[kinds]}, not {table[key]!r}")
        probability = table.get("probability")
        if probability is not None and (not isinstance(probability, (int, float)) or isinstance(probability, bool)):
            raise InvalidArgument(f"fault {name!r}: probability must be a number from 0 to 1, not {probability!r}")
        return cls(
            fault,
            table.get("plugin"),
            table.get("export"),
            table.get("function"),
            table.get("every"),
            probability,
            _places(name, table.get("at", [])),
            _seconds(name, table.get("after")),
            table.get("times"),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Rules and a seed. ``rules`` that strike the same call strike it in their order, the first one outermost."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0

    def chance(self, rule: int, place: Place) -> float:
        """From 0 to 1, evenly; the same for the same seed, rule and place, wherever and whenever it is asked."""
        text = f"{self.seed}/{rule}/{place}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / (1 << 56)

    def seeded(self, seed: int) -> Plan:
        return replace(self, seed=seed)

    def to_toml(self) -> str:
        import tomli_w  # plans are seldom written

        tables: dict[str, Any] = {"seed": self.seed, "fault": [rule.to_toml() for rule in self.rules]}
        return tomli_w.dumps(tables)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Raises InvalidArgument."""
        try:
            tables = tomllib.loads(text)
            _require_64_bits(tables)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the fault plan is not TOML: {error}") from error
        unknown = tables.keys() - {"seed", "fault"}
        if unknown:
            raise InvalidArgument(
                f"the fault plan has unknown keys: {', '.join(sorted(unknown))}; known: seed, [[fault]]"
            )
        seed, faults = tables.get("seed", 0), tables.get("fault", [])
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InvalidArgument(f"the fault plan's seed must be a whole number, not {seed!r}")
        if not isinstance(faults, list) or not all(isinstance(table, dict) for table in faults):
            raise InvalidArgument("the fault plan's faults must be [[fault]] tables")
        return cls(tuple(Rule.from_toml(table) for table in faults), seed)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises SetupError that names the file."""
        try:
            return cls.from_toml(read_bounded(path, _MAX_BYTES).decode())
        except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise SetupError(f"cannot read the fault plan {path}: {reason(error)}; check --plan") from error
        except InvalidArgument as error:
            raise SetupError(f"{path}: {error}") from error


def mixed_plan(names: tuple[str, ...] = (), seed: int = 0, share: float = 0.3) -> Plan:
    """These faults, with one probability each: together ``share`` of what they can strike, calls and host calls alike.
    None named: all but those that may end other callers' calls as well (``Fault.is_global``), since which ones they
    do is not the same when the run is repeated. A fault that has kinds (``moment = "before" | "delivery" | "reply"``)
    gets a rule for each, and these divide its part.

    Raises InvalidArgument for a name that there is not.
    """
    names = names or tuple(name for name in fault_names() if not fault_named(name).is_global)
    faults = [_kinds(name) for name in dict.fromkeys(names)]
    each = share / len(faults)
    return Plan(tuple(Rule(kind, probability=each / len(kinds)) for kinds in faults for kind in kinds), seed)


def _kinds(name: str) -> list[Fault]:
    """A fault with each value of its parameters that have a few."""
    hints = get_type_hints(type(fault_named(name)))
    values = {key: get_args(hint) for key, hint in hints.items() if get_origin(hint) is Literal}
    return [fault_named(name, **dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]


_WORDS = {str: "text", int: "a whole number"}


def _require_64_bits(value: Any) -> None:
    """What TOML allows of whole numbers; tomllib takes longer ones, and Python cannot write those down again. Raises
    ValueError."""
    match value:
        case dict():
            for one in value.values():
                _require_64_bits(one)
        case list():
            for one in value:
                _require_64_bits(one)
        case int() if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"a whole number of {value.bit_length()} bits; 64 are allowed")


def _require_whole(rule: Rule, key: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InvalidArgument(f"fault {rule.fault.name!r}: {key} must be 1 or more, not {value}")


def _place_to_toml(place: Place) -> dict[str, Any]:
    step = place.step
    table = {"round": step.round, "caller": step.caller, "number": step.number, "delivery": place.delivery}
    return {**table, "host_call": place.host_call} if place.host_call else table


def _places(name: str, tables: Any) -> tuple[Place, ...]:
    advice = f'fault {name!r}: at must be a list of places, such as [{{ caller = "", number = 5, delivery = 1 }}]'
    if not isinstance(tables, list):
        raise InvalidArgument(advice)
    places = []
    for table in tables:
        if not isinstance(table, dict) or table.keys() - {"round", "caller", "number", "delivery", "host_call"}:
            raise InvalidArgument(f"{advice}, not {table!r}")
        caller = table.get("caller", "")
        numbers = [table.get("round", 0), table.get("number", 1), table.get("delivery", 1), table.get("host_call", 0)]
        if not isinstance(caller, str) or not all(isinstance(number, int) for number in numbers):
            raise InvalidArgument(f"{advice}, not {table!r}")
        places.append(Place(Step(numbers[0], caller, numbers[1]), numbers[2], numbers[3]))
    return tuple(places)


def _seconds(name: str, text: Any) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except (ValueError, AttributeError) as error:
        raise InvalidArgument(f'fault {name!r}: after must be a time, such as "2s" ({error})') from error
