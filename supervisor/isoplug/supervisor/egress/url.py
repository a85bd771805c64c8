"""An HTTP URL, parsed once and written anew: what was checked is what is connected to.

URL parsers disagree about user-info, backslashes, white space, odd spellings of addresses and what ends a host. So
nothing of the original text goes on: ``HttpUrl.text`` is put together from checked parts and has no character left
about which two parsers could think differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

from isoplug.shared.errors import ServiceError

__all__ = ["HttpUrl", "canonical_host"]

#: Servers and proxies commonly take 8 KiB; some programs put data into the query.
_MAX_CHARACTERS = 16_384
_MAX_HOST_CHARACTERS = 253  # RFC 1035, without the dot at the end
_DEFAULT_PORTS = {"http": 80, "https": 443}

_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HARMFUL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "/%:@!$&'()*+,;=~"
_QUERY_SAFE = _PATH_SAFE + "?"


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """``host`` is as ``canonical_host`` writes it (an IPv6 address without brackets). ``path`` begins with a slash;
    ``query`` is without its question mark. All of it is ASCII."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ServiceError that says what is wrong; the text itself is not in it, since it may hold secrets."""
        if len(text) > _MAX_CHARACTERS:
            raise ServiceError(f"the URL has {len(text)} characters, the limit is {_MAX_CHARACTERS}")
        if _HARMFUL.search(text):
            raise ServiceError("the URL contains white space, a control character or a backslash; percent-encode it")
        try:
            parts = urlsplit(text)
            scheme, host, port = parts.scheme, *_authority(parts.scheme, parts.netloc)
            return cls(scheme, host, port, _encoded(parts.path, _PATH_SAFE) or "/", _encoded(parts.query, _QUERY_SAFE))
        except ValueError as error:  # urlsplit's own, and text that has no bytes
            raise ServiceError(f"the URL cannot be read: {error}") from error

    def join(self, location: str) -> HttpUrl:
        """Where a redirect from here to ``location`` leads. Raises ServiceError."""
        location = location.strip(" \t").replace(" ", "%20")  # servers do send spaces, and browsers take them
        if len(location) > _MAX_CHARACTERS or _HARMFUL.search(location):
            return HttpUrl.parse(location)  # which says what is wrong with it
        try:
            return HttpUrl.parse(urljoin(self.text, location))
        except ValueError as error:
            raise ServiceError(f"the URL of a redirect cannot be read: {error}") from error

    @property
    def text(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{'?' if self.query else ''}{self.query}"

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: what a ``Host`` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def canonical_host(text: str) -> str:
    """A host as it stands in a URL, in the one spelling used here: a domain in lower-case ASCII without a dot at its
    end, a dotted IPv4 address, or an IPv6 address without its brackets.

    Other spellings of an IPv4 address (``2130706433``, ``0177.1``, ``0x7f.1``), which some resolvers read as
    ``127.0.0.1``, and zones of an IPv6 address are refused. Raises ServiceError.
    """
    if text.startswith("["):
        try:
            return str(IPv6Address(_without_zone(text.removeprefix("[").removesuffix("]"))))
        except AddressValueError as error:
            raise ServiceError("the URL's host is not an IPv6 address") from error
    host = _ascii(text).lower().removesuffix(".")
    labels = host.split(".")
    if not host:
        raise ServiceError("the URL has no host")
    if len(host) > _MAX_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise ServiceError("the URL's host is neither a domain nor an address")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except AddressValueError as error:
            raise ServiceError("the URL's host is an address in an unusual spelling; write 192.0.2.1") from error
    return host


def _authority(scheme: str, netloc: str) -> tuple[str, int]:
    if scheme not in _DEFAULT_PORTS:
        raise ServiceError("only http and https URLs can be requested")
    if "@" in netloc:
        raise ServiceError("the URL holds a user name or password; send an Authorization header instead")
    match = _AUTHORITY.fullmatch(netloc)
    if match is None:
        raise ServiceError("the URL's host or port cannot be read")
    port = int(match[2] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise ServiceError(f"the URL's port is {port}; ports are 1 to 65535")
    return canonical_host(match[1]), port


def _without_zone(address: str) -> str:
    if "%" in address:
        raise ServiceError("the URL's host is an IPv6 address with a zone, which means nothing outside this machine")
    return address


def _ascii(host: str) -> str:
    if host.isascii() or len(host) > _MAX_HOST_CHARACTERS:  # what is too long is refused all the same
        return host
    import idna  # 20 ms, for the few URLs that need it

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise ServiceError(f"the URL's host is not an international domain name: {error}") from error


def _encoded(text: str, safe: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)
