"""What a step with an open end may have made different, and what comes to depend on that.

A step that failed when it had done something leaves things as nobody can say: its *resources*, the files and keys that
it has changed. Whoever touches one of them later may see something else than in a run without faults, and what it
changes then is open as well. What never touches one can be compared.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from isoplug.supervisor.chaos.place import Step

if TYPE_CHECKING:
    from isoplug.supervisor.chaos.rounds import Done

__all__ = ["FILES", "Resource", "Taint", "changed_by", "file", "key", "memory", "touched_by"]

#: What a step reads or writes: ``("key", plugin, key)``, ``("file", path)``, ("memory", plugin), ...
Resource: TypeAlias = tuple[str, ...]

#: Which files there are.
FILES: Final[Resource] = ("files",)

_LISTING: Final = frozenset({"host_list_files", "host_list_dir", "host_workspace_file_set"})
#: By the beginning of their names, functions that reach what is looked at as one thing.
_WHOLES: Final = (
    "host_namespace_",
    "host_http_request",
    "host_proxy_request",
    "host_ws_request",
    "host_run_wasi_module",
    "host_request_file",
)
#: The same by the kind of an effect.
_WHOLE_OF_EFFECT: Final = {
    "request_sent": "host_http_request",
    "websocket_opened": "host_ws_request",
    "websocket_sent": "host_ws_request",
    "websocket_closed": "host_ws_request",
}
_NOTHING: Final = frozenset({"command_run", "event_emitted"})  # what a command has done is an effect of its own


def key(plugin_id: str, name: str) -> Resource:
    return ("key", plugin_id, name)


def file(path: str) -> Resource:
    return ("file", path)


def memory(plugin_id: str) -> Resource:
    """What the plugin knows by heart."""
    return ("memory", plugin_id)


def touched_by(plugin_id: str, function: str, payload: bytes, workspace: Path | None) -> Resource | None:
    """What a host call reads or changes; None: nothing that could depend on another call."""
    if function in _LISTING:
        return FILES
    for whole in _WHOLES:
        if function.startswith(whole):
            return ("whole", "host_http_request" if whole == "host_proxy_request" else whole)
    if function.startswith("host_storage_"):
        return key(plugin_id, _text(payload, "key"))
    if function.startswith("host_secret_"):
        return ("secret", plugin_id, _text(payload, "key"))
    path = _text(payload, "path")
    return file(_relative(path, workspace)) if path else None


def changed_by(effect: tuple[str, str, str]) -> list[Resource]:
    """What an effect (plugin, kind, target) may have changed."""
    plugin_id, kind, target = effect
    if kind.startswith("key_"):
        return [key(plugin_id, target)]
    if kind.startswith("secret_"):
        return [("secret", plugin_id, target)]
    if kind.startswith("file_"):
        return [file(target), FILES]
    return [] if kind in _NOTHING else [("whole", _WHOLE_OF_EFFECT.get(kind, "host_namespace_"))]


@dataclass(slots=True)
class Taint:
    """Steps are judged stage by stage. ``touched`` and ``changed`` say what a step has to do with, in a run with faults
    or without; ``sources`` are what the steps with an open end leave open."""

    touched: Callable[[Done], frozenset[Resource]]
    changed: Callable[[Done], frozenset[Resource]]
    sources: dict[Step, frozenset[Resource]]
    #: Steps that may have seen something else than without faults.
    steps: set[Step] = field(default_factory=set)
    #: What is open at the end.
    resources: set[Resource] = field(default_factory=set)

    def spread(self, stages: Iterable[Sequence[Done]]) -> None:
        """Fill ``steps`` and ``resources``."""
        for stage in stages:
            while self._spread_within(stage):
                pass
            opened = [
                self.sources.get(done.step, frozenset())
                | (self.changed(done) if done.step in self.steps else frozenset())
                for done in stage
            ]
            self._heal(stage)
            self.resources.update(*opened)

    def _spread_within(self, stage: Sequence[Done]) -> bool:
        """One more step of the stage that is reached; callers of a stage make their steps at the same time."""
        for done in stage:
            if done.step in self.steps:
                continue
            open_here = self.resources.union(
                *(
                    self.sources.get(other.step, frozenset())
                    | (self.changed(other) if other.step in self.steps else frozenset())
                    for other in stage
                    if other.step.caller != done.step.caller or other.step.number < done.step.number
                )
            )
            if open_here & self.touched(done):
                self.steps.add(done.step)
                return True
        return False

    def _heal(self, stage: Sequence[Done]) -> None:
        """A worker that was lost has forgotten what it knew."""
        self.resources -= {memory(plugin_id) for done in stage for plugin_id in done.lost_workers}


def _text(payload: bytes, name: str) -> str:
    try:
        request = json.loads(payload)
        return str(request.get(name, "")) if isinstance(request, dict) else ""
    except (ValueError, RecursionError):
        return ""


def _relative(path: str, workspace: Path | None) -> str:
    """As effects call it: relative to the workspace."""
    if workspace is not None and path.startswith(f"{workspace}/"):
        path = path[len(str(workspace)) :]
    return posixpath.normpath(path).lstrip("/")
