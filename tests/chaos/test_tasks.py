"""AsyncSupervisor: tasks that are cancelled at random moments, beside signals to the processes."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from pathlib import Path

from conftest import PluginFolder, Workspace, wait_until
from faults import NIGHTLY, Storm, chaos_seconds, new_seed
from invariants import ALLOWANCE_SECONDS
from isoplug.supervisor import AsyncSupervisor, PluginError
from isoplug.supervisor.config import Calls, Config, Restart
from load import envelope, nested, serves_again

pytestmark = NIGHTLY

IDS = ("test.a", "test.b")
TIMEOUT = 2.0


async def one_call(supervisor: AsyncSupervisor, chance: random.Random) -> None:
    first, second = chance.sample(IDS, 2)
    match chance.randrange(6):
        case 0:
            payload = chance.randbytes(chance.choice([1, 10_000]))
            assert await supervisor.call(first, "echo", payload, timeout=TIMEOUT) == payload
        case 1:
            await supervisor.command(first, "busy", {"milliseconds": chance.randrange(20)}, timeout=TIMEOUT)
        case 2:
            await supervisor.command(first, "spin", timeout=TIMEOUT)
        case 3:
            await supervisor.command(first, "call", nested([second, first], "echo"), timeout=TIMEOUT)
        case 4:
            await supervisor.call(first, "host", envelope("host_list_files", {"prefix": ""}), timeout=TIMEOUT)
        case _:
            await supervisor.status()


async def caller(supervisor: AsyncSupervisor, chance: random.Random, until: float, broken: list[str]) -> int:
    """Calls, each in a task that is cancelled after a random while or left to its end."""
    ended = 0
    while time.monotonic() < until:
        began = time.monotonic()
        task = asyncio.create_task(one_call(supervisor, chance))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.choice([0.0, 0.001, 0.01, 0.1]) * chance.random())
            task.cancel()
        try:
            await task
        except (PluginError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001  what the test is looking for
            broken.append(f"{type(error).__name__}: {error}")
        if (took := time.monotonic() - began) > TIMEOUT + ALLOWANCE_SECONDS:
            broken.append(f"a task took {took:.2f} s")
        ended += 1
    return ended


async def heartbeat(until: float, broken: list[str]) -> None:
    """The loop itself is never held up."""
    while time.monotonic() < until:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        if (took := time.monotonic() - began) > ALLOWANCE_SECONDS:
            broken.append(f"the loop stood still for {took:.2f} s")


def test_cancelled_tasks_and_signals_break_no_promise(
    plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    seed = new_seed()
    for plugin_id in IDS:
        plugins.add(plugin_id)
        workspace.grant(plugin_id, execute_commands=["all"], read_files=["all"])
    config = Config(
        calls=Calls(timeout=30.0, shutdown_timeout=2.0, async_threads=8),
        restart=Restart(max_restarts=1000, backoff_initial=0.001, backoff_max=0.05, backoff_jitter=0.0),
    )
    broken: list[str] = []

    async def scenario() -> None:
        until = time.monotonic() + chaos_seconds(1.0)
        async with AsyncSupervisor(plugins.path, workspace.path, state_dir=tmp_path / "state", config=config) as calls:
            with Storm(calls._started(), IDS, seed, pause_seconds=0.1):
                callers = [caller(calls, random.Random(seed + number), until, broken) for number in range(12)]
                ended = await asyncio.gather(*callers, heartbeat(until, broken))
            print(f"tasks: {sum(filter(None, ended))}")
            for plugin_id in IDS:
                serves = partial(serves_again, calls._started(), plugin_id)
                await asyncio.to_thread(wait_until, serves, f"{plugin_id} to serve again")
                assert await calls.call(plugin_id, "echo", b"x", timeout=60.0) == b"x"

    asyncio.run(scenario())
    assert not broken, broken
