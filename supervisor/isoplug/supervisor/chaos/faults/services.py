"""What host services do to guests that use them: slow, failing, full, locked.

Each strikes one host call: for that one, and for nobody else, the service stands behind a door where something happens
first. What a guest does with what it is told is its own affair.
"""

from __future__ import annotations

import errno
import os
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from isoplug.shared.errors import CallTimeout, CommandError, GuestTrap, InvalidArgument, PluginError, ServiceError
from isoplug.supervisor.calls.interceptor import Delivery, Serve
from isoplug.supervisor.chaos.faults.base import HostCallFault, register
from isoplug.supervisor.chaos.faults.scarcity import needing_descriptors
from isoplug.supervisor.chaos.faults.waits import PATIENCE_SECONDS, require_seconds
from isoplug.supervisor.deadline import Deadline, call_deadline
from isoplug.supervisor.host import Services
from isoplug.supervisor.storage import SqliteStorage

__all__ = [
    "DISK_SERVICES",
    "SERVICE_OF",
    "ServiceFails",
    "ServiceFault",
    "ServiceFull",
    "ServiceLocked",
    "ServiceSlow",
    "no_room",
    "with_door",
]

#: A method that was called: ``door(name, method, *arguments)`` answers for it.
Door = Callable[..., Any]

_FILES = (
    *("host_read_file", "host_read_binary", "host_list_files", "host_list_dir", "host_workspace_file_set"),
    *("host_file_exists", "host_file_metadata", "host_hash_file"),
    *("host_write_file", "host_write_binary", "host_delete_file"),
)
_NAMESPACES = (
    *("create", "list", "send_email", "build", "put_object", "get_object", "get_objects_batch"),
    *("get_objects_batches_concurrent", "delete_object", "list_objects", "sync_audience", "list_audiences"),
    "delete_audience",
)
#: Which field of ``Services`` a host function asks.
SERVICE_OF = {
    **dict.fromkeys(("host_storage_get", "host_storage_set"), "storage"),
    **dict.fromkeys(("host_secret_get", "host_secret_set", "host_secret_delete"), "secrets"),
    **dict.fromkeys(_FILES, "filesystem"),
    **dict.fromkeys((f"host_namespace_{name}" for name in _NAMESPACES), "namespaces"),
    **dict.fromkeys(("host_http_request", "host_proxy_request"), "http"),
    "host_ws_request": "websockets",
    "host_run_wasi_module": "wasi",
    "host_request_file": "files",
    "host_get_runtime_context": "runtime_context",
}
#: Those that keep things on a disk, and what of them needs room there.
DISK_SERVICES = ("storage", "secrets", "filesystem", "namespaces")
_NEED_ROOM = frozenset({"set", "write", "create", "put_object", "set_audience"})
_WRITING = frozenset(
    {
        *("host_storage_set", "host_secret_set", "host_write_file", "host_write_binary", "host_namespace_create"),
        *("host_namespace_put_object", "host_namespace_sync_audience"),
    }
)
#: Those that are databases, and what of them waits for a lock on one.
_NEED_LOCK = _NEED_ROOM | {"delete", "delete_object", "delete_audience"}
_LOCKING = _WRITING - {"host_write_file", "host_write_binary"} | {
    *("host_secret_delete", "host_namespace_delete_object", "host_namespace_delete_audience"),
}
#: Asked before there is a permission to ask anything.
_HARMLESS = frozenset({"host"})


