"""System calls: the few that a process needs at each stage of its life; any other ends it.

``policies`` says which and why, ``numbers`` what they are called on each machine, ``assembler`` makes filters of that,
``install`` puts them into the kernel.
"""

from isoplug.worker.lockdown.seccomp.install import enter
from isoplug.worker.lockdown.seccomp.policies import Stage

__all__ = ["Stage", "enter"]
