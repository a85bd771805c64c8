"""A supervisor that many tests of one module share, and short ways to make a real guest call host functions.

Starting a supervisor takes a tenth of a second, so tests that only ask questions share one. Such a module defines two
fixtures, both of scope ``module``: its bench, and ``leaves_nothing_behind``, because a worker that was replaced during
one test still runs during the next::

    @pytest.fixture(scope="module", autouse=True)
    def leaves_nothing_behind() -> Iterator[None]:
        with nothing_left_behind():
            yield

    @pytest.fixture(scope="module")
    def bench(tmp_path_factory, guest_cache) -> Iterator[Bench]:
        with open_bench(tmp_path_factory.mktemp("bench"), guest_cache) as bench: ...
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from conftest import WAIT_SECONDS, PluginFolder, Workspace, belongings, left_behind
from isoplug.supervisor import Supervisor

__all__ = ["PROBE", "Bench", "ask", "nothing_left_behind", "offered_by_host", "open_bench", "peak_growth_bytes"]

PROBE = "test.probe"


def ask(supervisor: Supervisor, function: str, payload: Any = b"", plugin_id: str = PROBE, **call: Any) -> bytes:
    """The raw answer that the guest ``plugin_id`` gets from ``function``; ``payload`` is bytes, text, or JSON."""
    if not isinstance(payload, (bytes, str)):
        payload = json.dumps(payload)
    data = payload.encode() if isinstance(payload, str) else payload
    request = {"function": function, "input_base64": base64.b64encode(data).decode()}
    return supervisor.call(plugin_id, "host", json.dumps(request).encode(), **call)


@dataclass
class offered_by_host:
    """A host's FileSource: ``files[plugin_id, key]``, which a test may change at any time."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def read(self, plugin_id: str, key: str) -> bytes | None:
        return self.files.get((plugin_id, key))


@dataclass
class Bench:
    supervisor: Supervisor
    workspace: Workspace
    plugins: PluginFolder
    files: offered_by_host
    events: list[tuple[str, str]]

    def emit(self, plugin_id: str, event_json: str) -> None:  # the bench is its supervisor's EventSink
        self.events.append((plugin_id, event_json))

    def ask(self, function: str, payload: Any = b"", plugin_id: str = PROBE, **call: Any) -> bytes:
        return ask(self.supervisor, function, payload, plugin_id, **call)

    def answers(self, plugin_id: str = PROBE) -> bool:
        """The plugin takes calls (again)."""
        return self.supervisor.call(plugin_id, "echo", b"still here") == b"still here"


@contextmanager
def open_bench(
    folder: Path,
    cache: Path,
    *guests: tuple[str, str],
    arguments: Mapping[str, Any] | None = None,
    **permissions: dict[str, Any],
) -> Iterator[Bench]:
    """``guests`` are (plugin id, variant); ``permissions`` are the rules of PROBE and others, keyed by the id's last
    part: ``open_bench(..., probe={"read_files": ["all"]})``; ``arguments`` are further ones of the supervisor."""
    for name in ("plugins", "workspace"):
        (folder / name).mkdir(parents=True)
    plugins, workspace = PluginFolder(folder / "plugins", cache), Workspace(folder / "workspace").grant()
    for plugin_id, variant in guests or ((PROBE, "probe"),):
        plugins.add(plugin_id, variant=variant)
    for name, rules in permissions.items():
        workspace.grant(f"test.{name}", **rules)
    bench = Bench(None, workspace, plugins, offered_by_host(), [])  # type: ignore[arg-type]
    services = {"state_dir": folder / "state", "files": bench.files, "events": bench} | dict(arguments or {})
    with Supervisor(plugins.path, workspace.path, **services) as bench.supervisor:
        assert not bench.supervisor.load_errors
        yield bench


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """The check of conftest.py around whatever is inside."""
    before = belongings()
    yield
    give_up_at = time.monotonic() + WAIT_SECONDS
    while (left := left_behind(before)) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    assert not left, f"left behind: {left}"


def peak_growth_bytes(work: Callable[[], None]) -> int:
    """How far this process's resident memory rose above where it began while ``work`` ran."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = psutil.Process().memory_info().rss
    work()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 - before
