"""Everything about a supervisor that can be configured, its defaults, and the reader of ``isoplug.toml``."""

from isoplug.supervisor.config.loader import configured, describe_problems, load_config
from isoplug.supervisor.config.model import (
    Calls,
    Config,
    Http,
    Limits,
    Namespaces,
    OwnPlugin,
    PluginLimits,
    PluginSettings,
    Record,
    Recycle,
    Restart,
    SecretsKey,
    Server,
    Service,
    Signatures,
    Wasi,
    Websockets,
)
from isoplug.supervisor.config.values import parse_duration, parse_size, parse_version

__all__ = [
    "Calls",
    "Config",
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
    "Wasi",
    "Websockets",
    "configured",
    "describe_problems",
    "load_config",
    "parse_duration",
    "parse_size",
    "parse_version",
]
