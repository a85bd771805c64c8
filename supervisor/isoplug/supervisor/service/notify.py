"""Telling a service manager how the service is (sd_notify), and that it still answers (its watchdog).

Written here because it is a dozen lines over a datagram socket, and what there is on the package index for it has not
been released for years (``sdnotify``: 2017) or needs the headers of libsystemd to be installed. The protocol is part of
systemd's promise of stability: sd_notify(3), "Notes".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from isoplug.supervisor.observe.logs import get_logger

__all__ = ["Notifier"]

_log = get_logger(__name__)

#: A status line is cut there; systemd shows it on one line.
_STATUS_CHARACTERS = 200


class Notifier:
    """Says nothing where no manager listens. A manager that cannot be reached is logged once and harms nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environment)
        self._status = ""
        self._has_failed = False
        self._is_stopping = False  # nothing after that may say otherwise

    @property
    def is_heard(self) -> bool:
        return self._address is not None

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._status = status
        if not self._is_stopping:
            self._send("READY=1", _status_line(status))

    def reloading(self) -> None:
        # The time is for Type=notify-reload, which has to tell this message from those on their way before its signal.
        if not self._is_stopping:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status_line("reloading"))

    def stopping(self, status: str) -> None:
        self._is_stopping = True
        self._send("STOPPING=1", _status_line(status))

    def alive(self, status: str) -> None:
        """The watchdog's sign of life, and the status if it is another than before."""
        news = [] if self._is_stopping or status == self._status else [_status_line(status)]
        self._status = status
        watched = [] if self.watchdog_seconds is None else ["WATCHDOG=1"]
        if news or watched:
            self._send(*watched, *news)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(1.0)
                out.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            if not self._has_failed:  # once, and on: a manager that was itself started anew listens again
                _log.warning("notify.failed", reason=str(error))
            self._has_failed = True


def _address(text: str) -> str | None:
    if text.startswith("@"):  # of the abstract name space
        return "\0" + text[1:]
    if text and not text.startswith("/"):
        _log.warning("notify.unknown_address", address=text)
        return None
    return text or None


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """None: nobody watches this process."""
    period, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not period.isdecimal() or int(period) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(period) / 1e6


def _status_line(status: str) -> str:
    one_line = "".join(character if character.isprintable() else " " for character in status)
    return f"STATUS={one_line[:_STATUS_CHARACTERS]}"
