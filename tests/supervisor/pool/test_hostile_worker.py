"""The process behind the socket is not our worker any more: whatever it sends, its caller gets a typed error, the
supervisor stays small, and the next call is served by another process.

The hostile code takes the place of the worker's ``live`` in the zygote. It behaves while it is loaded; the input of the
first raw call names the attack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from conftest import PluginFolder, wait_until
from isoplug.supervisor import CallTimeout, Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Limits, Restart
from isoplug.supervisor.pool import zygote

PROBE = "test.probe"
MIB = 1 << 20

HOSTILE = """
import json, os, time, zmq
import isoplug.worker.zygote
from isoplug.shared.messages import *
from isoplug.shared.messages import FailureKind
from isoplug.worker.link import Link
from isoplug.worker.lockdown import lock_down

MANIFEST = {"id": "test.probe", "name": "x", "version": "1", "description": "x", "capabilities": []}
BIG = bytes(900_000)
LINE = b'{"level":"info","message":"' + b"x" * 60_000 + b'"}'

def sleep():
    while True:
        time.sleep(1)

class Attacks:
    def __init__(self, link, invoke):
        self.link, self.socket, self.call = link, link._socket, invoke.call

    def honest(self): self.link.send(Returned(self.call, b"honest"))
    def garbage(self): self.socket.send(b"\\xc1 garbage")
    def empty(self): self.socket.send(b"")
    def nested(self): self.socket.send(b"\\x91" * 500_000)
    def multipart(self): self.socket.send_multipart([b"a", b"b", b"c"])
    def wrong_call(self): self.link.send(Returned(self.call + 1, b""))
    def old_call(self): self.link.send(Returned(self.call - 1, b"replayed"))
    def failed_other_call(self): self.link.send(Failed(self.call + 7, "guest", "x"))
    def wrong_sequence(self): self.link.send(HostCall(self.call, 2, "host_get_timestamp", b""))
    def sequence_zero(self): self.link.send(HostCall(self.call, 0, "host_get_timestamp", b""))
    def negative(self): self.link.send(HostCall(-self.call, 1, "host_get_timestamp", b""))
    def hello(self): self.link.send(Hello(PROTOCOL))
    def loaded(self): self.link.send(Loaded())
    def load_failed(self): self.link.send(LoadFailed("x"))
    def supervisors_message(self): self.link.send(Answer(self.call, 1, b""))
    def unknown_function(self): self.link.send(HostCall(self.call, 1, "host_rm_rf", b""))
    def unknown_notice(self): self.link.send(Notice(self.call, "host_rm_rf", b""))
    def notice_of_other_call(self): self.link.send(Notice(self.call + 1, "host_log", b"{}"))
    def long_name(self): self.link.send(HostCall(self.call, 1, "x" * 4000, b""))
    def exit(self): os._exit(0)
    def exit_3(self): os._exit(3)

    def silent(self): sleep()
    def disconnects(self):
        self.socket.close()
        sleep()
    def oversize(self):
        self.socket.send(bytes(4 << 20))
        sleep()
    def never_reads(self):
        number = 0
        while True:
            number += 1
            self.link.send(HostCall(self.call, number, "host_get_runtime_context", b""))
    def floods(self):
        while True:
            self.link.send(Notice(self.call, "host_log", b\'{"level":"info","message":"x"}\'))
    def floods_big(self):
        while True:
            self.link.send(Notice(self.call, "host_log", LINE))

    def speaks_when_idle(self):
        self.honest()
        self.link.send(Returned(self.call + 1, b"forged"))
    def floods_when_idle(self):
        self.honest()
        while True:
            self.link.send(Returned(self.call, BIG))
    def exits_when_idle(self):
        self.honest()
        time.sleep(0.05)
        os._exit(4)
    def unfinished_when_idle(self):
        self.honest()
        self.socket.send(b"x", zmq.SNDMORE)
        sleep()

def live(socket_path, limits, lifeline_fd):
    lock_down(limits, lifeline_fd)
    link = Link(socket_path)
    link._socket.sndhwm = 1000
    link.send(Hello(PROTOCOL)); link.receive(); link.send(Loaded())
    while True:
        message = link.receive()
        if isinstance(message, Stop):
            return 0
        if message.export == "manifest":
            link.send(Returned(message.call, json.dumps(MANIFEST).encode()))
        elif message.export == "attack":
            getattr(Attacks(link, message), message.input.decode())()
        else:
            link.send(Failed(message.call, FailureKind.MISSING, ""))

isoplug.worker.zygote.live = live
"""


@pytest.fixture
def supervisor(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> Supervisor:
    start, main = zygote._BOOTSTRAP.split("main(**arguments)")
    monkeypatch.setattr(zygote, "_BOOTSTRAP", f"{start}{HOSTILE}\nmain(**arguments){main}")
    plugins.add()
    restart = Restart(max_restarts=100, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)
    return supervise(config=Config(restart=restart, limits=Limits(frame=1 * MIB)))


@pytest.fixture
def growth() -> Iterator[Callable[[], int]]:
    """The most resident memory of this process since the fixture began, in bytes, sampled."""
    process, is_over = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def sample() -> None:
        nonlocal most
        while not is_over.wait(0.01):
            most = max(most, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    yield lambda: most - before
    is_over.set()
    sampler.join()


def honest(supervisor: Supervisor) -> bool:
    return supervisor.call(PROBE, "attack", b"honest") == b"honest"


@pytest.mark.parametrize(
    "attack",
    [
        "garbage",
        "empty",
        "nested",
        "multipart",
        "wrong_call",
        "old_call",
        "failed_other_call",
        "wrong_sequence",
        "sequence_zero",
        "negative",
        "hello",
        "loaded",
        "load_failed",
        "supervisors_message",
        "unknown_function",
        "unknown_notice",
        "notice_of_other_call",
        "long_name",
    ],
)
def test_a_breach_of_the_protocol_destroys_the_worker(supervisor: Supervisor, attack: str) -> None:
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(WorkerCrashed, match="destroyed") as caught:
        supervisor.call(PROBE, "attack", attack.encode())
    assert (caught.value.signal, caught.value.exit_code) == (None, None)
    assert honest(supervisor)
    assert supervisor.plugins[PROBE].status.worker_pids != pids


@pytest.mark.parametrize(("attack", "exit_code"), [("exit", 0), ("exit_3", 3)])
def test_an_exit_in_a_call_is_a_crash_whatever_its_code(supervisor: Supervisor, attack: str, exit_code: int) -> None:
    with pytest.raises(WorkerCrashed) as caught:
        supervisor.call(PROBE, "attack", attack.encode())
    assert caught.value.exit_code == exit_code
    assert honest(supervisor)


@pytest.mark.parametrize("attack", ["silent", "disconnects", "oversize", "floods", "floods_big"])
def test_what_never_answers_ends_at_the_deadline_and_costs_no_memory(
    supervisor: Supervisor, attack: str, growth: Callable[[], int]
) -> None:
    with pytest.raises(CallTimeout):
        supervisor.call(PROBE, "attack", attack.encode(), timeout=0.5)
    assert honest(supervisor)
    assert growth() < 64 * MIB


def test_a_worker_that_asks_and_never_reads_blocks_nobody(supervisor: Supervisor, growth: Callable[[], int]) -> None:
    with pytest.raises((CallTimeout, WorkerCrashed)):
        supervisor.call(PROBE, "attack", b"never_reads", timeout=3.0)
    assert honest(supervisor)
    assert growth() < 64 * MIB


@pytest.mark.parametrize("attack", ["speaks_when_idle", "floods_when_idle"])
def test_an_idle_worker_that_speaks_gets_no_further_call(
    supervisor: Supervisor, attack: str, growth: Callable[[], int]
) -> None:
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    assert supervisor.call(PROBE, "attack", attack.encode()) == b"honest"
    # Its frame may need a moment: until then an honest call gets what was meant for it, or the forged answer.
    wait_until(lambda: honest_or_forged(supervisor) and plugin.status.worker_pids not in (pids, ()))
    assert honest(supervisor)
    assert growth() < 64 * MIB


def honest_or_forged(supervisor: Supervisor) -> bool:
    try:
        return supervisor.call(PROBE, "attack", b"honest", timeout=1.0) in (b"honest", b"forged")
    except (WorkerCrashed, CallTimeout):
        return True


def test_an_idle_worker_that_exits_is_replaced(supervisor: Supervisor) -> None:
    plugin = supervisor.plugins[PROBE]
    pids = plugin.status.worker_pids
    assert supervisor.call(PROBE, "attack", b"exits_when_idle") == b"honest"
    wait_until(lambda: plugin.status.state == "ready" and plugin.status.worker_pids != pids)
    assert "code 4" in (plugin.status.last_failure or "")


def test_a_message_that_an_idle_worker_began_does_not_become_an_answer(supervisor: Supervisor) -> None:
    assert supervisor.call(PROBE, "attack", b"unfinished_when_idle") == b"honest"
    with pytest.raises(CallTimeout):
        supervisor.call(PROBE, "attack", b"honest", timeout=0.5)
    assert honest(supervisor)
