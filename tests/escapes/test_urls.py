# ruff: noqa: RUF001  characters that look like others are what some of these tests are about
"""A guest that may ask every host tries to reach this machine and its neighbours, through the real stack.

Servers listen on 127.0.0.1, 127.0.0.2 and ::1, on one port; a test fails when a single byte of a request arrives.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from bench import Bench, nothing_left_behind, open_bench
from conftest import WAIT_SECONDS

TIMEOUT = WAIT_SECONDS


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    everything = {"http_requests": ["all"]}
    with open_bench(tmp_path_factory.mktemp("urls"), guest_cache, probe=everything) as opened:
        yield opened


class Trap:
    """One port on several loopback addresses, and who has knocked."""

    def __init__(self, cleanup: ExitStack) -> None:
        self.knocks: list[str] = []
        first = self._listen("127.0.0.1", 0, cleanup)
        self.port: int = first.getsockname()[1]
        for address in ("127.0.0.2", "::1"):
            with suppress(OSError):  # this machine has no IPv6, or somebody else has the port there
                self._listen(address, self.port, cleanup)

    def _listen(self, address: str, port: int, cleanup: ExitStack) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
        thread = threading.Thread(target=self._accept, args=(listener, address), daemon=True)
        thread.start()

        def end() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

        cleanup.callback(end)
        return listener

    def _accept(self, listener: socket.socket, address: str) -> None:
        with suppress(OSError):  # it was shut down
            while True:
                connection, _ = listener.accept()
                self.knocks.append(address)
                connection.close()


@contextmanager
def open_trap() -> Iterator[Trap]:
    with ExitStack() as cleanup:
        yield Trap(cleanup)


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    with open_trap() as trap:
        yield trap


# {port} is where the trap listens
URLS = """
    http://localhost:{port}/ http://LOCALHOST:{port}/ http://localhost.:{port}/ http://ｌｏｃａｌｈｏｓｔ:{port}/
    http://127.0.0.1:{port}/ http://127.0.0.2:{port}/ http://127.0.0.1.:{port}/ http://127.1:{port}/ http://127.0.1:{port}/
    http://2130706433:{port}/ http://0x7f000001:{port}/ http://0x7f.1:{port}/ http://0x7f.0x0.0x0.0x1:{port}/
    http://0177.0.0.1:{port}/ http://017700000001:{port}/ http://0:{port}/ http://0.0.0.0:{port}/ http://000.0.0.0:{port}/
    http://127。0。0。1:{port}/ http://127．0．0．1:{port}/ http://127｡0｡0｡1:{port}/ http://１２７.０.０.１:{port}/
    http://①②⑦.⓪.⓪.①:{port}/ http://𝟏𝟐𝟕.𝟎.𝟎.𝟏:{port}/ http://%31%32%37.0.0.1:{port}/ http://127%2e0%2e0%2e1:{port}/
    http://[::1]:{port}/ http://[0:0:0:0:0:0:0:1]:{port}/ http://[::]:{port}/ http://[::ffff:127.0.0.1]:{port}/
    http://[::ffff:7f00:1]:{port}/ http://[::127.0.0.1]:{port}/ http://[0000::0001]:{port}/ http://[::1%25lo]:{port}/
    http://[::1%lo]:{port}/ http://[64:ff9b::7f00:1]:{port}/ http://[2002:7f00:1::1]:{port}/ http://[::ffff:0:127.0.0.1]:{port}/
    http://example.org@localhost:{port}/ http://example.org:x@localhost:{port}/ http://example.org%40localhost:{port}/
    http://example.org\\@localhost:{port}/ http://example.org\\\\@localhost:{port}/ http://localhost:{port}\\@example.org/
    http://localhost:{port}#@example.org/ http://localhost:{port}?@example.org/ http://localhost:{port}/@example.org
    http:localhost:{port}/ http:/localhost:{port}/ http:///localhost:{port}/ //localhost:{port}/ localhost:{port}/
    ws://localhost:{port}/ ftp://localhost:{port}/ gopher://localhost:{port}/_GET%20/ file://localhost:{port}/etc/passwd
    dict://localhost:{port}/ ldap://localhost:{port}/ unix://localhost:{port}/ http+unix://localhost:{port}/ jar:http://localhost:{port}/
    https://localhost:{port}/ https://127.0.0.1:{port}/ HTTP://LOCALHOST:{port}/ hTTp://127.0.0.1:{port}/
"""
WITH_WHITE_SPACE = [
    " http://localhost:{port}/",
    "http://localhost:{port}/ ",
    "http://example.org\n@localhost:{port}/",
    "http://example.org\t@localhost:{port}/",
    "ht\ttp://localhost:{port}/",
    "http://local\nhost:{port}/",
    "http://local\u00adhost:{port}/",
    "http://local\u200bhost:{port}/",
    "http://localhost\0.example.org:{port}/",
    "http://localhost:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("url", [*URLS.split(), *WITH_WHITE_SPACE])
def test_no_spelling_of_this_machine_is_reached(bench: Bench, trap: Trap, url: str) -> None:
    payload = {"url": url.format(port=trap.port), "method": "GET", "headers": {}}
    answer = json.loads(bench.ask("host_http_request", payload, timeout=TIMEOUT))
    assert answer["status"] == 0
    assert answer["error"].startswith("host_http_request: ") or "denied" in answer["error"]
    assert trap.knocks == []


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "[2001:db8::1]",
    ],
)
def test_neighbours_and_metadata_services_are_refused_by_name_of_what_they_are(bench: Bench, address: str) -> None:
    payload = {"url": f"http://{address}/latest/meta-data/", "method": "GET", "headers": {}}
    answer = json.loads(bench.ask("host_http_request", payload, timeout=TIMEOUT))
    assert "which plugins may not reach" in answer["error"]
