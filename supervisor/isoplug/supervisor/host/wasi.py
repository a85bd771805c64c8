"""Programs for WASI that a plugin keeps in its storage."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from pydantic import Field

from isoplug.shared.errors import ServiceError
from isoplug.shared.limits import clip
from isoplug.supervisor.host.context import HostContext
from isoplug.supervisor.host.registry import Request, from_base64, host_function, to_json
from isoplug.supervisor.permissions import Permission
from isoplug.supervisor.wasi import MAX_ENTRIES, Outcome, Program, scratch_path

__all__: list[str] = []

_Names = Annotated[list[str], Field(max_length=MAX_ENTRIES)]


class _Run(Request):
    """``stdin`` and the contents of ``files`` are base64."""

    module_key: str
    args: _Names
    stdin: str | None = None
    files: Annotated[dict[str, str], Field(max_length=MAX_ENTRIES)] | None = None
    output_files: _Names | None = None

    def about(self) -> str:
        return self.module_key


def _failure(message: str) -> bytes:
    return to_json({"exit_code": -1, "stdout": "", "stderr": message, "files": None, "error": message})


@host_function("host_run_wasi_module", _Run, refuse=_failure, max_input_bytes=None)
def _run_wasi_module(context: HostContext, request: _Run) -> dict[str, Any]:
    context.require(Permission.PLUGIN_STORAGE, request.module_key)
    module = context.services.storage.get(context.plugin_id, request.module_key)
    if module is None:
        key = clip(request.module_key, 100)
        raise ServiceError(f"no module is stored under {key!r}; store it with host_storage_set")
    program = Program(
        module=module,
        arguments=tuple(request.args),
        stdin=from_base64(request.stdin or "", "stdin"),
        files={scratch_path(name): from_base64(content, "files") for name, content in (request.files or {}).items()},
        outputs={name: scratch_path(name) for name in request.output_files or ()},
    )
    return _answer(context.services.wasi.run(context.caller, program))


def _answer(outcome: Outcome) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "exit_code": outcome.exit_code,
        "stdout": _encoded(outcome.stdout),
        "stderr": outcome.stderr.decode("utf-8", "replace"),
    }
    if outcome.files:
        answer["files"] = {name: _encoded(content) for name, content in outcome.files.items()}
    return answer


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
