"""Where the key of the secrets comes from: the environment or the system's keyring (``keyfile`` has the third place).

In all of them the key is text: base64 of 32 bytes. Messages never quote what was found.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from isoplug.shared.errors import SetupError

__all__ = ["KEY_BYTES", "EnvironmentKey", "KeySource", "KeyringKey", "new_key_text", "parse_key"]

KEY_BYTES: Final = 32

_HOW_TO_MAKE_ONE: Final = "head -c 32 /dev/urandom | base64"

_KEYRING_SERVICE: Final = "isoplug"

_T = TypeVar("_T")


class KeySource(Protocol):
    """Where a key is kept. ``str()`` says it in a few words, for messages of set-up."""

    def load(self) -> bytes | None:
        """The key, durable where it lies, or None where there is none. Raises SetupError for anything else."""
        ...

    def make(self) -> bytes:
        """A new key, durable when this returns, or the one that another process made meanwhile: no key is ever
        overwritten. Raises SetupError."""
        ...


def new_key_text() -> str:
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def parse_key(text: str | bytes, where: object) -> bytes:
    """Raises SetupError that says what a key looks like."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(
            f"{where} holds no key for secrets: that is base64 of {KEY_BYTES} bytes, as printed by: {_HOW_TO_MAKE_ONE}"
        )
    return key


class EnvironmentKey:
    """A key in an environment variable, which somebody else has to set."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def __str__(self) -> str:
        return f"the environment variable {self._variable}"

    def load(self) -> bytes | None:
        text = os.environ.get(self._variable)
        return None if text is None else parse_key(text, self)

    def make(self) -> bytes:
        raise SetupError(f"{self} is not set; set it to a key for secrets, as printed by: {_HOW_TO_MAKE_ONE}")


class KeyringKey:
    """A key in the system's keyring, under the service ``isoplug`` and the name of the state folder.

    A keyring may ask its user for a password and wait for it. It has no way to store only what is not there yet, so
    ``make`` must not run twice at once; ``EncryptedSecrets`` sees to that.

    Raises:
        SetupError: the package ``keyring`` is not installed, or finds no keyring on this machine.
    """

    def __init__(self, user: str) -> None:
        try:
            import keyring  # an optional extra, and slow to import
            from keyring.backends.fail import Keyring as NoKeyring
        except ImportError as error:
            raise SetupError(
                "secrets.key_source is keyring, and the package keyring is not installed; run: "
                'pip install "isoplug[keyring]", or choose the source "file" or "env"'
            ) from error
        self._keyring, self._user = keyring, user
        if isinstance(self._ask(keyring.get_keyring), NoKeyring):
            raise SetupError(
                "secrets.key_source is keyring, and this machine has none that can be used; start one (such as GNOME "
                'Keyring or KWallet), or choose the source "file" or "env"'
            )

    def __str__(self) -> str:
        return f"the keyring's entry {_KEYRING_SERVICE!r} for {self._user!r}"

    def load(self) -> bytes | None:
        text = self._ask(lambda: self._keyring.get_password(_KEYRING_SERVICE, self._user))
        return None if text is None else parse_key(text, self)

    def make(self) -> bytes:
        text = new_key_text()
        self._ask(lambda: self._keyring.set_password(_KEYRING_SERVICE, self._user, text))
        key = self.load()
        if key != parse_key(text, self):
            raise SetupError(f"{self} was not kept by the keyring; choose another keyring or key_source")
        return key

    def _ask(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        # Backends raise what their own libraries raise, and such a text may quote what was to be stored.
        except Exception as error:  # noqa: BLE001
            raise SetupError(
                f"the keyring failed ({type(error).__name__}); unlock it and try again, or choose another key_source"
            ) from None
