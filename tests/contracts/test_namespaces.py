"""The namespace functions as a guest finds them, over both providers: on this machine, and on a server on loopback.

PROBE may use them, BARRED is excluded from them, STRANGER has no rules (which opens the embedded ones, private to the
plugin, and not the server's).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench import PROBE, Bench, ask, nothing_left_behind, open_bench
from conftest import PluginFolder, Workspace, wait_until
from diaryx import TOKEN, Diaryx, diaryx
from isoplug.shared.errors import CallTimeout, SetupError, WorkerCrashed
from isoplug.supervisor import Supervisor
from isoplug.supervisor.config import Config, load_config
from isoplug.supervisor.host.namespaces import diaryx_server
from isoplug.supervisor.namespaces import Server
from peers import serve_bytes

BARRED, STRANGER = "test.barred", "test.stranger"
KIB = 1 << 10


class Own:
    """A runtime context of the host's own; its server may change at any time."""

    def __init__(self, url: str | None, token: str | None = TOKEN) -> None:
        self.url, self.token = url, token

    def get(self, plugin_id: str) -> dict[str, Any]:
        return {"server_url": self.url, "auth_token": self.token}


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    guests = [(plugin_id, "probe") for plugin_id in (PROBE, BARRED, STRANGER)]
    nothing = {"plugin_storage": {"include": ["all"], "exclude": ["all"]}, "http_requests": ["all"]}
    with open_bench(tmp_path_factory.mktemp("embedded"), guest_cache, *guests, barred=nothing) as bench:
        yield bench


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Diaryx]:
    with diaryx() as server:
        yield server


