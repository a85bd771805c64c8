"""The configuration sidecar, ``config.json`` beside a plugin's module: a JSON object that people edit too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from isoplug.shared.errors import ConfigError
from isoplug.supervisor.files import read_bounded, reason, write_atomically
from isoplug.supervisor.plugins.json_object import dump_object, parse_object

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_CONFIG_BYTES", "read_config", "write_config"]

MAX_CONFIG_BYTES: Final = 1 << 20


def read_config(path: Path, plugin_id: str) -> dict[str, Any] | None:
    """The configuration, or None when there is no file.

    Raises:
        ConfigError: the file is there and cannot be read, or is not a JSON object of at most 1 MiB.
    """
    try:
        data = read_bounded(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            plugin_id,
            f"cannot read the configuration of plugin {plugin_id!r}, {str(path)!r}: {reason(error)}",
        ) from error
    try:
        return parse_object(data, MAX_CONFIG_BYTES)
    except ValueError as error:
        raise ConfigError(
            plugin_id,
            f"the configuration of plugin {plugin_id!r}, {str(path)!r}, {error}; correct the file or remove it",
        ) from error


def write_config(path: Path, config: dict[str, Any], plugin_id: str) -> None:
    """Replace the file, atomically and durably; a new one is readable by its owner alone, for it may hold
    credentials.

    Raises:
        ConfigError: ``config`` is not a JSON object of at most 1 MiB, or the file cannot be written. The old
            file stays.
    """
    try:
        data = dump_object(config, MAX_CONFIG_BYTES)
    except ValueError as error:
        raise ConfigError(plugin_id, f"the configuration for plugin {plugin_id!r} {error}") from error
    try:
        write_atomically(path, data)
    except (OSError, ValueError) as error:
        raise ConfigError(
            plugin_id,
            f"cannot write the configuration of plugin {plugin_id!r}, {str(path)!r}: {reason(error)}",
        ) from error
