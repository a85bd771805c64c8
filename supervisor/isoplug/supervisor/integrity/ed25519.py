"""Keys, signing and verifying. The door to ``cryptography`` for signatures (``secrets.sealing`` is that for secrets).

Keys are PEM files as OpenSSL writes them (``openssl genpkey -algorithm ed25519``): PKCS #8 for a private key, perhaps
encrypted, SubjectPublicKeyInfo for a public one.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from isoplug.shared.errors import SetupError
from isoplug.supervisor.files import put, read_bounded, reason
from isoplug.supervisor.integrity.policy import TrustedKey
from isoplug.supervisor.integrity.signature import Signature, key_text, signed_message

__all__ = [
    "PassphraseNeeded",
    "SigningKey",
    "is_open_to_others",
    "is_signed_by",
    "load_trusted_key",
    "new_key_pair",
]

#: An RSA key of 16 Kibit, which is refused with its own words, has 12 KiB.
_MAX_BYTES: Final = 64 << 10


class PassphraseNeeded(SetupError):
    """The private key is encrypted, and no passphrase was given."""

    code = "passphrase_needed"


class SigningKey:
    """A private key. Has no repr that tells it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path, passphrase: str | None) -> SigningKey:
        """Raises SetupError; PassphraseNeeded when it is encrypted and there is no ``passphrase``."""
        data = _read(path, "the private key")
        password = None if not passphrase else os.fsencode(passphrase)
        try:
            key = serialization.load_pem_private_key(data, password)
        except TypeError as error:  # there is no other way to learn that a passphrase is missing, or given in vain
            if password is not None:
                return cls.load(path, None)
            raise PassphraseNeeded(f"the private key {path} is protected by a passphrase; give it") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            if password is not None and b"ENCRYPTED" in data:
                raise SetupError(
                    f"the private key {path} does not open: the passphrase is wrong, or the file is damaged"
                ) from error
            raise SetupError(
                f"{path} is not a private key in PEM; make one with: isoplug sign --new-key FILE"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SetupError(f"{path} is a private key of another kind than Ed25519; make one with isoplug sign")
        return cls(key)

    @property
    def public_bytes(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, sha256: str) -> Signature:
        """For the module with this hash."""
        return Signature(sha256, self.public_bytes, self._key.sign(signed_message(sha256)))


def is_signed_by(key: bytes, sha256: str, signature: bytes) -> bool:
    """Whether the holder of the public ``key`` (32 bytes) has signed the module with this hash."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed_message(sha256))
    except (InvalidSignature, ValueError):  # ValueError: bytes that are no key
        return False
    return True


def load_trusted_key(path: Path) -> TrustedKey:
    """Raises SetupError."""
    data = _read(path, "the public key")
    if b"PRIVATE KEY" in data:
        raise SetupError(
            f"{path} is a private key, which belongs to nobody but its signer; name the public one, which isoplug sign "
            "--new-key puts beside it"
        )
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SetupError(f"{path} is not a public key in PEM; ask the plugin's author for it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SetupError(f"{path} is a public key of another kind than Ed25519; ask the plugin's author for that")
    return TrustedKey(key.public_bytes_raw(), path.name)


def new_key_pair(private: Path, public: Path, passphrase: str | None) -> str:
    """Write a new pair; the public key as text. Raises SetupError; what is there already is left alone."""
    key = Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(os.fsencode(passphrase))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write_new(private, key.private_bytes(pem, pkcs8, protection), 0o600)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        _write_new(public, key.public_key().public_bytes(pem, spki), 0o644)
    except SetupError:
        with suppress(OSError):  # nobody has used it yet
            private.unlink()
        raise
    return key_text(key.public_key().public_bytes_raw())


def is_open_to_others(path: Path) -> bool:
    """Whether other users may read the file."""
    return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)


def _read(path: Path, what: str) -> bytes:
    try:
        return read_bounded(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read {what} {path}: {reason(error)}; check its path and its permissions") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            put(directory, path.name, data, old=None, new_mode=mode, exclusive=True)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise SetupError(f"{path} exists already, and a key is never overwritten; name another file") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write {path}: {reason(error)}; choose a folder where you may write") from error