@dataclass(frozen=True, slots=True)
class ServiceFault(HostCallFault):
    """Base of what happens at a service's door. The guest is told; it may answer, fail in good order, or trap."""

    ends: ClassVar[tuple[type[PluginError], ...]] = (CommandError, GuestTrap)
    may_answer: ClassVar[bool] = True
    is_told: ClassVar[bool] = True

    def concerns(self, function: str) -> bool:
        return function in SERVICE_OF

    def strike(self, delivery: Delivery, function: str, payload: bytes, serve: Serve) -> bytes:
        before = delivery.services
        delivery.services = with_door(before, SERVICE_OF[function], partial(self.at_door, delivery))
        try:
            return serve(function, payload)
        finally:
            delivery.services = before

    @abstractmethod
    def at_door(self, delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``method(...)``, of the service's name ``name``, or what happens instead."""


@register
@dataclass(frozen=True, slots=True)
class ServiceSlow(ServiceFault):
    """A host service takes ``seconds`` longer, as a disk that is busy or a server far away."""

    name: ClassVar[str] = "service-slow"
    ends: ClassVar[tuple[type[PluginError], ...]] = (CallTimeout,)
    is_told: ClassVar[bool] = False

    seconds: float = 0.02

    def __post_init__(self) -> None:
        require_seconds(self.name, seconds=self.seconds)

    def at_door(self, delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        time.sleep(min(self.seconds, delivery.deadline.remaining_seconds()))
        return method(*args, **kwargs)


@register
@dataclass(frozen=True, slots=True)
class ServiceFails(ServiceFault):
    """A host service fails and has done nothing, as a server that is down. ``unexpected``: by an exception that no
    service should raise, as one with a defect does; isoplug then says that it does not know what was done."""

    name: ClassVar[str] = "service-fails"

    unexpected: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.unexpected, bool):
            raise InvalidArgument(f"fault {self.name!r}: unexpected is true or false, not {self.unexpected!r}")

    def at_door(self, delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.unexpected:
            raise RuntimeError("a defect of the service (injected)")
        raise ServiceError("the service is down (injected); try again", plugin_id=delivery.plugin_id)


@register
@dataclass(frozen=True, slots=True)
class ServiceFull(ServiceFault):
    """A host service has no room for what it is given (``ENOSPC``); reading goes on."""

    name: ClassVar[str] = "service-full"

    def concerns(self, function: str) -> bool:
        return function in _WRITING

    def at_door(self, delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return no_room(delivery, name, method, *args, **kwargs)


@register
@dataclass(frozen=True, slots=True)
class ServiceLocked(ServiceFault):
    """The database of a service is locked by another program, such as a backup, for longer than the call waits, which
    is ``patience`` seconds. The embedded storage is really locked, by a second connection; other services fail as it
    does."""

    name: ClassVar[str] = "service-locked"

    patience: float = PATIENCE_SECONDS

    def __post_init__(self) -> None:
        require_seconds(self.name, patience=self.patience)

    def concerns(self, function: str) -> bool:
        return function in _LOCKING

    def at_door(self, delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name not in _NEED_LOCK:
            return method(*args, **kwargs)
        patience = min(self.patience, delivery.deadline.remaining_seconds())
        service = getattr(method, "__self__", None)
        if not isinstance(service, SqliteStorage):
            time.sleep(patience)
            failure = ServiceError("database is locked (injected); try again", plugin_id=delivery.plugin_id)
            failure.is_transient = True
            raise failure
        with needing_descriptors(), service.held(delivery.plugin_id):
            before = call_deadline.set(Deadline.within(patience))
            try:
                return method(*args, **kwargs)
            finally:
                call_deadline.reset(before)


def with_door(services: Services, field: str, door: Door) -> Services:
    """``services`` with a door before one of them."""
    service = getattr(services, field)
    if service is None:
        return services
    behind: Any = _Behind(service, door)
    return replace(services, **{field: behind})


def no_room(delivery: Delivery, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A ``Door``: what needs room on a disk finds none."""
    if name not in _NEED_ROOM:
        return method(*args, **kwargs)
    cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise ServiceError(f"{cause.strerror} (injected); free space on that disk", plugin_id=delivery.plugin_id) from cause


class _Behind:
    """Any service, whose methods go through a door."""

    def __init__(self, service: Any, door: Door) -> None:
        self._service, self._door = service, door

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._service, name)
        return partial(self._door, name, attribute) if callable(attribute) and name not in _HARMLESS else attribute
