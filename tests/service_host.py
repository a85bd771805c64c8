"""A real ``isoplug run`` in a process of its own, and raw connections to its control socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from commands import SCRIPT
from conftest import PluginFolder, Workspace, is_alive, wait_until

__all__ = ["RawClient", "ServiceHost"]


class RawClient:
    """Speaks the protocol by hand."""

    def __init__(self, state: Path) -> None:
        folder = os.open(state, os.O_PATH)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(f"/proc/self/fd/{folder}/control.sock")
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(folder)
        self.socket.settimeout(30.0)
        self._stream = self.socket.makefile("rb")

    def send(self, request: str, **fields: Any) -> None:
        self.send_bytes(json.dumps({"v": 1, "request": request, **fields}, ensure_ascii=False).encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> dict[str, Any] | None:
        """None at the end."""
        line = self._stream.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def ask(self, request: str, **fields: Any) -> Any:
        """What ``ok`` holds."""
        self.send(request, **fields)
        answer = self.read()
        assert answer is not None
        assert "ok" in answer, answer
        return answer["ok"]

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


class ServiceHost:
    """A folder with plugins, a workspace and a configuration, and services over it. ``close`` ends what runs."""

    def __init__(self, folder: Path, cache: Path, config: str = "") -> None:
        self.folder, self.state = folder, folder / "state"
        for name in ("plugins", "workspace"):
            (folder / name).mkdir(parents=True)
        self.plugins = PluginFolder(folder / "plugins", cache)
        self.workspace = Workspace(folder / "workspace").grant()
        self.configure(config)
        self.processes: list[subprocess.Popen[str]] = []
        self.family: list[psutil.Process] = []

    def configure(self, config: str) -> None:
        paths = 'plugins_dir = "plugins"\nworkspace = "workspace"\nstate_dir = "state"\n'
        (self.folder / "isoplug.toml").write_text(paths + config)

    # --- the service ----------------------------------------------------------------------------------------------

    def launch(self, command: Sequence[str | Path] = (), **options: Any) -> subprocess.Popen[str]:
        """Start it, and do not wait until it is ready. ``command`` replaces ``isoplug run``."""
        log = (self.folder / "log").open("a")
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log} | options
        environment = {**os.environ, **options.pop("env", {})}
        with log:
            process = subprocess.Popen(
                [*(command or (SCRIPT, "run", "--config", "isoplug.toml"))],
                cwd=self.folder,
                env=environment,
                encoding="utf-8",
                **options,
            )
        self.processes.append(process)
        return process

    def start(self, **options: Any) -> subprocess.Popen[str]:
        before = self.log().count("service.ready")
        process = self.launch(**options)
        wait_until(lambda: self.log().count("service.ready") > before or process.poll() is not None, "the service")
        assert process.poll() is None, self.log()
        self.family = psutil.Process(process.pid).children(recursive=True)
        return process

    def wait_until_listening(self) -> None:
        """The socket has its name a moment before anybody can connect to it."""

        def can_connect() -> bool:
            try:
                self.client().close()
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

        wait_until(can_connect, "the control socket")

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, text: str) -> None:
        wait_until(lambda: text in self.log(), f"{text!r} in the log")

    def is_gone(self) -> bool:
        """No process of a service that has ended is left."""
        return not any(map(is_alive, self.family))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        wait_until(self.is_gone, "the workers to end")
        log = self.log()
        assert "Traceback" not in log, log
        assert "control.failed" not in log, log

    # --- talking to it --------------------------------------------------------------------------------------------

    def client(self) -> RawClient:
        return RawClient(self.state)

    def ask(self, request: str, **fields: Any) -> Any:
        client = self.client()
        try:
            return client.ask(request, **fields)
        finally:
            client.close()

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(
            [SCRIPT, *arguments, "--config", "isoplug.toml"], cwd=self.folder, encoding="utf-8", **options
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of a command; its exit code must be ``code``."""
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        assert "Traceback" not in err
        return out, err
