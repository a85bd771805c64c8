"""The process that forks is not ours any more: whatever it says, its supervisor signals nobody else, whoever waits
hears at once, and nothing stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from conftest import WAIT_SECONDS, wait_until
from isoplug.shared.limits import WorkerLimits
from isoplug.supervisor import SetupError
from isoplug.supervisor.config import Limits
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.pool import fork_server
from isoplug.supervisor.pool.budget import worker_limits
from isoplug.supervisor.pool.fork_server import ForkServer, ForkServerDied
from isoplug.supervisor.pool.hub import Hub
from isoplug.supervisor.pool.link import Silence
from isoplug.supervisor.pool.worker import WorkerProcess

LIMITS: WorkerLimits = worker_limits(Limits())

PREAMBLE = """\
import ctypes, msgpack, os, signal, socket, sys, time
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # no test leaves it behind
control = socket.socket(fileno=int(sys.argv[1]))
def say(*words, fds=()):
    tell(msgpack.packb(words), fds)
def tell(packet, fds=()):
    socket.send_fds(control, [packet], fds)
def order():
    packet, fds, _, _ = socket.recv_fds(control, 65536, 4)
    return msgpack.unpackb(packet)[0]
def child():
    pid = os.fork()
    if not pid:
        time.sleep(600)
    return pid, os.pidfd_open(pid)
def sleep():
    time.sleep(600)
