"""What a fault is.

A fault strikes one delivery (``CallFault``) or one host call (``HostCallFault``). It is a value: which one, and its
parameters; what it does when it strikes is in ``strike``. Each says how a call that it strikes may end; whatever else
happens is a defect of isoplug, of a host, or of a plugin.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from isoplug.shared.errors import InvalidArgument, PluginError
from isoplug.shared.messages import Failed, Returned
from isoplug.supervisor.calls.interceptor import Delivery, Proceed, Serve

__all__ = ["CallFault", "Fault", "HostCallFault", "fault_named", "fault_names", "register"]

_BY_NAME: dict[str, type[Fault]] = {}


@dataclass(frozen=True, slots=True)
class Fault(ABC):
    """Base of all. ``name`` is the word for it in plans and reports.

    ``ends``: the errors with which a call may end that was struck; ``may_answer``: it may be answered, too. A nested
    call that was struck ends so for the plugin that made it, whose own call may then end as that plugin likes.

    ``is_told``: the plugin hears of it, as an error of a service or as another time of day, and may answer and do
    something else than without it. ``is_global``: while it acts, it may also end calls that it did not strike, or make
    their services fail, because it takes something from the whole process.
    """

    name: ClassVar[str]
    ends: ClassVar[tuple[type[PluginError], ...]]
    may_answer: ClassVar[bool]
    is_told: ClassVar[bool] = False
    is_global: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """Those that differ from their defaults, as they stand in a plan."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def imitates(cls) -> str:
        """The first paragraph of its docstring, on one line: what it does, as what does it in real life."""
        return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].replace("``", "").split())

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """All its parameters, and what they are when a plan does not say."""
        return {field.name: field.default for field in fields(cls)}

    def __str__(self) -> str:
        parameters = ", ".join(f"{name}={value}" for name, value in self.parameters().items())
        return f"{self.name}({parameters})" if parameters else self.name


@dataclass(frozen=True, slots=True)
class CallFault(Fault):
    """Strikes a delivery: one call of one worker."""

    @abstractmethod
    def strike(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor.intercept``."""


@dataclass(frozen=True, slots=True)
class HostCallFault(Fault):
    """Strikes a host call: what a guest asks of its host during a call."""

    def concerns(self, function: str) -> bool:
        """Whether there is anything to strike in this host function; it is not counted as a host call that matches
        when there is not."""
        return True

    @abstractmethod
    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        """``serve(function, payload)``, with whatever comes before, instead and after."""


def register(kind: type[Fault]) -> type[Fault]:
    """Class decorator: makes a fault known under its name. A host may register its own."""
    if kind.name in _BY_NAME:
        raise InvalidArgument(f"there is a fault {kind.name!r} already ({_BY_NAME[kind.name].__qualname__})")
    _BY_NAME[kind.name] = kind
    return kind


def fault_names() -> tuple[str, ...]:
    return tuple(sorted(_BY_NAME))


def fault_named(name: str, **parameters: Any) -> Fault:
    """Raises InvalidArgument for a name or parameters that there are not."""
    kind = _BY_NAME.get(name)
    if kind is None:
        raise InvalidArgument(f"there is no fault {name!r}; there are {', '.join(fault_names())}")
    try:
        return kind(**parameters)
    except TypeError:
        names = {field.name for field in fields(kind)}
        known, unknown = ", ".join(sorted(names)) or "none", ", ".join(sorted(parameters.keys() - names))
        raise InvalidArgument(
            f"fault {name!r} has no such parameter: {unknown}; it has {known}. Where it strikes is said by every, "
            "probability, at, after, times, plugin, export and function"
        ) from None
