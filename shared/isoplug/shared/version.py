"""The version of isoplug, for people and for files. The packaging reads it from here (``tool.hatch.version``); asking
the installed metadata instead takes as long as half of ``isoplug --version``."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
