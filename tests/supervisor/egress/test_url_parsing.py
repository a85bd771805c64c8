# ruff: noqa: RUF001  characters that look like others are what some of these tests are about
"""URLs: what is read out of them, what is refused, and that two parsers read the result in the same way."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress import AddressPolicy, HttpUrl, canonical_host
from isoplug.supervisor.egress.addresses import why_closed

READ = {
    "http://example.org": "http://example.org/",
    "HTTP://EXAMPLE.org:80/": "http://example.org/",
    "https://example.org:443/a": "https://example.org/a",
    "https://example.org:80/a": "https://example.org:80/a",
    "http://example.org:/": "http://example.org/",
    "http://example.org./x": "http://example.org/x",
    "http://example.org?q=1": "http://example.org/?q=1",
    "http://example.org#frag@evil.org/": "http://example.org/",
    "http://example.org/#/a": "http://example.org/",
    "http://example.org?@evil.org/": "http://example.org/?@evil.org/",
    "http://example.org/@evil.org": "http://example.org/@evil.org",
    "http://example.org/a/../b//c": "http://example.org/a/../b//c",
    "http://example.org/100%": "http://example.org/100%25",
    "http://example.org/%2e%2E/%c3%a9": "http://example.org/%2e%2E/%c3%a9",
    "http://example.org/é?ü=ß": "http://example.org/%C3%A9?%C3%BC=%C3%9F",
    'http://example.org/<>"{}|^`?<>"\'': "http://example.org/%3C%3E%22%7B%7D%7C%5E%60?%3C%3E%22'",
    "http://bücher.example/": "http://xn--bcher-kva.example/",
    "http://faß.de/": "http://xn--fa-hia.de/",
    "http://EXAMPLE。org/": "http://example.org/",
    "http://ｅｘａｍｐｌｅ.org/": "http://example.org/",
    "http://my_host.example/": "http://my_host.example/",
    "http://8.8.8.8/": "http://8.8.8.8/",
    "http://８.８.８.８/": "http://8.8.8.8/",
    "http://[2001:4860:0:0:0:0:0:8888]:8080/": "http://[2001:4860::8888]:8080/",
    "http://[::FFFF:8.8.8.8]/": "http://[::ffff:808:808]/",
}

REFUSED = [
    "",
    "example.org",
    "//example.org/",
    "/path",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "gopher://example.org/_x",
    "ftp://example.org/",
    "data:text/plain,x",
    "javascript:alert(1)",
    "ws://example.org/",
    "httpx://example.org/",
    "http:",
    "http:example.org",
    "http:/example.org",
    "http://",
    "http:///evil.org/",
    "http://:80/",
    "http://?q",
    "http://#example.org",
    "http://./",
    "http://../",
    "http://a..b/",
    "http://.example.org/",
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://allowed.org:x@evil.org/",
    "http://allowed.org@evil.org/",
    "http://@example.org/",
    "http://:@example.org/",
    "http://allowed.org%40evil.org/",
    "http://allowed.org%2f.evil.org/",
    "http://allowed.org%00.evil.org/",
    "http://%65xample.org/",
    "http://allowed.org\\@evil.org/",
    "http://allowed.org\\.evil.org/",
    "http:\\\\example.org/",
    "http://example.org/a\\b",
    "http://exa mple.org/",
    "http://example.org/a b",
    " http://example.org/",
    "http://example.org/ ",
    "http://example.org/\r\nHost: evil.org",
    "http://example.org\r\n.evil.org/",
    "ht\ntp://example.org/",
    "http://example\t.org/",
    "http://example.org/\0",
    "http://example.org/\x7f",
    "http://example.org/\x85",
    "http://example.org\u2028/",
    "http://example\u00a0.org/",
    "http://example\u3000.org/",
    "http://allowed.org\uff0fevil.org/",
    "http://allowed.org\uff20evil.org/",
    "http://allowed.org\uff1aevil.org/",
    "http://allowed.org\u2100evil.org/",
    "http://\ud800/",
    "http://example.org/\ud800",
    "http://example.org:0/",
    "http://example.org:65536/",
    "http://example.org:99999/",
    "http://example.org:999999999999/",
    "http://example.org:-1/",
    "http://example.org:80x/",
    "http://example.org:８０/",
    "http://example.org:80:80/",
    "http://example.org: 80/",
    "http://2130706433/",
    "http://0/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://0x7f.0.0.1/",
    "http://0x7f000001/",
    "http://0x/",
    "http://127.0.0.0x1/",
    "http://127.0.0.256/",
    "http://127.0.0.1.1/",
    "http://1.2.3.4.5/",
    "http://example.1/",
    "http://①②⑦.1/",
    "http://[::1/",
    "http://::1/",
    "http://::1]/",
    "http://[]/",
    "http://[::1]evil.org/",
    "http://evil.org[::1]/",
    "http://[[::1]]/",
    "http://[fe80::1%eth0]/",
    "http://[fe80::1%25eth0]/",
    "http://[::1%0]/",
    "http://[v1.x]/",
    "http://[example.org]/",
    "http://[127.0.0.1]/",
    "http://[:::1]/",
    "http://" + "a" * 64 + ".org/",
    "http://" + "a." * 127 + "org/",
    "http://" + "é." * 5000 + "org/",
    "http://example.org/" + "a" * 20_000,
]


@pytest.mark.parametrize("text", READ)
def test_a_url_is_read_and_written_anew(text: str) -> None:
    assert HttpUrl.parse(text).text == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_url_that_parsers_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ServiceError) as caught:
        HttpUrl.parse(text)
    assert len(str(caught.value)) < 200
    assert "password" not in str(caught.value) or "user name" in str(caught.value)


@given(
    st.one_of(st.text(), st.from_regex(r"https?://[\x00-\xff]{1,30}"), st.text().map("http://example.org/{}".format))
)
def test_whatever_is_read_both_parsers_read_in_the_same_way(text: str) -> None:
    try:
        url = HttpUrl.parse(text)
    except ServiceError:
        return
    assert url.text.isascii()
    assert url.text.isprintable()
    theirs, ours = URL(url.text, encoded=True), urlsplit(url.text)
    assert theirs.raw_host == ours.hostname == url.host
    assert theirs.port == url.port
    assert theirs.user is None
    assert theirs.raw_path == ours.path == url.path
    assert HttpUrl.parse(url.text) == url
    assert canonical_host(f"[{url.host}]" if ":" in url.host else url.host) == url.host


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("/x", "http://example.org:8080/x"),
        ("x", "http://example.org:8080/a/x"),
        ("../x", "http://example.org:8080/x"),
        ("?q=1", "http://example.org:8080/a/b?q=1"),
        ("", "http://example.org:8080/a/b?old"),
        ("#top", "http://example.org:8080/a/b?old"),
        ("//evil.org/x", "http://evil.org/x"),
        ("https://evil.org", "https://evil.org/"),
        (" /with space ", "http://example.org:8080/with%20space"),
        ("/\u00fc", "http://example.org:8080/%C3%BC"),
    ],
)
def test_a_redirect_is_read_relative_to_where_it_came_from(location: str, there: str) -> None:
    assert HttpUrl.parse("http://example.org:8080/a/b?old").join(location).text == there


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "gopher://x/",
        "//@evil.org",
        "http://a@b/",
        "/\\evil.org",
        "/a\r\nX: 1",
        "http://[",
        "javascript:x",
        "/\udce9",
        "//127.1/",
    ],
)
def test_a_redirect_to_what_is_no_http_url_is_refused(location: str) -> None:
    with pytest.raises(ServiceError):
        HttpUrl.parse("http://example.org/").join(location)


# --- addresses ------------------------------------------------------------------------------------------------------

CLOSED = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.255.255.255
    168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1
    192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:8.8.8.8
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::8.8.8.8 100::1 2001::1
    2001:0:4136:e378:8000:63bf:3fff:fdd2
    2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254
    fd12:3456::1 fe80::1 fe80::1%1 febf::1 fec0::1 ff02::1 4000::1 e000::1
"""
OPEN = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.0.1 172.15.0.1
    172.32.0.1 192.0.1.1 192.167.0.1 192.169.0.1 198.17.0.1 198.20.0.1 223.255.255.255 ::ffff:8.8.8.8 64:ff9b::808:808
    2001:200::1 2001:4860:4860::8888 2003::1 2606:4700::1111 2a00::1 3ffe::1
