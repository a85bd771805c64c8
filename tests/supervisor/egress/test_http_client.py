"""The embedded HTTP client against real servers: what it sends, what it bounds, and what it leaves behind."""

from __future__ import annotations

import gc
import gzip
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from conftest import wait_until
from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SupervisorClosed
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import (
    AddressPolicy,
    AiohttpClient,
    HttpRequest,
    HttpResponse,
    Lookups,
    NetLoop,
    NothingDone,
)
from peers import Answer, HttpPeer, Seen, serve, serve_bytes

MIB = 1 << 20
BOUND = 1 * MIB

Send = Callable[..., HttpResponse]


@contextmanager
def living_worker(timeout_seconds: float = 60.0) -> Iterator[tuple[Caller, Callable[[], None]]]:
    """A caller whose worker lives until the second value is called."""
    reader, writer = os.pipe()
    is_dead = threading.Event()

    def die() -> None:
        if not is_dead.is_set():
            is_dead.set()
            os.close(writer)

    try:
        yield Caller("test.plugin", Deadline.after(timeout_seconds), lambda: os.dup(reader)), die
    finally:
        die()
        os.close(reader)


@pytest.fixture
def loop() -> Iterator[NetLoop]:
    loop = NetLoop()
    yield loop
    loop.close()


@pytest.fixture
def send(loop: NetLoop) -> Send:
    client = AiohttpClient(loop, AddressPolicy.of(["localhost"]), Lookups(), BOUND)

    def send(url: str, method: str = "GET", *, seconds: float = 60.0, **request: object) -> HttpResponse:
        with living_worker(seconds) as (caller, _):
            return client.send(caller, HttpRequest(method, url, **request))  # type: ignore[arg-type]

    return send


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    with serve() as peer:
        yield peer


def open_connections(port: int) -> list[object]:
    connections = psutil.Process().net_connections("tcp")
    return [c for c in connections if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED]


# --- what is sent and what comes back -------------------------------------------------------------------------------


def test_a_request_arrives_as_it_was_made_and_nothing_is_added_that_says_who_we_are(send: Send, peer: HttpPeer) -> None:
    peer.routes["/a/../b%2Fc"] = Answer(201, (("X-One", "1"),), b"\x00\xff")
    headers = (("X-Key", "grüße"), ("content-type", "text/plain"))
    answer = send(peer.url("/a/../b%2Fc?q=%20&r"), "POST", headers=headers, body=b"\x00body")
    assert (answer.status, answer.body) == (201, b"\x00\xff")
    assert ("x-one", "1") in answer.headers
    (seen,) = peer.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/a/../b%2Fc?q=%20&r", b"\x00body")
    assert seen.headers == {
        "host": f"localhost:{peer.port}",
        "x-key": "grüße".encode().decode("latin-1"),
        "content-type": "text/plain",
        "accept": "*/*",
        "accept-encoding": "gzip, deflate",
        "user-agent": "isoplug",
        "content-length": "5",
        "connection": "close",
    }


def test_a_post_without_a_body_says_that_it_has_none(send: Send, peer: HttpPeer) -> None:
    send(peer.url(), "POST")
    assert peer.seen[0].headers["content-length"] == "0"
    assert "content-type" not in peer.seen[0].headers


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("DELETE", 204)])
def test_answers_without_a_body_are_whole_answers(send: Send, peer: HttpPeer, method: str, status: int) -> None:
    peer.routes["/"] = Answer(status, (("X-One", "1"),), b"not sent")
    answer = send(peer.url(), method)
    assert (answer.status, answer.body) == (status, b"")
    assert ("x-one", "1") in answer.headers


