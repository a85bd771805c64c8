"""The injector in a real supervisor: what it strikes, what it notes, and that it strikes there again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from conftest import PluginFolder, Workspace
from isoplug.supervisor import CallTimeout, GuestTrap, PluginError, Supervisor, WorkerCrashed
from isoplug.supervisor.chaos import (
    ClockJump,
    HostCallUnanswered,
    Injection,
    Injector,
    KillInHostCall,
    LateFrame,
    MissingFrame,
    Plan,
    Rule,
    ServiceFails,
    ServiceFull,
    Step,
    Trap,
    stepping,
)
from isoplug.supervisor.chaos.faults.services import SERVICE_OF
from isoplug.supervisor.config import Config, Restart
from isoplug.supervisor.host import HOST_FUNCTIONS

PROBE, OTHER = "test.probe", "test.other"
FORGIVING = Config(
    restart=Restart(max_restarts=1000, period=0.001, backoff_initial=0.001, backoff_max=0.001, backoff_jitter=0)
)
Chaos = Callable[..., tuple[Supervisor, Injector]]


@pytest.fixture
def chaos(plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor]) -> Chaos:
    plugins.add(PROBE)
    plugins.add(OTHER)
    for plugin_id in (PROBE, OTHER):
        workspace.grant(plugin_id, plugin_storage=["all"], execute_commands=["all"])

    def start(*rules: Rule, seed: int = 0) -> tuple[Supervisor, Injector]:
        injector = Injector(Plan(rules, seed))
        return supervise(interceptors=[injector], config=FORGIVING), injector

    return start


def numbers(injector: Injector) -> list[int]:
    return [injection.place.step.number for injection in injector.injections]


def echo(supervisor: Supervisor, times: int, plugin_id: str = PROBE) -> list[str]:
    """How each call ended."""
    endings = []
    for _ in range(times):
        try:
            endings.append(supervisor.call(plugin_id, "echo", b"x").decode())
        except PluginError as error:
            endings.append(type(error).__name__)
    return endings


def host_calls(supervisor: Supervisor, functions: Sequence[str], plugin_id: str = PROBE) -> list[str]:
    """What the guest is answered."""
    inputs = {"host_storage_set": {"key": "k", "data": "eA=="}, "host_storage_get": {"key": "k"}}
    calls = [{"function": name, "input": json.dumps(inputs.get(name, {}))} for name in functions]
    answers: list[str] = json.loads(supervisor.call(plugin_id, "host_many", json.dumps({"calls": calls}).encode()))
    return answers


def test_every_third_call_is_struck(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(Trap(), every=3))
    assert echo(supervisor, 7) == ["x", "x", "GuestTrap", "x", "x", "GuestTrap", "x"]
    assert numbers(injector) == [3, 6]
    assert {(one.plugin_id, one.export, one.function) for one in injector.injections} == {(PROBE, "echo", "")}


def test_without_a_condition_each_call_is_struck_so_often_and_no_more(chaos: Chaos) -> None:
    supervisor, _ = chaos(Rule(Trap(), times=2))
    assert echo(supervisor, 4) == ["GuestTrap", "GuestTrap", "x", "x"]


def test_each_caller_is_counted_by_itself(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(Trap(), every=2))
    for number in (1, 2):
        for caller in ("a", "b"):
            with stepping(Step(0, caller, number)):
                echo(supervisor, 1)
    assert [injection.place.step for injection in injector.injections] == [Step(0, "a", 2), Step(0, "b", 2)]


def test_only_the_plugin_that_is_named_is_struck(chaos: Chaos) -> None:
    supervisor, _ = chaos(Rule(Trap(), plugin=OTHER))
    assert echo(supervisor, 2) == ["x", "x"]
    assert echo(supervisor, 2, OTHER) == ["GuestTrap", "GuestTrap"]


def test_only_the_host_function_that_is_named_is_struck(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(ServiceFails(), function="host_storage_set"))
    wrote, read = host_calls(supervisor, ["host_storage_set", "host_storage_get"])
    assert "the service is down" in wrote
    assert read == ""
    assert [(one.function, one.place.host_call) for one in injector.injections] == [("host_storage_set", 1)]


def test_a_service_is_struck_for_one_host_call_only(chaos: Chaos) -> None:
    supervisor, _ = chaos(Rule(ServiceFails(), every=2))
    answers = host_calls(supervisor, ["host_storage_set"] * 4)
    assert [bool(answer) for answer in answers] == [False, True, False, True]


def test_host_calls_in_which_there_is_nothing_to_strike_do_not_count(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(ServiceFull(), every=2))
    host_calls(supervisor, ["host_get_now", "host_storage_set", "host_storage_get", "host_storage_set", "host_get_now"])
    assert [one.place.host_call for one in injector.injections] == [4]


def test_every_host_function_that_is_struck_by_its_service_exists() -> None:
    assert SERVICE_OF.keys() <= HOST_FUNCTIONS.keys()


def test_a_probability_strikes_the_same_places_for_the_same_seed(chaos: Chaos) -> None:
    endings = []
    for seed in (1, 1, 2):
        supervisor, _ = chaos(Rule(Trap(), probability=0.5), seed=seed)
        endings.append(echo(supervisor, 20))
        supervisor.close()
    assert endings[0] == endings[1] != endings[2]


def test_a_rule_for_a_time_strikes_once_when_it_has_come(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(Trap(), after_seconds=0.0))
    assert echo(supervisor, 3) == ["GuestTrap", "x", "x"]
    assert len(injector.injections) == 1
    supervisor.close()
    supervisor, _ = chaos(Rule(Trap(), after_seconds=3600.0))
    assert echo(supervisor, 3) == ["x", "x", "x"]


@pytest.mark.parametrize(
    "rule", [Rule(KillInHostCall(), every=3), Rule(Trap(), every=2)], ids=["a host call", "a call"]
)
def test_an_injection_can_be_made_again_by_itself(chaos: Chaos, rule: Rule) -> None:
    def load(supervisor: Supervisor) -> list[str]:
        endings = []
        for _ in range(3):
            try:
                endings.append(str(host_calls(supervisor, ["host_storage_set", "host_storage_get"])))
            except PluginError as error:
                endings.append(type(error).__name__)
        return endings

    supervisor, injector = chaos(rule)
    first = load(supervisor)
    supervisor.close()
    supervisor, repeated = chaos(*[injection.rule() for injection in injector.injections])
    assert load(supervisor) == first
    assert repeated.injections == injector.injections != []


def test_an_injection_is_told_at_once(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add(PROBE)
    heard: list[Injection] = []
    supervisor = supervise(interceptors=[Injector(Plan((Rule(Trap()),)), heard.append)])
    with pytest.raises(GuestTrap):
        supervisor.call(PROBE, "echo")
    assert [one.fault for one in heard] == [Trap()]


def test_of_several_rules_the_first_stands_outermost(chaos: Chaos) -> None:
    # The inner wire is the first one's: the frame is missing before there is anything to be made a trap of.
    supervisor, injector = chaos(Rule(MissingFrame()), Rule(Trap()))
    with pytest.raises(CallTimeout):
        supervisor.call(PROBE, "echo")
    assert [one.fault for one in injector.injections] == [Trap(), MissingFrame()]


def test_a_nested_call_that_is_struck_ends_so_for_the_plugin_that_made_it(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(Trap(), plugin=OTHER))
    answer = supervisor.command(PROBE, "call", {"plugin_id": OTHER, "command": "count", "params": None})
    assert "trap" in json.dumps(answer)
    assert [(one.plugin_id, one.place.delivery) for one in injector.injections] == [(OTHER, 2)]


def test_the_start_of_a_worker_is_struck_when_a_rule_names_its_export(chaos: Chaos) -> None:
    supervisor, injector = chaos(Rule(LateFrame(seconds=0.001), export="init", plugin=PROBE))
    assert echo(supervisor, 1) == ["x"]
    assert [(one.export, one.plugin_id) for one in injector.injections] == [("init", PROBE)]


def test_an_error_tells_the_truth_about_what_was_done(chaos: Chaos) -> None:
    supervisor, _ = chaos(
        Rule(KillInHostCall("before"), plugin=PROBE, times=1), Rule(KillInHostCall("after"), plugin=OTHER, times=1)
    )
    for plugin_id, is_done in ((PROBE, False), (OTHER, True)):
        with pytest.raises(WorkerCrashed) as caught:
            host_calls(supervisor, ["host_storage_set"], plugin_id)
        assert bool(caught.value.record.effects) == is_done
        assert bool(host_calls(supervisor, ["host_storage_get"], plugin_id)[0]) == is_done


def test_a_host_call_that_hangs_may_have_been_done(chaos: Chaos) -> None:
    supervisor, _ = chaos(Rule(HostCallUnanswered("after"), times=1))
    with pytest.raises(CallTimeout) as caught:
        host_calls(supervisor, ["host_storage_set"])
    assert [effect.kind for effect in caught.value.record.effects] == ["key_set"]


def test_a_clock_that_jumps_does_so_for_the_call_that_is_struck(chaos: Chaos) -> None:
    supervisor, _ = chaos(Rule(ClockJump(seconds=-86_400.0 * 400), every=2))
    years = [host_calls(supervisor, ["host_get_now"])[0][:4] for _ in range(3)]
    assert years[0] > years[1] < years[2]
