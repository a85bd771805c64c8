"""HTTP requests of guests against real servers on loopback, through a real worker and supervisor.

``localhost`` and ``127.0.0.1`` are opened by name, so a redirect from one to the other goes to another origin;
``127.0.0.2``, where a server listens as well, is not.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench import PROBE, Bench, ask, nothing_left_behind, open_bench
from conftest import PluginFolder, Workspace, wait_until
from isoplug.shared.errors import CallTimeout, SetupError
from isoplug.supervisor import Supervisor, WorkerCrashed
from isoplug.supervisor.config import Config, Http, Limits, Server
from peers import Answer, HttpPeer, Seen, serve, serve_bytes

TOKEN = "t0ken-of-the-host"
ALLOWED = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[HttpPeer]:
    with serve() as peer:
        yield peer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path, server: HttpPeer) -> Iterator[Bench]:
    config = Config(http=Http(allow_private=ALLOWED), server=Server(url=server.url("/base/"), auth_token_env="IT"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IT", TOKEN)
        arguments = {"config": config}
        with open_bench(tmp_path_factory.mktemp("http"), guest_cache, arguments=arguments) as opened:
            yield opened


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """PROBE may ask every host."""
    shared.workspace.grant(http_requests=["all"])
    return shared


@pytest.fixture
def peer(server: HttpPeer) -> HttpPeer:
    server.routes.clear()
    server.seen.clear()
    return server


def request(bench: Bench, url: str, method: str = "GET", headers: Any = None, **more: Any) -> dict[str, Any]:
    payload = {"url": url, "method": method, "headers": headers or {}, **more}
    answer: dict[str, Any] = json.loads(bench.ask("host_http_request", payload))
    return answer


def proxy(bench: Bench, **payload: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(bench.ask("host_proxy_request", payload))
    return answer


def refusal(answer: dict[str, Any]) -> str:
    """The text of a failure in its exact form."""
    message = answer["error"]
    assert answer == {"status": 0, "headers": {}, "body": message, "error": message}
    return str(message)


# --- forms ----------------------------------------------------------------------------------------------------------


def test_an_answer_has_status_headers_text_and_bytes(bench: Bench, peer: HttpPeer) -> None:
    cookies = (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    peer.routes["/"] = Answer(418, cookies, b"gr\xfc\xc3\x9f\x00")
    answer = request(bench, peer.url())
    assert list(answer) == ["status", "headers", "body", "body_base64"]
    assert answer["status"] == 418
    assert answer["headers"]["set-cookie"] == "a=1, b=2"
    assert answer["body"] == "gr\ufffdß\0"
    assert base64.b64decode(answer["body_base64"]) == b"gr\xfc\xc3\x9f\x00"


def test_an_empty_answer_has_empty_text_and_bytes(bench: Bench, peer: HttpPeer) -> None:
    peer.routes["/"] = Answer(204)
    answer = request(bench, peer.url())
    assert (answer["status"], answer["body"], answer["body_base64"]) == (204, "", "")


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_an_error_of_the_server_is_an_answer(bench: Bench, peer: HttpPeer, status: int) -> None:
    peer.routes["/"] = Answer(status, body=b"no")
    answer = request(bench, peer.url())
    assert (answer["status"], answer["body"]) == (status, "no")


def test_a_request_carries_method_headers_and_text(bench: Bench, peer: HttpPeer) -> None:
    headers = {"X-Key": " v ", "Authorization": "Bearer mine", "User-Agent": "guest/1"}
    request(bench, peer.url("/x?y=%20"), "propfind", headers, body="Grüße")
    (seen,) = peer.seen
    assert (seen.method, seen.target, seen.body) == ("PROPFIND", "/x?y=%20", "Grüße".encode())
    sent = [seen.headers[name] for name in ("x-key", "authorization", "user-agent")]
    assert sent == ["v", "Bearer mine", "guest/1"]


def test_bytes_go_before_text(bench: Bench, peer: HttpPeer) -> None:
    request(bench, peer.url(), "POST", body="text", body_base64=base64.b64encode(b"\x00\xff").decode())
    request(bench, peer.url(), "POST", body="text", body_base64="")
    assert [seen.body for seen in peer.seen] == [b"\x00\xff", b""]


@pytest.mark.parametrize(
    "broken",
    [
        {"headers": None},
        {"headers": []},
        {"headers": {"X": 1}},
        {"headers": {"X": None}},
        {"headers": {"X": ["a"]}},
        {"body": 1},
        {"body": {}},
        {"body_base64": "!"},
        {"body_base64": "AA"},
        {"body_base64": "AA=\n="},
        {"timeout_ms": "1000"},
        {"timeout_ms": 1.5},
        {"timeout_ms": True},
    ],
)
def test_malformed_requests_are_refused_and_nothing_is_sent(bench: Bench, peer: HttpPeer, broken: Any) -> None:
    payload = {"url": peer.url(), "method": "POST", "headers": {}, **broken}
    assert "malformed input" in refusal(json.loads(bench.ask("host_http_request", payload)))
    assert peer.seen == []


@pytest.mark.parametrize("missing", ["url", "method", "headers"])
def test_what_a_request_needs_is_named_when_it_is_missing(bench: Bench, missing: str) -> None:
    payload: dict[str, Any] = {"url": "http://localhost/", "method": "GET", "headers": {}}
    del payload[missing]
    assert missing in refusal(json.loads(bench.ask("host_http_request", payload)))


# --- methods and headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CONNECT", "trace", "TRACK", "", "GET /x HTTP/1.1\r\nX:", "G T", "GÉT"])
def test_methods_that_are_none_or_not_the_guests_are_refused(bench: Bench, peer: HttpPeer, method: str) -> None:
    assert "method" in refusal(request(bench, peer.url(), method))
    assert peer.seen == []


@pytest.mark.parametrize(
    "name",
    [
        "Transfer-Encoding",
        "connection",
        "Upgrade",
        "TE",
        "Trailer",
        "Keep-Alive",
        "Expect",
        "Proxy-Authorization",
        "Proxy-Connection",
        "HTTP2-Settings",
        "Host",
        "Content-Length",
        "Content-Length ",
        "X Y",
        "X:",
        "X\r\nY",
        "",
        "Ключ",
    ],
)
def test_header_names_that_are_none_or_not_the_guests_are_refused(bench: Bench, peer: HttpPeer, name: str) -> None:
    assert "header" in refusal(request(bench, peer.url(), headers={name: "chunked"}))
    assert peer.seen == []


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x1b[2J", "\x7f"])
def test_header_values_that_end_a_line_are_refused(bench: Bench, peer: HttpPeer, value: str) -> None:
    assert "header" in refusal(request(bench, peer.url(), headers={"X": value}))
    assert peer.seen == []


def test_headers_that_only_repeat_what_is_sent_anyway_are_left_out(bench: Bench, peer: HttpPeer) -> None:
    own = {"Host": f"localhost:{peer.port}", "content-length": "4", "Accept-Encoding": "br"}
    assert request(bench, peer.url(), "POST", own, body="body")["status"] == 404
    assert peer.seen[0].headers["accept-encoding"] == "gzip, deflate"


def test_headers_are_bounded_in_number_and_size(bench: Bench, peer: HttpPeer) -> None:
    assert "number" in refusal(request(bench, peer.url(), headers={f"X-{n}": "" for n in range(101)}))
    assert "size" in refusal(request(bench, peer.url(), headers={"X": "x" * 40_000}))
    assert peer.seen == []


# --- permissions ----------------------------------------------------------------------------------------------------


def test_a_host_without_permission_is_not_asked(bench: Bench, peer: HttpPeer) -> None:
    bench.workspace.grant(http_requests=["example.org"])
    denied = refusal(request(bench, peer.url()))
    assert all(word in denied for word in (PROBE, "http_requests", "localhost"))
    bench.workspace.grant(http_requests={"include": ["all"], "exclude": ["localhost"]})
    assert "localhost" in refusal(request(bench, peer.url(host="LOCALHOST.")))
    assert peer.seen == []


def test_a_host_with_permission_is_asked_in_every_spelling(bench: Bench, peer: HttpPeer) -> None:
    bench.workspace.grant(http_requests=["localhost"])
    for host in ("localhost", "LocalHost", "localhost.", "\uff4cocalhost"):
        assert request(bench, peer.url(host=host))["status"] == 404
    assert len(peer.seen) == 4


def test_a_private_address_is_closed_also_to_a_plugin_that_may_ask_every_host(bench: Bench) -> None:
    with serve(address="127.0.0.2") as other:
        assert "may not reach" in refusal(request(bench, other.url(host="127.0.0.2")))
        assert other.seen == []


# --- redirects ------------------------------------------------------------------------------------------------------


def to(location: str, status: int = 302) -> Answer:
    return Answer(status, (("Location", location),))


def test_redirects_are_followed_to_the_end(bench: Bench, peer: HttpPeer) -> None:
    peer.routes |= {"/": to("/one/two"), "/one/two": to("three?x"), "/one/three": Answer(200, body=b"end")}
    assert request(bench, peer.url())["body"] == "end"
    assert [seen.target for seen in peer.seen] == ["/", "/one/two", "/one/three?x"]


def test_each_hop_needs_the_permission_for_its_host(bench: Bench, peer: HttpPeer) -> None:
    bench.workspace.grant(http_requests=["localhost"])
    peer.routes |= {"/": to(peer.url("/x", "127.0.0.1")), "/x": Answer(200)}
    assert "127.0.0.1" in refusal(request(bench, peer.url()))
    assert len(peer.seen) == 1
    bench.workspace.grant(http_requests=["localhost", "127.0.0.1"])
    assert request(bench, peer.url())["status"] == 200


@pytest.mark.parametrize("spelling", ["127.0.0.2", "[::ffff:127.0.0.2]", "2130706434", "0x7f.2", "127.2", "0177.0.0.2"])
def test_a_redirect_to_a_private_address_is_refused(bench: Bench, peer: HttpPeer, spelling: str) -> None:
    with serve({"/": Answer(200)}, address="127.0.0.2") as other:
        peer.routes["/"] = to(other.url(host=spelling))
        refusal(request(bench, peer.url()))
        assert other.seen == []
        assert len(peer.seen) == 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "gopher://localhost/x",
        "ftp://localhost/",
        "data:text/plain,x",
        "http://user@localhost/",
        "//[",
        "http://localhost:99999/",
        "\\\\localhost\\x",
    ],
)
def test_a_redirect_to_what_is_no_http_url_is_refused(bench: Bench, peer: HttpPeer, location: str) -> None:
    peer.routes["/"] = to(location)
    refusal(request(bench, peer.url()))
    assert len(peer.seen) == 1


def test_redirects_that_never_end_are_left_after_ten(bench: Bench, peer: HttpPeer) -> None:
    peer.routes["/"] = to("/")
    assert "redirects" in refusal(request(bench, peer.url()))
    assert len(peer.seen) == 11


def test_credentials_and_cookies_do_not_follow_to_another_origin(bench: Bench, peer: HttpPeer) -> None:
    secrets = {"Authorization": "Bearer x", "Cookie": "a=1", "X-Api-Key": "y", "Accept": "text/html"}
    peer.routes |= {"/same": to("/end"), "/other": to(peer.url("/end", "127.0.0.1")), "/end": Answer(200)}
    request(bench, peer.url("/same"), headers=secrets)
    request(bench, peer.url("/other"), headers=secrets)
    same, other = (seen.headers for seen in peer.seen if seen.target == "/end")
    assert {name: same[name.lower()] for name in secrets} == secrets
    assert not {"authorization", "cookie", "x-api-key"} & set(other)
    assert other["accept"] == "text/html"


def test_cookies_that_a_redirect_sets_are_not_kept(bench: Bench, peer: HttpPeer) -> None:
    peer.routes |= {"/": Answer(302, (("Location", "/end"), ("Set-Cookie", "a=1"))), "/end": Answer(200)}
    request(bench, peer.url())
    assert "cookie" not in peer.seen[1].headers


def test_a_redirected_post_becomes_a_get_and_a_307_stays_a_post(bench: Bench, peer: HttpPeer) -> None:
    peer.routes |= {"/302": to("/end"), "/307": to("/end", 307), "/end": Answer(200)}
    for path in ("/302", "/307"):
        request(bench, peer.url(path), "POST", {"Content-Type": "text/plain"}, body="body")
    ends = [seen for seen in peer.seen if seen.target == "/end"]
    assert [(seen.method, seen.body) for seen in ends] == [("GET", b""), ("POST", b"body")]
    assert "content-type" not in ends[0].headers


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_an_answer_of_the_bound_is_refused_with_what_to_change(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], peer: HttpPeer
) -> None:
    plugins.add()
    workspace.grant(http_requests=["all"])
    http, limits = Http(allow_private=ALLOWED, max_response=100_000), Limits(frame=150_000)
    supervisor = supervise(config=Config(http=http, limits=limits))
    payload = {"url": peer.url(), "method": "GET", "headers": {}}
    for size, advice in ((100_001, "http.max_response"), (80_000, "limits.frame")):
        peer.routes["/"] = Answer(200, body=b"x" * size)
        assert advice in refusal(json.loads(ask(supervisor, "host_http_request", payload)))
    peer.routes["/"] = Answer(200, body=b"x" * 50_000)
    assert json.loads(ask(supervisor, "host_http_request", payload))["body"] == "x" * 50_000


def test_a_timeout_of_less_than_a_second_is_a_second(bench: Bench, peer: HttpPeer) -> None:
    def a_little_later(_: Seen) -> Answer:
        threading.Event().wait(0.05)
        return Answer(200)

    peer.routes["/"] = a_little_later
    for timeout_ms in (0, -5, 1):
        began = time.monotonic()
        answer = request(bench, peer.url(), timeout_ms=timeout_ms)
        assert answer["status"] == 200 or time.monotonic() - began >= 1.0  # on a busy machine, that may be too short


def silent(_: socket.socket) -> None:
    return


def test_a_timeout_ends_the_request_and_not_the_call(bench: Bench) -> None:
    with serve_bytes(silent) as slow:
        pids = bench.supervisor.status()[PROBE].worker_pids
        while not slow.requests:  # on a busy machine, the time may be over before it has got there
            assert "within the time" in refusal(request(bench, slow.url(), timeout_ms=1))
        assert slow.closed.wait(20)
    assert bench.supervisor.status()[PROBE].worker_pids == pids


@pytest.mark.parametrize("timeout_ms", [None, 300_000, 10**30])
def test_the_calls_deadline_ends_the_request_and_its_connection(bench: Bench, timeout_ms: int | None) -> None:
    payload = {"url": "", "method": "GET", "headers": {}, "timeout_ms": timeout_ms}
    with serve_bytes(silent) as slow:
        while not slow.requests:  # on a busy machine, the time may be over before it has got there
            with pytest.raises(CallTimeout):
                bench.ask("host_http_request", payload | {"url": slow.url()}, timeout=1.5)
        assert slow.closed.wait(20)
    assert bench.answers()


def test_a_worker_killed_during_a_request_closes_its_connection(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    workspace.grant(http_requests=["all"])
    supervisor = supervise(config=Config(http=Http(allow_private=ALLOWED)))
    with serve_bytes(silent) as slow, ThreadPoolExecutor(1) as threads:
        payload = {"url": slow.url(), "method": "GET", "headers": {}}
        call = threads.submit(ask, supervisor, "host_http_request", payload)
        wait_until(lambda: slow.requests, "the request")
        (pid,) = supervisor.status()[PROBE].worker_pids
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            call.result(20)
        assert slow.closed.wait(20)
    assert supervisor.call(PROBE, "echo", b"again") == b"again"


def test_closing_ends_requests_in_progress(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    workspace.grant(http_requests=["all"])
    config = Config(http=Http(allow_private=ALLOWED)).override(calls={"shutdown_timeout": 0.1})
    supervisor = supervise(config=config)
    with serve_bytes(silent) as slow, ThreadPoolExecutor(1) as threads:
        payload = {"url": slow.url(), "method": "GET", "headers": {}}
        call = threads.submit(ask, supervisor, "host_http_request", payload)
        wait_until(lambda: slow.requests, "the request")
        supervisor.close()
        assert call.exception(20) is not None
        assert slow.closed.wait(20)


def test_requests_of_several_plugins_are_in_progress_at_once(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], peer: HttpPeer
) -> None:
    names = [f"test.p{number}" for number in range(4)]
    for name in names:
        plugins.add(name)
        workspace.grant(name, http_requests=["localhost"])
    everybody = threading.Barrier(len(names))

    def wait_for_all(seen: Seen) -> Answer:
        everybody.wait(20)
        return Answer(200, body=seen.target.encode())

    peer.routes["/"] = wait_for_all
    supervisor = supervise(config=Config(http=Http(allow_private=ALLOWED)))

    def one(name: str) -> str:
        payload = {"url": peer.url(f"/?{name}"), "method": "GET", "headers": {}}
        return str(json.loads(ask(supervisor, "host_http_request", payload, name))["body"])

    with ThreadPoolExecutor(len(names)) as threads:
        assert list(threads.map(one, names)) == [f"/?{name}" for name in names]


# --- the proxy of the host's server ---------------------------------------------------------------------------------


def test_a_proxy_request_goes_to_the_hosts_server_with_its_token(bench: Bench, peer: HttpPeer) -> None:
    peer.routes["/base/api/proxy/openai/v1/chat"] = Answer(200, body=b"{}")
    answer = proxy(bench, proxy_id="openai", path="/v1/chat?x=1", body='{"q":1}', headers={"X-Own": "1"})
    assert (answer["status"], answer["body"], answer["body_base64"]) == (200, "{}", "e30=")
    (seen,) = peer.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/base/api/proxy/openai/v1/chat?x=1", b'{"q":1}')
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-own"] == "1"


def test_a_proxy_request_without_path_goes_to_the_proxy_itself(bench: Bench, peer: HttpPeer) -> None:
    proxy(bench, proxy_id="p.1", method="get")
    assert (peer.seen[0].method, peer.seen[0].target) == ("GET", "/base/api/proxy/p.1")


def test_a_guest_cannot_stand_in_for_the_token(bench: Bench, peer: HttpPeer) -> None:
    own = {"AUTHORIZATION": "Bearer mine", "content-type": "text/plain", "Cookie": "session=mine"}
    proxy(bench, proxy_id="p", headers=own)
    headers = peer.seen[0].headers
    assert (headers["authorization"], headers["content-type"]) == (f"Bearer {TOKEN}", "application/json")
    assert "cookie" not in headers
    assert "host" in refusal(proxy(bench, proxy_id="p", headers={"Host": "evil.org"}))


@pytest.mark.parametrize(
    "proxy_id", ["", ".", "..", "a/b", "a%2Fb", "../x", "a?b", "a#b", "a\\b", "a b", "a\n", "é", "x" * 200]
)
def test_a_proxy_id_is_one_name(bench: Bench, peer: HttpPeer, proxy_id: str) -> None:
    assert "proxy_id" in refusal(proxy(bench, proxy_id=proxy_id))
    assert peer.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../x",
        "a/../../x",
        "./x",
        "a/.",
        "%2e%2e/x",
        "a/%2E./x",
        "..%2fx",
        "%252e%252e/x",
        "%25252e%25252e%25252fx",
        "%" + "25" * 3000 + "2e",
        "a" * 10_000,
        "..\\x",
        "..%5cx",
        "..;/x",
        "a/..;x=1/y",
        "//../x",
    ],
)
def test_a_path_leads_to_no_other_endpoint(bench: Bench, peer: HttpPeer, path: str) -> None:
    assert "path" in refusal(proxy(bench, proxy_id="p", path=path))
    assert peer.seen == []


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a b", "/a%20b"),
        ("a#b", "/a%23b"),
        ("é", "/%C3%A9"),
        ("a%20b", "/a%20b"),
        ("//a//b", "/a//b"),
        ("@evil.org/x", "/@evil.org/x"),
        ("http://evil.org/", "/http://evil.org/"),
        ("a\r\nHost: evil.org", "/a%0D%0AHost:%20evil.org"),
        ("a?../b", "/a?../b"),
        ("...", "/..."),
    ],
)
def test_a_path_is_encoded_and_stays_below_the_proxy(bench: Bench, peer: HttpPeer, path: str, target: str) -> None:
    assert proxy(bench, proxy_id="p", path=path)["status"] == 404
    assert peer.seen[0].target == f"/base/api/proxy/p{target}"


def test_the_proxy_needs_the_permission_for_the_servers_host(bench: Bench, peer: HttpPeer) -> None:
    bench.workspace.grant(http_requests=["example.org"])
    denied = refusal(proxy(bench, proxy_id="p"))
    assert all(word in denied for word in (PROBE, "http_requests", "localhost"))
    assert TOKEN not in denied
    assert peer.seen == []


def test_the_token_follows_no_redirect_to_another_origin(bench: Bench, peer: HttpPeer) -> None:
    with serve(address="127.0.0.2") as private:
        for there in (peer.url("/x", "127.0.0.1"), private.url("/x", "127.0.0.2"), private.url("/x")):
            peer.routes["/base/api/proxy/p"] = to(there, 307)
            assert TOKEN not in refusal(proxy(bench, proxy_id="p"))
        assert private.seen == []
    assert {seen.target for seen in peer.seen} == {"/base/api/proxy/p"}
    peer.routes |= {"/base/api/proxy/p": to("/x", 307), "/x": Answer(200)}
    assert proxy(bench, proxy_id="p")["status"] == 200


def test_the_hosts_own_server_may_be_private_and_nothing_else_is(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], peer: HttpPeer
) -> None:
    plugins.add()
    workspace.grant(http_requests=["all"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOPLUG_AUTH_TOKEN", TOKEN)
        supervisor = supervise(config=Config(server=Server(url=peer.url())))
    assert json.loads(ask(supervisor, "host_proxy_request", {"proxy_id": "p"}))["status"] == 404
    payload = {"url": peer.url(), "method": "GET", "headers": {}}
    assert "may not reach" in refusal(json.loads(ask(supervisor, "host_http_request", payload)))
    assert len(peer.seen) == 1


class says:
    """A host's RuntimeContext."""

    def __init__(self, **answer: Any) -> None:
        self.answer = answer

    def get(self, plugin_id: str) -> dict[str, Any]:
        return self.answer


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ({}, "no server"),
        ({"server_url": None, "auth_token": TOKEN}, "no server"),
        ({"server_url": 7, "auth_token": TOKEN}, "no server"),
        ({"server_url": "ftp://x", "auth_token": TOKEN}, "server_url"),
        ({"server_url": "http://localhost", "auth_token": None}, "auth_token"),
        ({"server_url": "http://localhost", "auth_token": ""}, "auth_token"),
        ({"server_url": "http://localhost", "auth_token": f"{TOKEN}\r\nX: 1"}, "auth_token"),
    ],
)
def test_a_host_without_a_server_or_token_says_so(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], context: Any, problem: str
) -> None:
    plugins.add()
    workspace.grant(http_requests=["all"])
    supervisor = supervise(runtime_context=says(**context))
    message = refusal(json.loads(ask(supervisor, "host_proxy_request", {"proxy_id": "p"})))
    assert problem in message
    assert TOKEN not in message


