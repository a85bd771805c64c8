"""Which addresses a request may reach: a table, and one function that reads it. No I/O.

Everything that IANA's registries of special-purpose addresses (RFC 6890 and its updates, as of 2025) do not call
globally reachable is closed, because behind such an address are the host itself, its neighbours and the metadata
services of clouds. The table stands here, and not in ``ipaddress``, whose ``is_global`` differs between releases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.egress.url import canonical_host

__all__ = ["Address", "AddressPolicy", "why_closed"]

Address: TypeAlias = IPv4Address | IPv6Address

_CLOSED_V4 = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a private address of a carrier"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "a metadata address"),  # Azure's, the one cloud that uses a public address for it
        ("169.254.0.0/16", "a link-local or metadata address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a relay address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_CLOSED_V6 = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("2001::/23", "a reserved or tunnelled address"),  # Teredo, benchmarks, ORCHID
        ("2001:db8::/32", "an address for documentation"),
        ("2002::/16", "a tunnelled address"),  # 6to4
        ("3fff::/20", "an address for documentation"),
        ("fc00::/7", "a private or metadata address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
    )
)
#: The only part of IPv6 from which unicast addresses are given out (RFC 4291, section 2.4).
_GLOBAL_V6 = IPv6Network("2000::/3")
#: IPv4 addresses in IPv6 clothes lead where the IPv4 address leads: the kernel unwraps the first, NAT64 the second.
_WRAPPERS = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))


def why_closed(address: Address) -> str:
    """What makes an address one that requests may not reach; empty for one that they may."""
    if isinstance(address, IPv6Address) and any(address in wrapper for wrapper in _WRAPPERS):
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if isinstance(address, IPv4Address):
        return next((what for network, what in _CLOSED_V4 if address in network), "")
    what = next((what for network, what in _CLOSED_V6 if address in network), "")
    return what or ("" if address in _GLOBAL_V6 else "a reserved address")


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """``allow_private``: hosts, as ``canonical_host`` writes them, that the host program has opened by name. Behind
    such a name every address may be reached."""

    allow_private: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> AddressPolicy:
        """Raises ServiceError for a name that no URL could hold."""
        return cls(frozenset(_named(name) for name in names))

    def with_host(self, host: str) -> AddressPolicy:
        """This policy, with one more host opened by name."""
        return AddressPolicy(self.allow_private | {host})

    def require(self, host: str, addresses: Iterable[str]) -> list[str]:
        """Those of ``addresses`` that a request to ``host`` may reach. Raises ServiceError when none is left."""
        reachable, reasons = [], []
        for text in addresses:
            reason = self.why_refused(host, text)
            if reason:
                reasons.append(reason)
            else:
                reachable.append(text)
        if reachable:
            return reachable
        if not reasons:
            raise ServiceError(f"{host!r} has no address")
        raise ServiceError(
            f"{host!r} leads to {reasons[0]}, which plugins may not reach; the host can allow it by name with "
            "http.allow_private"
        )

    def require_literal(self, host: str) -> None:
        """Raises ServiceError when ``host`` is itself an address that may not be reached. Names are looked up later."""
        if ":" in host or host.replace(".", "").isdigit():
            self.require(host, [host])

    def why_refused(self, host: str, address: str) -> str:
        return "" if host in self.allow_private else why_closed(ip_address(address))


def _named(name: str) -> str:
    is_bare_ipv6 = name.count(":") > 1 and "/" not in name and not name.startswith("[")
    try:
        return canonical_host(f"[{name}]" if is_bare_ipv6 else name)
    except ServiceError as error:
        raise ServiceError(
            f'{name!r} is not a host; write one as in URLs, without scheme, port and path, such as "nas.local" '
            'or "10.0.0.5"'
        ) from error
