"""What strikes one test, and whether the promises held all the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from isoplug.shared.errors import PluginNotFound, SupervisorClosed
from isoplug.supervisor.calls import Interceptor
from isoplug.supervisor.chaos import Injection, Injector, Plan, Promise
from isoplug.supervisor.chaos.hosts import patient_config
from isoplug.supervisor.chaos.watch import Watch
from isoplug.supervisor.config import Config, Restart
from isoplug.supervisor.supervisor import Supervisor

__all__ = ["Faults"]


class Faults:
    """A plan, put into supervisors, and a watch over them::

        faults = Faults(Plan((Rule(Kill("delivery"), every=3),)))
        with PluginHarness("target/plugin.wasm", faults=faults) as plugin:
            for _ in range(10):
                plugin.command("count", retries=3)
            faults.assert_promises()

    Under pytest, the fixture ``isoplug_faults`` is one, with the plan of the test's markers.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        self._supervisors: list[Supervisor] = []
        self._injector = Injector(plan or Plan(), self._forget_deaths)
        self._watch = Watch(self._injector)

    @property
    def plan(self) -> Plan:
        return self._injector.plan

    @property
    def injections(self) -> Sequence[Injection]:
        """What has struck so far, and where."""
        return tuple(self._injector.injections)

    @property
    def interceptors(self) -> tuple[Interceptor, ...]:
        """For a host's own supervisor: ``Supervisor(interceptors=faults.interceptors, config=faults.patient())``, and
        then ``faults.watch_over(supervisor)``."""
        return (self._watch, self._injector)

    def watch_over(self, supervisor: Supervisor) -> None:
        """``assert_promises`` is about this one, too."""
        self._supervisors.append(supervisor)

    def patient(self, config: Config | None = None) -> Config:
        """``config`` for a supervisor that is to be struck often: no quarantine and no back-off, unless ``[restart]``
        was set."""
        config = config or Config()
        if not self.plan.rules or config.restart != Restart():
            return config
        return config.model_copy(update={"restart": patient_config().restart})

    def assert_promises(self) -> tuple[Promise, ...]:
        """The promises that held. Call it when all calls have returned, before the supervisors are closed.

        Raises AssertionError with the first counter-example of the first promise that did not hold, or when there is no
        supervisor that it could be about.
        """
        if not self._supervisors:
            raise AssertionError("no supervisor was watched; load a plugin with these faults, or call watch_over()")
        for supervisor in self._supervisors:
            promises = self._watch.promises(supervisor)  # those of all, when the last one was looked at
        for promise in promises:
            if promise.broken is not None:
                at = f"\nfirst at {promise.broken.step}" if promise.broken.step is not None else ""
                raise AssertionError(f"{promise.means}: {promise.broken.text}{at}\n{self}")
        return promises

    def __str__(self) -> str:
        """What struck, and the plan, for the report of a test that failed."""
        struck = [f"{one.fault} at {one.place}: {one.plugin_id} {one.export} {one.function}" for one in self.injections]
        return "\n".join([f"{len(struck)} faults struck", *(line.rstrip() for line in struck), "", self.plan.to_toml()])

    def _forget_deaths(self, injection: Injection) -> None:
        """So that no input is set aside for two deaths that were not its fault."""
        for supervisor in self._supervisors:
            with suppress(PluginNotFound, SupervisorClosed):  # it is in another one, or just being loaded
                supervisor.clear_poisoned(injection.plugin_id)
