"""The embedded secrets: one SQLite file, in which each value is sealed under one key.

A first secret makes the file and, where there is none, the key; until then neither exists. With it goes a *check*, a
known text sealed under the same key, so that a wrong key is noticed as such. The check is made inside a transaction:
of several processes that have their first secret at once, one asks for a new key, and all go by its check.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from isoplug.shared.errors import ResourceLimitExceeded, ServiceError, SetupError
from isoplug.supervisor.bell import held
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.storage import SqliteStorage

if TYPE_CHECKING:
    from pathlib import Path

    from isoplug.supervisor.secrets.keys import KeySource
    from isoplug.supervisor.secrets.sealing import Seal

__all__ = ["MAX_VALUE_BYTES", "EncryptedSecrets"]

MAX_VALUE_BYTES: Final = 64 * 1024
"""Of a value in UTF-8. Tokens, passwords and private keys have a few kilobytes."""

#: Where the check is kept: no plugin's id has a colon.
_CHECK_ID, _CHECK_NAME, _CHECK_TEXT = ":isoplug", "check", "the right key"
_CHECK_QUOTA: Final = 1024

_PATIENCE_SECONDS: Final = 5.0
"""How long a call waits for another one that opens the secrets, as for a database. A keyring may ask a person."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    storage: SqliteStorage
    seal: Seal


class EncryptedSecrets:
    """``Secrets`` in one SQLite file, safe for several threads, and for several processes that each open it.

    Args:
        path: the file, in a private folder (0700) that exists. When it is there already, the key is checked at once.
        source: where the key is.

    Raises:
        SetupError: there are secrets, and they cannot be read, or their key is gone, unusable or another one.
    """

    def __init__(self, path: Path, source: KeySource) -> None:
        self._path, self._source = path, source
        self._lock = threading.RLock()
        self._is_closed = False
        try:
            self._opened = self._open()
        except ServiceError as error:
            raise SetupError(f"{str(path)!r}: {error}") from error

    def get(self, plugin_id: str, key: str) -> str | None:
        """See ``Secrets.get``. Raises ServiceError also for a value that was damaged, or moved from another key."""
        opened = self._ready(plugin_id)
        sealed = None if opened is None else opened.storage.get(plugin_id, key)
        if opened is None or sealed is None:
            return None
        text = opened.seal.open(plugin_id, key, sealed)
        if text is None:
            _log.error("secret.damaged", plugin=plugin_id, key=key)
            raise ServiceError(f"the secret {key!r} is damaged; set it again, or delete it", plugin_id=plugin_id)
        return text

    def set(self, plugin_id: str, key: str, value: str, quota_bytes: int) -> None:
        """See ``Secrets.set``. A value counts its UTF-8 and 28 bytes.

        Raises:
            ResourceLimitExceeded: ``limit`` is ``secret_bytes`` (over the quota), ``secret_value_bytes``,
                ``secret_key_bytes`` or ``secret_keys``; nothing was changed.
            ServiceError: nothing was acknowledged.
        """
        _check_value(plugin_id, value)
        opened = self._ready(plugin_id, may_make=True)
        assert opened is not None
        opened.storage.set(plugin_id, key, opened.seal.close(plugin_id, key, value), quota_bytes)

    def delete(self, plugin_id: str, key: str) -> None:
        """See ``Secrets.delete``."""
        opened = self._ready(plugin_id)
        if opened is not None:
            opened.storage.set(plugin_id, key, b"", 0)

    def close(self) -> None:
        """Let go of the secrets. May be called again. A call that waits for a keyring delays it only briefly."""
        self._is_closed = True
        with held(self._lock, _PATIENCE_SECONDS) as is_mine:
            if is_mine:
                self._let_go()

    # --- opening --------------------------------------------------------------------------------------------------

    def _ready(self, plugin_id: str, *, may_make: bool = False) -> _Opened | None:
        """File and key; None while there are no secrets, unless ``may_make`` allows to make both."""
        with held(self._lock, _PATIENCE_SECONDS) as is_mine:
            if not is_mine:
                failure = ServiceError("the secrets are being opened; try again", plugin_id=plugin_id)
                failure.is_transient = True
                raise failure
            try:
                if self._opened is None and not self._is_closed:
                    self._opened = self._open(may_make)
            except SetupError as error:  # it names places of the host: those are not for a guest
                _log.error("secrets.unusable", plugin=plugin_id, reason=str(error))
                raise ServiceError(
                    "the secrets cannot be used; the host's log says why", plugin_id=plugin_id
                ) from error
            if self._is_closed:
                self._let_go()
                raise ServiceError("the secrets are closed", plugin_id=plugin_id)
            return self._opened

    def _open(self, may_make: bool = False) -> _Opened | None:
        if not may_make and not os.path.lexists(self._path):
            return None
        storage = SqliteStorage(self._path, what="secret storage", limits="secret")
        try:
            seal = self._unlock(storage, may_make)
        except BaseException:
            storage.close()
            raise
        if seal is None:
            storage.close()
            return None
        return _Opened(storage, seal)

    def _unlock(self, storage: SqliteStorage, may_make: bool) -> Seal | None:
        check = storage.get(_CHECK_ID, _CHECK_NAME)
        if check is None:
            if not may_make:
                return None
            check = storage.get_or_make(_CHECK_ID, _CHECK_NAME, self._make_check, _CHECK_QUOTA)
        key = self._source.load()
        if key is None:
            raise SetupError(
                f"the key of the secrets in {str(self._path)!r} is gone: {self._source} is not there; put it back, or "
                "move the secrets away to start without any"
            )
        seal = _seal(key)
        if seal.open(_CHECK_ID, _CHECK_NAME, check) != _CHECK_TEXT:
            raise SetupError(
                f"{self._source} is not the key of the secrets in {str(self._path)!r}; put the right one back, or move "
                "the secrets away to start without any"
            )
        return seal

    def _make_check(self) -> bytes:
        key = self._source.load()
        return _seal(self._source.make() if key is None else key).close(_CHECK_ID, _CHECK_NAME, _CHECK_TEXT)

    def _let_go(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.storage.close()


def _seal(key: bytes) -> Seal:
    from isoplug.supervisor.secrets.sealing import Seal  # 25 ms that only those pay who have secrets

    return Seal(key)


def _check_value(plugin_id: str, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # which carries the value with it
        raise ServiceError("secrets must be Unicode text without lone surrogates", plugin_id=plugin_id) from None
    if size > MAX_VALUE_BYTES:
        raise ResourceLimitExceeded(
            plugin_id, "secret_value_bytes", size, MAX_VALUE_BYTES, "keep large data in the plugin's storage"
        )
