"""HttpNamespaces against a server on loopback that knows the protocol, and can misbehave."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import wait_until
from diaryx import TOKEN, Diaryx, diaryx
from isoplug.shared.errors import ResourceLimitExceeded, ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import AddressPolicy, AiohttpClient, Lookups, NetLoop
from isoplug.supervisor.namespaces import (
    Audience,
    HttpNamespaces,
    Namespace,
    NamespaceProvider,
    NewObject,
    Server,
    read_batches,
)
from peers import Answer, Seen, serve_bytes

MIB = 1 << 20
ROOMY = 64 * MIB


class Waiting:
    """Who waits for the provider: a caller whose worker lives until ``die``."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._reader, self._writer = os.pipe()
        self.caller = Caller("p", Deadline.after(seconds), lambda: os.dup(self._reader))
        self._is_alive = True

    def die(self) -> None:
        if self._is_alive:
            self._is_alive = False
            os.close(self._writer)

    def close(self) -> None:
        self.die()
        os.close(self._reader)


@pytest.fixture
def server() -> Iterator[Diaryx]:
    with diaryx() as server:
        server.namespaces["n 1/ü"] = {"id": "n 1/ü", "owner_user_id": "u1", "created_at": 1, "metadata": None}
        yield server


@pytest.fixture
def http() -> Iterator[AiohttpClient]:
    loop = NetLoop()
    yield AiohttpClient(loop, AddressPolicy.of([]), Lookups(), 4 * MIB)
    loop.close()


@pytest.fixture
def waiting() -> Iterator[Callable[..., Waiting]]:
    made: list[Waiting] = []

    def waiting(seconds: float = 60.0) -> Waiting:
        made.append(Waiting(seconds))
        return made[-1]

    yield waiting
    for one in made:
        one.close()


@pytest.fixture
def me(waiting: Callable[..., Waiting]) -> Caller:
    return waiting().caller


@pytest.fixture
def namespaces(http: AiohttpClient, server: Diaryx) -> HttpNamespaces:
    return HttpNamespaces(http, Server(server.base_url, TOKEN))


NS = "n 1/ü"
NS_PATH = "/api/namespaces/n%201%2F%C3%BC"


def always(answer: Answer) -> Callable[[Seen], Answer]:
    return lambda _: answer


# --- what is asked --------------------------------------------------------------------------------------------------


def test_it_is_a_provider_on_the_servers_host(namespaces: HttpNamespaces) -> None:
    as_protocol: NamespaceProvider = namespaces
    assert as_protocol.host("p") == "localhost"


