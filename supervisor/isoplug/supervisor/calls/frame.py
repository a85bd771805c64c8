"""One call within its chain: whose it is, how deep, until when."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from isoplug.supervisor.deadline import Deadline
from isoplug.supervisor.pool import Chain

__all__ = ["Frame"]


class Frame(NamedTuple):
    """``depth`` is 0 for a call from outside, its caller's plus 1 for a nested one (SPEC section 9).

    ``offered_files`` (key → bytes) go to the plugin that the outside call names, not to those it calls in turn.
    ``pauses``: an event loop runs the call, see ``calls.steps``; one that is nested in it never does.
    """

    chain: Chain
    deadline: Deadline
    depth: int = 0
    offered_files: Mapping[str, bytes] = MappingProxyType({})
    pauses: bool = False

    def nested(self) -> Frame:
        """The frame of a command that this call's plugin runs in another: same chain, same deadline, one deeper."""
        return Frame(self.chain, self.deadline, self.depth + 1)
