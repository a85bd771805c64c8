"""What guests were told is done, seen from outside: beside the host calls, not by the record that is to be checked."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from typing import Final

from isoplug.supervisor.calls.interceptor import Delivery, Serve
from isoplug.supervisor.chaos.taint import Resource, touched_by
from isoplug.supervisor.storage import Storage

__all__ = ["Ledger", "Witness"]

#: Host functions that change something and answer nothing when they have.
_CHANGING: Final = frozenset(
    {
        "host_storage_set",
        "host_write_file",
        "host_write_binary",
        "host_delete_file",
        "host_secret_set",
        "host_secret_delete",
    }
)


class Ledger:
    """Keys of the plugin storage and the values that they may have. Thread-safe.

    An acknowledged value is the only possible one, until another is on its way; one whose call failed may be there or
    not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._possible: dict[tuple[str, str], set[bytes]] = {}
        self._acknowledged: dict[tuple[str, str], Storage] = {}
        self._under_way: Counter[tuple[str, str]] = Counter()
        self._contested: set[tuple[str, str]] = set()

    def begin(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._under_way[key] += 1
            if self._under_way[key] > 1:
                self._contested.add(key)

    def end(self, key: tuple[str, str], value: bytes, storage: Storage, *, is_done: bool | None) -> None:
        """``is_done`` None: nobody knows."""
        with self._lock:
            if is_done and key not in self._contested:
                self._possible[key] = {value}
            elif is_done is not False:
                self._possible.setdefault(key, set()).add(value)
            if is_done:
                self._acknowledged[key] = storage
            self._under_way[key] -= 1
            if not self._under_way[key]:
                self._contested.discard(key)

    def lost(self) -> list[tuple[str, str]]:
        """The keys that have a value that they cannot have. Call it while no call is under way."""
        with self._lock:
            kept = sorted(self._acknowledged.items(), key=lambda entry: entry[0])
        return [key for key, storage in kept if (storage.get(*key) or b"") not in self._possible[key]]


class Witness:
    """Beside the host calls of one delivery. ``acknowledged`` counts those that said that they had done something;
    ``touched`` is what they read or changed."""

    def __init__(self, ledger: Ledger, delivery: Delivery) -> None:
        self.acknowledged = 0
        self.touched: set[Resource] = set()
        self._ledger, self._plugin_id = ledger, delivery.plugin_id
        self._serve: Serve = delivery.serve
        # Before faults put others in its place.
        self._storage, self._workspace = delivery.services.storage, delivery.services.workspace

    def __call__(self, function: str, payload: bytes) -> bytes:
        resource = touched_by(self._plugin_id, function, payload, self._workspace)
        if resource is not None:
            self.touched.add(resource)
        entry = _stored(payload) if function == "host_storage_set" else None
        if entry is None:
            answer = self._serve(function, payload)
            self.acknowledged += function in _CHANGING and not answer
            return answer
        key, value = (self._plugin_id, entry[0]), entry[1]
        is_done: bool | None = None
        self._ledger.begin(key)
        try:
            answer = self._serve(function, payload)
            is_done = not answer
            self.acknowledged += is_done
            return answer
        finally:
            self._ledger.end(key, value, self._storage, is_done=is_done)


def _stored(payload: bytes) -> tuple[str, bytes] | None:
    """Key and value of a ``host_storage_set``; None when it is none that could be kept."""
    try:
        request = json.loads(payload)
        return str(request["key"]), base64.b64decode(request["data"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
