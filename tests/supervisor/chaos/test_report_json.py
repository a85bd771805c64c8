"""``to_json``: what programs read of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isoplug.supervisor.chaos import Plan
from isoplug.supervisor.chaos.as_json import to_json
from reports import report


def without_times(value: Any) -> Any:
    """As the docstring says: what stays is the same when a run is repeated."""
    if isinstance(value, dict):
        timed = ("seconds", "restarts")
        return {key: without_times(one) for key, one in value.items() if not key.endswith(timed)}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def test_the_keys_stay() -> None:
    document = to_json(report(50, broken=True))
    assert list(document) == [
        "version", "holds", "seed", "callers", "seconds", "repeat", "totals", "faults", "promises", "calls",
        "injections", "restarts", "plan", "smallest", "smallest_calls", "never_struck",
        "always_failing", "not_loaded", "stopped",
    ]  # fmt: skip
    assert list(document["totals"]) == ["calls", "answered", "failed", "wrong", "late", "injected"]
    assert list(document["calls"][0]) == [
        "step", "plugin", "what", "ending", "error", "faults", "attempts", "began_seconds", "took_seconds",
    ]  # fmt: skip
    assert list(document["injections"][0]) == [
        "step", "delivery", "host_call", "fault", "parameters", "plugin", "export", "function", "at_seconds",
    ]  # fmt: skip
    assert list(document["faults"][0]) == [
        "name", "injected", "answered", "failed", "wrong", "late", "recovery_seconds",
    ]  # fmt: skip


def test_a_broken_promise_has_its_counter_example_and_a_plan_to_repeat_it() -> None:
    document = to_json(report(400, broken=True))
    assert document["holds"] is False
    broken = document["promises"][-1]
    assert broken["broken"]["step"] == {"round": 2, "caller": "caller 1", "number": 31}
    assert len(Plan.from_toml(document["smallest"]["toml"]).rules) == document["smallest"]["rules"] == 1
    assert to_json(report(50))["holds"] is True
    assert to_json(report(50))["smallest"] is None


def test_totals_add_up_and_all_of_it_is_json() -> None:
    document = json.loads(json.dumps(to_json(report(400, broken=True, hostile=True))))
    totals = document["totals"]
    assert totals["calls"] == sum(totals[ending] for ending in ("answered", "failed", "wrong", "late")) == 400
    assert totals["injected"] == len(document["injections"])


def test_runs_that_differ_in_time_alone_differ_in_what_is_named_so() -> None:
    slow, quick = to_json(report(100, seconds=50)), to_json(report(100, seconds=5))
    assert slow != quick
    assert without_times(slow) == without_times(quick)


def test_a_fault_that_nothing_had_to_recover_from_has_no_recovery_time() -> None:
    recovery = {row["name"]: row["recovery_seconds"] for row in to_json(report(50))["faults"]}
    assert recovery["disk-full"] is None
    assert list(recovery["kill"]) == ["p50", "p99", "max"]
    assert recovery["kill"]["p50"] == pytest.approx(0.03, rel=2)