@pytest.fixture
def server(shared_server: Diaryx) -> Iterator[Diaryx]:
    yield shared_server
    shared_server.misbehaves = lambda _: None
    shared_server.peer.seen.clear()


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path, shared_server: Diaryx) -> Iterator[Supervisor]:
    """As a configuration file describes it, with the token in an environment variable."""
    folder = tmp_path_factory.mktemp("remote")
    for name in ("plugins", "workspace"):
        (folder / name).mkdir()
    plugins, workspace = PluginFolder(folder / "plugins", guest_cache), Workspace(folder / "workspace").grant()
    for plugin_id in (PROBE, BARRED, STRANGER):
        plugins.add(plugin_id)
    workspace.grant(PROBE, http_requests=["localhost"], plugin_storage={"include": [], "exclude": ["all"]})
    workspace.grant(BARRED, http_requests={"include": ["all"], "exclude": ["localhost"]})
    (folder / "isoplug.toml").write_text(
        f'plugins_dir = "plugins"\nworkspace = "workspace"\nstate_dir = "state"\n'
        f'[server]\nurl = "{shared_server.peer.url("/")}"\nauth_token_env = "TEST_DIARYX_TOKEN"\n'
        '[namespaces]\nprovider = "server"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_DIARYX_TOKEN", TOKEN)
        supervisor = Supervisor.from_config(folder / "isoplug.toml")
    with supervisor:
        assert not supervisor.load_errors
        yield supervisor


@pytest.fixture(params=["embedded", "remote"])
def either(request: pytest.FixtureRequest, server: Diaryx) -> Supervisor:
    found = request.getfixturevalue(request.param)
    return found.supervisor if isinstance(found, Bench) else found


def answer(supervisor: Supervisor, function: str, payload: Any, plugin_id: str = PROBE) -> Any:
    return json.loads(ask(supervisor, f"host_namespace_{function}", payload, plugin_id))


def made(supervisor: Supervisor, plugin_id: str = PROBE) -> str:
    return answer(supervisor, "create", {}, plugin_id)["id"]


def put(ns: str, key: str, content: bytes, mime_type: str = "text/markdown", **more: Any) -> dict[str, Any]:
    body = base64.b64encode(content).decode()
    return {"ns_id": ns, "key": key, "body_base64": body, "mime_type": mime_type, **more}


def error(answered: Any) -> str:
    assert list(answered) == ["error"]
    return answered["error"]


#: Each function with an input that is valid for the namespace.
VALID: dict[str, Callable[[str], Any]] = {
    "create": lambda _: {"metadata": {"x": 1}},
    "list": lambda _: {},
    "put_object": lambda ns: put(ns, "k", b"x"),
    "get_object": lambda ns: {"ns_id": ns, "key": "k"},
    "get_objects_batch": lambda ns: {"ns_id": ns, "keys": ["k"]},
    "get_objects_batches_concurrent": lambda ns: {"ns_id": ns, "batches": [["k"]], "max_concurrency": 2},
    "delete_object": lambda ns: {"ns_id": ns, "key": "k"},
    "list_objects": lambda ns: {"ns_id": ns, "prefix": "", "limit": 10, "offset": 0},
    "sync_audience": lambda ns: {"ns_id": ns, "audience": "a", "gates": [{"kind": "link"}]},
    "list_audiences": lambda ns: {"ns_id": ns},
    "delete_audience": lambda ns: {"ns_id": ns, "audience": "a"},
    "send_email": lambda ns: {"ns_id": ns, "audience": "a", "subject": "s"},
    "build": lambda ns: {"ns_id": ns, "base_url": "https://x.org"},
}


# --- what guests can do ---------------------------------------------------------------------------------------------


def test_a_guest_makes_a_namespace_and_finds_it_again(either: Supervisor) -> None:
    one = answer(either, "create", {"metadata": {"type": "workspace", "n": [1.5, None]}})
    assert one["metadata"] == {"type": "workspace", "n": [1.5, None]}
    assert isinstance(one["created_at"], int)
    other = answer(either, "create", {"metadata": None})
    assert "metadata" not in other
    listed = answer(either, "list", {})
    assert one in listed
    assert other in listed


def test_objects_live_their_lives(either: Supervisor) -> None:
    ns, content = made(either), b"# Gr\xc3\xbc\xc3\x9fe\n\xff\x00"
    for key in ("files/ü b.md", "files/a.md", "other"):
        assert answer(either, "put_object", put(ns, key, content, audience="")) == {"ok": True}
    assert answer(either, "get_object", {"ns_id": ns, "key": "files/ü b.md"}) == {
        "data": base64.b64encode(content).decode()
    }
    listed = answer(either, "list_objects", {"ns_id": ns, "prefix": "files/"})
    assert [told["key"] for told in listed] == ["files/a.md", "files/ü b.md"]
    assert listed[0]["size_bytes"] == len(content)
    assert listed[0]["namespace_id"] == ns
    assert len(listed[0]["content_hash"]) == 64
    assert "audience" not in listed[0]
    assert len(answer(either, "list_objects", {"ns_id": ns, "limit": 1, "offset": 2})) == 1
    assert answer(either, "delete_object", {"ns_id": ns, "key": "other"}) == {"ok": True}
    assert answer(either, "delete_object", {"ns_id": ns, "key": "other"}) == {"ok": True}
    assert error(answer(either, "get_object", {"ns_id": ns, "key": "other"}))
    assert len(answer(either, "list_objects", {"ns_id": ns, "prefix": None, "limit": None, "offset": None})) == 2


def test_contents_of_batches_are_base64_for_guests_of_any_age_and_keep_every_byte(either: Supervisor) -> None:
    ns, content = made(either), b"not \xff UTF-8"
    answer(either, "put_object", put(ns, "a", content, "text/plain"))
    answer(either, "put_object", put(ns, "b", b"", "image/png"))
    entry = {"data": base64.b64encode(content).decode(), "mime_type": "text/plain", "encoding": "base64"}
    whole = {"a": entry, "b": {"data": "", "mime_type": "image/png", "encoding": "base64"}}
    assert answer(either, "get_objects_batch", {"ns_id": ns, "keys": ["a", "b", "a"]}) == {"objects": whole}
    several = {"ns_id": ns, "batches": [["b"], [], ["missing", "a"]]}
    found = answer(either, "get_objects_batches_concurrent", several)
    assert found["objects"] == whole
    assert list(found["errors"]) == ["missing"]
    assert answer(either, "get_objects_batch", {"ns_id": ns, "keys": []}) == {"objects": {}}
    assert answer(either, "get_objects_batches_concurrent", {"ns_id": ns, "batches": []}) == {"objects": {}}


def test_audiences_live_their_lives(either: Supervisor) -> None:
    ns = made(either)
    for name in ("friends", "public"):
        one = {"ns_id": ns, "audience": name, "gates": [{"kind": "password", "password": "pw"}, {"kind": "link"}]}
        assert answer(either, "sync_audience", one) == {"ok": True}
    assert answer(either, "list_audiences", {"ns_id": ns}) == {"audiences": ["friends", "public"]}
    for _ in range(2):
        assert answer(either, "delete_audience", {"ns_id": ns, "audience": "friends"}) == {"ok": True}
    assert answer(either, "list_audiences", {"ns_id": ns}) == {"audiences": ["public"]}


def test_a_server_builds_and_sends_email(remote: Supervisor, server: Diaryx) -> None:
    ns = made(remote)
    assert answer(remote, "build", {"ns_id": ns}) == {"ok": True}
    sent = answer(remote, "send_email", {"ns_id": ns, "audience": "a", "subject": "s", "reply_to": "me@x.org"})
    assert sent == {"recipients": 3, "send_receipt_key": "_receipts/1"}


def test_what_a_page_needs_to_know_reaches_the_server(remote: Supervisor, server: Diaryx) -> None:
    ns = made(remote)
    told = {"audience": "all", "file_ark": "bcd", "source_key": "W.md", "object_key": "index.html", "is_index": True}
    assert answer(remote, "put_object", put(ns, "k", b"x", **told)) == {"ok": True}
    headers = server.peer.seen[-1].headers
    assert [headers[name] for name in ("x-audience", "x-diaryx-file-ark", "x-diaryx-source-key")] == [
        "all",
        "bcd",
        "W.md",
    ]
    assert [headers["x-diaryx-object-key"], headers["x-diaryx-is-index"]] == ["index.html", "true"]


@pytest.mark.parametrize(
    ("access", "gates"), [("public", []), ("token", [{"kind": "link"}]), ("private", [{"kind": "link"}])]
)
def test_what_older_guests_say_instead_of_gates_never_opens_more(
    remote: Supervisor, embedded: Bench, server: Diaryx, access: str, gates: list[Any]
) -> None:
    ns = made(remote)
    assert answer(remote, "sync_audience", {"ns_id": ns, "audience": "a", "access": access}) == {"ok": True}
    assert server.audiences[ns, "a"] == {"gates": gates, "access": access}
    here = made(embedded.supervisor)
    assert answer(embedded.supervisor, "sync_audience", {"ns_id": here, "audience": "a", "access": access}) == {
        "ok": True
    }


def test_batches_of_a_guest_are_in_flight_at_once(remote: Supervisor, server: Diaryx) -> None:
    ns, barrier = made(remote), threading.Barrier(4)
    for number in range(8):
        answer(remote, "put_object", put(ns, f"{number}", b"x"))

    def together(_: object) -> None:
        barrier.wait(20)

    server.misbehaves = together  # type: ignore[assignment]
    asked = {"ns_id": ns, "batches": [[f"{number}"] for number in range(8)]}  # four at once unless it says otherwise
    found = answer(remote, "get_objects_batches_concurrent", asked)
    assert sorted(found["objects"]) == [f"{number}" for number in range(8)]
    assert not barrier.broken


# --- who may --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", VALID)
def test_without_permission_nothing_reaches_the_server(remote: Supervisor, server: Diaryx, function: str) -> None:
    server.peer.seen.clear()
    for plugin_id in (BARRED, STRANGER):
        denied = error(answer(remote, function, VALID[function]("ns-0"), plugin_id))
        assert all(word in denied for word in (plugin_id, "http_requests", "localhost"))
    assert server.peer.seen == []


@pytest.mark.parametrize("function", VALID)
def test_embedded_namespaces_are_denied_where_storage_is(embedded: Bench, function: str) -> None:
    denied = error(answer(embedded.supervisor, function, VALID[function]("ns-0"), BARRED))
    assert all(word in denied for word in (BARRED, "plugin_storage"))


def test_embedded_namespaces_are_private_to_their_plugin(embedded: Bench) -> None:
    ns = made(embedded.supervisor)
    answer(embedded.supervisor, "put_object", put(ns, "k", b"mine"))
    assert ns not in [one["id"] for one in answer(embedded.supervisor, "list", {}, STRANGER)]
    for function in set(VALID) - {"create", "list", "send_email", "build"}:
        answered = answer(embedded.supervisor, function, VALID[function](ns), STRANGER)
        refused = answered["errors"]["k"] if "concurrent" in function else error(answered)
        assert f"plugin '{STRANGER}' has no namespace '{ns}'" in refused
    assert answer(embedded.supervisor, "get_object", {"ns_id": ns, "key": "k"})["data"]


# --- what guests send -----------------------------------------------------------------------------------------------

#: Function, what is odd about its input ("HUGE" is a number of 5,000 digits), and what the answer says.
HOSTILE: list[tuple[str, Any, str]] = [
    ("create", {"metadata": "HUGE"}, "number"),
    ("create", b'{"metadata":NaN}', "number|Invalid JSON"),
    ("create", b'{"metadata":' + b"[" * 8_000 + b"]" * 8_000 + b"}", "recursion"),
    ("create", {"metadata": "x" * 17_000}, "the limit is 16384"),
    ("put_object", {"key": "../audiences/public"}, "key"),
    ("put_object", {"key": "%2e%2e/audiences/public"}, "key"),
    ("put_object", {"key": ""}, "key"),
    ("put_object", {"key": "a//b"}, "key"),
    ("put_object", {"key": "a\r\nX-Audience: public"}, "key"),
    ("put_object", {"key": "k" * 1025}, "is 1025, the limit is 1024"),
    ("put_object", {"ns_id": ".."}, "ns_id"),
    ("put_object", {"ns_id": ""}, "ns_id"),
    ("put_object", {"audience": "a\nb"}, "audience"),
    ("put_object", {"audience": "x" * 257}, "is 257, the limit is 256"),
    ("put_object", {"mime_type": "text/html\r\nX-Audience: public"}, "mime_type"),
    ("put_object", {"mime_type": ""}, "mime_type"),
    ("put_object", {"body_base64": "not base64!"}, "base64"),
    ("put_object", {"body_base64": "ü"}, "base64"),
    ("put_object", {"source_key": "a\nb"}, "control"),
    ("put_object", {"is_index": "yes"}, "is_index"),
    ("get_object", {"key": "../../other/objects/k"}, "key"),
    ("delete_object", {"key": "..\\..\\x"}, "key"),
    ("get_objects_batch", {"keys": ["k", ".."]}, "key"),
    ("get_objects_batch", {"keys": "k"}, "keys"),
    ("get_objects_batch", {"keys": [f"{number}" for number in range(10_001)]}, "10001, the limit is 10000"),
    ("get_objects_batch", {"keys": ["x" * (1 << 20)]}, "the limit is 1048576"),
    ("get_objects_batches_concurrent", {"batches": [["k"], ["../k"]]}, "key"),
    ("get_objects_batches_concurrent", {"batches": [["k"]] * 10_001}, "10001, the limit is 10000"),
    ("get_objects_batches_concurrent", {"batches": ["k"]}, "batches"),
    ("get_objects_batches_concurrent", {"max_concurrency": -1}, "max_concurrency"),
    ("get_objects_batches_concurrent", {"max_concurrency": 2**32}, "max_concurrency"),
    ("list_objects", {"limit": -1}, "limit"),
    ("list_objects", {"limit": "10"}, "limit"),
    ("list_objects", {"offset": 2**63}, "offset"),
    ("list_objects", {"prefix": "a\0b"}, "control"),
    ("sync_audience", {"gates": {"kind": "link"}}, "gates"),
    ("sync_audience", {"gates": [{"password": "x"}]}, "kind"),
    ("sync_audience", {"gates": [{"kind": 7}]}, "kind"),
    ("sync_audience", {"gates": ["link"]}, "gates"),
    ("sync_audience", {"gates": [{"kind": "x", "n": "HUGE"}]}, "number"),
    ("sync_audience", {"gates": None}, "gates"),
    ("sync_audience", {"gates": None, "access": "everyone"}, "access"),
    ("sync_audience", {"audience": "../objects/k"}, "audience"),
    ("delete_audience", {"audience": ".."}, "audience"),
    ("send_email", {"subject": "s\r\nBcc: everyone@x.org"}, "control"),
    ("send_email", {"reply_to": "me@x.org\nBcc: everyone@x.org"}, "control"),
    ("build", {"base_url": "https://x.org/" + "x" * 2048}, "the limit is 2048"),
]


@pytest.mark.parametrize(("function", "odd", "words"), HOSTILE, ids=lambda value: str(value)[:40])
def test_hostile_input_is_refused_in_the_error_form_before_anything_is_done(
    either: Supervisor, server: Diaryx, function: str, odd: Any, words: str
) -> None:
    ns = made(either)
    server.peer.seen.clear()
    payload = odd
    if isinstance(odd, dict):
        payload = json.dumps({**VALID[function](ns), **odd}).replace('"HUGE"', "1" + "0" * 4999)
    refused = error(json.loads(ask(either, f"host_namespace_{function}", payload)))
    assert any(word in refused for word in words.split("|")), refused
    assert f"host_namespace_{function}" in refused or "limit" in refused
    assert server.peer.seen == []
    assert answer(either, "list_objects", {"ns_id": ns}) == []
    assert answer(either, "list_audiences", {"ns_id": ns}) == {"audiences": []}


@pytest.mark.parametrize("function", [name for name in VALID if name not in ("create", "list")])
def test_a_namespace_that_does_not_exist_is_a_clear_error(either: Supervisor, function: str) -> None:
    answered = answer(either, function, VALID[function]("no-such-namespace"))
    if "concurrent" in function:
        answered = {"error": answered["errors"]["k"]}
    if function.startswith("delete") and answered == {"ok": True}:
        return  # the server's 404 does not tell that from an object that is gone already
    assert "namespace" in error(answered).lower()


def test_newer_fields_are_ignored_and_absent_ones_may_be_null(either: Supervisor) -> None:
    ns = made(either)
    nothing = dict.fromkeys(("audience", "file_ark", "source_key", "object_key", "is_index"))
    assert answer(either, "put_object", put(ns, "k", b"x", newer={"x": 1}, **nothing)) == {"ok": True}
    null = {"ns_id": ns, "batches": [["k"]], "max_concurrency": None}
    assert list(answer(either, "get_objects_batches_concurrent", null)["objects"]) == ["k"]


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_answers_fit_into_a_frame_and_what_does_not_is_said(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    plugins.add(PROBE)
    limits = {"frame": 64 * KIB, "namespace_quota": 150 * KIB}
    supervisor = supervise(config=Config.model_validate({"limits": limits}))
    ns = made(supervisor)
    for key, size in (("a", 25), ("b", 20), ("c", 12)):
        assert answer(supervisor, "put_object", put(ns, key, b"x" * size * KIB)) == {"ok": True}
    for asked in (
        {"ns_id": ns, "keys": ["a", "b", "c"]},
        {"ns_id": ns, "batches": [["a", "b"], ["c"]], "max_concurrency": 1},
    ):
        function = "get_objects_batch" if "keys" in asked else "get_objects_batches_concurrent"
        found = answer(supervisor, function, asked)
        assert list(found["objects"]) == ["a", "b"]
        assert "ask for fewer" in found["errors"]["c"]
    with closing(sqlite3.connect(tmp_path / "state" / "namespaces.sqlite3")) as database, database:
        database.execute("UPDATE objects SET size_bytes = 300000 WHERE key = 'a'")
    assert "is 300000, the limit is" in error(answer(supervisor, "get_object", {"ns_id": ns, "key": "a"}))
    for number in range(70):
        assert answer(supervisor, "put_object", put(ns, f"{number:03}" + "k" * 997, b"")) == {"ok": True}
    assert "ask for less at once" in error(answer(supervisor, "list_objects", {"ns_id": ns}))
    assert len(answer(supervisor, "list_objects", {"ns_id": ns, "limit": 30})) == 30
    over = error(answer(supervisor, "put_object", put(ns, "d", b"x" * 25 * KIB)))
    assert "limits.namespace_quota" in over
    assert supervisor.status()[PROBE].restarts == 0


# --- crashes, other hosts, other providers --------------------------------------------------------------------------


def test_a_worker_killed_while_its_server_is_silent_leaves_no_connection(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add(PROBE)
    workspace.grant(PROBE, http_requests=["localhost"])
    with serve_bytes(lambda _: None) as peer:
        config = Config.model_validate({"server": {"url": peer.url()}, "namespaces": {"provider": "server"}})
        supervisor = supervise(config=config)
        asked = {"ns_id": "n", "batches": [[f"{number}"] for number in range(6)], "max_concurrency": 3}
        ended: list[BaseException] = []

        def call() -> None:
            try:
                answer(supervisor, "get_objects_batches_concurrent", asked)
            except WorkerCrashed as crash:
                ended.append(crash)

        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: len(peer.requests) == 3)
        (pid,) = supervisor.plugins[PROBE].status.worker_pids
        os.kill(pid, signal.SIGKILL)
        thread.join(20)
        assert len(ended) == 1
        assert peer.closed.wait(20)
        assert len(peer.requests) == 3
        assert supervisor.call(PROBE, "echo", b"x") == b"x"


def test_a_call_to_a_silent_server_ends_at_its_deadline(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace
) -> None:
    plugins.add(PROBE)
    workspace.grant(PROBE, http_requests=["localhost"])
    with serve_bytes(lambda _: None) as peer:
        supervisor = supervise(
            config=Config.model_validate({"namespaces": {"provider": "server"}}), runtime_context=Own(peer.url())
        )
        while not peer.requests:  # on a busy machine, the time may be over before it has got there
            with pytest.raises(CallTimeout):
                ask(supervisor, "host_namespace_list", {}, timeout=1.5)
        assert peer.closed.wait(20)


def test_two_supervisors_share_the_namespaces_of_one_state_folder(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(PROBE)
    one, other = supervise(), supervise()
    ns = made(one)
    answer(one, "put_object", put(ns, "k", b"from the one"))
    answer(other, "put_object", put(ns, "k", b"from the other"))
    expected = {"data": base64.b64encode(b"from the other").decode()}
    assert answer(one, "get_object", {"ns_id": ns, "key": "k"}) == expected
    other.close()
    one.close()
    assert answer(supervise(), "get_object", {"ns_id": ns, "key": "k"}) == expected


def test_the_server_follows_the_hosts_runtime_context(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], workspace: Workspace, server: Diaryx
) -> None:
    plugins.add(PROBE)
    workspace.grant(PROBE, http_requests=["localhost"])
    own = Own(None)
    supervisor = supervise(config=Config.model_validate({"namespaces": {"provider": "server"}}), runtime_context=own)
    assert "this host has no server" in error(answer(supervisor, "list", {}))
    own.url = server.base_url
    assert isinstance(answer(supervisor, "list", {}), list)
    own.token = "of somebody else"
    refused = error(answer(supervisor, "list", {}))
    assert "401" in refused
    assert "somebody else" not in refused.replace("wrong or of somebody else", "")
    own.url = "https://user:password@x.org/"
    assert "password" in error(answer(supervisor, "list", {}))


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("https://x.org", "https://x.org/api"),
        ("https://x.org/api/", "https://x.org/api"),
        ("http://x/d", "http://x/d/api"),
    ],
)
def test_a_servers_namespaces_are_under_api(url: str, base_url: str) -> None:
    assert diaryx_server(Own(url, None))("p") == Server(base_url, None)