# --- what the host says about itself --------------------------------------------------------------------------------


def test_only_who_may_ask_the_server_learns_its_token(bench: Bench, peer: HttpPeer) -> None:
    context = json.loads(bench.ask("host_get_runtime_context"))
    assert (context["server_url"], context["auth_token"]) == (peer.url("/base/"), TOKEN)
    bench.workspace.grant(http_requests=["example.org"])
    context = json.loads(bench.ask("host_get_runtime_context"))
    assert (context["server_url"], context["auth_token"]) == (peer.url("/base/"), None)


def test_the_token_stands_in_no_log(bench: Bench, peer: HttpPeer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    proxy(bench, proxy_id="p")
    peer.routes["/base/api/proxy/p"] = to("http://127.0.0.1/")
    proxy(bench, proxy_id="p")
    assert caplog.records
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (Config(http=Http(allow_private=("10.0.0.0/8",))), "http.allow_private"),
        (Config(http=Http(allow_private=("http://localhost",))), "http.allow_private"),
        (Config(server=Server(url="diaryx.example")), "server.url"),
        (Config(server=Server(url="ftp://diaryx.example")), "server.url"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused_at_start(
    supervise: Callable[..., Supervisor], config: Config, names: str
) -> None:
    with pytest.raises(SetupError, match=names):
        supervise(config=config)
