"""What each request of the control socket does."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from isoplug.shared.errors import InvalidArgument, PluginError, ResourceLimitExceeded, SupervisorClosed
from isoplug.shared.record import CallRecord
from isoplug.shared.version import VERSION
from isoplug.supervisor.service.protocol import (
    Call,
    Cancel,
    ClearPoisoned,
    Drain,
    ListPoisoned,
    Ping,
    Reload,
    Request,
    Reset,
    Status,
    record_json,
    success,
)

if TYPE_CHECKING:
    from isoplug.supervisor.service.service import Service

__all__ = ["answer", "errors_json"]

_Other: TypeAlias = Ping | Status | Reset | Cancel | ListPoisoned | ClearPoisoned | Reload | Drain


async def answer(service: Service, request: Request) -> bytes:
    """A line. Raises PluginError."""
    if isinstance(request, Call):
        return await _call(service, request)
    return success(await _result(service, request))


async def _result(service: Service, request: _Other) -> dict[str, Any]:
    supervisor = service.supervisor
    match request:
        case Ping():
            return _facts(service) | {
                "call_timeout_seconds": service.config.calls.timeout,
                "shutdown_timeout_seconds": service.config.calls.shutdown_timeout,
            }
        case Status():
            return await _status(service)
        case Reset():
            _require_running(service, request.plugin)
            await supervisor.reset(request.plugin)
        case Cancel():
            _require_running(service, request.plugin)
            await supervisor.cancel(request.plugin, request.token)
        case ListPoisoned():
            _require_running(service, request.plugin)
            return {"inputs": [asdict(poisoned) for poisoned in await supervisor.poisoned(request.plugin)]}
        case ClearPoisoned():
            _require_running(service, request.plugin)
            return {"cleared": await supervisor.clear_poisoned(request.plugin, request.fingerprint)}
        case Reload():
            _require_running(service)
            return await service.reload()
        case Drain():
            await service.drain()
        case _:
            assert_never(request)
    return {}


async def _status(service: Service) -> dict[str, Any]:
    """The service's own facts, its plugins', how many inputs of each are set aside, and what could not be loaded;
    nothing of these before it has started and when it has all but ended."""
    facts = _facts(service) | {
        "uptime_seconds": round(service.uptime_seconds, 1),
        "state_dir": str(service.state_dir),
        "calls": service.calls,
    }
    supervisor = service.supervisor
    try:
        statuses, inputs = await supervisor.status(), await supervisor.poisoned()
    except SupervisorClosed:  # it is just being made, or has ended a moment before the service
        return {"service": facts, "plugins": [], "poisoned": {}, "load_errors": {}}
    return {
        "service": facts | {"lockdown": _lockdown(service)},
        "plugins": [status.to_json() for status in statuses.values()],
        "poisoned": dict(Counter(one.plugin_id for one in inputs)),
        "load_errors": errors_json(supervisor.load_errors),
    }


def _lockdown(service: Service) -> dict[str, Any]:
    """How much of it the configuration demands, and why each layer is missing that this machine does not have."""
    protection = service.supervisor.protection
    return {"mode": service.config.lockdown, "missing": {} if protection is None else dict(protection.missing)}


def errors_json(errors: Mapping[str, PluginError]) -> dict[str, Any]:
    """Of what could not be loaded, by folder name."""
    return {
        name: {"code": error.code, "message": str(error), "plugin_id": error.plugin_id}
        for name, error in errors.items()
    }


async def _call(service: Service, call: Call) -> bytes:
    _require_running(service, call.plugin)
    with service.counted():
        record = CallRecord()
        data = await service.supervisor.command(
            call.plugin,
            call.command,
            call.params,
            timeout=call.timeout,
            files=_decoded(call.files),
            retries=call.retries,
            strict=call.strict,
            record=record,
        )
    try:
        return success({"data": data, "record": record_json(record)})
    except ResourceLimitExceeded as error:  # the call was made all the same
        error.settle(record)
        raise


def _decoded(files: dict[str, str]) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(text, validate=True) for key, text in files.items()}
    except ValueError as error:
        raise InvalidArgument(f"files: not base64: {error}") from error


def _require_running(service: Service, plugin_id: str | None = None) -> None:
    if service.phase == "starting":
        raise SupervisorClosed(plugin_id, "the service is starting and loads its plugins; try again")
    if service.phase == "draining":
        raise SupervisorClosed(plugin_id, "the service is draining and takes no new calls; start it again")


def _facts(service: Service) -> dict[str, Any]:
    return {"pid": os.getpid(), "version": VERSION, "phase": service.phase}
