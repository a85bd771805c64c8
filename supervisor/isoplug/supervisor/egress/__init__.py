"""The way out: the one place from which requests leave for a network, and the addresses that they may reach."""

from __future__ import annotations

from isoplug.supervisor.egress.loop import NetLoop
from isoplug.supervisor.egress.protocol import Headers, HttpClient, HttpRequest, HttpResponse

__all__ = ["Headers", "HttpClient", "HttpRequest", "HttpResponse", "NetLoop"]
