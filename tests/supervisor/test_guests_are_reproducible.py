"""The modules of the demo and of the benchmark are committed as binaries; this proves that they are what their sources
say."""

from __future__ import annotations

import importlib.metadata
import shutil
from typing import TYPE_CHECKING

import pytest

from isoplug.supervisor import sdk
from isoplug.supervisor.bench.ground import MODULE

if TYPE_CHECKING:
    from pathlib import Path

# Another release of clang writes other bytes. To move on: rebuild the five modules, commit them, change this.
BUILT_WITH = "0.17.1"

DEMO = sdk.HEADER.parents[1] / "demo"
NAMES = ("backlinks", "daily", "trouble", "words")


def test_each_demo_plugin_has_a_source_and_a_module() -> None:
    assert {path.stem for path in DEMO.glob("guests/*.c")} == set(NAMES)
    assert {path.parent.name for path in DEMO.glob("plugins/*/plugin.wasm")} == set(NAMES)


@pytest.mark.skipif(
    importlib.metadata.version("ziglang") != BUILT_WITH,
    reason=f"the modules were built with ziglang {BUILT_WITH}",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_demo_module_is_what_its_source_compiles_to(name: str, tmp_path: Path) -> None:
    # Compiled from a copy elsewhere: the bytes must not depend on where the source lies either.
    sources = shutil.copytree(DEMO / "guests", tmp_path / "sources")
    sdk.build(sources / f"{name}.c", tmp_path / "plugin.wasm")
    assert (tmp_path / "plugin.wasm").read_bytes() == (DEMO / "plugins" / name / "plugin.wasm").read_bytes()


@pytest.mark.skipif(
    importlib.metadata.version("ziglang") != BUILT_WITH,
    reason=f"the module was built with ziglang {BUILT_WITH}",
)
def test_the_benchmark_s_module_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    source = shutil.copy(MODULE.with_name("bench.c"), tmp_path)
    sdk.build(source, tmp_path / "plugin.wasm")
    assert (tmp_path / "plugin.wasm").read_bytes() == MODULE.read_bytes()
