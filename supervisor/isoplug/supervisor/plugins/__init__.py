"""What lies in a plugin's folder beside its module: the cached manifest and the configuration sidecar."""

from isoplug.supervisor.plugins.manifest import (
    KNOWN_CAPABILITIES,
    MAXIMUM_PROTOCOL_VERSION,
    MINIMUM_PROTOCOL_VERSION,
    Manifest,
    RequestedPermissions,
    ServerFunction,
    check_compatible,
    parse_manifest,
    read_cached,
    write_cached,
)
from isoplug.supervisor.plugins.sidecar import read_config, write_config

__all__ = [
    "KNOWN_CAPABILITIES",
    "MAXIMUM_PROTOCOL_VERSION",
    "MINIMUM_PROTOCOL_VERSION",
    "Manifest",
    "RequestedPermissions",
    "ServerFunction",
    "check_compatible",
    "parse_manifest",
    "read_cached",
    "read_config",
    "write_cached",
    "write_config",
]