def test_namespaces_are_made_and_listed(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    made = namespaces.create(me, {"type": "workspace"})
    assert made == Namespace("ns-1", "u1", 1700000000, {"type": "workspace"})
    assert namespaces.create(me, None).metadata is None
    assert [namespace.id for namespace in namespaces.list(me)] == [NS, "ns-1", "ns-2"]
    assert server.requests() == ["POST /api/namespaces", "POST /api/namespaces", "GET /api/namespaces"]
    first = server.peer.seen[0]
    assert first.headers["content-type"] == "application/json"
    assert json.loads(first.body) == {"metadata": {"type": "workspace"}}


def test_an_object_goes_there_and_comes_back_with_its_type_and_audience(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    key = 'files/ü &?#%2F "x"+.md'
    path = f"{NS_PATH}/objects/files/%C3%BC%20%26%3F%23%252F%20%22x%22%2B.md"
    namespaces.put_object(me, NS, NewObject(key, b"\x00\xff\r\n", "text/markdown; charset=utf-8", "friends"))
    found = namespaces.get_object(me, NS, key, ROOMY)
    assert (found.content, found.mime_type) == (b"\x00\xff\r\n", "text/markdown; charset=utf-8")
    namespaces.delete_object(me, NS, key)
    namespaces.delete_object(me, NS, key)  # 404: it is gone already
    assert server.requests() == [f"PUT {path}", f"GET {path}", f"DELETE {path}", f"DELETE {path}"]
    assert server.peer.seen[0].headers["x-audience"] == "friends"
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in server.peer.seen)


def test_what_a_page_needs_to_know_goes_in_headers_and_only_when_it_was_said(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    namespaces.put_object(me, NS, NewObject("a", b"", "text/html", None, "bcdfgr", "Welcome.md", "index.html", True))
    namespaces.put_object(me, NS, NewObject("b", b"", "text/html"))
    told, untold = ({k: v for k, v in seen.headers.items() if k.startswith("x-")} for seen in server.peer.seen)
    assert told == {
        "x-diaryx-file-ark": "bcdfgr",
        "x-diaryx-source-key": "Welcome.md",
        "x-diaryx-object-key": "index.html",
        "x-diaryx-is-index": "true",
    }
    assert untold == {}
    assert server.objects[NS, "a"][0] == b""


@pytest.mark.parametrize("audience", ["frïends", "a\r\nX-Diaryx-Is-Index: true", "a\tb"])
def test_what_no_header_can_hold_is_refused_before_it_is_sent(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, audience: str
) -> None:
    with pytest.raises(ServiceError, match="X-Audience"):
        namespaces.put_object(me, NS, NewObject("a", b"", "text/html", audience))
    assert server.requests() == []


def test_listings_ask_for_what_was_asked_and_keep_what_the_server_tells(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    for key in ("a&b/1", "a&b/2", "a&b/3", "c"):
        namespaces.put_object(me, NS, NewObject(key, b"xyz", "text/plain", "all"))
    server.peer.seen.clear()
    assert [info.key for info in namespaces.list_objects(me, NS)] == ["a&b/1", "a&b/2", "a&b/3", "c"]
    (info,) = namespaces.list_objects(me, NS, prefix="a&b/", limit=1, offset=2)
    assert (info.namespace_id, info.r2_key, info.audience) == (NS, f"ns/{NS}/a&b/3", "all")
    assert (info.size_bytes, info.updated_at) == (3, 1700000001)
    assert namespaces.list_objects(me, NS, limit=0) == []
    path = f"GET {NS_PATH}/objects"
    assert server.requests() == [path, f"{path}?prefix=a%26b%2F&limit=1&offset=2", f"{path}?limit=0"]


def test_audiences(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    gates = ({"kind": "link"}, {"kind": "password", "password": "pw"})
    namespaces.set_audience(me, NS, Audience("friends/close", gates))
    assert server.audiences[NS, "friends/close"] == {"gates": list(gates)}
    assert namespaces.list_audiences(me, NS) == ["friends/close"]
    namespaces.delete_audience(me, NS, "friends/close")
    namespaces.delete_audience(me, NS, "friends/close")
    path = f"{NS_PATH}/audiences"
    one = f"{path}/friends%2Fclose"
    assert server.requests() == [f"PUT {one}", f"GET {path}", f"DELETE {one}", f"DELETE {one}"]


def test_older_access_never_goes_without_gates(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    namespaces.set_audience(me, NS, Audience("a", ({"kind": "link"},), "private"))
    assert server.audiences[NS, "a"] == {"gates": [{"kind": "link"}], "access": "private"}


def test_building_and_sending_email(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    namespaces.build(me, NS, None)
    namespaces.build(me, NS, "https://x.org/?a=1")
    sent = namespaces.send_email(me, NS, "friends", "Grüße", None)
    assert (sent.recipients, sent.send_receipt_key) == (3, "_receipts/1")
    namespaces.send_email(me, NS, "friends", "s", "me@x.org")
    assert server.requests() == [
        f"POST {NS_PATH}/build",
        f"POST {NS_PATH}/build?base_url=https%3A%2F%2Fx.org%2F%3Fa%3D1",
        f"POST {NS_PATH}/audiences/friends/send-email",
        f"POST {NS_PATH}/audiences/friends/send-email",
    ]
    assert [json.loads(seen.body) for seen in server.peer.seen[2:]] == [
        {"subject": "Grüße"},
        {"subject": "s", "reply_to": "me@x.org"},
    ]


def test_the_server_is_asked_for_with_every_call_and_may_have_no_token(
    http: AiohttpClient, server: Diaryx, me: Caller
) -> None:
    current = [Server(server.base_url, None)]
    namespaces = HttpNamespaces(http, lambda plugin_id: current[0] if plugin_id == "p" else Server("http://other"))
    with pytest.raises(ServiceError, match="answered 401; the host's auth_token"):
        namespaces.list(me)
    assert "authorization" not in server.peer.seen[0].headers
    current[0] = Server(server.base_url + "/", TOKEN)
    assert len(namespaces.list(me)) == 1
    current[0] = Server(server.base_url + "?of=no&use#at-all", TOKEN)
    assert len(namespaces.list(me)) == 1
    assert namespaces.host("q") == "other"
    assert TOKEN not in repr(current[0])


# --- batches --------------------------------------------------------------------------------------------------------

AWKWARD = {
    "files/ü.md": b"text",
    'say "hi"; x=1': b"\r\n--batch-1--\r\n",
    "zero\\bytes": b"\0\0\r\n",
    "empty": b"",
    "message": b"Content-Type: text/plain\r\n\r\nx",
}


@pytest.mark.parametrize("has_multipart", [True, False])
def test_a_batch_comes_in_parts_or_else_as_json(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, has_multipart: bool
) -> None:
    server.has_multipart = has_multipart
    types = ["text/markdown", "image/png", "application/octet-stream", "text/plain", "message/rfc822"]
    for (key, content), mime_type in zip(AWKWARD.items(), types, strict=True):
        server.objects[NS, key] = content, mime_type, None
    batch = namespaces.get_objects(me, NS, [*AWKWARD, "missing"], ROOMY)
    assert {key: found.content for key, found in batch.objects.items()} == AWKWARD
    assert [found.mime_type for found in batch.objects.values()] == types
    assert batch.errors == {"missing": "Object not found"}
    path = f"POST {NS_PATH}/batch/objects"
    assert server.requests() == [f"{path}/multipart"] if has_multipart else [f"{path}/multipart", path]


def multipart(body: bytes) -> Answer:
    return Answer(200, (("Content-Type", "multipart/mixed; boundary=b"),), body)


def part(key: str, content: bytes) -> bytes:
    return f'--b\r\nContent-Disposition: attachment; filename="{key}"\r\n\r\n'.encode() + content + b"\r\n"


@pytest.mark.parametrize("status", [404, 405, 406, 415, 501])
def test_servers_that_do_not_know_parts_are_asked_for_json(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, status: int
) -> None:
    server.objects[NS, "a"] = b"x", "text/plain", None
    in_parts = Answer(status, multipart(b"--b--").headers, part("a", b"no answer") + b"--b--")
    server.misbehaves = lambda seen: in_parts if seen.target.endswith("multipart") else None
    assert namespaces.get_objects(me, NS, ["a"], ROOMY).objects["a"].content == b"x"


def test_keys_that_the_answer_leaves_out_are_errors_and_what_nobody_asked_for_is_dropped(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    server.misbehaves = always(multipart(part("a", b"1") + part("../secret", b"2") + b"--b--"))
    batch = namespaces.get_objects(me, NS, ["a", "b"], ROOMY)
    assert list(batch.objects) == ["a"]
    assert batch.errors == {"b": "the server's answer does not mention it"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (part("a", b"1"), "broken: it is cut off"),
        (b"", "cut off"),
        (b'--b\r\nContent-Disposition: attachment; filename="a"', "headers do not end"),
        (part("a", b"") * 3 + b"--b--", "more than 2 parts"),
    ],
)
def test_parts_that_are_cut_off_or_too_many_are_an_error(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, body: bytes, words: str
) -> None:
    server.misbehaves = always(multipart(body))
    with pytest.raises(ServiceError, match=words):
        namespaces.get_objects(me, NS, ["a", "b"], ROOMY)


def test_a_batch_in_json_may_have_bad_entries(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    entries = {
        "a": {"data": "eA=="},
        "b": {"data": "not base64!", "mime_type": "text/plain", "encoding": "base64"},
        "c": {"data": "plain", "mime_type": None, "encoding": "text"},
    }
    body = json.dumps({"objects": entries, "errors": {"d": None}}).encode()
    server.misbehaves = lambda seen: Answer(404 if "multipart" in seen.target else 200, (), body)
    batch = namespaces.get_objects(me, NS, ["a", "b", "c", "d"], ROOMY)
    assert {key: (o.content, o.mime_type) for key, o in batch.objects.items()} == {
        "a": (b"x", "application/octet-stream"),
        "c": (b"plain", "application/octet-stream"),
    }
    assert batch.errors == {"b": "the server's answer for it is not base64", "d": "null"}


def test_a_batch_holds_no_more_bytes_than_there_is_room_for(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    for key, size_bytes in (("a", 60), ("b", 50), ("c", 40)):
        server.objects[NS, key] = b"x" * size_bytes, "text/plain", None
    batch = namespaces.get_objects(me, NS, ["a", "b", "c"], 100)
    assert list(batch.objects) == ["a", "c"]
    assert "no room left" in batch.errors["b"]
    with pytest.raises(ResourceLimitExceeded, match="is 60, the limit is 59"):
        namespaces.get_object(me, NS, "a", 59)


# --- several batches at once ----------------------------------------------------------------------------------------


class Barrier:
    """Lets requests wait until ``count`` are in flight, and remembers the most that ever were."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Condition()
        self._count = count
        self._in_flight = self.most = 0

    def pass_through(self, _: Seen) -> None:
        with self._lock:
            self._in_flight += 1
            self.most = max(self.most, self._in_flight)
            self._lock.notify_all()
            self._lock.wait_for(lambda: self.most >= self._count, timeout=20)
        time.sleep(0.02)  # those that should not be in flight at the same time get a chance to be
        with self._lock:
            self._in_flight -= 1


@pytest.mark.parametrize(("asked", "at_once"), [(3, 3), (8, 8), (100, 8), (1, 1), (0, 1)])
def test_as_many_batches_as_asked_for_are_in_flight_at_once(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, asked: int, at_once: int
) -> None:
    batches = [[f"{number}/a", f"{number}/b"] for number in range(16)]
    for batch in batches:
        for key in batch:
            server.objects[NS, key] = key.encode(), "text/plain", None
    barrier = Barrier(at_once)
    server.misbehaves = barrier.pass_through  # type: ignore[assignment]
    found = read_batches(namespaces, me, NS, batches, asked, ROOMY)
    assert barrier.most == at_once
    assert {key: item.content.decode() for key, item in found.objects.items()} == {k: k for b in batches for k in b}
    assert list(found.objects) == [key for batch in batches for key in batch]
    assert found.errors == {}


def test_a_batch_that_fails_is_an_error_for_each_of_its_keys_and_no_others(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    for key in ("a", "b", "c", "d"):
        server.objects[NS, key] = b"x", "text/plain", None
    server.misbehaves = lambda seen: Answer(500, (), b"database is down") if b'"b"' in seen.body else None
    found = read_batches(namespaces, me, NS, [["a"], ["b", "c"], [], ["d", "missing"], ["a", "c"]], 2, ROOMY)
    assert sorted(found.objects) == ["a", "c", "d"]
    assert found.errors == {"b": "the server answered 500: database is down", "missing": "Object not found"}


def test_what_exceeds_the_room_of_all_batches_is_an_error(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller
) -> None:
    for number in range(20):
        server.objects[NS, f"{number}"] = b"x" * 100, "text/plain", None
    found = read_batches(namespaces, me, NS, [[f"{number}"] for number in range(20)], 4, 450)
    assert sum(len(item.content) for item in found.objects.values()) <= 450
    assert found.objects
    assert len(found.objects) + len(found.errors) == 20
    assert len(server.peer.seen) < 20


def test_no_batches_are_no_requests(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    assert read_batches(namespaces, me, NS, [[], []], 4, ROOMY).objects == {}
    assert server.requests() == []


# --- a server that misbehaves ---------------------------------------------------------------------------------------


def everything(namespaces: HttpNamespaces, me: Caller) -> list[Callable[[], Any]]:
    return [
        lambda: namespaces.create(me, None),
        lambda: namespaces.list(me),
        lambda: namespaces.put_object(me, NS, NewObject("k", b"x", "text/plain")),
        lambda: namespaces.get_object(me, NS, "k", ROOMY),
        lambda: namespaces.get_objects(me, NS, ["k"], ROOMY),
        lambda: namespaces.list_objects(me, NS),
        lambda: namespaces.delete_object(me, NS, "k"),
        lambda: namespaces.set_audience(me, NS, Audience("a", ())),
        lambda: namespaces.list_audiences(me, NS),
        lambda: namespaces.delete_audience(me, NS, "a"),
        lambda: namespaces.send_email(me, NS, "a", "s", None),
        lambda: namespaces.build(me, NS, None),
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(500), "answered 500$"),
        (Answer(500, (), b"  out of \x1b[31m\r\n disk \xff"), "answered 500: out of .31m disk"),
        (Answer(403, (("Content-Type", "application/json"),), b'{"error":"You do not own it"}'), "403: You do not own"),
        (Answer(403, (("Content-Type", "application/json"),), b'{"error":7}'), "answered 403; the host's auth_token"),
        (Answer(403, (("Content-Type", "application/json"),), b"[" * 5000), "answered 403; the host's auth_token"),
        (Answer(502, (("Content-Type", "text/html"),), b"<html>Bad Gateway"), "answered 502$"),
        (Answer(500, (), b"w " * 100_000), "answered 500: w w"),
        (Answer(302, (("Location", "http://127.0.0.1:1/"),)), "redirect .302."),
        (Answer(500, (), f"who sent {TOKEN}?".encode()), r"who sent \[token\]\?"),
        (Answer(500, (), b"x" * 294 + b" " + TOKEN.encode()), r"x{294} \[t…$"),
        (Answer(500, (("Content-Type", "application/json"),), b'{"error":"%s"}' % (b"x" * 70_000)), "answered 500$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_of_failure_is_a_clear_error_of_every_function(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, answer: Answer, words: str
) -> None:
    server.misbehaves = always(answer)
    for ask in everything(namespaces, me):
        with pytest.raises(ServiceError, match=words) as caught:
            ask()
        assert TOKEN not in str(caught.value)
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()


def test_the_token_goes_to_the_server_and_nowhere_else(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    with diaryx() as other:
        server.misbehaves = always(Answer(307, (("Location", other.base_url),)))
        for ask in everything(namespaces, me):
            with pytest.raises(ServiceError, match="redirect"):
                ask()
        assert other.peer.seen == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[",
        b'"x"',
        b"{}",
        b'[{"key":7}]',
        b'[{"name":{}}]',
        b"[1]",
        b"NaN",
        b"\xff",
        b"[" * 9999,
    ],
)
def test_an_answer_that_makes_no_sense_is_a_clear_error(
    namespaces: HttpNamespaces, server: Diaryx, me: Caller, body: bytes
) -> None:
    server.misbehaves = always(Answer(200, (), body))
    for ask in (
        lambda: namespaces.create(me, None),
        lambda: namespaces.list(me),
        lambda: namespaces.list_objects(me, NS),
        lambda: namespaces.list_audiences(me, NS),
    ):
        with pytest.raises(ServiceError, match="the server's answer cannot be used") as caught:
            ask()
        assert len(str(caught.value)) < 500


def test_a_huge_answer_is_left_at_the_bound(namespaces: HttpNamespaces, server: Diaryx, me: Caller) -> None:
    server.misbehaves = always(Answer(200, (), b"x" * (5 * MIB)))
    for ask in everything(namespaces, me):
        with pytest.raises(ResourceLimitExceeded):
            ask()


def test_a_slow_server_costs_the_time_of_the_call(http: AiohttpClient, waiting: Callable[..., Waiting]) -> None:
    with serve_bytes(lambda _: None) as peer:
        namespaces = HttpNamespaces(http, Server(peer.url()))
        with pytest.raises(ServiceError, match="within the time"):
            namespaces.list(waiting(0.2).caller)
        batch = read_batches(namespaces, waiting(0.2).caller, NS, [["a"], ["b"], ["c"]], 2, ROOMY)
        assert sorted(batch.errors) == ["a", "b", "c"]


def test_batches_end_when_their_worker_dies(http: AiohttpClient, waiting: Callable[..., Waiting]) -> None:
    with serve_bytes(lambda _: None) as peer:
        namespaces, mine = HttpNamespaces(http, Server(peer.url())), waiting()
        ended: list[Any] = []

        def ask() -> None:
            ended.append(read_batches(namespaces, mine.caller, NS, [[f"{n}"] for n in range(8)], 4, ROOMY))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: len(peer.requests) == 4)
        mine.die()
        thread.join(20)
        assert {"worker has ended" in reason for reason in ended[0].errors.values()} == {True}
        assert len(peer.requests) == 4


@pytest.mark.parametrize("base_url", ["", "ftp://x/", "http://", "http://u:p@x/", "http://a b/"])
def test_a_server_whose_url_is_none_is_a_service_error(http: AiohttpClient, me: Caller, base_url: str) -> None:
    namespaces = HttpNamespaces(http, Server(base_url, TOKEN))
    with pytest.raises(ServiceError, match="the URL of the host's server cannot be used"):
        namespaces.host("p")
    with pytest.raises(ServiceError, match="the URL of the host's server cannot be used"):
        namespaces.list(me)
