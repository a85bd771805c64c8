"""The process that workers are forked from: it has imported everything they need and has built nothing.

One thread, no ZeroMQ context, no Extism object, so a fork of it is clean. It forks on request, hands back a pidfd,
reports exits with their wait status, and ends everything when the supervisor is gone. Its only conversation is over a
SOCK_SEQPACKET pair with the supervisor, one msgpack array a packet:

    supervisor → [request, socket_path, *WorkerLimits]
    zygote     → ["forked", request, pid] with the pidfd as SCM_RIGHTS · ["refused", request, reason]
    zygote     → ["exited", pid, wait_status]
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import traceback

import msgpack

from isoplug.shared.folders import remove_folder
from isoplug.shared.limits import EXIT_BUG, WorkerLimits
from isoplug.worker.main import live

__all__ = ["REQUEST_BYTES", "Zygote", "main"]

#: Longest packet on the control socket: a socket path has at most 107 bytes, the rest are small numbers.
REQUEST_BYTES = 4_096


class Zygote:
    """``control`` is the socket to the supervisor, ``supervisor_pidfd`` tells of its death, ``lifeline_fd`` is the read
    end that every worker arms for itself."""

    def __init__(self, control: socket.socket, supervisor_pidfd: int, lifeline_fd: int) -> None:
        self._control = control
        self._supervisor_pidfd = supervisor_pidfd
        self._lifeline_fd = lifeline_fd
        self._children: dict[int, int] = {}  # pidfd → pid, each a child that has not been reaped
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(supervisor_pidfd, select.POLLIN)

    def serve(self) -> None:
        """Until the supervisor closes the control socket or dies."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                elif fd == self._supervisor_pidfd or not self._answer_request():
                    return

    def end_children(self) -> None:
        """Kill and reap every worker. Pids cannot be reused here: an unreaped child keeps its own."""
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._children.values():
            os.waitpid(pid, 0)
        self._children.clear()

    def _answer_request(self) -> bool:
        packet = self._control.recv(REQUEST_BYTES)
        if not packet:
            return False
        request, socket_path, *limits = msgpack.unpackb(packet)
        try:
            self._fork(request, socket_path, WorkerLimits(*limits))
        except OSError as error:  # no processes or descriptors left
            self._control.send(msgpack.packb(["refused", request, str(error)]))
        return True

    def _fork(self, request: int, socket_path: str, limits: WorkerLimits) -> None:
        pid = os.fork()
        if not pid:
            _become_worker(socket_path, limits, self._lifeline_fd)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # the caller hears that it was refused, so it must not be there
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._control, [msgpack.packb(["forked", request, pid])], [pidfd])

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._control.send(msgpack.packb(["exited", pid, status]))


def _become_worker(socket_path: str, limits: WorkerLimits, lifeline_fd: int) -> None:
    """Never returns: whatever happens in the child, it must not run the zygote's loop."""
    exit_code = EXIT_BUG
    try:
        exit_code = live(socket_path, limits, lifeline_fd)
    finally:
        os._exit(exit_code)


def main(control_fd: int, supervisor_pidfd: int, lifeline_fd: int, runtime_dir: str) -> None:
    """Entry point; the supervisor starts it in a fresh interpreter with an empty environment."""
    zygote = Zygote(socket.socket(fileno=control_fd), supervisor_pidfd, lifeline_fd)
    gc.freeze()  # children share these pages; a collection there would copy them
    try:
        zygote.serve()
    except (OSError, ValueError):
        # A fault of this process: the supervisor reads what it was and starts another one. The workers go on, they
        # have the lifeline.
        traceback.print_exc(file=sys.stderr)
    else:
        zygote.end_children()
        remove_folder(runtime_dir)  # the supervisor may have been killed: nobody else would do it
