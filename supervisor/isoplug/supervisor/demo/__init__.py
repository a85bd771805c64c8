"""``isoplug demo``: a sample journal, four plugins, and what happens when one of them misbehaves.

``guests/`` has the plugins' sources, ``plugins/`` the modules built from them, ``journal/`` the sample. The demo works
on copies in a temporary folder and leaves nothing behind.
"""

from __future__ import annotations

from isoplug.supervisor.demo.run import run

__all__ = ["run"]
