"""From a policy to classic BPF, the language of seccomp filters. Pure.

A filter sees ``struct seccomp_data``: the call's number, the architecture, the six arguments. It is a list of
instructions without loops that ends in a verdict. Ours reads: another architecture (i386 calls of an x86-64 process)
→ kill; then a block for each call, tried in turn; then kill. A block is entered when the number is equal, so the x32
calls of x86-64, whose numbers have bit 30 set, match none.

The machine word of classic BPF has 32 bits, so a 64-bit argument is compared in two halves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from isoplug.worker.lockdown.seccomp.numbers import Machine
from isoplug.worker.lockdown.seccomp.policies import KILL, Argument, Own, Policy, Rule

__all__ = ["Program", "assemble"]

# <linux/bpf_common.h>
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data; both machines are little-endian, so the lower half of an argument comes first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, constant
_OPERAND_OFFSET = 4
_LOW: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class _Instruction:
    code: int
    constant: int | Own
    if_true: int = 0  # instructions to skip
    if_false: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """Instructions as the kernel takes them, with zeros where the process's own id belongs."""

    code: bytes
    pid_offsets: tuple[int, ...]

    def __len__(self) -> int:
        """In instructions; the kernel takes 4,096."""
        return len(self.code) // _INSTRUCTION.size

    def for_process(self, pid: int) -> bytes:
        code = bytearray(self.code)
        for offset in self.pid_offsets:
            struct.pack_into("=I", code, offset, pid)
        return bytes(code)


def assemble(policy: Policy, machine: Machine) -> Program:
    """Calls that ``machine`` does not have are left out."""
    blocks = [
        _block(machine.numbers[call], rule)
        # Those with arguments first: the kernel answers the others from a table of its own (since Linux 5.11).
        for call, rule in sorted(policy.items(), key=lambda item: not item[1].when)
        if call in machine.numbers
    ]
    return _encode(
        [
            _Instruction(_LOAD_WORD, _ARCHITECTURE),
            _Instruction(_JUMP_IF_EQUAL, machine.audit_architecture, if_true=1),
            _Instruction(_RETURN, KILL),
            _Instruction(_LOAD_WORD, _NUMBER),
            *(instruction for block in blocks for instruction in block),
            _Instruction(_RETURN, KILL),
        ]
    )


def _block(number: int, rule: Rule) -> list[_Instruction]:
    body: list[_Instruction] = []
    for line in rule.when:
        body += _line(line, rule.verdict)
    body.append(_Instruction(_RETURN, rule.otherwise if rule.when else rule.verdict))
    return [_Instruction(_JUMP_IF_EQUAL, number, if_false=len(body)), *body]


def _line(arguments: tuple[Argument, ...], verdict: int) -> list[_Instruction]:
    """Falls out at the end when an argument does not hold."""
    line = [_Instruction(_RETURN, verdict)]
    for argument in reversed(arguments):
        line = _comparison(argument, len(line)) + line
    return line


def _comparison(argument: Argument, rest: int) -> list[_Instruction]:
    """Goes on with the next instruction when the argument holds, and skips ``rest`` more when it does not."""
    instructions: list[_Instruction] = []
    for offset, shift in ((4, 32), (0, 0)):  # built from the back: the upper half last
        mask = argument.mask >> shift & _LOW
        if not mask:
            continue
        wanted = argument.value if isinstance(argument.value, Own) else argument.value >> shift & _LOW
        half = [_Instruction(_LOAD_WORD, _ARGUMENTS + 8 * argument.index + offset)]
        if mask != _LOW:
            half.append(_Instruction(_AND, mask))
        half.append(_Instruction(_JUMP_IF_EQUAL, wanted, if_false=len(instructions) + rest))
        instructions = half + instructions
    return instructions


def _encode(instructions: list[_Instruction]) -> Program:
    code = bytearray()
    pid_offsets = []
    for instruction in instructions:
        constant = instruction.constant
        if isinstance(constant, Own):
            pid_offsets.append(len(code) + _OPERAND_OFFSET)
            constant = 0
        code += _INSTRUCTION.pack(instruction.code, instruction.if_true, instruction.if_false, constant)
    return Program(bytes(code), tuple(pid_offsets))
