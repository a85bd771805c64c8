"""The configuration as frozen values. A default is written once, here; ``configs/default.toml`` is tested
equal to it.

In Python, durations are seconds and sizes are bytes (``Calls(timeout=5.0)``); text with a unit is understood
as well. The TOML loader validates with the context ``FromFile``, in which bare numbers are refused, since a
file shows nobody which unit a 30 has, and relative paths belong to the file's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from isoplug.supervisor.config.values import parse_duration, parse_size, parse_version

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = [
    "Calls",
    "Config",
    "FromFile",
    "Http",
    "Limits",
    "Namespaces",
    "Restart",
    "SecretsKey",
    "Server",
    "Wasi",
    "Websockets",
    "unit_of",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
WEEK: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class FromFile:
    """The validation context of values that come from a file in ``folder``."""

    folder: Path


def _duration(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(info.context, FromFile):
        raise ValueError(_unit_hint(value, "s", "ms, s, m, h"))
    return value


def _size(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(info.context, FromFile):
        unit = "MiB" if isinstance(value, int) and value < 1024 else "B"  # which was probably meant
        raise ValueError(_unit_hint(value, unit, "B, KB, MB, GB, KiB, MiB, GiB"))
    return value


def _unit_hint(value: Any, unit: str, units: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'has no unit: write text with one, such as "{value}{unit}" (units: {units})'
    return f"must be text with a unit (units: {units})"


def _path(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError("must be a path, not an empty text" if not value else "must not contain a NUL character")
        if isinstance(info.context, FromFile):
            return info.context.folder / _expanded(value)
        return Path(value)
    return value


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # "~nobody/x": there is no such user
        raise ValueError(f"starts with a home folder that cannot be found ({error}); write the path in full") from error


def _root_index(value: Any) -> Any:
    if isinstance(value, str):
        value = Path(value if "\0" not in value else "")  # without a name, and refused for it below
    if isinstance(value, Path) and (value.is_absolute() or ".." in value.parts or not value.name):
        raise ValueError('must be a file name relative to the workspace, such as "README.md"')
    return value


def _names(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):  # TOML has no tuples
        raise ValueError('must be a list of text, such as ["localhost"]')
    return tuple(value)


def _base_url(value: str | None) -> str | None:
    if value is not None and ("?" in value or "#" in value):
        raise ValueError('must have no query and no fragment; write for example "https://diaryx.example.org"')
    return value


def _variable(value: str) -> str:
    if not value or "=" in value or "\0" in value:
        raise ValueError('must be the name of an environment variable, such as "ISOPLUG_AUTH_TOKEN"')
    return value


def _version(value: str) -> str:
    if parse_version(value) is None:
        raise ValueError('must be a version major.minor[.patch], such as "1.4.1"')
    return value


# At most a week: poll(2) counts milliseconds in 31 bits (24 days), and a longer deadline is none.
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=WEEK, allow_inf_nan=False)]
DurationOrZero = Annotated[float, BeforeValidator(_duration), Field(ge=0, le=WEEK, allow_inf_nan=False)]
# Typed int and not pydantic.ByteSize, so that hosts may pass plain numbers; ByteSize would also take bits and "64M".
Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]
HostPath = Annotated[Path, BeforeValidator(_path)]
Variable = Annotated[str, AfterValidator(_variable)]


def unit_of(field: FieldInfo) -> str:
    """What the field's numbers count, for messages: ``"s"``, ``"B"`` or nothing."""
    parsers = [getattr(mark, "func", None) for mark in field.metadata]
    return "s" if _duration in parsers else "B" if _size in parsers else ""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Calls(_Section):
    """``[calls]``: deadlines and the bounds of call chains."""

    timeout: Duration = 30.0
    """Of a call for which the caller gives none."""
    start_timeout: Duration = 30.0
    """Compiling, ``manifest``, ``set_config`` and ``init`` of one worker, together."""
    shutdown_timeout: Duration = 5.0
    """How long closing waits for calls in progress and for the guests' ``shutdown``."""
    max_depth: int = Field(default=8, ge=0, le=64)
    """A call at this depth may not nest further (SPEC section 9). The caller's stack grows with it."""
    max_extra_instances: int = Field(default=8, ge=0, le=64)
    """Instances of one plugin beside its own worker, for chains that come back to it."""
    async_threads: int = Field(default=32, ge=1, le=1024)
    """Threads of ``AsyncSupervisor``, which bound its calls in progress."""


