"""Servers on loopback for the tests of whatever goes to a network: one that answers properly, and one that sends bytes.

``serve(routes)`` runs a real HTTP server in a thread; ``serve_bytes(script)`` gives each accepted connection to a
function that may send anything at all, and says whether the other side has closed it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

__all__ = ["Answer", "HttpPeer", "Seen", "SocketPeer", "serve", "serve_bytes"]


@dataclass(frozen=True)
class Seen:
    """A request as it came. Header names in lower case; of a repeated one the last."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Route: TypeAlias = "Answer | Callable[[Seen], Answer]"


@dataclass
class HttpPeer:
    """``routes`` by path without query; a test may change them at any time. What is not there is 404."""

    port: int
    routes: dict[str, Route]
    seen: list[Seen] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"


@contextmanager
def serve(routes: dict[str, Route] | None = None, address: str = "127.0.0.1") -> Iterator[HttpPeer]:
    peer = HttpPeer(0, {} if routes is None else routes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, self.path, headers, body)
            peer.seen.append(seen)
            route = peer.routes.get(self.path.partition("?")[0], Answer(404))
            answer = route(seen) if callable(route) else route
            with suppress(OSError):  # it has closed the connection meanwhile
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if answer.status not in (204, 304):
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD" and answer.status not in (204, 304):
                    self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_PROPFIND = _answer

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        daemon_threads = True
        request_queue_size = 128

    server = Server((address, 0), Handler)
    peer.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class SocketPeer:
    """``requests`` are the heads as they came; ``closed`` is set when a connection was closed by the other side."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/", host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"


@contextmanager
def serve_bytes(script: Callable[[socket.socket], None]) -> Iterator[SocketPeer]:
    """Each connection: read a request's head, run ``script``, then wait until the other side closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    peer = SocketPeer(listener.getsockname()[1])
    connections: list[socket.socket] = []

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += (chunk := connection.recv(65536))
                if not chunk:
                    return
            peer.requests.append(head)
            with suppress(OSError):  # it went away in the midst of it
                script(connection)
            with suppress(OSError):
                while connection.recv(65536):
                    pass
            peer.closed.set()

    def accept() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
