"""The file ``plugin.wasm.sig``: who vouches for a module. Rules and text, no cryptography.

What is signed is a line of its own kind and the SHA-256 of the module, so that a signature made for anything else with
the same key is none for a module. It does not name the plugin's id, since the module itself does: a guest is asked for
its manifest, and a signed module in another folder is the same plugin with the same rules. Whoever has a trusted key
may therefore sign any id, and an old module stays signed; what is meant to be this very module is pinned by its hash.

The file has four lines; the hash and the key in it say what is wrong when something is, and are not believed::

    isoplug signature 1
    sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    signature 5VZDAMNgrHKQhuLMgG6CioSHfx645dl02HPgZSJJAVVfuIIVkKM7rMYeOXAc+bRr0lv18FlbviRlUUFDjnoQCw==
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isoplug.shared.errors import IntegrityError
from isoplug.supervisor.files import read_bounded, reason

__all__ = [
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "Signature",
    "key_text",
    "parse_signature",
    "read_signature",
    "signature_file",
    "signed_message",
]

#: Of Ed25519 (RFC 8032): a public key, and a signature.
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_MAX_BYTES: Final = 4 << 10
_HEADER: Final = "isoplug signature 1"
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a file says: ``sha256`` (of the module, hexadecimal), ``key`` (32 bytes), ``signature`` (64 bytes)."""

    sha256: str
    key: bytes
    signature: bytes

    def to_text(self) -> str:
        fields = (self.sha256, key_text(self.key), base64.b64encode(self.signature).decode())
        return "{}\nsha256 {}\nkey {}\nsignature {}\n".format(_HEADER, *fields)


def key_text(key: bytes) -> str:
    """A public key as it stands in signatures and messages."""
    return base64.b64encode(key).decode()


def signature_file(wasm: Path) -> Path:
    return wasm.parent / f"{wasm.name}.sig"


def signed_message(sha256: str) -> bytes:
    """What Ed25519 signs for a module with this hash."""
    return b"isoplug plugin module 1\0" + bytes.fromhex(sha256)


def read_signature(wasm: Path, name: str) -> Signature | None:
    """The signature beside the module ``wasm`` of the plugin ``name``; None when there is none. Raises IntegrityError
    for one that cannot be read or understood."""
    path = signature_file(wasm)
    try:
        return parse_signature(read_bounded(path, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"cannot use the signature {path}: {reason(error)}; get it again from whoever made the module, or sign it "
            "with isoplug sign",
            plugin_id=name,
        ) from error


def parse_signature(data: bytes) -> Signature:
    """Raises ValueError that says what is wrong."""
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    if not lines or lines[0].rstrip() != _HEADER:
        raise ValueError(f"it does not begin with the line {_HEADER!r}, so it is of another version or no signature")
    if len(lines) != 4:
        raise ValueError(f"it has {len(lines)} lines, not 4")
    sha256 = _value(lines[1], "sha256")
    if _HASH.fullmatch(sha256) is None:
        raise ValueError("its sha256 is not one")
    key, signature = _decoded(lines[2], "key", KEY_BYTES), _decoded(lines[3], "signature", SIGNATURE_BYTES)
    return Signature(sha256, key, signature)


def _value(line: str, name: str) -> str:
    key, _, value = line.rstrip().partition(" ")
    if key != name:
        raise ValueError(f"its line for {name!r} is missing, or not in its place")
    return value


def _decoded(line: str, name: str, length: int) -> bytes:
    text = _value(line, name)
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"its {name} is not base64") from None
    if len(value) != length:
        raise ValueError(f"its {name} has {len(value)} bytes, not {length}")
    return value
