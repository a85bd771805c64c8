"""No attacks, but what tests ask a locked worker."""

from __future__ import annotations

from attacks.kernel import call_number
from attacks.registry import question
from attacks.targets import Targets


@question
def any_call(targets: Targets) -> str:
    """the system call whose number is handed over, with arguments that mean nothing"""
    return f"answer {call_number(int(targets.handed_over), *(-1,) * 6)}"