"""


class Process:
    """A Forker."""

    def __init__(self, script: str, control: socket.socket) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script, str(control.fileno())], pass_fds=(control.fileno(),)
        )
        self.pid = self.popen.pid

    def kill(self) -> None:
        self.popen.kill()

    def wait(self, patience_seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(patience_seconds)
        return self.popen.poll() is not None

    def last_words(self) -> str:
        return ""


class Talk:
    """A conversation with a process that runs ``script``."""

    def __init__(self, script: str) -> None:
        self.hub, self.lifeline = Hub(), Lifeline()
        self.words: list[tuple[str, list[Any]]] = []
        self.has_ended = threading.Event()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = Process(script, theirs)
        self.server = ForkServer(
            control,
            self.process,
            self.hub,
            self.lifeline,
            boot_seconds=WAIT_SECONDS,
            on_word=self.hear,
            on_end=self.has_ended.set,
        )

    def hear(self, word: str, facts: list[Any]) -> None:
        if word != "word":
            raise ValueError("no known word")
        self.words.append((word, facts))

    def fork(self, seconds: float = WAIT_SECONDS) -> WorkerProcess:
        return self.server.fork(["order"], Deadline.after(seconds), LIMITS)

    def close(self) -> None:
        self.server.end(0.1)
        assert self.has_ended.wait(WAIT_SECONDS)
        assert self.process.wait(WAIT_SECONDS)
        self.lifeline.cut()
        self.hub.join(WAIT_SECONDS)
        self.hub.close()
        self.lifeline.close()


@pytest.fixture
def talk() -> Iterator[Callable[[str], Talk]]:
    talks: list[Talk] = []

    def begin(script: str) -> Talk:
        talks.append(Talk(script))
        return talks[-1]

    yield begin
    for one in talks:
        one.close()


@contextmanager
def owned(process: WorkerProcess) -> Iterator[WorkerProcess]:
    try:
        yield process
    finally:
        process.kill()
        process.exit_status()
        process.close()


FORGED = {
    "the host": "say('forked', order(), os.getppid(), fds=[os.pidfd_open(os.getppid())])",
    "the host under another pid": "say('forked', order(), child()[0], fds=[os.pidfd_open(os.getppid())])",
    "the first process": "say('forked', order(), 1, fds=[os.pidfd_open(1)])",
    "itself": "say('forked', order(), os.getpid(), fds=[os.pidfd_open(os.getpid())])",
    "its child under another pid": "pid, pidfd = child(); say('forked', order(), os.getppid(), fds=[pidfd])",
    "no pidfd": "say('forked', order(), child()[0], fds=[os.memfd_create('x')])",
}

BREACHES = {
    "no msgpack": "order(); tell(b'\\xc1')",
    "no array": "order(); tell(msgpack.packb({1: 2}))",
    "an empty array": "order(); tell(b'\\x90')",
    "a number": "order(); tell(b'\\x01')",
    "deeply nested": "order(); tell(b'\\x91' * 60000)",
    "an array that is announced and not there": "order(); tell(b'\\xdd\\xff\\xff\\xff\\xff')",
    "longer than a packet": "order(); tell(msgpack.packb(['word', 'x' * 70000]))",
    "an unknown word": "order(); say('wrod')",
    "an answer to nobody": "order(); say('refused', 999, 'x')",
    "a child for nobody": "order(); pid, pidfd = child(); say('forked', 999, pid, fds=[pidfd])",
    "a pid that none can be": "say('forked', order(), 1 << 40, fds=[child()[1]])",
    "a pid below zero": "say('forked', order(), -1, fds=[child()[1]])",
    "the end of a stranger": "order(); say('exited', os.getppid(), 0, 0, 0.0)",
    "texts for numbers": "order(); say('forked', 'x', 'y')",
    "a flood of it": "order()\nfor _ in range(100000): tell(b'\\xc1' * 1000)",
}


@pytest.mark.parametrize("script", FORGED.values(), ids=FORGED.keys())
def test_a_forged_child_is_refused_and_nobody_is_signalled(talk: Callable[[str], Talk], script: str) -> None:
    one = talk(f"{script}\nsleep()")
    with pytest.raises(ForkServerDied):
        one.fork()
    assert one.process.wait(WAIT_SECONDS)


@pytest.mark.parametrize("script", BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_of_the_conversation_ends_the_process_and_its_supervisor_hears_no_more(
    talk: Callable[[str], Talk], script: str
) -> None:
    one = talk(f"{script}\nsay('word')\nsleep()")
    with pytest.raises(ForkServerDied):
        one.fork()
    assert one.process.wait(WAIT_SECONDS)
    assert one.has_ended.wait(WAIT_SECONDS)
    assert not one.words


def test_a_child_without_its_descriptor_is_a_want_of_descriptors(talk: Callable[[str], Talk]) -> None:
    one = talk("say('forked', order(), child()[0])\nsleep()")
    with pytest.raises(SetupError, match="no descriptor is free"):
        one.fork()
    assert one.server.is_alive


@pytest.mark.parametrize(
    "lie",
    [
        "say('exited', pid, 0, 0, 0.0)",
        "say('forked', order(), pid, fds=[pidfd])",
        "os.kill(pid, 9); os.waitpid(pid, 0); say('exited', pid, 1 << 40, 0, 0.0)",
    ],
    ids=["the end of a child that lives", "one child twice", "no wait status"],
)
def test_a_lie_about_a_child_ends_the_process_and_not_the_child_that_is_known(
    talk: Callable[[str], Talk], lie: str
) -> None:
    one = talk(f"pid, pidfd = child(); say('forked', order(), pid, fds=[pidfd])\n{lie}\nsleep()")
    with owned(one.fork()) as process:
        if "order" in lie:
            with pytest.raises(ForkServerDied):
                one.fork()
        assert one.process.wait(WAIT_SECONDS)
        assert one.has_ended.wait(WAIT_SECONDS)
        process.kill()
        assert process.exited.result(WAIT_SECONDS) is not None


def test_no_program_that_the_host_starts_inherits_a_descriptor_of_a_child(talk: Callable[[str], Talk]) -> None:
    one = talk("pid, pidfd = child(); say('forked', order(), pid, fds=[pidfd, pidfd, pidfd])\nsleep()")
    before = len(os.listdir("/proc/self/fd"))
    with owned(one.fork()) as process:
        assert not os.get_inheritable(process.pidfd)
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # the pidfd and standard error: no second descriptor


def test_one_that_says_nothing_is_given_up(talk: Callable[[str], Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_SILENCE_SECONDS", 0.3)
    one = talk("say('word'); sleep()")
    wait_until(lambda: one.words)
    with pytest.raises(ForkServerDied):
        one.fork()
    assert one.process.wait(WAIT_SECONDS)


def test_one_that_does_not_read_holds_up_nobody(talk: Callable[[str], Talk]) -> None:
    one = talk("sleep()")
    seen = set()
    for _ in range(400):  # more than the kernel holds for it
        try:
            one.fork(0.001)
        except (Silence, SetupError) as error:
            seen.add(type(error))
    assert Silence in seen


def test_one_that_ends_the_conversation_and_lives_on_is_ended(talk: Callable[[str], Talk]) -> None:
    one = talk("order(); control.close(); sleep()")
    with pytest.raises(ForkServerDied):
        one.fork()
    assert one.process.wait(WAIT_SECONDS)


@pytest.mark.parametrize("end", ["tell(b'\\xc1')", "sleep()"], ids=["it breaks the protocol", "it is closed"])
def test_a_process_forked_in_secret_keeps_no_conversation_open(talk: Callable[[str], Talk], end: str) -> None:
    one = talk(f"pid, _ = child(); say('word', pid)\n{end}\nsleep()")
    wait_until(lambda: one.words)
    try:
        one.server.end(0.1)
        assert one.has_ended.wait(WAIT_SECONDS)
    finally:
        psutil.Process(one.words[0][1][0]).kill()


def test_a_request_after_the_death_is_told_so(talk: Callable[[str], Talk]) -> None:
    one = talk("os._exit(3)")
    assert one.has_ended.wait(WAIT_SECONDS)
    with pytest.raises(ForkServerDied):
        one.fork()
    assert not one.server.is_alive


def test_a_child_that_nobody_waits_for_any_more_is_not_kept(talk: Callable[[str], Talk]) -> None:
    one = talk(
        "request = order(); order(); pid, pidfd = child()\n"
        "say('forked', request, pid, fds=[pidfd]); os.kill(pid, 9); status = os.waitpid(pid, 0)[1]\n"
        "say('exited', pid, status, 0, 0.0); say('refused', request + 1, 'enough'); say('word'); sleep()"
    )
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Silence):
        one.fork(0.5)
    with pytest.raises(SetupError, match="enough"):
        one.fork()
    wait_until(lambda: one.words)
    assert len(os.listdir("/proc/self/fd")) == before
