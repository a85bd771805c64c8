"""How a secret is encrypted. A door to ``cryptography`` (``integrity.ed25519`` is the other); imported by the
first secret.

AES-256-GCM with a random nonce of 96 bits before each text (NIST SP 800-38D allows 2**32 of them under one key). What
is authenticated but not encrypted says whose text it is: a row that was copied to another plugin or key does not open.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Seal"]

_FORMAT: Final = b"isoplug secret 1"
_NONCE_BYTES: Final = 12


class Seal:
    """Encrypts and decrypts texts under one key of 32 bytes. Thread-safe; has no repr that tells the key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, plugin_id: str, key: str, text: str) -> bytes:
        """``text``, which must be without lone surrogates, as nonce, ciphertext and tag: 28 bytes more than its
        UTF-8."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), _owner(plugin_id, key))

    def open(self, plugin_id: str, key: str, sealed: bytes) -> str | None:
        """The text; None when it was not closed under this key, for this plugin id and this name."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        if len(nonce) < _NONCE_BYTES:
            return None
        try:
            return self._cipher.decrypt(nonce, ciphertext, _owner(plugin_id, key)).decode()
        except InvalidTag:
            return None


def _owner(plugin_id: str, key: str) -> bytes:
    """Each part with its length before it: ("a", "bc") and ("ab", "c") must differ."""
    parts = (_FORMAT, plugin_id.encode(), key.encode("utf-8", "surrogatepass"))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
