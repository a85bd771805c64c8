"""A report as JSON, for programs: what ``isoplug chaos --json`` prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

from isoplug.supervisor.chaos.injector import Injection
from isoplug.supervisor.chaos.place import Step
from isoplug.supervisor.chaos.plan import Plan
from isoplug.supervisor.chaos.report import CallEntry, Ending, FaultRow, Promise, Report

__all__ = ["to_json"]

#: Grows when a key goes, or means something else. Keys may be added.
_VERSION = 1


def to_json(report: Report) -> dict[str, Any]:
    """One object, with these keys:

    - ``version``: of this form, 1;
    - ``holds``: whether every promise held;
    - ``seed``, ``callers``, ``seconds``, and ``repeat``, the command that repeats the run;
    - ``totals``: ``calls``, of these ``answered``, ``failed`` (as a fault that struck explains), ``wrong``, ``late``;
      and ``injected``, the faults;
    - ``faults``: for each ``name``, ``injected`` and how the calls that it struck ended, as in ``totals``;
      ``recovery_seconds`` has ``p50``, ``p99`` and ``max``, or is null when nothing had to recover;
    - ``promises``: ``name``, ``means``, ``holds``, ``note``, ``broken`` (null, or ``text`` and ``step``, or null), and
      ``checked``, false when the run had no occasion to look;
    - ``calls``: ``step``, ``plugin`` ("" for events), ``what``, ``ending``, ``error`` (a type, or ""), ``faults``,
      ``attempts``, ``began_seconds``, ``took_seconds``;
    - ``injections``: ``step``, ``delivery``, ``host_call`` (0: the delivery itself), ``fault``, ``parameters``,
      ``plugin``, ``export``, ``function`` ("" unless it struck a host call), ``at_seconds``;
    - ``restarts``: ``plugin``, ``at_seconds``;
    - ``plan``, and ``smallest``, the smallest plan that breaks the first broken promise, or null: ``toml`` is what
      ``--plan`` reads; ``smallest_calls``, how many calls that takes, or null;
    - ``never_struck``: names of faults that are in the plan, and did not strike;
    - ``always_failing``: ``what``, and the ``error`` that it ended in whether a fault struck or not;
    - ``not_loaded``: ``plugin``, and the ``error`` for which it could not be loaded;
    - ``stopped``: whether the run was ended before its time, and this is what was done by then.

    A step is ``round``, ``caller``, ``number``. Seconds count from the beginning of the run. Two runs of the same plan,
    seed and load differ only in keys that end in ``seconds``, and in ``restarts``.
    """
    endings = Counter(call.ending for call in report.calls)
    return {
        "version": _VERSION,
        "holds": not report.broken,
        "seed": report.plan.seed,
        "callers": report.callers,
        "seconds": report.seconds,
        "repeat": report.repeat,
        "totals": {
            "calls": len(report.calls),
            **{str(ending): endings[ending] for ending in Ending},
            "injected": len(report.injections),
        },
        "faults": [_fault(row) for row in report.faults],
        "promises": [_promise(promise) for promise in report.promises],
        "calls": [_call(call) for call in report.calls],
        "injections": [_injection(injection) for injection in report.injections],
        "restarts": [{"plugin": one.plugin_id, "at_seconds": one.at_seconds} for one in report.restarts],
        "plan": _plan(report.plan),
        "smallest": None if report.smallest is None else _plan(report.smallest),
        "smallest_calls": report.smallest_calls,
        "never_struck": list(report.idle_faults),
        "always_failing": [{"what": what, "error": error} for what, error in report.always_failing],
        "not_loaded": [{"plugin": name, "error": error} for name, error in report.not_loaded],
        "stopped": report.is_stopped,
    }


def _fault(row: FaultRow) -> dict[str, Any]:
    recovery = {"p50": row.recovery(50), "p99": row.recovery(99), "max": row.recovery(100)}
    return {
        "name": row.name,
        "injected": row.injected,
        "answered": row.answered,
        "failed": row.failed,
        "wrong": row.wrong,
        "late": row.late,
        "recovery_seconds": recovery if row.recovery_seconds else None,
    }


def _promise(promise: Promise) -> dict[str, Any]:
    broken = promise.broken
    return {
        "name": promise.name,
        "means": promise.means,
        "holds": broken is None,
        "broken": None if broken is None else {"text": broken.text, "step": broken.step and _step(broken.step)},
        "note": promise.note,
        "checked": promise.is_checked,
    }


def _call(call: CallEntry) -> dict[str, Any]:
    return {
        "step": _step(call.step),
        "plugin": call.plugin_id,
        "what": call.what,
        "ending": str(call.ending),
        "error": call.error,
        "faults": list(call.faults),
        "attempts": call.attempts,
        "began_seconds": call.began_seconds,
        "took_seconds": call.took_seconds,
    }


def _injection(injection: Injection) -> dict[str, Any]:
    return {
        "step": _step(injection.place.step),
        "delivery": injection.place.delivery,
        "host_call": injection.place.host_call,
        "fault": injection.fault.name,
        "parameters": injection.fault.parameters(),
        "plugin": injection.plugin_id,
        "export": injection.export,
        "function": injection.function,
        "at_seconds": injection.at_seconds,
    }


def _step(step: Step) -> dict[str, Any]:
    return {"round": step.round, "caller": step.caller, "number": step.number}


def _plan(plan: Plan) -> dict[str, Any]:
    return {"seed": plan.seed, "rules": len(plan.rules), "toml": plan.to_toml()}
