"""What a command is: which ones a plugin has, how one is asked, and what its answer means (SPEC section 3)."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json

from isoplug.shared.errors import (
    CommandError,
    CommandNotFound,
    ConfigError,
    InvalidArgument,
    PermissionDenied,
    ResourceLimitExceeded,
)
from isoplug.shared.limits import ANSWER_JSON_BYTES, ANSWER_JSON_CONTAINERS, clip
from isoplug.supervisor.json_bounds import has_more_containers
from isoplug.supervisor.plugins.manifest import Manifest

__all__ = ["declared_commands", "decode_answer", "encode_request", "parse_json", "require_declared", "to_bytes"]


def declared_commands(manifest: Manifest) -> tuple[str, ...]:
    """The commands that are dispatched: none without the capability ``custom_commands``."""
    return tuple(manifest.commands) if "custom_commands" in manifest.capabilities else ()


def require_declared(manifest: Manifest, command: str) -> None:
    """Raises CommandNotFound."""
    declared = declared_commands(manifest)
    if command not in declared:
        raise CommandNotFound(manifest.id, command, declared)


def encode_request(command: str, params: Any) -> bytes:
    """The input of ``handle_command``. Raises InvalidArgument when ``params`` is not JSON."""
    return to_bytes({"command": command, "params": params}, "params")


def to_bytes(value: Any, what: str) -> bytes:
    """Compact UTF-8 JSON. Raises InvalidArgument, naming ``what``."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InvalidArgument(f"{what} cannot be sent as JSON: {error}") from error


def parse_json(plugin_id: str, output: bytes) -> Any:
    """A guest's JSON. Raises CommandError or ResourceLimitExceeded; never anything else, whatever the bytes are."""
    if len(output) > ANSWER_JSON_BYTES:
        raise ResourceLimitExceeded(
            plugin_id,
            "the size of a JSON answer in bytes",
            len(output),
            ANSWER_JSON_BYTES,
            "use a raw call for bulk data",
        )
    if has_more_containers(output, ANSWER_JSON_CONTAINERS):
        raise ResourceLimitExceeded(
            plugin_id,
            "the number of lists and objects in a JSON answer",
            bound=ANSWER_JSON_CONTAINERS,
            advice="use a raw call for bulk data",
        )
    try:
        # Twice: the first refuses what serde_json refuses too, and what hosts could not print or send on (lone
        # surrogates, NaN, nesting beyond 200 levels); the second refuses 1e999, of which the first makes an infinity.
        from_json(output, allow_inf_nan=False)
        return json.loads(output, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CommandError(
            plugin_id, f"plugin {plugin_id!r} did not answer with JSON: {clip(str(error), 200)}"
        ) from error


def decode_answer(plugin_id: str, command: str, output: bytes) -> Any:
    """``data`` of a successful command response; a failed one raises by its ``error_code``, CommandError by default."""
    answer = parse_json(plugin_id, output)
    if not isinstance(answer, dict) or not isinstance(answer.get("success"), bool):
        raise CommandError(plugin_id, f"plugin {plugin_id!r} did not answer {command!r} with a command response")
    if answer["success"]:
        return answer.get("data")
    error = answer.get("error")
    message = clip(error) if isinstance(error, str) and error else f"command {command!r} failed without a reason"
    match answer.get("error_code"):
        case "permission_denied":
            raise PermissionDenied(plugin_id, message)
        case "config_error":
            raise ConfigError(plugin_id, message)
        case code:
            raise CommandError(plugin_id, message, clip(code, 200) if isinstance(code, str) else None)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:50]} is too large")
    return number
