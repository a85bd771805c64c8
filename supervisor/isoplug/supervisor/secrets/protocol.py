"""What the supervisor asks of a secrets service; ``EncryptedSecrets`` is the embedded one."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Secrets"]


class Secrets(Protocol):
    """Texts by (plugin id, key), private to each plugin. Called from several threads at once.

    ``plugin_id`` is the supervisor's knowledge, ``key`` and ``value`` are a guest's and may be anything. What a host's
    own service raises is neither logged nor shown to guests, but for the name of its class: it might quote a value.
    """

    def get(self, plugin_id: str, key: str) -> str | None:
        """The value, or None when there is none.

        Raises:
            ServiceError: the secrets cannot be read.
        """
        ...

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        """Keep ``value``, which may be empty. Once this returns, it survives ``kill -9``.

        ``quota_bytes`` bounds the *total* of the plugin's secrets, apart from what it has in its storage.

        Raises:
            ResourceLimitExceeded: a bound was met; nothing was changed.
            ServiceError: the secrets cannot be written; nothing was acknowledged.
        """
        ...

    def delete(self, plugin_id: str, key: str) -> None:
        """Forget the value, if there is one. Raises ServiceError as ``set`` does."""
        ...
