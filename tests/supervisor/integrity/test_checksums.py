"""What a plugin.wasm.sha256 may hold."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from isoplug.shared.errors import IntegrityError
from isoplug.supervisor.integrity import checksum_file, read_checksum, sha256_of
from isoplug.supervisor.integrity.digest import parse_checksums

A, B = "a1" * 32, "b2" * 32


@pytest.mark.parametrize(
    "text",
    [
        A,
        f"{A}\n",
        f"  {A.upper()}  \r\n\r\n",
        f"\ufeff{A}\n",
        f"{A}  plugin.wasm\n",
        f"{A} *plugin.wasm\n",
        f"SHA256 (plugin.wasm) = {A}\n",
        f"{A}  words-1.2.0.wasm\n",
        f"{A}  plugin.wasm\n{B}  other.wasm\n",
        f"{B}  other.wasm\n{A}  dist/words/plugin.wasm\n",
        f"SHA256 (plugin.wasm) = {A}\n{A}  plugin.wasm\n",
    ],
)
def test_a_hash_alone_and_lists_of_hashes_are_understood(text: str) -> None:
    assert parse_checksums(text.encode(), "plugin.wasm") == A


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no sums"),
        (b"\n \n", "no sums"),
        (A[:-1].encode(), "64 hexadecimal digits"),
        (f"{A}0".encode(), "64 hexadecimal digits"),
        (f"{A} plugin.wasm".encode(), "64 hexadecimal digits"),  # one blank is neither text nor binary
        (f"{A}\n# a comment".encode(), "64 hexadecimal digits"),
        (f"{A}\n{B}".encode(), "no sums for plugin.wasm"),
        (f"{A}  a.wasm\n{B}  b.wasm".encode(), "no sums for plugin.wasm"),
        (f"{A}  plugin.wasm\n{B}  x/plugin.wasm".encode(), "2 sums"),
        (b"\xff" * 64, "not UTF-8"),
        ("\u0661".encode() * 64, "64 hexadecimal digits"),  # a digit, but of another script
    ],
)
def test_anything_else_is_refused_and_says_why(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_checksums(data, "plugin.wasm")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="this machine has no sha256sum")
@pytest.mark.parametrize("options", [[], ["--binary"], ["--tag"]])
def test_what_sha256sum_writes_is_what_is_compared(tmp_path: Path, options: list[str]) -> None:
    wasm = tmp_path / "plugin.wasm"
    wasm.write_bytes(b"\0asm" + os.urandom(100))
    printed = subprocess.run(["sha256sum", *options, "plugin.wasm"], cwd=tmp_path, capture_output=True, check=True)
    checksum_file(wasm).write_bytes(printed.stdout)
    assert read_checksum(wasm, "words") == sha256_of(wasm.read_bytes())


def test_without_a_file_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert read_checksum(tmp_path / "plugin.wasm", "words") is None


@pytest.mark.parametrize("how", ["garbage", "huge", "folder", "fifo", "loop"])
def test_a_file_that_cannot_be_used_is_an_error_and_not_a_missing_one(tmp_path: Path, how: str) -> None:
    path = checksum_file(tmp_path / "plugin.wasm")
    match how:
        case "garbage":
            path.write_text("MZ")
        case "huge":
            path.write_text(f"{A}  plugin.wasm\n" * 2000)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to(path)
    with pytest.raises(IntegrityError, match=r"plugin\.wasm\.sha256: .*; write it with: sha256sum") as caught:
        read_checksum(tmp_path / "plugin.wasm", "words")
    assert caught.value.plugin_id == "words"
