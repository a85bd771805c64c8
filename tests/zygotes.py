"""Zygotes that run code of a test before they begin: it is what their templates and workers are forked from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from isoplug.supervisor import zygote_process

__all__ = ["zygotes_run"]

_CALL = "main(**arguments)"


def zygotes_run(patch: pytest.MonkeyPatch, code: str) -> None:
    """Those that are started from now on, when they have imported everything; ``arguments`` are what ``main`` gets."""
    ordinary = zygote_process.fresh_interpreter

    def hijacked(module: str, arguments: Mapping[str, Any]) -> list[str]:
        *options, script, text = ordinary(module, arguments)
        start, _, rest = script.partition(_CALL)
        return [*options, f"{start}{code}\n{_CALL}{rest}", text]

    patch.setattr(zygote_process, "fresh_interpreter", hijacked)