def test_a_redirect_is_an_answer_like_any_other(send: Send, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(302, (("Location", "/next"),))
    assert send(peer.url()).status == 302
    assert len(peer.seen) == 1


def test_cookies_of_one_answer_go_into_no_other_request(send: Send, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(200, (("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2")))
    answer = send(peer.url())
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1; Path=/", "b=2"]
    send(peer.url())
    assert "cookie" not in peer.seen[1].headers


def test_proxies_and_passwords_of_the_hosts_environment_are_not_used(
    send: Send, peer: HttpPeer, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    netrc = os.path.join(tmp_path, "netrc")
    with open(netrc, "w") as file:
        file.write("machine localhost login me password secret\n")
    monkeypatch.setenv("NETRC", netrc)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    peer.routes["/"] = Answer(200)
    assert send(peer.url()).status == 200
    assert "authorization" not in peer.seen[0].headers


def test_an_ipv6_server_is_reached(loop: NetLoop) -> None:
    client = AiohttpClient(loop, AddressPolicy.of(["::1"]), Lookups(), BOUND)
    with serve({"/": Answer(200, body=b"six")}, address="::1") as peer, living_worker() as (caller, _):
        assert client.send(caller, HttpRequest("GET", peer.url(host="[::1]"))).body == b"six"
        assert peer.seen[0].headers["host"] == f"[::1]:{peer.port}"


def test_many_callers_are_answered_at_once_and_each_with_its_own(send: Send, peer: HttpPeer) -> None:
    everybody = threading.Barrier(20)

    def wait_for_all(seen: Seen) -> Answer:
        everybody.wait(30)
        return Answer(200, body=seen.target.encode())

    peer.routes["/"] = wait_for_all
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        answers[number] = send(peer.url(f"/?{number}")).body

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"/?{number}".encode() for number in range(20)}


def test_exchanges_at_once_are_bounded_and_the_others_wait_their_turn(send: Send, peer: HttpPeer) -> None:
    go_on, inside, most = threading.Event(), threading.Semaphore(32), []

    def count(_: Seen) -> Answer:
        most.append(inside.acquire(blocking=False))
        go_on.wait(20)
        inside.release()
        return Answer(200)

    peer.routes["/"] = count
    with ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(send, peer.url()) for _ in range(40)]
        wait_until(lambda: len(most) >= 32)
        go_on.set()
        assert [answer.result(60).status for answer in answers] == [200] * 40
    assert most == [True] * 40


# --- bodies ---------------------------------------------------------------------------------------------------------


def test_compressed_bodies_come_decompressed_and_the_headers_say_so(send: Send, peer: HttpPeer) -> None:
    peer.routes["/gzip"] = Answer(200, (("Content-Encoding", "gzip"),), gzip.compress(b"x" * 1000))
    peer.routes["/deflate"] = Answer(200, (("Content-Encoding", "deflate"),), zlib.compress(b"x" * 1000))
    for path in ("/gzip", "/deflate"):
        answer = send(peer.url(path))
        assert answer.body == b"x" * 1000
        assert not {"content-encoding", "content-length"} & {name for name, _ in answer.headers}


def test_the_head_of_a_compressed_body_keeps_its_headers(send: Send, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(200, (("Content-Encoding", "gzip"),), gzip.compress(b"x" * 1000))
    assert {"content-encoding", "content-length"} < {name for name, _ in send(peer.url(), "HEAD").headers}


def test_a_chunked_body_is_put_together(send: Send) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    with serve_bytes(script) as peer:
        assert send(peer.url()).body == b"abcde"


def test_a_body_of_the_bound_comes_and_one_byte_more_does_not(send: Send, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(200, body=bytes(BOUND))
    assert len(send(peer.url()).body) == BOUND
    peer.routes["/"] = Answer(200, body=bytes(BOUND + 1))
    with pytest.raises(ResourceLimitExceeded, match=r"http\.max_response"):
        send(peer.url())


def test_an_endless_body_is_left_at_the_bound(send: Send) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))

    with serve_bytes(script) as peer:
        with pytest.raises(ResourceLimitExceeded):
            send(peer.url())
        assert peer.closed.wait(20)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_than_the_bound(send: Send, peer: HttpPeer, encoding: str) -> None:
    zeros = bytes(128 * MIB)
    packed = gzip.compress(zeros, 1) if encoding == "gzip" else zlib.compress(zeros, 1)
    del zeros
    peer.routes["/"] = Answer(200, (("Content-Encoding", encoding),), packed)
    send(peer.url("/warm-up"))
    before = psutil.Process().memory_info().rss
    with pytest.raises(ResourceLimitExceeded):
        send(peer.url())
    assert psutil.Process().memory_info().rss - before < 64 * MIB


# --- servers that do not keep to HTTP -------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"
BAD_ANSWERS = {
    "garbage": b"\x00\x01\x02\xff" * 100,
    "a greeting of another protocol": b"220 mail.example ESMTP\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "nothing": b"",
    "a status line only": HEAD,
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a header without a name": HEAD + b": value\r\n\r\n",
    "a NUL in a header": HEAD + b"X: a\x00b\r\n\r\n",
    "a length that is too long": HEAD + b"Content-Length: 10\r\n\r\nabc",
    "a length that is no number": HEAD + b"Content-Length: many\r\n\r\nabc",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nabc",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a chunk that is cut off": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a chunk size that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "a body that is not gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a header of a megabyte": HEAD + b"X: " + b"x" * MIB + b"\r\n\r\n",
    "a header name of a megabyte": HEAD + b"x" * MIB + b": x\r\n\r\n",
    "a thousand headers": HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"\r\n",
    "a status line of a megabyte": b"HTTP/1.1 200 " + b"O" * MIB + b"\r\n\r\n",
    "brotli, which this host cannot undo": HEAD + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_that_is_not_http_is_a_service_error(send: Send, what: str) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(BAD_ANSWERS[what])
        connection.shutdown(socket.SHUT_WR)

    with serve_bytes(script) as peer:
        with pytest.raises(ServiceError, match=f"localhost:{peer.port}: ") as caught:
            send(peer.url())
        assert len(str(caught.value)) < 300
        assert peer.closed.wait(20)


def test_endless_headers_end_at_their_bound(send: Send) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        while True:
            connection.sendall(b"X: 1\r\n" * 1000)

    with serve_bytes(script) as peer:
        with pytest.raises(ServiceError):
            send(peer.url())
        assert peer.closed.wait(20)


def test_nothing_listens_where_the_request_goes(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NothingDone, match="Connection refused") as caught:
        send(f"http://localhost:{port}/")
    assert "127.0.0.1" not in str(caught.value)


# --- time, and who waits --------------------------------------------------------------------------------------------


def slow_headers(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    while not threading.Event().wait(0.02):
        connection.sendall(b"X")


def slow_body(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    while not threading.Event().wait(0.02):
        connection.sendall(b"x")


def silent(_: socket.socket) -> None:
    return


def interim_answers(connection: socket.socket) -> None:
    while not threading.Event().wait(0.001):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def test_a_slow_server_costs_the_time_of_the_call_and_no_more(send: Send) -> None:
    """All at once, because the time has to be enough for the request to arrive, also on a busy machine."""

    def ask(script: Callable[[socket.socket], None]) -> None:
        with serve_bytes(script) as peer:
            with pytest.raises(ServiceError, match="within the time") as caught:
                send(peer.url(), seconds=4.0)
            assert not isinstance(caught.value, NothingDone)  # nobody knows
            assert open_connections(peer.port) == []
            assert peer.closed.wait(20)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, (slow_headers, slow_body, silent, interim_answers)))


def test_a_server_that_does_not_read_costs_the_time_of_the_call_and_no_more(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServiceError, match="within the time"):
            send(f"http://localhost:{port}/", "POST", body=bytes(32 * MIB), seconds=0.5)
        assert open_connections(port) == []


def test_a_request_ends_when_its_worker_dies(loop: NetLoop) -> None:
    client = AiohttpClient(loop, AddressPolicy.of(["localhost"]), Lookups(), BOUND)
    with serve_bytes(silent) as peer, living_worker() as (caller, die):
        ended: list[Exception] = []

        def ask() -> None:
            try:
                client.send(caller, HttpRequest("GET", peer.url()))
            except ServiceError as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: peer.requests)
        die()
        thread.join(20)
        assert "worker has ended" in str(ended[0])
        assert peer.closed.wait(20)
        assert open_connections(peer.port) == []


def test_closing_the_loop_ends_requests_and_refuses_others(loop: NetLoop, recwarn: pytest.WarningsRecorder) -> None:
    gc.collect()  # what earlier tests left open would warn below
    recwarn.clear()
    client = AiohttpClient(loop, AddressPolicy.of(["localhost"]), Lookups(), BOUND)
    with serve_bytes(silent) as peer, living_worker() as (caller, _):
        ended: list[Exception] = []

        def ask() -> None:
            try:
                client.send(caller, HttpRequest("GET", peer.url()))
            except SupervisorClosed as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: peer.requests)
        loop.close()
        thread.join(20)
        assert len(ended) == 1
        assert peer.closed.wait(20)
        with pytest.raises(SupervisorClosed):
            client.send(caller, HttpRequest("GET", peer.url()))
    assert not recwarn.list  # such as "coroutine was never awaited"


