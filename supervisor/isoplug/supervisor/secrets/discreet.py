"""Around a host's own ``Secrets``: whatever it raises, no value gets out with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.secrets.protocol import Secrets

__all__ = ["Discreet"]

_log = get_logger(__name__)


class Discreet:
    """``Secrets`` that tells of a failure of ``secrets`` only the name of the exception's class.

    Texts and causes stay inside, also those of isoplug's own errors: nobody can tell in which spelling they hold a
    value.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def get(self, plugin_id: str, key: str) -> str | None:
        with _silenced(plugin_id, "read"):
            value = self._secrets.get(plugin_id, key)
            if value is not None and not isinstance(value, str):
                raise TypeError
        return value

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        with _silenced(plugin_id, "write"):
            self._secrets.set(plugin_id, key, value, quota_bytes)

    def delete(self, plugin_id: str, key: str) -> None:
        with _silenced(plugin_id, "delete"):
            self._secrets.delete(plugin_id, key)


@contextmanager
def _silenced(plugin_id: str, doing: str) -> Iterator[None]:
    """Raises ServiceError for whatever is raised inside."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a host's own service may raise anything
        kind = type(error).__name__
        _log.error("secrets.failed", plugin=plugin_id, doing=doing, kind=kind)
        raise ServiceError(
            f"cannot {doing} the secret: the host's service failed ({kind})", plugin_id=plugin_id
        ) from None
