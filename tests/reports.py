"""Reports of runs of ``isoplug chaos``, made by hand: what a page or a table has to cope with."""

from __future__ import annotations

import math
import random

from isoplug.supervisor.chaos import (
    Broken,
    CallEntry,
    Ending,
    FaultRow,
    Injection,
    Kill,
    Place,
    Plan,
    Promise,
    Report,
    Restart,
    Rule,
    Step,
    Trap,
)

#: What a stranger may write into a name or an error.
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x1b[2J\x00\u202e\"'"

_HELD = (
    Promise("answered once", "Every call ends exactly once, with an answer or an error."),
    Promise("right errors", "A call that a fault struck fails with an error that belongs to the fault.", note="a note"),
)
_BROKEN = Promise(
    "same state",
    "What plugins answer is what they answer without faults.",
    Broken("diaryx.words:count answered 3, and 7 without faults", Step(2, "caller 1", 31)),
)


def report(
    calls: int = 200, *, broken: bool = False, hostile: bool = False, callers: int = 4, seconds: float = 12.0
) -> Report:
    """``calls`` spread over ``seconds``; every seventh was struck and failed. The same arguments, the same report."""
    dice = random.Random(f"{calls}/{callers}")
    plugin = f"stranger.{HOSTILE}" if hostile else "diaryx.words"
    entries, injections, restarts = [], [], []
    for number in range(calls):
        step = Step(1 + number * 3 // max(calls, 1), f"caller {number % callers + 1}", number // callers + 1)
        began = seconds * number / max(calls, 1)
        ending, error, faults = Ending.ANSWERED, "", ()
        if number % 7 == 3:
            fault = Kill(("before", "delivery", "reply")[number % 3])  # type: ignore[arg-type]
            injections.append(Injection(Place(step, 1), fault, plugin, "handle_command", "", began + 0.001))
            restarts.append(Restart(plugin, began + 0.02))
            ending, error, faults = Ending.FAILED, "WorkerCrashed", ("kill",)
        if broken and number % 97 == 50:
            ending, error = (Ending.WRONG, HOSTILE if hostile else "GuestTrap") if number % 2 else (Ending.LATE, "")
        took = math.exp(dice.gauss(-5, 1))
        entries.append(CallEntry(step, plugin, f"{plugin}:count", ending, error, faults, 1, began, took))
    recoveries = tuple(math.exp(dice.gauss(-3.5, 0.8)) for _ in injections)
    rows = (
        FaultRow(HOSTILE if hostile else "kill", len(injections), 0, len(injections), 0, 0, recoveries),
        FaultRow("service-slow", 12, 9, 2, 1 if broken else 0, 0, tuple(time / 9 for time in recoveries[:12])),
        FaultRow("disk-full", 0, 0, 0, 0, 0),
    )
    promise = _BROKEN if broken else Promise(_BROKEN.name, _BROKEN.means)
    if hostile and promise.broken is not None:
        promise = Promise(HOSTILE, HOSTILE, Broken(HOSTILE * 40, promise.broken.step), HOSTILE)
    return Report(
        plan=Plan(
            (Rule(Kill("before"), probability=0.1), Rule(Kill("delivery"), plugin=plugin, every=9), Rule(Trap())),
            seed=7,
        ),
        callers=callers,
        calls=tuple(entries),
        injections=tuple(injections),
        faults=rows,
        promises=(*_HELD, promise),
        repeat=f"isoplug chaos --plugins plugins --workspace journal --seed 7 --calls {calls}",
        restarts=tuple(restarts),
        seconds=seconds,
        smallest=Plan((injections[0].rule(),), seed=7) if broken and injections else None,
        smallest_calls=31 if broken and injections else None,
    )