class Blind:
    """A provider of the host's own that can only list, and does as it is told."""

    def __init__(self, listing: Callable[[], Any]) -> None:
        self._listing = listing

    def host(self, plugin_id: str) -> None:
        return None

    def list(self, caller: object) -> Any:
        return self._listing()


def test_a_provider_of_the_hosts_own_may_fail_and_block_without_harm(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(PROBE)
    blocked, doing = threading.Event(), [lambda: 1 / 0]
    supervisor = supervise(namespaces=Blind(lambda: doing[0]()))
    assert error(answer(supervisor, "list", {})) == "host_namespace_list: internal error of the host; its log says why"
    assert "ZeroDivisionError" in caplog.text
    assert (
        error(answer(supervisor, "build", {"ns_id": "n"}))
        == "host_namespace_build: internal error of the host; its log says why"
    )
    doing[0] = lambda: blocked.wait(20) and []  # type: ignore[list-item, return-value]
    with pytest.raises(CallTimeout):
        ask(supervisor, "host_namespace_list", {}, timeout=0.3)
    doing[0] = list  # type: ignore[list-item]
    assert answer(supervisor, "list", {}) == []
    blocked.set()


def test_a_supervisor_without_state_keeps_no_namespaces(plugins: PluginFolder) -> None:
    wasm = plugins.add(PROBE)
    with Supervisor() as supervisor:
        supervisor.load_plugin(wasm)
        assert "keeps no namespaces; give it state_dir=" in error(answer(supervisor, "list", {}))


def test_a_configuration_that_wants_a_server_has_to_name_it(plugins: PluginFolder, tmp_path: Path) -> None:
    (tmp_path / "isoplug.toml").write_text('[namespaces]\nprovider = "server"\n')
    with pytest.raises(SetupError, match=r"set url in \[server\]"):
        Supervisor.from_config(tmp_path / "isoplug.toml", plugins_dir=plugins.path, state_dir=tmp_path / "state")
    (tmp_path / "isoplug.toml").write_text('[namespaces]\nprovider = "cloud"\n')
    with pytest.raises(SetupError, match=r"namespaces.provider"):
        load_config(tmp_path / "isoplug.toml")
