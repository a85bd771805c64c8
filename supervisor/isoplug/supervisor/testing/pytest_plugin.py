"""The fixture that pytest gets with isoplug: ``isoplug_plugin`` loads plugins and closes them after the test.

    def test_it_counts_words(isoplug_plugin):
        plugin = isoplug_plugin("target/plugin.wasm", workspace={"a.md": "two words"})
        assert plugin.command("count", {"path": "a.md"}) == {"words": 2}

pytest imports this module at the start of each of its runs, wherever isoplug is installed, so it imports nothing else
at its top; ``-p no:isoplug`` leaves it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from isoplug.supervisor.testing.harness import PluginHarness

__all__ = ["LoadPlugin", "isoplug_plugin", "pytest_addoption"]

_OPTION = "isoplug_plugin"


class LoadPlugin(Protocol):
    """What the fixture ``isoplug_plugin`` is."""

    def __call__(self, wasm: str | os.PathLike[str] | bytes | None = None, **arguments: Any) -> PluginHarness:
        """A harness, closed after the test. ``arguments`` are those of ``PluginHarness``.

        ``wasm``: relative paths count from pytest's root folder. None: what ``--isoplug-plugin`` or the ini key
        ``isoplug_plugin`` names.
        """
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the plugin.wasm that isoplug_plugin() loads when the test names none"
    parser.getgroup("isoplug").addoption("--isoplug-plugin", metavar="PATH", dest=_OPTION, help=text)
    parser.addini(_OPTION, help=f"{text}; --isoplug-plugin wins")


@pytest.fixture
def isoplug_plugin(pytestconfig: pytest.Config) -> Iterator[LoadPlugin]:
    """Load a plugin into a real supervisor: isoplug_plugin("plugin.wasm", permissions={...}, config={...})."""
    from isoplug.supervisor.testing.harness import PluginHarness

    with ExitStack() as running:

        def load(wasm: str | os.PathLike[str] | bytes | None = None, **arguments: Any) -> PluginHarness:
            if wasm is None:
                wasm = _configured(pytestconfig)
            if not isinstance(wasm, bytes):
                wasm = pytestconfig.rootpath / wasm
            return running.enter_context(PluginHarness(wasm, **arguments))

        yield load


def _configured(config: pytest.Config) -> str:
    path = config.getoption(_OPTION) or config.getini(_OPTION)
    if not path:
        raise pytest.UsageError(
            "isoplug_plugin() needs a plugin: name one, run pytest with --isoplug-plugin PATH, or set isoplug_plugin "
            "in pytest's configuration"
        )
    return str(path)
