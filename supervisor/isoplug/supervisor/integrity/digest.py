"""The SHA-256 of a module, and the file beside it that may say what it has to be.

``plugin.wasm.sha256`` holds 64 hexadecimal digits and nothing else, or what ``sha256sum`` prints, in either of its two
formats. With a single entry its file name does not matter: modules are renamed to ``plugin.wasm`` when they are
installed. With several, those for the module's own name count, and there must be one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Final

from isoplug.shared.errors import IntegrityError
from isoplug.supervisor.files import read_bounded, reason

__all__ = ["checksum_file", "parse_checksums", "read_checksum", "sha256_of", "short"]

#: Of a list with the sums of a whole release.
_MAX_BYTES: Final = 64 << 10

_BARE: Final = re.compile(r"([0-9a-fA-F]{64})")
_PLAIN: Final = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_TAGGED: Final = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")


def sha256_of(wasm: bytes) -> str:
    """In lower case, as everywhere here."""
    return hashlib.sha256(wasm).hexdigest()


def short(sha256: str) -> str:
    """For messages: enough to tell two apart."""
    return f"{sha256[:12]}..."


def checksum_file(wasm: Path) -> Path:
    return wasm.parent / f"{wasm.name}.sha256"


def read_checksum(wasm: Path, name: str) -> str | None:
    """What the file beside the module ``wasm`` of the plugin ``name`` says; None when there is none. Raises
    IntegrityError for one that cannot be read or understood: it was put there to be heeded."""
    path = checksum_file(wasm)
    try:
        return parse_checksums(read_bounded(path, _MAX_BYTES), wasm.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"cannot use {path}: {reason(error)}; write it with: sha256sum {wasm.name} > {path.name}", plugin_id=name
        ) from error


def parse_checksums(data: bytes, file_name: str) -> str:
    """The sum of ``file_name``. Raises ValueError that says what is wrong."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    lines = [line.strip() for line in text.splitlines()]
    entries = [_entry(line) for line in lines if line]
    if len(entries) > 1:
        entries = [entry for entry in entries if PurePosixPath(entry[0]).name == file_name]
    sums = {sha256 for _, sha256 in entries}
    if len(sums) != 1:
        raise ValueError(f"it has {len(sums) or 'no'} sums for {file_name}")
    return sums.pop()


def _entry(line: str) -> tuple[str, str]:
    """A file's name, perhaps empty, and its sum."""
    if match := _BARE.fullmatch(line):
        return "", match[1].lower()
    if match := _PLAIN.fullmatch(line):
        return match[2], match[1].lower()
    if match := _TAGGED.fullmatch(line):
        return match[1], match[2].lower()
    raise ValueError("it has a line that is no SHA-256 (64 hexadecimal digits) and not one that sha256sum prints")
