"""Native code in a worker's place: what a guest does that has broken out of WASM. It writes any bytes to its socket.

It is imported into the zygote (``zygotes_run_hostile_code``); plugins that are not marked as hostile get the real
worker. Two ways to call it:

- The module of a plugin contains ``HOSTILE``: the worker behaves until a raw call names one of ``IN_A_CALL`` as its
  export; what that one returns, if it returns, is the call's honest answer.
- The module *is* ``AT_START_MARK`` with a name: the worker runs that one of ``AT_START`` instead of starting.

``wire`` has the bytes, ``acting`` what attacks are made of; ``frames``, ``messages`` and ``sockets`` have those in
calls, ``starts`` those at the start.

It needs ``lockdown = "off"``, and that is as it should be: the socket has to hold whatever the machine offers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hostile_worker import frames, messages, sockets, starts  # noqa: F401  they name their attacks
from hostile_worker.acting import AT_START, HOSTILE, IN_A_CALL, serve, sleep
from hostile_worker.frames import HALVES
from hostile_worker.wire import ESCAPES, FRAME_BYTES, Wire

if TYPE_CHECKING:
    import pytest

__all__ = [
    "AT_START",
    "AT_START_MARK",
    "ESCAPES",
    "FRAME_BYTES",
    "HALVES",
    "HOSTILE",
    "IN_A_CALL",
    "take_over",
    "zygotes_run_hostile_code",
]

AT_START_MARK: Final = b"hostile at start: "


def take_over() -> None:
    """In the zygote, before it begins."""
    from isoplug.worker import main, template

    honest_live, honest_blueprint = main.live, template.Blueprint

    def blueprint(wasm: bytes, *rest: Any) -> Any:
        is_hostile = wasm.startswith(AT_START_MARK) or HOSTILE.encode() in wasm
        return wasm[:200] if is_hostile else honest_blueprint(wasm, *rest)

    def live(cell: Any, plan: Any, courier: Any, fields: Any, lifeline_fd: int, link_fd: int) -> int:
        if not isinstance(plan, bytes):
            return honest_live(cell, plan, courier, fields, lifeline_fd, link_fd)
        cell.move_in(lifeline_fd, link_fd)
        if plan.startswith(AT_START_MARK):
            AT_START[plan.removeprefix(AT_START_MARK).decode()](link_fd)
            sleep()
        return serve(Wire(link_fd))

    patched: Any = template
    patched.Blueprint = blueprint
    main.live = live


def zygotes_run_hostile_code(patch: pytest.MonkeyPatch) -> None:
    """Those that are started from now on."""
    from zygotes import zygotes_run

    zygotes_run(patch, "import hostile_worker; hostile_worker.take_over()")