# --- addresses ------------------------------------------------------------------------------------------------------


def test_the_address_that_was_checked_is_the_one_connected_to(loop: NetLoop, peer: HttpPeer) -> None:
    """DNS rebinding: the name's address changes with each look-up. There is one look-up a request."""
    asked: list[str] = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) % 2 else ["127.0.0.1"]

    client = AiohttpClient(loop, AddressPolicy(), Lookups(rebinding), BOUND)
    for _ in range(2):
        with living_worker() as (caller, _die), pytest.raises(ServiceError, match="may not reach"):
            client.send(caller, HttpRequest("GET", peer.url(host="rebind.example")))
    assert asked == ["rebind.example"] * 2
    assert peer.seen == []


def test_of_several_addresses_only_those_that_may_be_reached_are_tried(loop: NetLoop, peer: HttpPeer) -> None:
    # 198.51.100.1 is closed and 127.0.0.1 is not, when only the first of them is a stranger's.
    client = AiohttpClient(loop, AddressPolicy.of(["open.example"]), Lookups(lambda _: ["127.0.0.1"]), BOUND)
    mixed = AiohttpClient(loop, AddressPolicy(), Lookups(lambda _: ["10.0.0.1", "127.0.0.1", "::1"]), BOUND)
    peer.routes["/"] = Answer(200)
    with living_worker() as (caller, _):
        assert client.send(caller, HttpRequest("GET", peer.url(host="open.example"))).status == 200
        with pytest.raises(ServiceError, match="private address"):
            mixed.send(caller, HttpRequest("GET", peer.url(host="closed.example")))
    assert len(peer.seen) == 1


