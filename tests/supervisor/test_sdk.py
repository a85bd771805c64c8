"""``isoplug.supervisor.sdk.build``: what an author sees when it works and when it does not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from isoplug.shared.errors import SetupError
from isoplug.supervisor import sdk

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = '#include "isoplug.h"\nIP_MANIFEST({"id": ID})\n'


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    source = folder / "guest.c"
    source.write_text(text)
    return source


def test_a_build_leaves_the_module_and_nothing_else(tmp_path: Path) -> None:
    source = write(tmp_path / "source", MINIMAL)
    sdk.build(source, tmp_path / "made" / "plugin.wasm")
    assert (tmp_path / "made" / "plugin.wasm").read_bytes().startswith(b"\0asm")
    assert [path.name for path in source.parent.iterdir()] == ["guest.c"]
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["plugin.wasm"]


def test_defines_reach_the_compiler(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(manifest) { return ip_output(ip_s(TEXT)); }\n')
    sdk.build(source, tmp_path / "plugin.wasm", defines=['TEXT="told from outside"'])
    assert b"told from outside" in (tmp_path / "plugin.wasm").read_bytes()


def test_only_host_functions_that_are_used_are_imported(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(init) { ip_log("info", ip_s("x")); return 0; }\n')
    sdk.build(source, tmp_path / "plugin.wasm")
    module = (tmp_path / "plugin.wasm").read_bytes()
    assert b"host_log" in module
    assert b"host_read_file" not in module


def test_a_source_that_does_not_compile_is_a_setup_error_with_the_compilers_words(tmp_path: Path) -> None:
    source = write(tmp_path, '#include "isoplug.h"\nIP_EXPORT(init) { return undeclared_name; }\n')
    with pytest.raises(SetupError, match="undeclared_name"):
        sdk.build(source, tmp_path / "plugin.wasm")
    assert not (tmp_path / "plugin.wasm").exists()


def test_a_missing_source_is_a_setup_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"absent\.c"):
        sdk.build(tmp_path / "absent.c", tmp_path / "plugin.wasm")


def test_without_a_compiler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"  # one that has no ziglang
    interpreter.write_text('#!/bin/sh\necho "python: No module named ziglang" >&2\nexit 1\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(SetupError, match="pip install ziglang"):
        sdk.build(write(tmp_path / "source", MINIMAL), tmp_path / "plugin.wasm")