"""


@pytest.mark.parametrize("address", CLOSED.split())
def test_addresses_of_this_machine_its_neighbours_and_nobody_are_closed(address: str) -> None:
    assert why_closed(ip_address(address))


@pytest.mark.parametrize("address", OPEN.split())
def test_addresses_of_the_public_network_are_open(address: str) -> None:
    assert why_closed(ip_address(address)) == ""


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_closed(address: object) -> None:
    ip = ip_address(str(address))
    if not ip.is_global or ip.is_multicast:
        wraps_a_public_one = any(ip in ip_network(wrapper) for wrapper in ("64:ff9b::/96", "::ffff:0:0/96"))
        assert why_closed(ip) or wraps_a_public_one


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("LocalHost.", "localhost"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("10.0.0.5", "10.0.0.5"),
        ("bücher.lan", "xn--bcher-kva.lan"),
    ],
)
def test_a_host_is_allowed_by_the_name_that_urls_have(name: str, host: str) -> None:
    assert AddressPolicy.of([name]).allow_private == {host}


@pytest.mark.parametrize("name", ["", "http://x/", "a b", "127.1", "10.0.0.0/8", "*", "x:80", "fe80::1%eth0"])
def test_what_no_url_could_hold_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ServiceError):
        AddressPolicy.of([name])