class Restart(_Section):
    """``[restart]``: what happens after a worker died."""

    max_restarts: int = Field(default=3, ge=0, le=1000)
    """Within ``period``; one more death quarantines the plugin. VS Code: 3 in 5 minutes."""
    period: Duration = 300.0
    backoff_initial: Duration = 0.2
    """Before the first restart; doubles with each further one. wasmCloud starts at 200 ms."""
    backoff_max: Duration = 30.0
    backoff_jitter: DurationOrZero = 0.1
    """At most this is added at random, so that plugins that died together do not start together."""
    healthy_after: Duration = 60.0
    """A worker that lives this long clears the count. wasmCloud: 60 s."""

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        if self.backoff_initial > self.backoff_max:
            raise ValueError(
                f"backoff_initial ({self.backoff_initial:g} s) is longer than backoff_max ({self.backoff_max:g} s); "
                "raise backoff_max or lower backoff_initial"
            )
        return self


class Limits(_Section):
    """``[limits]``: bounds per worker, per message and per plugin. Sizes in bytes."""

    wasm_memory: Size = Field(default=256 * MIB, ge=64 * KIB, le=4 * GIB)
    """Linear memory of a guest; 64 KiB is one WASM page, 4 GiB is what 32-bit addresses reach."""
    process_memory: Size = Field(default=512 * MIB, ge=64 * MIB)
    """Data segment of a worker (RLIMIT_DATA), guest memory included; without any guest it needs 48 MiB."""
    open_files: int = Field(default=64, ge=16, le=65536)
    """Descriptors of a worker."""
    frame: Size = Field(default=32 * MIB, ge=64 * KIB, le=1 * GIB)
    """Largest message between supervisor and worker, and largest file that a guest may read."""
    wasm_module: Size = Field(default=64 * MIB, le=1 * GIB)
    """Largest ``plugin.wasm``."""
    event_queue: int = Field(default=1000, ge=1, le=1_000_000)
    """Events waiting for one plugin."""
    storage_quota: Size = Field(default=1 * MIB, le=1 * GIB)
    """All values of one plugin together, unless its rule says otherwise (SPEC section 7)."""
    namespace_quota: Size = Field(default=256 * MIB, le=1024 * GIB)
    """All embedded namespaces of one plugin together."""

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        if self.wasm_memory > self.process_memory:
            raise ValueError(
                f"wasm_memory ({self.wasm_memory} bytes) is larger than process_memory ({self.process_memory} bytes), "
                "of which it is a part; raise process_memory or lower wasm_memory"
            )
        return self


class Http(_Section):
    """``[http]``: requests of plugins, and their WebSockets."""

    allow_private: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Hosts as they stand in URLs, such as ``localhost`` or ``10.0.0.5``, that may be reached although they are this
    machine or a neighbour. Each plugin needs its ``http_requests`` permission all the same."""
    max_response: Size = Field(default=8 * MIB, le=1 * GIB)
    """Largest body of an answer, decompressed. Its JSON, in which it stands twice, has to fit into ``limits.frame``."""


class Websockets(_Section):
    """``[websockets]``: connections of plugins, one each."""

    message: Size = Field(default=16 * MIB, le=1 * GIB)
    """Largest message, in either direction; as many bytes may wait to be sent, and as many to be delivered. A frame has
    to hold it, so ``limits.frame`` bounds it as well."""
    queue: int = Field(default=1000, ge=1, le=1_000_000)
    """Messages that may wait to be sent, and to be delivered. A server that sends more has to wait."""
    ping: Duration = 30.0
    """Between two pings. A server that acknowledges nothing for twice as long counts as gone."""
    reconnect_initial: Duration = 1.0
    """Before the first attempt after a loss; 1.5 times as long before each further one."""
    reconnect_max: Duration = 30.0

    @model_validator(mode="after")
    def _check_reconnect(self) -> Self:
        if self.reconnect_initial > self.reconnect_max:
            raise ValueError(
                f"reconnect_initial ({self.reconnect_initial:g} s) is longer than reconnect_max "
                f"({self.reconnect_max:g} s); raise reconnect_max or lower reconnect_initial"
            )
        return self


class Server(_Section):
    """``[server]``: the host's own server, for ``host_proxy_request`` and the runtime context."""

    url: Annotated[str | None, AfterValidator(_base_url)] = None
    """None: there is none."""
    auth_token_env: Variable = "ISOPLUG_AUTH_TOKEN"
    """The environment variable that holds the Bearer token. The token itself never stands in a file."""


