"""Processes inherit what their parent blocks and ignores: whatever a host has done, ours begin as they should."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import PluginFolder
from hosts import Host
from isoplug.shared.errors import CrashReason, GuestTrap

Start = Callable[[str], Host]

BLOCKS_ALL = "signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))"
IGNORES_ALL = """\
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
"""

#: Says which error ``then`` comes to, and its text.
SCRIPT = """
    {before}
    from isoplug.supervisor import PluginError
    from isoplug.supervisor.config import Config, Limits
    supervisor = make(config=Config(limits=Limits(cpu_total={cpu_total})))
    (pid,) = supervisor.plugins["test.probe"].status.worker_pids
    try:
        {then}
    except PluginError as error:
        say(getattr(error, "reason", error.code), str(error))
    supervisor.close()
"""

in_both = pytest.mark.parametrize("before", [BLOCKS_ALL, IGNORES_ALL], ids=["blocks them", "ignores them"])


@pytest.fixture
def start(plugins: PluginFolder, host: Start) -> Callable[..., Host]:
    def start(before: str, then: str, cpu_total: float = 0.0) -> Host:
        plugins.add()
        return host(SCRIPT.format(before=before, then=then, cpu_total=cpu_total))

    return start


@in_both
def test_the_cause_of_a_death_is_known(start: Callable[..., Host], before: str) -> None:
    host = start(
        before,
        """os.kill(pid, signal.SIGKILL)
        wait_until(lambda: supervisor.plugins["test.probe"].status.last_failure)
        say(supervisor.plugins["test.probe"].status.last_failure)""",
    )
    assert " ".join(host.read()).startswith("killed by SIGKILL while idle (peak ")


@in_both
def test_the_cpu_time_of_a_worker_is_bounded(start: Callable[..., Host], before: str) -> None:
    host = start(before, 'supervisor.command("test.probe", "spin")', cpu_total=1.0)
    reason, *text = host.read()
    assert reason == CrashReason.CPU_TIME
    assert "SIGXCPU" in text  # a SIGKILL, a second later, if that is ignored


@in_both
def test_a_trap_is_no_crash(start: Callable[..., Host], before: str) -> None:
    assert start(before, 'supervisor.command("test.probe", "trap")').read()[0] == GuestTrap.code
