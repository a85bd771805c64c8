"""The configuration as frozen values. A default is written once, here; ``configs/default.toml`` is tested
equal to it.

In Python, durations are seconds and sizes are bytes (``Calls(timeout=5.0)``); text with a unit is understood
as well. The TOML loader validates with the context ``FromFile``, in which bare numbers are refused, since a
file shows nobody which unit a 30 has, and relative paths belong to the file's folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from isoplug.shared.lockdown import Lockdown
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
    "OwnPlugin",
    "PluginLimits",
    "PluginSettings",
    "Record",
    "Recycle",
    "Restart",
    "SecretsKey",
    "Server",
    "Service",
    "Signatures",
    "Sleep",
    "Wasi",
    "Websockets",
    "unit_of",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
WEEK: Final = 7 * 24 * 3600.0

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


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


def _paths(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):  # TOML has no tuples
        raise ValueError('must be a list of paths, such as ["author.pub"]')
    return tuple(value)


def _sha256(value: str) -> str:
    if _SHA256.fullmatch(value) is None:
        raise ValueError("must be a SHA-256 of 64 hexadecimal digits, such as sha256sum prints for the plugin.wasm")
    return value.lower()


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
SizeOrZero = Annotated[int, BeforeValidator(_size), Field(ge=0)]
HostPath = Annotated[Path, BeforeValidator(_path)]
Variable = Annotated[str, AfterValidator(_variable)]
Sha256 = Annotated[str, AfterValidator(_sha256)]


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
    """Instances of one plugin beside its own workers, for chains that come back to it: in use, starting or warm."""
    extra_idle: DurationOrZero = 30.0
    """How long such an instance stays ready for the next chain; 0 ends it at once. loky keeps idle workers 10 s."""
    queue: int = Field(default=100, ge=1, le=1_000_000)
    """Calls that may wait for a worker of one plugin; one more is refused at once."""
    async_threads: int = Field(default=32, ge=1, le=1024)
    """Calls of ``AsyncSupervisor`` in progress at once, and threads for those that need one."""


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
    """A worker that lives this long clears the count, and a new version has passed its trial. wasmCloud: 60 s."""
    trial_calls: int = Field(default=3, ge=0, le=1000)
    """Calls that a new version of a plugin answers before the old one ends. Until then the old one stands by, and takes
    over again when the new one crashes. 0: no trial."""

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        if self.backoff_initial > self.backoff_max:
            raise ValueError(
                f"backoff_initial ({self.backoff_initial:g} s) is longer than backoff_max ({self.backoff_max:g} s); "
                "raise backoff_max or lower backoff_initial"
            )
        return self


class Recycle(_Section):
    """``[recycle]``: when a worker that is fine is replaced all the same. 0 is never, and the default: what a plugin
    keeps in memory is lost with its worker."""

    calls: int = Field(default=0, ge=0, le=1_000_000_000)
    """After so many calls."""
    age: DurationOrZero = 0.0
    """After such a time."""
    memory: SizeOrZero = 0
    """At such a resident size, which is looked at about once a second, and every five when nobody calls."""


class Sleep(_Section):
    """``[sleep]``: when a plugin is loaded and has no worker; the next call or event starts one. What it keeps in
    memory is lost with its worker."""

    at_load: bool = False
    """A plugin is loaded asleep: by what its module said of itself when it was first asked, without being started. What
    its ``init`` would do, and errors of its start, come with the first call."""
    after: DurationOrZero = 0.0
    """A plugin falls asleep when nobody has called it for so long, and no connection of it is open. 0 is never."""


class OwnRestart(Restart):
    """``[plugins."id".restart]``: keys that are not given are those of ``[restart]``."""

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        return self  # only together with [restart], see ``Config``


class PluginLimits(_Section):
    """The part of ``[limits]`` that ``[plugins."id".limits]`` may set for one plugin. 0 is no bound, where it is
    allowed. Counts and times are of one worker each; the defaults are beyond what honest plugins come to."""

    wasm_memory: Size = Field(default=256 * MIB, ge=64 * KIB, le=4 * GIB)
    """Linear memory of a guest; 64 KiB is one WASM page, 4 GiB is what 32-bit addresses reach."""
    process_memory: Size = Field(default=512 * MIB, ge=64 * MIB)
    """Data segment of a worker (RLIMIT_DATA), guest memory included; without any guest it needs 48 MiB."""
    open_files: int = Field(default=64, ge=16, le=65536)
    """Descriptors of a worker."""
    processes: int = Field(default=512, ge=32, le=1_000_000)
    """Processes and threads of all the plugin's workers together (RLIMIT_NPROC), where it has a user id of its own. A
    worker has four to six, and compiling one for each core."""
    output: Size = Field(default=32 * MIB, ge=1 * KIB, le=1 * GIB)
    """Largest answer of an export. ``limits.frame`` bounds it as well."""
    cpu_per_call: DurationOrZero = 0.0
    """CPU time of one call in the worker. The deadline bounds it as well, but for that waiting counts, too."""
    cpu_total: DurationOrZero = 0.0
    """CPU time of one worker's life, in whole seconds (RLIMIT_CPU)."""
    host_calls_per_call: int = Field(default=1_000_000, ge=0, le=1_000_000_000)
    """Host calls of one call, those that wait for no answer included: at 100 µs each, more than three default
    timeouts hold."""
    host_calls_per_second: int = Field(default=0, ge=0, le=1_000_000_000)
    """As many in any second. By default none: an honest plugin that reads many files makes them as fast as it can."""
    log_lines_per_second: int = Field(default=5_000, ge=0, le=1_000_000_000)
    """Of ``host_log``. A plugin that logs each file that it reads comes to 3,000."""