def test_what_the_host_allows_by_name_it_does_not_allow_by_address(send: Send, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(200)
    assert send(peer.url(host="LOCALHOST.")).status == 200
    for host in ("127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"):
        with pytest.raises(NothingDone, match="may not reach"):
            send(peer.url(host=host))
    assert len(peer.seen) == 1


def test_the_hosts_own_server_may_be_private(loop: NetLoop, peer: HttpPeer) -> None:
    client = AiohttpClient(loop, AddressPolicy(), Lookups(), BOUND)
    peer.routes["/"] = Answer(200)
    with living_worker() as (caller, _):
        for host in ("localhost", "127.0.0.1"):
            assert client.send(caller, HttpRequest("GET", peer.url(host=host), may_be_private=True)).status == 200
            with pytest.raises(ServiceError, match="may not reach"):
                client.send(caller, HttpRequest("GET", peer.url(host=host)))


# --- looking names up -----------------------------------------------------------------------------------------------


def test_a_resolver_that_hangs_costs_the_time_of_the_call_and_a_bounded_number_of_threads(loop: NetLoop) -> None:
    hangs = threading.Event()

    def hanging(_: str) -> list[str]:
        hangs.wait(60)
        return ["192.0.2.1"]

    client = AiohttpClient(loop, AddressPolicy(), Lookups(hanging), BOUND)
    try:
        for _ in range(20):
            with living_worker(0.05) as (caller, _die), pytest.raises(NothingDone, match="within the time"):
                client.send(caller, HttpRequest("GET", "http://slow.example/"))
        assert 1 <= sum(thread.name == "isoplug-lookup" for thread in threading.enumerate()) <= 16
    finally:
        hangs.set()


def test_a_plugin_whose_names_are_never_found_keeps_no_other_plugin_from_looking_one_up(loop: NetLoop) -> None:
    hangs = threading.Event()

    def lookup(name: str) -> list[str]:
        if name != "quick.example":
            hangs.wait(60)
        return ["10.0.0.1"]

    client = AiohttpClient(loop, AddressPolicy(), Lookups(lookup), BOUND)
    try:
        for number in range(40):
            with living_worker(0.05) as (caller, _die), pytest.raises(NothingDone, match="within the time"):
                client.send(caller, HttpRequest("GET", f"http://slow{number}.example/"))
        with living_worker() as (caller, _die), pytest.raises(ServiceError, match="a private address"):
            client.send(replace(caller, plugin_id="another.plugin"), HttpRequest("GET", "http://quick.example/"))
    finally:
        hangs.set()


_HANGS = """
import os, threading
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import AddressPolicy, AiohttpClient, HttpRequest, Lookups, NetLoop

reader, writer = os.pipe()
loop = NetLoop()
client = AiohttpClient(loop, AddressPolicy(), Lookups(lambda name: threading.Event().wait()), 1000)
try:
    client.send(Caller("p", Deadline.after(1), lambda: os.dup(reader)), HttpRequest("GET", "http://slow.example/"))
except Exception as error:
    print(error)
loop.close()
"""


def test_a_resolver_that_hangs_does_not_hold_up_the_end_of_the_program() -> None:
    output = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert "within the time" in output.stdout


def test_a_name_without_an_address_says_so(loop: NetLoop) -> None:
    def unknown(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for lookup in (unknown, lambda _: []):
        client = AiohttpClient(loop, AddressPolicy(), Lookups(lookup), BOUND)
        with living_worker() as (caller, _), pytest.raises(NothingDone, match=r"nowhere\.example"):
            client.send(caller, HttpRequest("GET", "http://nowhere.example/"))


@pytest.mark.parametrize("name", ["xn--\u0131", "a" * 64 + ".example", "."])
def test_names_that_cannot_be_names_are_refused_before_they_are_looked_up(send: Send, name: str) -> None:
    with pytest.raises(ServiceError, match="the URL"):
        send(f"http://{name}/")


# --- what a request may hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["", "GET /", "G\r\nET", "GÉT", "x" * 200])
def test_a_method_is_a_word(method: str) -> None:
    with pytest.raises(ServiceError, match="method"):
        HttpRequest(method, "http://example.org/")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a b", "x"), ("a:", "x"), ("é", "x"), ("a\r\nb", "x")])
def test_a_header_name_is_a_word(name: str, value: str) -> None:
    with pytest.raises(ServiceError, match="header name"):
        HttpRequest("GET", "http://example.org/", ((name, value),))


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "a\rb", "a\0b", "\x7f", "\ud800"])
def test_a_header_value_ends_no_line(value: str) -> None:
    with pytest.raises(ServiceError, match="control character"):
        HttpRequest("GET", "http://example.org/", (("a", value),))


def test_credentials_do_not_stand_in_what_a_log_would_show() -> None:
    request = HttpRequest("GET", "http://example.org/", (("Authorization", "Bearer s3cret"),), b"s3cret")
    assert "s3cret" not in repr(request)
