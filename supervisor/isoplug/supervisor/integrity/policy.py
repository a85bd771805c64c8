"""Whether a module may be loaded: what was pinned, what lies beside it, and who has signed it.

Everything is asked of the bytes that were read and are going to be compiled, never of the file once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isoplug.shared.errors import IntegrityError
from isoplug.supervisor.integrity.digest import checksum_file, read_checksum, short
from isoplug.supervisor.integrity.signature import Signature, key_text, read_signature, signature_file

__all__ = ["IntegrityPolicy", "TrustedKey"]


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key of 32 bytes, and the name of the file that it came from."""

    key: bytes
    name: str


@dataclass(frozen=True, slots=True)
class IntegrityPolicy:
    """``pins``: SHA-256 by plugin id or folder's name. With ``trusted`` keys, a signature that is there has to be by
    one of them; with ``is_signature_required`` it has to be there. All methods raise IntegrityError."""

    pins: Mapping[str, str] = field(default_factory=dict)
    trusted: Sequence[TrustedKey] = ()
    is_signature_required: bool = False

    def check(self, wasm: Path, name: str, sha256: str) -> TrustedKey | None:
        """All that can be said of a module before it is compiled; ``name`` is its folder's. Returns whose signature it
        has, if that matters."""
        self.check_pin(wasm, name, name, sha256)
        beside = read_checksum(wasm, name)
        if beside is not None and beside != sha256:
            raise _changed(wasm, name, sha256, beside, f"{checksum_file(wasm).name} beside it")
        return self._check_signature(wasm, name, sha256) if self.trusted else None

    def check_pin(self, wasm: Path, name: str, key: str, sha256: str) -> None:
        """``key`` is the folder's name or, once it is known, the plugin's id."""
        pinned = self.pins.get(key)
        if pinned is not None and pinned != sha256:
            raise _changed(wasm, key, sha256, pinned, f'plugins."{key}".sha256 in the configuration')

    def _check_signature(self, wasm: Path, name: str, sha256: str) -> TrustedKey | None:
        signature = read_signature(wasm, name)
        if signature is not None:
            return self._signer(signature, wasm, name, sha256)
        if self.is_signature_required:
            raise IntegrityError(
                f"{wasm} is not signed: there is no {signature_file(wasm).name} beside it; get it from the plugin's "
                "author, or sign the module with isoplug sign",
                plugin_id=name,
            )
        return None

    def _signer(self, signature: Signature, wasm: Path, name: str, sha256: str) -> TrustedKey:
        from isoplug.supervisor.integrity.ed25519 import is_signed_by  # where no keys are trusted it is not needed

        path = signature_file(wasm)
        signer = next((trusted for trusted in self.trusted if trusted.key == signature.key), None)
        if signer is None:
            raise IntegrityError(
                f"{path} is by the key {key_text(signature.key)}, which is not trusted (trusted: "
                f"{', '.join(trusted.name for trusted in self.trusted)}); if it should be, name its file in "
                "signatures.trusted_keys of the configuration, or with --key",
                plugin_id=name,
            )
        if signature.sha256 != sha256:
            raise IntegrityError(
                f"{path} is the signature of another module: that has the SHA-256 {short(signature.sha256)}, this one "
                f"has {short(sha256)}; get both again from whoever made the module",
                plugin_id=name,
            )
        if not is_signed_by(signer.key, sha256, signature.signature):
            raise IntegrityError(
                f"{path} is forged or damaged: the key {signer.name} has not signed this module; get both again from "
                "whoever made the module",
                plugin_id=name,
            )
        return signer


def _changed(wasm: Path, plugin_id: str, found: str, wanted: str, source: str) -> IntegrityError:
    return IntegrityError(
        f"{wasm} is not the module that it should be: its SHA-256 is {short(found)}, but {source} says "
        f"{short(wanted)}; install the right module, or put {found} there if this change was meant",
        plugin_id=plugin_id,
    )
