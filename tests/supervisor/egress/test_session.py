"""The session under every request and WebSocket: one host, checked sockets, verified TLS, and a late import."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import AddressPolicy, Lookups
from isoplug.supervisor.egress.session import open_session
from peers import Answer, serve

# --- one host, and only at addresses that are open --------------------------------------------------------------------


def fetch(host: str, url: str, policy: AddressPolicy) -> int:
    async def work() -> int:
        async with open_session(host, policy, Lookups()) as session, session.get(url) as answer:
            await answer.read()
            return answer.status

    return asyncio.run(work())


def test_a_session_follows_a_redirect_on_its_host_and_to_no_other() -> None:
    with serve() as peer:
        peer.routes |= {"/same": Answer(302, (("Location", "/end"),)), "/end": Answer(204)}
        policy = AddressPolicy.of(["localhost", "127.0.0.1"])
        assert fetch("localhost", peer.url("/same"), policy) == 204
        for status in (301, 302, 303, 307, 308):
            peer.routes["/other"] = Answer(status, (("Location", peer.url("/end", "127.0.0.1")),))
            with pytest.raises(ServiceError, match="another host"):
                fetch("localhost", peer.url("/other"), policy)
        assert [seen.target for seen in peer.seen] == ["/same", "/end"] + ["/other"] * 5


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_socket_is_made_to_a_closed_address_whoever_forgot_to_check(host: str) -> None:
    with serve({"/": Answer(204)}) as peer:
        with pytest.raises((aiohttp.ClientConnectorError, ServiceError)):
            fetch(host, peer.url(host=host), AddressPolicy())
        assert peer.seen == []


def test_a_turn_of_the_loop_reads_a_little_from_each_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    receive = ResponseHandler.data_received

    def data_received(self: ResponseHandler, data: bytes) -> None:
        sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(ResponseHandler, "data_received", data_received)
    with serve({"/": Answer(200, body=b"x" * 2_000_000)}) as peer:
        assert fetch("localhost", peer.url(), AddressPolicy.of(["localhost"])) == 200
    assert 0 < max(sizes) <= 16 * 1024


# --- TLS ------------------------------------------------------------------------------------------------------------


def signed_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for ``name`` and localhost's address, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.3"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return paths


@contextmanager
def serve_tls(certificate: Path, key: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


_ASK = """
import os, sys
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.egress import AddressPolicy, AiohttpClient, HttpRequest, Lookups, NetLoop

reader, writer = os.pipe()
loop = NetLoop()
client = AiohttpClient(loop, AddressPolicy.of(["localhost"]), Lookups(), 1000)
try:
    print(client.send(Caller("p", Deadline.after(20), lambda: os.dup(reader)), HttpRequest("GET", sys.argv[1])).body)
except Exception as error:
    print(error)
loop.close()
"""


@pytest.mark.parametrize(
    ("name", "is_trusted", "answer"),
    [("localhost", True, "b'hi'"), ("localhost", False, "not valid"), ("other.example", True, "not valid")],
)
def test_a_certificate_has_to_be_trusted_and_of_the_name(
    tmp_path: Path, name: str, is_trusted: bool, answer: str
) -> None:
    certificate, key = signed_certificate(tmp_path, name)
    environment = {**os.environ, "SSL_CERT_FILE": str(certificate) if is_trusted else os.devnull}
    with serve_tls(certificate, key) as port:
        command = [sys.executable, "-c", _ASK, f"https://localhost:{port}/"]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert answer in output.stdout


# --- the import -----------------------------------------------------------------------------------------------------


def test_a_supervisor_does_not_import_aiohttp_before_the_first_request() -> None:
    program = (
        "import sys; from isoplug.supervisor import Supervisor; Supervisor().close(); print('aiohttp' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert output.stdout == "False\n"