class SecretsKey(_Section):
    """``[secrets]``: where the key is with which secrets are encrypted. It is made with the first secret."""

    key_source: Literal["file", "env", "keyring"] = "file"
    """A file, an environment variable, or the system's keyring (needs the extra ``isoplug[keyring]``)."""
    key_file: HostPath | None = None
    """For the source ``file``. None: ``secrets.key`` in the state folder."""
    key_env: Variable = "ISOPLUG_SECRETS_KEY"
    """For the source ``env``: the variable that holds base64 of 32 bytes."""

    @model_validator(mode="after")
    def _check_key_file(self) -> Self:
        if self.key_file is not None and self.key_source != "file":
            raise ValueError(f'key_file says nothing to the key_source "{self.key_source}"; remove one of the two')
        return self


class Wasi(_Section):
    """``[wasi]``: bounds of the programs that plugins run (needs the extra ``isoplug[wasi]``). Sizes in bytes."""

    memory: Size = Field(default=512 * MIB, ge=16 * MIB, le=4 * GIB)
    """Of one program, and of compiling it: a module of 10 MiB needs 200 MiB for that."""
    output: Size = Field(default=8 * MIB, le=1 * GIB)
    """Of its standard output, and of its standard error."""
    scratch: Size = Field(default=64 * MIB, le=64 * GIB)
    """Disk space of its folder, the files that it is given included."""
    runs: int = Field(default=4, ge=1, le=64)
    """Programs that run at the same time; further ones wait for their turn."""


class Namespaces(_Section):
    """``[namespaces]``: where plugins' namespaces are."""

    provider: Literal["embedded", "server"] = "embedded"
    """In the state folder, private to each plugin; or on the runtime context's server (``[server]``)."""


class Config(_Section):
    """The whole configuration of a supervisor."""

    plugins_dir: HostPath | None = None
    """The folder with one folder per plugin."""
    workspace: HostPath | None = None
    """The folder that guests see, as far as their rules allow. None: no workspace, everything denied."""
    state_dir: HostPath | None = None
    """Storage, secrets and namespaces. None: a folder per workspace under the user's data directory."""
    root_index: Annotated[Path, BeforeValidator(_root_index)] | None = None
    """The workspace's file whose front matter grants permissions. None: found at start (SPEC section 4)."""
    app_version: Annotated[str, AfterValidator(_version)] = "1.4.1"
    """What ``min_app_version`` is compared with; by default the Diaryx level that isoplug implements."""
    calls: Calls = Calls()
    restart: Restart = Restart()
    limits: Limits = Limits()
    http: Http = Http()
    websockets: Websockets = Websockets()
    server: Server = Server()
    secrets: SecretsKey = SecretsKey()
    namespaces: Namespaces = Namespaces()
    wasi: Wasi = Wasi()

    def override(self, **changes: Any) -> Config:
        """A copy with these fields replaced, validated again (``model_copy`` would not).

        Raises:
            pydantic.ValidationError: see ``describe_problems``.
        """
        return Config.model_validate({**dict(self), **changes})
