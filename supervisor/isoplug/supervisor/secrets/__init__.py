"""Secrets: what plugins keep that nobody else may read, encrypted at rest and apart from storage."""

from isoplug.supervisor.secrets.discreet import Discreet
from isoplug.supervisor.secrets.encrypted import MAX_VALUE_BYTES, EncryptedSecrets
from isoplug.supervisor.secrets.keyfile import KeyFile
from isoplug.supervisor.secrets.keys import EnvironmentKey, KeyringKey, KeySource
from isoplug.supervisor.secrets.protocol import Secrets

__all__ = [
    "MAX_VALUE_BYTES",
    "Discreet",
    "EncryptedSecrets",
    "EnvironmentKey",
    "KeyFile",
    "KeySource",
    "KeyringKey",
    "Secrets",
]
