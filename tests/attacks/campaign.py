"""A real supervisor with a hostile zygote, the targets around it, and how each attack ended."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from attacks.targets import MARK, SECRET_PREFIX, Targets
from guests import renamed
from isoplug.shared.errors import CallTimeout, WorkerCrashed
from isoplug.shared.lockdown import Layer
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, Restart
from zygotes import zygotes_run

__all__ = ["Campaign", "Verdict", "campaign"]

_ATTACKER, _SIBLING = "test.attacker", "test.sibling"
_CALL_SECONDS = 10.0
_WAIT_SECONDS = 20.0
_EXIT_OF_ATTACKERS_PROGRAM = 42
#: Attacks kill their workers, which is nothing to be careful about here.
_RESTART = Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0.0)


@dataclass(frozen=True)
class Verdict:
    """``outcome``: ``succeeded``, ``refused`` (``detail``: the errno), ``foiled`` (it ran and got nothing),
    ``unavailable`` (nothing to attack on this machine), ``died`` (``detail``: the signal) or ``hung``."""

    outcome: str
    detail: str

    @property
    def is_stopped(self) -> bool:
        return self.outcome not in ("succeeded", "unavailable")

    def __str__(self) -> str:
        return self.detail if self.outcome in ("refused", "died") else self.outcome


class Campaign:
    """``run`` one attack after the other, each in a worker that no attack has succeeded in."""

    attacker = _ATTACKER

    def __init__(
        self, supervisor: Supervisor, targets: Targets, mark: ctypes.Array[ctypes.c_char], call_seconds: float
    ) -> None:
        self._call_seconds = call_seconds
        self.supervisor = supervisor
        self._targets = targets
        self._mark = mark
        self._attacked = 0
        self._victim: subprocess.Popen[bytes] | None = None

    def worker_pid(self, plugin_id: str) -> int:
        """0: there is none at this moment."""
        pids = self.supervisor.plugins[plugin_id].status.worker_pids
        return int(pids[0]) if pids else 0

    @property
    def secret(self) -> str:
        return Path(self._targets.secret_path).read_text()

    def serves(self) -> bool:
        """The attacked plugin takes calls (again), and the other one did all along."""
        return all(
            self.supervisor.call(plugin_id, "echo", b"still here") == b"still here"
            for plugin_id in (_ATTACKER, _SIBLING)
        )

    def run(self, name: str, *, replaces: bool = True, **changed: Any) -> Verdict:
        """``changed`` are targets of this attack's own; ``replaces``: a worker in which it has succeeded."""
        targets = replace(self._prepared(), **changed)
        verdict = self._verdict(name, targets)
        if verdict.outcome == "succeeded" and replaces:
            self._replace_worker()
        shutil.rmtree(targets.folder)
        return verdict

    def close(self) -> None:
        if self._victim is not None:
            self._bury(self._victim)

    @staticmethod
    def _bury(victim: subprocess.Popen[bytes]) -> None:
        with victim:
            victim.kill()

    def _prepared(self) -> Targets:
        if self._victim is not None and self._victim.poll() is not None:
            self._bury(self._victim)
            self._victim = None
        if self._victim is None:
            # Says back what it is told, and ends with this process.
            self._victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        _wait_until(lambda: self.worker_pid(_SIBLING))  # the one before was attacked; 0 would be the attacker itself
        self._mark.value = b""
        self._attacked += 1
        folder = Path(self._targets.folder) / str(self._attacked)
        (folder / "empty").mkdir(parents=True)
        (folder / "victim").write_bytes(b"what the host had written")
        return replace(
            self._targets, folder=str(folder), victim_pid=self._victim.pid, sibling_pid=self.worker_pid(_SIBLING)
        )

    def _verdict(self, name: str, targets: Targets) -> Verdict:
        order = json.dumps({"name": name, "targets": targets.to_json()}).encode()
        try:
            answer = self.supervisor.call(_ATTACKER, "attack", order, timeout=self._call_seconds)
            verdict = Verdict(*json.loads(answer))
        except WorkerCrashed as crash:
            verdict = _verdict_of(crash)
        except CallTimeout:
            verdict = Verdict("hung", f"no answer for {self._call_seconds:g} s")
        return self._checked(verdict)

    def _checked(self, verdict: Verdict) -> Verdict:
        """Whatever the attack says, what has happened to its targets counts."""
        assert self._victim is not None
        if verdict.detail == "victim signalled" and _lives(self._victim):
            return Verdict("foiled", "the victim lives")
        if self._victim.poll() is not None:
            return Verdict("succeeded", "the victim is dead")
        if self._mark.value == MARK:
            return Verdict("succeeded", "the supervisor's memory was written")
        return verdict

    def _replace_worker(self) -> None:
        pid = self.worker_pid(_ATTACKER)
        if not pid:
            return  # it died of its success, and its successor is on its way
        with suppress(ProcessLookupError):  # it dies of it just now
            os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: self.worker_pid(_ATTACKER) not in (0, pid))


