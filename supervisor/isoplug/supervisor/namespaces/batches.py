"""Several batches of objects at once, from any provider."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from isoplug.shared.errors import PluginError, ServiceError
from isoplug.supervisor.caller import Caller
from isoplug.supervisor.namespaces.protocol import Batch, NamespaceProvider, ObjectContent

__all__ = ["MAX_CONCURRENCY", "read_batches"]

MAX_CONCURRENCY: Final = 8
"""Batches at once (SPEC section 5)."""

_FULL: Final = "there is no room left in this answer; ask for fewer objects at once"


def read_batches(
    provider: NamespaceProvider,
    caller: Caller,
    ns_id: str,
    batches: Sequence[Sequence[str]],
    max_concurrency: int,
    max_bytes: int,
) -> Batch:
    """All batches in one: up to ``max_concurrency`` (brought into 1 to ``MAX_CONCURRENCY``) are read at the same time.

    A batch that fails as a whole is an error for each of its keys. What comes first in ``batches`` is kept when the
    whole exceeds ``max_bytes``; about that much, and one answer a thread, is in memory at most.

    Raises:
        ServiceError: the host has no threads left.
    """
    batches = [batch for batch in batches if batch]
    if not batches:
        return Batch({}, {})
    read = partial(_read, provider, caller, ns_id, _Room(max_bytes))
    executor = ThreadPoolExecutor(
        min(len(batches), MAX_CONCURRENCY, max(1, max_concurrency)), thread_name_prefix="isoplug-batch"
    )
    try:
        found = list(executor.map(read, batches))
    except RuntimeError as error:  # a thread cannot be started
        raise ServiceError(f"the host cannot read several batches at once: {error}") from error
    finally:
        # No waiting: when all went well nothing runs any more. When this thread was interrupted, what still runs gives
        # up by itself when the worker is gone.
        executor.shutdown(wait=False, cancel_futures=True)
    return _merged(found, max_bytes)


class _Room:
    """What may still be read, over all threads."""

    def __init__(self, size_bytes: int) -> None:
        self._lock = threading.Lock()
        self._left_bytes = size_bytes

    def left_bytes(self) -> int:
        with self._lock:
            return self._left_bytes

    def take(self, size_bytes: int) -> None:
        with self._lock:
            self._left_bytes -= size_bytes


def _read(provider: NamespaceProvider, caller: Caller, ns_id: str, room: _Room, keys: Sequence[str]) -> Batch:
    max_bytes = room.left_bytes()
    if max_bytes <= 0:
        return Batch({}, dict.fromkeys(keys, _FULL))
    try:
        batch = provider.get_objects(caller, ns_id, keys, max_bytes)
    except PluginError as error:
        return Batch({}, dict.fromkeys(keys, str(error)))
    room.take(batch.size_bytes)
    return batch


def _merged(found: Sequence[Batch], max_bytes: int) -> Batch:
    objects: dict[str, ObjectContent] = {}
    errors: dict[str, str] = {}
    for batch in found:
        errors.update(batch.errors)
        for key, item in batch.objects.items():
            if key in objects:
                continue
            if len(item.content) > max_bytes:
                errors[key] = _FULL
            else:
                objects[key] = item
                max_bytes -= len(item.content)
    return Batch(objects, {key: reason for key, reason in errors.items() if key not in objects})
