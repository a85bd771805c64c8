"""What the kernel makes of a seccomp filter, in Python: an interpreter of the instructions that ours consist of, and
what a policy says without any filter. The two must agree."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from isoplug.worker.lockdown.seccomp.numbers import Machine
from isoplug.worker.lockdown.seccomp.policies import KILL, Argument, Own, Policy

__all__ = ["meaning", "verdict"]

_LOW = 0xFFFF_FFFF


def verdict(code: bytes, audit_architecture: int, number: int, arguments: Sequence[int]) -> int:
    """Run the filter on one system call."""
    data = struct.pack("=IIQ6Q", number, audit_architecture, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, constant = instructions[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x15:
            at += if_true if accumulator == constant else if_false
        else:
            assert operation == 0x06, f"instruction {at - 1} is of a kind that our filters have not: {operation:#x}"
            return int(constant)


def meaning(policy: Policy, machine: Machine, number: int, arguments: Sequence[int], pid: int) -> int:
    """What ``policy`` says of one system call."""
    names = {number: name for name, number in machine.numbers.items()}
    rule = policy.get(names.get(number, ""))
    if rule is None:
        return KILL
    holds = any(all(_holds(argument, arguments, pid) for argument in line) for line in rule.when)
    return rule.verdict if holds or not rule.when else rule.otherwise


def _holds(argument: Argument, arguments: Sequence[int], pid: int) -> bool:
    value = pid if isinstance(argument.value, Own) else argument.value
    return arguments[argument.index] & argument.mask == value & argument.mask
