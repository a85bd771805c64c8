"""What isolation is built on, without isoplug: sockets, ZeroMQ, and Extism in this process.

The only module of the supervisor that imports ``zmq`` and ``extism``, and only when it measures them. It is also the
program at the other end of a ping-pong: ``main``, in a fresh interpreter.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from isoplug.supervisor.host import HOST_FUNCTIONS
from isoplug.supervisor.interpreter import fresh_interpreter

__all__ = ["in_process", "main", "pair_ping_pong", "plain_extism", "socket_ping_pong"]

_PR_SET_PDEATHSIG = 1


def socket_ping_pong(payload: bytes, cleanup: ExitStack) -> Callable[[], None]:
    """A round trip over a Unix socket pair, with as little as Python can do about it at both ends."""
    here, there = socket.socketpair()
    cleanup.callback(here.close)
    with there:
        _start_peer(cleanup, pass_fds=(there.fileno(),), descriptor=there.fileno())

    def call() -> None:
        here.sendall(payload)
        left = len(payload)
        while left:
            left -= len(here.recv(left)) or _end("the other end of the socket is gone")

    return call


def pair_ping_pong(payload: bytes, cleanup: ExitStack) -> Callable[[], None]:
    """A round trip between two ZeroMQ PAIR sockets, over ``ipc``."""
    import zmq

    context = zmq.Context()
    cleanup.callback(context.destroy, 0)
    pair = context.socket(zmq.PAIR)
    pair.rcvtimeo = 10_000  # a peer that died must not keep the benchmark waiting
    # An abstract name: a temporary folder may be longer than the path of a socket.
    address = f"ipc://@isoplug-bench-{secrets.token_hex(8)}"
    pair.bind(address)
    _start_peer(cleanup, address=address)

    def call() -> None:
        pair.send(payload)
        pair.recv()

    return call


def _start_peer(cleanup: ExitStack, pass_fds: tuple[int, ...] = (), **arguments: Any) -> None:
    command = fresh_interpreter(__name__, arguments)
    # In a session of its own, so that Ctrl-C is for this process alone, which then ends it.
    process = subprocess.Popen(command, pass_fds=pass_fds, start_new_session=True, stdin=subprocess.DEVNULL)
    cleanup.callback(process.wait)
    cleanup.callback(process.kill)


def main(address: str | None = None, descriptor: int | None = None) -> None:
    """Send back what comes, to a PAIR socket at ``address`` or the socket ``descriptor``; ends with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if address is not None:
        import zmq

        pair = zmq.Context().socket(zmq.PAIR)
        pair.connect(address)
        while True:
            pair.send(pair.recv())
    assert descriptor is not None
    with socket.socket(fileno=descriptor) as there:
        while data := there.recv(1 << 16):
            there.sendall(data)


def _end(why: str) -> int:
    raise ConnectionError(why)


@contextmanager
def plain_extism() -> Iterator[None]:
    """Extism as workers have it: no cache of compiled code, no backtraces of its runtime. With either, in-process calls
    would be measured under other conditions than isolated ones."""
    kept = {name: os.environ.pop(name, None) for name in ("EXTISM_CACHE_CONFIG", "RUST_BACKTRACE")}
    os.environ["EXTISM_CACHE_CONFIG"] = ""
    try:
        yield
    finally:
        os.environ.pop("EXTISM_CACHE_CONFIG")
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def in_process(module: bytes, functions: Mapping[str, Callable[[], bytes]]) -> Callable[[str, bytes], bytes]:
    """Calls of an instance in this process: ``call(export, data)``. ``functions`` answer its host calls, without
    looking at what they are asked; any other answers nothing."""
    import extism

    signature = ([extism.ValType.I64], [extism.ValType.I64])

    def host_function(name: str, answer: Callable[[], bytes]) -> Any:
        def serve(plugin: Any, inputs: Any, outputs: Any, *_: Any) -> None:
            plugin.input_bytes(inputs[0])
            plugin.return_bytes(outputs[0], answer())

        return extism.host_fn(name=name, namespace="extism:host/user", signature=signature)(serve)

    served = [host_function(name, functions.get(name, bytes)) for name in HOST_FUNCTIONS]
    plugin = extism.Plugin({"wasm": [{"data": module}]}, wasi=True, functions=served)

    def call(export: str, data: bytes) -> bytes:
        return bytes(plugin.call(export, data))

    return call
