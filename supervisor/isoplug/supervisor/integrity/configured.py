"""The policy that a configuration describes."""

from __future__ import annotations

from isoplug.supervisor.config import Config
from isoplug.supervisor.integrity.policy import IntegrityPolicy, TrustedKey
from isoplug.supervisor.state import check_out_of_reach

__all__ = ["configured_policy"]


def configured_policy(config: Config) -> IntegrityPolicy:
    """With the trusted keys read. Raises SetupError for one that cannot be used, or that plugins could replace."""
    pins = {key: own.sha256 for key, own in config.plugins.items() if own.sha256 is not None}
    return IntegrityPolicy(pins, _trusted_keys(config), config.signatures.required)


def _trusted_keys(config: Config) -> list[TrustedKey]:
    paths = config.signatures.trusted_keys
    if not paths:
        return []
    from isoplug.supervisor.integrity.ed25519 import load_trusted_key  # imports cryptography

    for path in paths:
        check_out_of_reach(path, "signatures.trusted_keys", config.workspace, config.plugins_dir)
    return [load_trusted_key(path) for path in paths]
