"""A headless Chromium, as somebody who opens a page has it: what it loads, complains about and shows.

It is spoken to over a pair of pipes (``--remote-debugging-pipe``: JSON, each message ended by a zero byte), so there is
no port and nothing to install but the browser.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Browser", "browser", "why_no_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_SECONDS = 60.0
#: Pipes where Chromium expects them: it reads at descriptor 3 and writes at 4.
_WITH_PIPES = 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
_OPTIONS = ("--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
#: Requests of its own, for updates and the like, would only be noise on a machine without network.
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions")


def why_no_browser() -> str:
    """The reason for a skipped test; nothing when there is one."""
    return "" if _executable() else f"there is no {', '.join(_NAMES)} here (Debian: apt-get install chromium)"


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """It ends with the block. ``folder`` is for its profile."""
    executable = _executable()
    assert executable is not None, why_no_browser()
    command = [executable, *_OPTIONS, *_QUIET, f"--user-data-dir={folder / 'profile'}"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to run as root with it; the page is ours
    process = subprocess.Popen(
        ["sh", "-c", _WITH_PIPES, *command, "about:blank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
    )
    try:
        one = Browser(process)
        yield one
        one.close()
        process.wait(_PATIENCE_SECONDS)
    finally:
        process.kill()
        process.communicate()


class Browser:
    """One tab. ``requests`` are the addresses that the page asked for; ``complaints`` what it wrote to its console, and
    what the browser had to say about it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._process = process
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._events: list[str] = []
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Returns when all of the page has been loaded."""
        self.requests.clear()
        self.complaints.clear()
        self._events.clear()
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._take(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, run by the browser and not by the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def printed(self, path: Path) -> None:
        """As PDF."""
        path.write_bytes(base64.b64decode(self._ask("Page.printToPDF")["data"]))

    def close(self) -> None:
        self._session = None
        self._ask("Browser.close")

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._read()).get("id") != number:
            self._take(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _take(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(parameters))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while b"\0" not in self._buffer:
            left = max(0.0, give_up_at - time.monotonic())
            assert select.select([self._process.stdout], [], [], left)[0], "the browser says nothing"
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        return value


def _executable() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)