def _lives(victim: subprocess.Popen[bytes]) -> bool:
    """Whether no signal that ends it was on its way: it would meet that before it answers."""
    assert victim.stdin is not None
    assert victim.stdout is not None
    try:
        victim.stdin.write(b"?")
    except BrokenPipeError:
        is_answered = False
    else:
        readable, _, _ = select.select([victim.stdout], [], [], _WAIT_SECONDS)
        is_answered = not readable or victim.stdout.read(1) == b"?"  # without a word it is stopped, and not dead
    if not is_answered:
        victim.wait(_WAIT_SECONDS)
    return is_answered


def _verdict_of(crash: WorkerCrashed) -> Verdict:
    if crash.exit_code == _EXIT_OF_ATTACKERS_PROGRAM:
        return Verdict("succeeded", "the attacker's program ran")
    if crash.signal is not None:
        return Verdict("died", signal.Signals(crash.signal).name)
    return Verdict("died", crash.cause)


@contextmanager
def campaign(
    folder: Path, wasm: bytes, left_out: Collection[Layer] = (), call_seconds: float = _CALL_SECONDS
) -> Iterator[Campaign]:
    """``wasm`` is the probe guest; ``folder`` is empty, and of the user that runs this."""
    with ExitStack() as held:
        held.enter_context(_hostile_zygote(left_out))
        for name in ("plugins", "workspace", "targets"):
            (folder / name).mkdir()
        for plugin_id in (_ATTACKER, _SIBLING):
            (folder / "plugins" / plugin_id).mkdir()
            (folder / "plugins" / plugin_id / "plugin.wasm").write_bytes(renamed(wasm, plugin_id))
        (folder / "workspace" / "README.md").write_text("---\ntitle: Journal\n---\n")
        base = tempfile.mkdtemp(prefix="iso-atk-", dir="/tmp")
        os.chmod(base, 0o711)
        held.callback(shutil.rmtree, base)
        held.enter_context(patch.dict(os.environ, {"XDG_RUNTIME_DIR": base}))
        secret = SECRET_PREFIX + os.urandom(16).hex().encode()
        held.enter_context(patch.dict(os.environ, {"ISOPLUG_TEST_SECRET": secret.decode()}))
        supervisor = held.enter_context(
            Supervisor(
                folder / "plugins", folder / "workspace", state_dir=folder / "state", config=Config(restart=_RESTART)
            )
        )
        assert not supervisor.load_errors, supervisor.load_errors
        targets, mark = _targets(held, folder, base, secret)
        running = Campaign(supervisor, targets, mark, call_seconds)
        held.callback(running.close)
        yield running


@contextmanager
def _hostile_zygote(left_out: Collection[Layer]) -> Iterator[None]:
    layers = [layer.value for layer in left_out]
    with pytest.MonkeyPatch.context() as monkeypatch:
        zygotes_run(monkeypatch, f"import attacks.hostile\nattacks.hostile.take_over({layers!r})")
        yield


def _targets(held: ExitStack, folder: Path, base: str, secret: bytes) -> tuple[Targets, ctypes.Array[ctypes.c_char]]:
    secret_file = folder / "targets" / "secret"
    secret_file.write_bytes(secret)
    secret_file.chmod(0o600)
    secret_fd = os.open(secret_file, os.O_RDONLY)
    held.callback(os.close, secret_fd)
    in_memory = ctypes.create_string_buffer(secret)
    mark = ctypes.create_string_buffer(len(MARK) + 1)
    held.callback(lambda: in_memory)  # kept as long as its address is known
    abstract_name = f"isoplug-attacks-{os.getpid()}-{secret[-8:].decode()}"

    def listening(family: int, kind: int, address: Any) -> int:
        server = held.enter_context(socket.socket(family, kind))
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen(64)
        return int(server.getsockname()[1]) if family != socket.AF_UNIX else 0

    # In the folder of the runtime, because the path of a socket has to be short.
    unix_path, datagram_path = f"{base}/listener", f"{base}/datagrams"
    tcp_port = listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    udp_port = listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
    tcp6_port = 0
    if _has_ipv6():
        tcp6_port = listening(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
    for address in (unix_path, f"\0{abstract_name}"):
        listening(socket.AF_UNIX, socket.SOCK_STREAM, address)
    listening(socket.AF_UNIX, socket.SOCK_DGRAM, datagram_path)
    targets = Targets(
        supervisor_pid=os.getpid(),
        secret_path=str(secret_file),
        secret_sha256=hashlib.sha256(secret).hexdigest(),
        secret_address=ctypes.addressof(in_memory),
        secret_fd=secret_fd,
        mark_address=ctypes.addressof(mark),
        folder=str(folder / "targets" / "folder"),
        victim_pid=0,
        sibling_pid=0,
        sibling_wasm=str(folder / "plugins" / _SIBLING / "plugin.wasm"),
        state_dir=str(folder / "state"),
        tcp_port=tcp_port,
        tcp6_port=tcp6_port,
        udp_port=udp_port,
        unix_path=unix_path,
        datagram_path=datagram_path,
        abstract_name=abstract_name,
    )
    return targets, mark


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _wait_until(condition: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError("no new worker")
        time.sleep(0.002)
