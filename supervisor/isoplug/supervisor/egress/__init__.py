"""The way out: the one place from which requests leave for a network, and the addresses that they may reach.

``session.open_session`` (for WebSockets) and ``exchange`` import aiohttp and are therefore not listed here.
"""

from __future__ import annotations

from isoplug.supervisor.egress.addresses import AddressPolicy
from isoplug.supervisor.egress.aiohttp_client import AiohttpClient
from isoplug.supervisor.egress.lookup import Lookup, Lookups, asking_plugin, system_lookup
from isoplug.supervisor.egress.loop import NetLoop
from isoplug.supervisor.egress.protocol import Headers, HttpClient, HttpRequest, HttpResponse, NothingDone
from isoplug.supervisor.egress.url import HttpUrl, canonical_host

__all__ = [
    "AddressPolicy",
    "AiohttpClient",
    "Headers",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "HttpUrl",
    "Lookup",
    "Lookups",
    "NetLoop",
    "NothingDone",
    "asking_plugin",
    "canonical_host",
    "system_lookup",
]
