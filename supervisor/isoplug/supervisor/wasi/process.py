"""The process of one program: started from nothing, listened to, killed and reaped."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import Final, Self

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, WorkerCrashed
from isoplug.shared.limits import clip
from isoplug.shared.wasi import VERDICT_BYTES, Order, Verdict, decode_verdict
from isoplug.supervisor.files import reason
from isoplug.supervisor.interpreter import fresh_interpreter
from isoplug.supervisor.lifeline import Lifeline
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Capture", "WasiProcess"]

_log = get_logger(__name__)

_F_SETSIG: Final = 10  # <fcntl.h>
_READ_BYTES: Final = 1 << 16
#: How long a process that was killed may take to be gone. The kernel does it at once unless the disk hangs.
_FAREWELL_SECONDS: Final = 2.0


class Capture:
    """What comes out of a pipe, up to a bound; ``name`` and ``advice`` say in messages what that is."""

    def __init__(self, fd: int, name: str, max_bytes: int, advice: str = "") -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.is_open = True
        self._name, self._max_bytes, self._advice = name, max_bytes, advice
        self._chunks: list[bytes] = []
        self._size = 0

    def read(self) -> bool:
        """Take what is there now, at most a pipe's fill; False when nothing is. Raises ResourceLimitExceeded."""
        try:
            chunk = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self.is_open = bool(chunk)
        self._size += len(chunk)
        if self._size > self._max_bytes:
            what = f"the size of the program's {self._name} in bytes"
            raise ResourceLimitExceeded(None, what, self._size, self._max_bytes, self._advice)
        self._chunks.append(chunk)
        return self.is_open

    @property
    def content(self) -> bytes:
        return b"".join(self._chunks)


class WasiProcess:
    """A context manager that leaves no process and no descriptor. Its pidfd means this process for ever, also when the
    host reaps its children itself."""

    def __init__(self, order: Order, stdin: bytes, lifeline: Lifeline, output_bytes: int) -> None:
        """Raises ServiceError when the machine cannot start it."""
        with ExitStack() as ours, ExitStack() as lent:  # ``lent`` is closed here, the child has it by then
            try:
                order_fd, stdin_fd = _in_memory(order.encode(), lent), _in_memory(stdin, lent)
                (stdout, to_stdout), (stderr, to_stderr), (verdict, to_verdict) = (_pipe(ours, lent) for _ in range(3))
                own_lifeline = lifeline.new_end()
                lent.callback(os.close, own_lifeline)
                arguments = {"order_fd": order_fd, "verdict_fd": to_verdict, "lifeline_fd": own_lifeline}
                self._process = _spawn(arguments, stdin_fd, to_stdout, to_stderr)
                _tie(own_lifeline, self._process.pid)
                self.pidfd = _pidfd(self._process)
                ours.callback(self._end)
            except OSError as error:
                raise ServiceError(
                    f"cannot start a process for the program: {reason(error)}; free processes, memory or descriptors"
                ) from error
            self.stdout = Capture(stdout, "standard output", output_bytes, "see wasi.output")
            self.stderr = Capture(stderr, "standard error", output_bytes, "see wasi.output")
            self._verdict = Capture(verdict, "result", VERDICT_BYTES)
            self._cleanup = ours.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def captures(self) -> tuple[Capture, ...]:
        return self.stdout, self.stderr, self._verdict

    def verdict(self) -> Verdict:
        """What it said, once it has ended. Raises ServiceError when it ended without a word."""
        verdict = decode_verdict(self._verdict.content)
        if verdict.kind:
            return verdict
        code = self._process.wait()
        how = WorkerCrashed.describe(-code, None) if code < 0 else WorkerCrashed.describe(None, code)
        if code > 0:  # not the program, the interpreter around it: these are its words
            _log.warning("wasi.process_failed", how=how, stderr=clip(self.stderr.content.decode("utf-8", "replace")))
        raise ServiceError(
            f"the program's process ended without a result ({how}); most likely it ran out of memory, see wasi.memory, "
            "or could not start a thread, see `ulimit -u`"
        )

    def _end(self) -> None:
        with suppress(ProcessLookupError):  # it has ended, and the host has reaped it
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(_FAREWELL_SECONDS * 1000)
        self._process.poll()  # reaps it
        os.close(self.pidfd)


def _spawn(arguments: dict[str, int], stdin_fd: int, stdout_fd: int, stderr_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        fresh_interpreter("isoplug.worker.wasi", arguments),
        env={},
        cwd="/",
        pass_fds=tuple(arguments.values()),
        stdin=stdin_fd,
        stdout=stdout_fd,
        stderr=stderr_fd,
        start_new_session=True,
    )


def _pidfd(process: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(process.pid)
    except OSError:  # no descriptor is free; or it has ended, and the host has reaped it
        process.kill()
        process.wait()
        raise


def _tie(lifeline_fd: int, pid: int) -> None:
    """Have the kernel kill ``pid`` when the lifeline's other end closes. The process does so itself as well, but it may
    be stopped before it gets so far, and this host be killed meanwhile."""
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, pid)
    fcntl.fcntl(lifeline_fd, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)


def _in_memory(content: bytes, owner: ExitStack) -> int:
    """A descriptor of a file that lies on no disk and holds ``content``."""
    descriptor = os.memfd_create("isoplug-wasi")
    owner.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _pipe(ours: ExitStack, lent: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    lent.callback(os.close, writing)
    return reading, writing
