"""Attacks by name, and what they may end in."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from attacks.targets import Targets

__all__ = ["ATTACKS", "QUESTIONS", "Attack", "Foiled", "Unavailable", "attack", "attempt", "question"]


class Foiled(Exception):
    """It ran to its end and did not get what it wanted."""


class Unavailable(Exception):
    """This machine has nothing to attack here: another architecture, a kernel without that part."""


class Attack(NamedTuple):
    name: str
    family: str
    wants: str  #: the function's docstring
    run: Callable[[Targets], str]  #: returns what it got; raises OSError, Foiled or Unavailable


ATTACKS: dict[str, Attack] = {}
QUESTIONS: dict[str, Attack] = {}  #: run in the same way, and no attacks

Function = Callable[[Targets], str]


def attack(function: Function) -> Function:
    """Register a function under its own name; its module is its family."""
    return _registered(function, ATTACKS)


def question(function: Function) -> Function:
    return _registered(function, QUESTIONS)


def _registered(function: Function, where: dict[str, Attack]) -> Function:
    assert function.__doc__
    assert function.__name__ not in where
    family = function.__module__.rpartition(".")[2]
    where[function.__name__] = Attack(function.__name__, family, function.__doc__, function)
    return function


def attempt(name: str, targets: Targets) -> tuple[str, str]:
    """Run one attack in this process: (how it ended, what it got or what was in the way)."""
    try:
        return "succeeded", (ATTACKS.get(name) or QUESTIONS[name]).run(targets)
    except OSError as error:
        return "refused", errno.errorcode.get(error.errno or 0, str(error))
    except Foiled as why:
        return "foiled", str(why)
    except Unavailable as why:
        return "unavailable", str(why)
