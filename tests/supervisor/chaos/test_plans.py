"""Fault plans: rules, their text, and what is said about those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoplug.supervisor import InvalidArgument, SetupError
from isoplug.supervisor.chaos import (
    ClockJump,
    Crash,
    Fault,
    Kill,
    LateFrame,
    OutOfMemory,
    Place,
    Plan,
    Rule,
    ServiceFails,
    Step,
    Stop,
    TemplateKilled,
    fault_named,
    fault_names,
)

HERE = Place(Step(2, "caller", 5), 1, 3)
EVERYTHING = Plan(
    (
        Rule(Kill("reply"), plugin="test.probe", export="handle_command", every=3),
        Rule(ServiceFails(unexpected=True), function="host_storage_set", probability=0.25, times=2),
        Rule(Stop(seconds=0.5), at=(HERE, Place(Step(0, "", 1), 1))),
        Rule(ClockJump(seconds=60.0), after_seconds=1.5),
        Rule(LateFrame()),
    ),
    seed=7,
)


def test_a_plan_as_toml_is_the_same_plan() -> None:
    assert Plan.from_toml(EVERYTHING.to_toml()) == EVERYTHING


def test_an_empty_text_is_a_plan_without_faults() -> None:
    assert Plan.from_toml("") == Plan()


@pytest.mark.parametrize("name", fault_names())
def test_every_fault_can_be_written_and_read(name: str) -> None:
    plan = Plan((Rule(fault_named(name), every=2),))
    assert Plan.from_toml(plan.to_toml()) == plan


def test_only_parameters_that_differ_from_their_defaults_are_written() -> None:
    assert "moment" not in Plan((Rule(Kill()),)).to_toml()
    assert 'moment = "before"' in Plan((Rule(Kill("before")),)).to_toml()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed = ", "not TOML"),
        ("sed = 1", "unknown keys: sed"),
        ('seed = "1"', "whole number"),
        ("seed = true", "whole number"),
        (f"seed = 0x{'f' * 6000}", "not TOML: a whole number of 24000 bits"),
        (f'[[fault]]\nname = "kill"\nat = [{{ number = 0x{"f" * 6000} }}]', "not TOML: a whole number"),
        (f"fault = {'[' * 10_000}", "not TOML"),
        ("fault = 1", r"\[\[fault\]\] tables"),
        ("[[fault]]\nevery = 1", "needs a name"),
        ('[[fault]]\nname = "kil"', "no fault 'kil'; there are .*kill"),
        ('[[fault]]\nname = "kill"\nmomemt = "reply"', "no such parameter: momemt; it has moment"),
        ('[[fault]]\nname = "kill"\nmoment = "later"', "moment is before, sending, delivery, replying or reply"),
        ('[[fault]]\nname = "kill"\nevery = 0', "every must be 1 or more"),
        ('[[fault]]\nname = "kill"\nevery = "3"', "every must be a whole number"),
        ('[[fault]]\nname = "kill"\nevery = true', "every must be a whole number"),
        ('[[fault]]\nname = "kill"\ntimes = -1', "times must be 1 or more"),
        ('[[fault]]\nname = "kill"\nplugin = 1', "plugin must be text"),
        ('[[fault]]\nname = "kill"\nprobability = 2', "from 0 to 1"),
        ('[[fault]]\nname = "kill"\nprobability = "often"', "a number from 0 to 1"),
        ('[[fault]]\nname = "kill"\nevery = 1\nprobability = 0.5', "one of every, probability, at and after"),
        ('[[fault]]\nname = "kill"\nfunction = "host_log"', "strikes calls, not host calls"),
        ('[[fault]]\nname = "kill"\nafter = "soon"', 'after must be a time, such as "2s"'),
        ('[[fault]]\nname = "kill"\nat = 1', "at must be a list of places"),
        ('[[fault]]\nname = "kill"\nat = [{ step = 1 }]', "at must be a list of places"),
        ('[[fault]]\nname = "kill"\nat = [{ number = "1" }]', "at must be a list of places"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        Plan.from_toml(text)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("crash", {"signal": "KILL"}),
        ("stop", {"patience": -1.0}),
        ("stop", {"seconds": "1"}),
        ("late-frame", {"seconds": float("nan")}),
        ("service-slow", {"seconds": True}),
        ("service-fails", {"unexpected": "yes"}),
        ("template-killed", {"worker": 1}),
        ("clock-jump", {"seconds": 1e300}),
        ("clock-jump", {"seconds": "now"}),
        ("garbage-frame", {"of": ["frame"]}),
    ],
)
def test_parameters_that_make_no_sense_are_refused(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=name):
        fault_named(name, **parameters)


def test_a_plan_in_a_file_is_loaded_and_its_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    with pytest.raises(SetupError, match=r"plan\.toml"):
        Plan.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SetupError, match=r"plan\.toml"):
        Plan.load(path)
    path.write_text("faults = 1")
    with pytest.raises(SetupError, match=r"plan\.toml.*unknown keys"):
        Plan.load(path)
    path.write_text(EVERYTHING.to_toml())
    assert Plan.load(path) == EVERYTHING


def test_chance_depends_on_seed_rule_and_place_and_on_nothing_else() -> None:
    plan, other = Plan(seed=1), Plan(seed=2)
    assert plan.chance(0, HERE) == Plan(seed=1).chance(0, HERE)
    assert plan.chance(0, HERE) != plan.chance(1, HERE)
    assert plan.chance(0, HERE) != other.chance(0, HERE)
    assert other.seeded(1) == plan


def test_chances_are_spread_evenly() -> None:
    chances = [Plan(seed=3).chance(0, Place(Step(0, "", number), 1)) for number in range(2000)]
    assert all(0 <= chance < 1 for chance in chances)
    for tenth in range(10):
        assert 130 < sum(tenth <= 10 * chance < tenth + 1 for chance in chances) < 270


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(Kill()), True),
        (Rule(Kill(), plugin="a"), True),
        (Rule(Kill(), plugin="b"), False),
        (Rule(Kill(), export="echo"), True),
        (Rule(Kill(), export="host"), False),
    ],
)
def test_a_rule_matches_what_it_names(rule: Rule, matches: bool) -> None:
    assert rule.matches("a", "echo", "", is_lent=True) == matches


def test_what_a_worker_is_told_before_its_pool_has_it_is_struck_only_by_name() -> None:
    assert not Rule(Kill()).matches("a", "init", "", is_lent=False)
    assert Rule(Kill(), export="init").matches("a", "init", "", is_lent=False)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Kill(), "kill"),
        (Crash("BUS"), "crash(signal=BUS)"),
        (OutOfMemory("kernel"), "out-of-memory(by=kernel)"),
        (TemplateKilled(worker=True), "template-killed(worker=True)"),
    ],
)
def test_a_fault_as_text_says_what_differs_from_the_default(fault: Fault, text: str) -> None:
    assert str(fault) == text
