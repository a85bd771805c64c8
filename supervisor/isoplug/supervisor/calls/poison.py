"""Inputs that kill workers. Rules without I/O: who struck, who is set aside.

An input is suspect once a worker has died of it, and set aside by the second death; handling it well clears it. So a
crash that was not the input's doing costs nothing, and an input that always kills is stopped before it has spent the
plugin's restarts. A SIGKILL from somebody else is no strike (``calls/runner.py``).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from isoplug.shared.errors import PoisonedInput

__all__ = ["PoisonLedger", "Poisoned", "fingerprint_of"]

#: Of one plugin; the one that struck the longest ago is forgotten first.
_MAX_INPUTS = 1_000
_SET_ASIDE_AT = 2


@dataclass(frozen=True, slots=True)
class Poisoned:
    """An input that is set aside. ``what`` it was (the input itself is not kept), ``last_failure``: how the worker died
    the last time, ``at``: when (seconds since the epoch)."""

    plugin_id: str
    fingerprint: str
    what: str
    strikes: int
    last_failure: str
    at: float


def fingerprint_of(export: str, data: bytes, offered_files: Mapping[str, bytes]) -> str:
    """SHA-256 in hexadecimal digits. Files offered with a call are part of its input: the same command may import a
    broken file now and a sound one later."""
    digest = hashlib.sha256(f"{export}\0".encode())
    digest.update(data)
    if not offered_files:
        return digest.hexdigest()
    digest = hashlib.sha256(digest.digest())
    for key in sorted(offered_files):
        digest.update(f"\0{key}\0{len(offered_files[key])}\0".encode("utf-8", "surrogatepass"))
        digest.update(offered_files[key])
    return digest.hexdigest()


class PoisonLedger:
    """Thread-safe. Per plugin, by fingerprint."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inputs: dict[str, OrderedDict[str, Poisoned]] = {}

    def suspects(self, plugin_id: str) -> bool:
        """Whether the plugin has any: most have none, and then no input needs to be hashed."""
        return plugin_id in self._inputs

    def require_unpoisoned(self, plugin_id: str, fingerprint: str) -> None:
        """Raises PoisonedInput."""
        with self._lock:
            entry = self._inputs.get(plugin_id, OrderedDict()).get(fingerprint)
        if entry is not None and entry.strikes >= _SET_ASIDE_AT:
            raise PoisonedInput(plugin_id, entry.what, fingerprint, entry.last_failure)

    def strike(self, plugin_id: str, fingerprint: str, what: str, failure: str, now: float) -> bool:
        """A worker has died of this input; True when it is set aside by now."""
        with self._lock:
            inputs = self._inputs.setdefault(plugin_id, OrderedDict())
            known = inputs.pop(fingerprint, None)
            strikes = 1 if known is None else known.strikes + 1
            inputs[fingerprint] = Poisoned(plugin_id, fingerprint, what, strikes, failure, now)
            if len(inputs) > _MAX_INPUTS:
                inputs.popitem(last=False)
            return strikes >= _SET_ASIDE_AT

    def acquit(self, plugin_id: str, fingerprint: str) -> None:
        """It was handled."""
        self._drop(plugin_id, fingerprint)

    def listed(self, plugin_id: str | None = None) -> list[Poisoned]:
        """Those that are set aside, of one plugin or of all."""
        with self._lock:
            chosen = list(self._inputs) if plugin_id is None else [plugin_id]
            entries = [entry for chosen_id in chosen for entry in self._inputs.get(chosen_id, {}).values()]
        return [entry for entry in entries if entry.strikes >= _SET_ASIDE_AT]

    def clear(self, plugin_id: str, fingerprint: str | None = None) -> int:
        """Forget one input, or all of the plugin's. How many of them had been set aside."""
        chosen = [entry for entry in self.listed(plugin_id) if fingerprint in (None, entry.fingerprint)]
        if fingerprint is None:
            with self._lock:
                self._inputs.pop(plugin_id, None)
        else:
            self._drop(plugin_id, fingerprint)
        return len(chosen)

    def _drop(self, plugin_id: str, fingerprint: str) -> None:
        with self._lock:
            inputs = self._inputs.get(plugin_id, OrderedDict())
            inputs.pop(fingerprint, None)
            if not inputs:
                self._inputs.pop(plugin_id, None)
