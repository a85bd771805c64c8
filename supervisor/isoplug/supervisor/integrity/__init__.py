"""Which modules may be loaded at all: hashes that were pinned, signatures that are trusted. ``ed25519`` is the door to
``cryptography`` and not imported before a key is."""

from isoplug.supervisor.integrity.configured import configured_policy
from isoplug.supervisor.integrity.digest import checksum_file, read_checksum, sha256_of
from isoplug.supervisor.integrity.policy import IntegrityPolicy, TrustedKey
from isoplug.supervisor.integrity.signature import Signature, read_signature, signature_file

__all__ = [
    "IntegrityPolicy",
    "Signature",
    "TrustedKey",
    "checksum_file",
    "configured_policy",
    "read_checksum",
    "read_signature",
    "sha256_of",
    "signature_file",
]
