"""Policies as data, and the filters made of them, for both machines."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import ziglang
from hypothesis import given
from hypothesis import strategies as st

from bpf import meaning, verdict
from isoplug.worker.lockdown.seccomp.assembler import Program, assemble
from isoplug.worker.lockdown.seccomp.numbers import MACHINES, Machine
from isoplug.worker.lockdown.seccomp.policies import ALLOW, KILL, POLICIES, Argument, Own, Policy, Rule, Stage, refuse

PID = 4_711
I386 = 0x4000_0003
HEADERS = {"x86_64": "x86-linux-any/asm/unistd_64.h", "aarch64": "aarch64-linux-any/asm/unistd_64.h"}
PROGRAMS = {(stage, name): assemble(POLICIES[stage], MACHINES[name]) for stage in Stage for name in MACHINES}

NARROWING = (
    (Stage.COMPILE, Stage.INSTANTIATE),
    (Stage.INSTANTIATE, Stage.RUN_WASI),
    (Stage.INSTANTIATE, Stage.RUN),
    (Stage.RUN, Stage.RUN_GUEST),
)

#: What a process that was taken over would like best. `clone`, `mprotect` and the like are in policies, with arguments.
NEVER = {
    "acct",
    "add_key",
    "bind",
    "bpf",
    "capset",
    "chmod",
    "chown",
    "chroot",
    "delete_module",
    "execve",
    "execveat",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_enter",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_load",
    "keyctl",
    "landlock_add_rule",
    "listen",
    "mknod",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "msgget",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "pkey_mprotect",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "semget",
    "setgid",
    "setgroups",
    "sethostname",
    "setns",
    "setpriority",
    "setresuid",
    "setuid",
    "shmat",
    "shmget",
    "signalfd",
    "socketpair",
    "splice",
    "swapon",
    "syslog",
    "timer_create",
    "tkill",
    "umount2",
    "unshare",
    "userfaultfd",
    "vfork",
    "vmsplice",
}

numbers = st.sampled_from([number for machine in MACHINES.values() for number in machine.numbers.values()])
interesting = st.sampled_from(
    sorted(
        {
            argument.value
            for policy in POLICIES.values()
            for rule in policy.values()
            for line in rule.when
            for argument in line
            if not isinstance(argument.value, Own)
        }
        | {PID, 0, 1 << 31, (1 << 64) - 1}
    )
)
bits = st.integers(0, 63).map(lambda bit: 1 << bit)
values = st.one_of(interesting, st.builds(lambda value, bit: value ^ bit, interesting, bits), st.integers(0, 2**64 - 1))


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header = Path(ziglang.__file__).parent / "lib/libc/include" / HEADERS[machine]
    kernel = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text())}
    calls = {rule for policy in POLICIES.values() for rule in policy}
    assert {call: kernel[call] for call in calls if call in kernel} == MACHINES[machine].numbers


@pytest.mark.parametrize("stage", Stage)
def test_every_rule_names_its_call_and_gives_a_reason(stage: Stage) -> None:
    for call, rule in POLICIES[stage].items():
        assert rule.call == call
        assert len(rule.reason) > 3
        assert any(call in machine.numbers for machine in MACHINES.values())


def allowed(rule: Rule) -> set[tuple[Argument, ...]] | None:
    """The lines for which a rule allows its call; None for always."""
    if rule.verdict != ALLOW:
        return set()
    return set(rule.when) or None


@pytest.mark.parametrize(("wider", "narrower"), NARROWING)
def test_each_stage_allows_only_what_the_one_before_allowed(wider: Stage, narrower: Stage) -> None:
    """Or it would say that it allows something that the kernel, which asks all filters, does not."""
    own = {"tgkill"}  # by the process's own id: any is allowed before, when it is not known yet
    for call, rule in POLICIES[narrower].items():
        before = POLICIES[wider][call]
        assert before.verdict in (ALLOW, rule.verdict)
        assert before.otherwise in (KILL, rule.otherwise)
        if allowed(before) is not None and call not in own:
            assert allowed(rule) is not None
            # Each line is one of those before, perhaps with more conditions.
            assert all(any(set(line) >= set(other) for other in allowed(before)) for line in allowed(rule))
    assert len(POLICIES[narrower]) < len(POLICIES[wider])


@pytest.mark.parametrize("stage", Stage)
def test_no_stage_knows_the_calls_that_an_attacker_would_like_best(stage: Stage) -> None:
    assert not NEVER & POLICIES[stage].keys()


@pytest.mark.parametrize(("stage", "machine"), PROGRAMS)
def test_filters_are_short_enough_for_the_kernel(stage: Stage, machine: str) -> None:
    assert len(PROGRAMS[stage, machine]) < 4_096 / 4  # three are stacked


@pytest.mark.parametrize(("stage", "name"), PROGRAMS)
@given(number=numbers, arguments=st.tuples(*[values] * 6))
def test_a_filter_says_what_its_policy_says(stage: Stage, name: str, number: int, arguments: tuple[int, ...]) -> None:
    machine, code = MACHINES[name], PROGRAMS[stage, name].for_process(PID)
    expected = meaning(POLICIES[stage], machine, number, arguments, PID)
    assert verdict(code, machine.audit_architecture, number, arguments) == expected


@pytest.mark.parametrize(("stage", "name"), PROGRAMS)
def test_calls_of_another_architecture_are_killed(stage: Stage, name: str) -> None:
    code = PROGRAMS[stage, name].for_process(PID)
    for number in range(512):
        assert verdict(code, I386, number, (0,) * 6) == KILL


@pytest.mark.parametrize("stage", Stage)
def test_calls_of_x32_are_killed(stage: Stage) -> None:
    code, machine = PROGRAMS[stage, "x86_64"].for_process(PID), MACHINES["x86_64"]
    for number in range(0x4000_0000, 0x4000_0000 + 1024):
        assert verdict(code, machine.audit_architecture, number, (0,) * 6) == KILL


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("everybody", [-1, -PID, 0xFFFF_FFFF])
def test_a_template_cannot_kill_everybody_or_a_group(name: str, everybody: int) -> None:
    """In the kernel nobody should try this."""
    machine, code = MACHINES[name], PROGRAMS[Stage.COMPILE, name].for_process(PID)

    def kill(pid: int, number: int) -> int:
        arguments = (pid & (1 << 64) - 1, number, 0, 0, 0, 0)
        return verdict(code, machine.audit_architecture, machine.numbers["kill"], arguments)

    assert kill(PID, signal.SIGKILL) == ALLOW
    assert kill(PID, signal.SIGTERM) == KILL
    assert kill(everybody, signal.SIGKILL) == KILL


SYNTHETIC = Machine(7, {"call": 5})


def filter_of(*when: tuple[Argument, ...], otherwise: int = KILL) -> Program:
    policy: Policy = {"call": Rule("call", "a test", when, otherwise=refuse(otherwise) if otherwise != KILL else KILL)}
    return assemble(policy, SYNTHETIC)


@given(value=values, mask=values, argument=values, index=st.integers(0, 5))
def test_both_halves_of_an_argument_count(value: int, mask: int, argument: int, index: int) -> None:
    code = filter_of((Argument(index, value & mask, mask),)).for_process(PID)
    arguments = [0] * 6
    arguments[index] = argument
    assert verdict(code, 7, 5, arguments) == (ALLOW if argument & mask == value & mask else KILL)


def test_one_line_that_holds_is_enough_and_needs_all_its_arguments() -> None:
    code = filter_of((Argument(0, 1), Argument(1, 2)), (Argument(0, 3),), otherwise=22).for_process(PID)
    assert verdict(code, 7, 5, (1, 2, 0, 0, 0, 0)) == ALLOW
    assert verdict(code, 7, 5, (3, 0, 0, 0, 0, 0)) == ALLOW
    for arguments in ((1, 0, 0, 0, 0, 0), (0, 2, 0, 0, 0, 0), (0, 3, 0, 0, 0, 0)):
        assert verdict(code, 7, 5, arguments) == refuse(22)


def test_the_processs_own_id_is_written_into_its_copy_only() -> None:
    program = filter_of((Argument(0, Own.PID, 0xFFFF_FFFF),))
    mine, other = program.for_process(PID), program.for_process(PID + 1)
    assert verdict(mine, 7, 5, (PID, 0, 0, 0, 0, 0)) == ALLOW
    assert verdict(other, 7, 5, (PID, 0, 0, 0, 0, 0)) == KILL
    assert len(mine) == len(other) == 8 * len(program)
