"""Which system calls a worker may make: every number from 0 to 511 but those on a list is tried, in workers that are
locked by every layer. What the kernel does has to be what the policy says."""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.campaign import Campaign, Verdict, campaign
from attacks.kernel import NUMBERS
from bench import nothing_left_behind
from guests import guest
from isoplug.worker.lockdown.seccomp.policies import ALLOW, POLICIES, Stage

pytestmark = pytest.mark.timeout(300)

#: The wider of the two: a guest says what it imports, so an attacker has the choice.
POLICY = POLICIES[Stage.RUN_WASI]
NAMES = {number: name for name, number in NUMBERS.items()}

#: Everything that may be called at all once a guest runs; what is not here is answered or ends the process. Whoever
#: adds a call has to say so here as well.
ALLOWED = {
    *("brk", "mmap", "munmap", "mprotect", "madvise"),
    *("futex", "sched_yield", "gettid", "getpid", "exit", "exit_group"),
    *("set_robust_list", "rseq", "sigaltstack", "prctl"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "tgkill"),
    *("clock_gettime", "clock_getres", "gettimeofday", "clock_nanosleep", "nanosleep", "getrandom"),
    *("read", "readv", "write", "writev"),
}

#: For a guest that imports WASI; clone makes nothing but threads.
ALLOWED_WITH_WASI = ALLOWED | {
    *("clone", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2", "fcntl"),
}

#: No filter is asked about these two in newer kernels: they are how the kernel's own probes come back from a
#: page that it has mapped, and from anywhere else they fail.
NEVER_ASKED = {"uretprobe", "uprobe"}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Campaign]:
    wasm = guest("probe", guest_cache).read_bytes()
    with campaign(tmp_path_factory.mktemp("calls"), wasm) as running:
        yield running


def test_only_these_calls_are_allowed() -> None:
    assert allowed(Stage.RUN) == ALLOWED | {"seccomp"}  # which the next takes away
    assert allowed(Stage.RUN_GUEST) == ALLOWED
    assert allowed(Stage.RUN_WASI) == ALLOWED_WITH_WASI


def allowed(stage: Stage) -> set[str]:
    return {call for call, rule in POLICIES[stage].items() if rule.verdict == ALLOW}


def test_every_other_number_is_answered_as_the_policy_says_or_ends_the_process(running: Campaign) -> None:
    wrong = {}
    for number in range(512):
        name = NAMES.get(number, f"number {number}")
        if name not in ALLOWED_WITH_WASI | NEVER_ASKED:
            verdict = running.run("any_call", handed_over=str(number))
            if verdict != expected(name):
                wrong[name] = str(verdict)
    assert not wrong


def expected(name: str) -> Verdict:
    if name not in POLICY:
        return Verdict("died", "SIGSYS")
    number = int(POLICY[name].verdict) & 0xFFFF
    return Verdict("refused", errno.errorcode[number]) if number else Verdict("succeeded", "answer 0")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has x32")
@pytest.mark.parametrize("name", ["read", "getpid", "openat", "execve", "futex"])
def test_every_number_of_x32_ends_the_process(running: Campaign, name: str) -> None:
    verdict = running.run("any_call", handed_over=str(NUMBERS[name] | 1 << 30))
    assert verdict == Verdict("died", "SIGSYS")
