"""What a process gives up before it touches a plugin: one layer a module.

``cell`` puts them in order for templates and workers, ``program`` for WASI programs; ``trial`` tries each by itself.
"""

from isoplug.worker.lockdown.cell import Cell
from isoplug.worker.lockdown.seccomp import Stage

__all__ = ["Cell", "Stage"]