class OwnLimits(PluginLimits):
    """``[plugins."id".limits]``: keys that are not given are those of ``[limits]``."""


class Limits(PluginLimits):
    """``[limits]``: bounds per worker, per message and per plugin. Sizes in bytes."""

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


class OwnPlugin(_Section):
    """``[plugins."id"]``: what is different for one plugin."""

    workers: int = Field(default=1, ge=1, le=64)
    """Workers that serve its calls in parallel; more than one only when its manifest says ``"stateless": true``."""
    sha256: Sha256 | None = None
    """Of its ``plugin.wasm``, in lower case: another one is refused. The only key that counts as well in a section with
    the name of the plugin's folder; such a pin is checked before anything of the module is compiled."""
    restart: OwnRestart = OwnRestart()
    recycle: Recycle = Recycle()
    """Keys that are not given are those of ``[recycle]``."""
    sleep: Sleep = Sleep()
    """Keys that are not given are those of ``[sleep]``."""
    limits: OwnLimits = OwnLimits()


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """What counts for one plugin."""

    workers: int
    restart: Restart
    recycle: Recycle
    sleep: Sleep
    limits: Limits


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


class Signatures(_Section):
    """``[signatures]``: whose modules are loaded. A signature is a file ``plugin.wasm.sig``."""

    trusted_keys: Annotated[tuple[HostPath, ...], BeforeValidator(_paths)] = ()
    """Files with public keys (Ed25519, PEM). A signature that is there has to be by one of them; without any key,
    signatures do not matter."""
    required: bool = False
    """Whether modules without a signature are refused."""

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.required and not self.trusted_keys:
            raise ValueError("required refuses every plugin as long as trusted_keys names no key; name one")
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


class Record(_Section):
    """``[record]``: whether calls are recorded in the state folder, to be run again by ``isoplug replay``. Recordings
    hold what plugins were told and answered, but for secrets."""

    enabled: bool = False
    calls: int = Field(default=1000, ge=1, le=1_000_000)
    """The latest ones are kept."""
    size: Size = Field(default=64 * MIB, ge=1 * MIB, le=1024 * GIB)
    """Of all recordings together, and the modules that they are of. One call may take an eighth, and at most 8 MiB."""


class Service(_Section):
    """``[service]``: what ``isoplug run`` does beside answering."""

    watch: Literal["auto", "poll", "off"] = "auto"
    """Whether changes in ``plugins_dir`` take effect by themselves: told by the kernel, or looked for every two seconds
    (``poll``), which ``auto`` does where the kernel has no watches left. Network file systems need ``poll``."""


_SectionT = TypeVar("_SectionT", bound=_Section)


def _merged(general: _SectionT, own: _Section) -> _SectionT:
    given = {name: getattr(own, name) for name in own.model_fields_set}
    return type(general).model_validate({**dict(general), **given})


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
    lockdown: Annotated[Lockdown, Field(strict=False)] = Lockdown.BEST_EFFORT
    """How much of what workers give up a host demands; see ``isoplug.shared.lockdown``."""
    calls: Calls = Calls()
    restart: Restart = Restart()
    recycle: Recycle = Recycle()
    sleep: Sleep = Sleep()
    plugins: Mapping[str, OwnPlugin] = {}
    """By plugin id; a ``sha256`` also by the name of its folder."""
    limits: Limits = Limits()
    http: Http = Http()
    websockets: Websockets = Websockets()
    server: Server = Server()
    secrets: SecretsKey = SecretsKey()
    signatures: Signatures = Signatures()
    namespaces: Namespaces = Namespaces()
    wasi: Wasi = Wasi()
    record: Record = Record()
    service: Service = Service()

    @model_validator(mode="after")
    def _check_plugins(self) -> Self:
        for plugin_id, own in self.plugins.items():
            for name, general in (("restart", self.restart), ("limits", self.limits)):
                try:
                    _merged(general, getattr(own, name))
                except ValidationError as error:
                    (problem,) = error.errors()
                    raise ValueError(f'plugins."{plugin_id}".{name}: {problem["ctx"]["error"]}') from None
        return self

    def of_plugin(self, plugin_id: str) -> PluginSettings:
        """The plugin's own section, and the general ones for what that leaves out."""
        own = self.plugins.get(plugin_id)
        if own is None:
            return PluginSettings(1, self.restart, self.recycle, self.sleep, self.limits)
        return PluginSettings(
            own.workers,
            _merged(self.restart, own.restart),
            _merged(self.recycle, own.recycle),
            _merged(self.sleep, own.sleep),
            _merged(self.limits, own.limits),
        )

    def override(self, **changes: Any) -> Config:
        """A copy with these fields replaced, validated again (``model_copy`` would not).

        Raises:
            pydantic.ValidationError: see ``describe_problems``.
        """
        return Config.model_validate({**dict(self), **changes})
