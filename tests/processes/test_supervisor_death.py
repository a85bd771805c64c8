"""The supervisor dies, in whatever way: nothing of it is left, and nothing that it acknowledged is lost."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from conftest import PluginFolder, is_alive, wait_until
from hosts import Host


def stored(state: Path) -> dict[str, bytes]:
    """What the database holds, read without isoplug."""
    with closing(sqlite3.connect(state / "storage.sqlite3")) as database:
        (table,) = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if {"plugin_id", "key", "value"} <= {row[1] for row in database.execute(f"PRAGMA table_info({name})")}
        ]
        return dict(database.execute(f"SELECT key, value FROM {table}"))


BUSY = """
    from isoplug.supervisor.config import Config, Limits
    supervisor = make(config=Config(limits=Limits(host_calls_per_call=0, log_lines_per_second=0)))
    def run(plugin, command):
        threading.Thread(target=supervisor.command, args=(plugin, command), daemon=True).start()
        wait_until(lambda: supervisor.plugins[plugin].status.state == "busy")
    run("test.spins", "spin")
    run("test.asks", "spin_host")
    run("test.floods", "log_flood")
    (stopped,) = supervisor.plugins["test.stopped"].status.worker_pids
    os.kill(stopped, signal.SIGSTOP)
    {before_ready}
    say("ready", *family())
    for number in range(1_000_000):
        value = base64.b64encode(str(number).encode()).decode()
        inner = json.dumps({{"key": f"k{{number}}", "data": value}})
        request = json.dumps({{"function": "host_storage_set", "input": inner}})
        answer = supervisor.call("test.writes", "host", request.encode())
        assert not answer, answer
        say("stored", number)
"""

FIVE = ("test.spins", "test.asks", "test.floods", "test.stopped", "test.writes")


def test_kill_9_of_the_supervisor_leaves_no_process_no_folder_and_every_acknowledged_write(
    plugins: PluginFolder, host: Callable[[str], Host], tmp_path: Path
) -> None:
    for plugin_id in FIVE:
        plugins.add(plugin_id)
    supervisor = host(BUSY.format(before_ready=""))
    supervisor.ready()
    assert len(supervisor.family) == 1 + 2 * len(FIVE)  # zygote, templates, workers
    while supervisor.read() != ["stored", "60"]:
        pass
    supervisor.kill()
    acknowledged = 60 + sum(line.startswith("stored") and line.endswith("\n") for line in supervisor.stdout)
    wait_until(supervisor.is_gone, "everyone to end")
    wait_until(lambda: not list((tmp_path / "run").iterdir()), "the runtime folder to be removed")
    values = stored(tmp_path / "state")
    assert {f"k{number}": str(number).encode() for number in range(acknowledged + 1)}.items() <= values.items()


def test_kill_9_of_the_supervisor_after_its_zygote_died_ends_the_workers_all_the_same(
    plugins: PluginFolder, host: Callable[[str], Host]
) -> None:
    for plugin_id in FIVE:
        plugins.add(plugin_id)
    # The family is listed first: without their zygote the workers are no descendants any more.
    before_ready = "everyone = family(); family = lambda: everyone; " + (
        "zygote = psutil.Process().children()[0]; zygote.kill(); wait_until(lambda: not zygote.is_running())"
    )
    supervisor = host(BUSY.format(before_ready=before_ready))
    word, *pids = supervisor.read()
    assert word == "ready"
    supervisor.family = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    assert len(supervisor.family) == 2 * len(FIVE)
    supervisor.kill()
    wait_until(supervisor.is_gone, "everyone to end")


@pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_host_that_ends_without_closing_leaves_nothing(
    plugins: PluginFolder, host: Callable[[str], Host], tmp_path: Path, how: str
) -> None:
    plugins.add("test.a")
    plugins.add("test.b")
    supervisor = host(f"""
        supervisor = make()
        supervisor.call("test.a", "echo", b"x")
        threading.Thread(target=supervisor.command, args=("test.b", "spin"), daemon=True).start()
        wait_until(lambda: supervisor.plugins["test.b"].status.state == "busy")
        say("ready", *family())
        {how}
    """)
    supervisor.ready()
    assert supervisor.wait() in (0, -signal.SIGTERM)
    wait_until(supervisor.is_gone, "everyone to end")
    wait_until(lambda: not list((tmp_path / "run").iterdir()), "the runtime folder to be removed")


def test_an_unhandled_exception_in_the_host_closes_what_is_a_context_manager(
    plugins: PluginFolder, host: Callable[[str], Host], tmp_path: Path
) -> None:
    plugins.add("test.a")
    supervisor = host("""
        sys.stderr = open(os.devnull, "w")
        with make() as supervisor:
            say("ready", *family())
            raise RuntimeError("host")
    """)
    supervisor.ready()
    assert supervisor.wait() == 1
    assert supervisor.is_gone()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_supervisor_outlives_the_thread_that_made_it(plugins: PluginFolder, host: Callable[[str], Host]) -> None:
    plugins.add("test.a")
    supervisor = host("""
        made = []
        maker = threading.Thread(target=lambda: made.append(make()))
        maker.start(); maker.join()
        (supervisor,) = made
        before = supervisor.plugins["test.a"].status.worker_pids
        say("ready", *family())
        time.sleep(0.5)
        assert supervisor.call("test.a", "echo", b"x") == b"x"
        assert supervisor.plugins["test.a"].status.worker_pids == before
        supervisor.close()
        say("closed")
    """)
    supervisor.ready()
    assert supervisor.read() == ["closed"]
    assert supervisor.wait() == 0


def test_a_supervisor_works_in_other_threads_after_the_main_thread_has_ended(
    plugins: PluginFolder, host: Callable[[str], Host]
) -> None:
    plugins.add("test.a")
    supervisor = host("""
        supervisor = make()
        main = threading.main_thread()
        def later():
            main.join()
            for _ in range(50):
                assert supervisor.call("test.a", "echo", b"x") == b"x"
            supervisor.close()
            say("closed")
        threading.Thread(target=later).start()
        say("ready", *family())
    """)
    supervisor.ready()
    assert supervisor.read() == ["closed"]
    assert supervisor.wait() == 0
    wait_until(supervisor.is_gone)


def test_a_worker_outlives_the_main_thread_of_the_kernel(plugins: PluginFolder, host: Callable[[str], Host]) -> None:
    """pthread_exit in the main thread: the thread group leader is a zombie, the process goes on."""
    plugins.add("test.a")
    supervisor = host("""
        import ctypes
        supervisor = make()
        def later():
            wait_until(lambda: psutil.Process().status() == "zombie")
            for _ in range(50):
                assert supervisor.call("test.a", "echo", b"x") == b"x"
            say("called")
            supervisor.close()
            say("closed")
            os._exit(0)
        threading.Thread(target=later).start()
        say("ready", *family())
        ctypes.CDLL(None).pthread_exit(None)
    """)
    supervisor.ready()
    assert supervisor.read() == ["called"]
    assert supervisor.read() == ["closed"]
    wait_until(supervisor.is_gone)


def test_a_fork_of_the_host_can_end_without_harm_to_the_supervisor(
    plugins: PluginFolder, host: Callable[[str], Host]
) -> None:
    plugins.add("test.a")
    supervisor = host("""
        from isoplug.supervisor import SupervisorClosed
        with make() as supervisor:
            assert supervisor.command("test.a", "count") == 1
            say("ready", *family())
            for how in ("exit", "close", "call"):
                child = os.fork()
                if not child:
                    try:
                        if how == "close":
                            supervisor.close()
                        if how == "call":
                            supervisor.call("test.a", "echo", b"x")
                    except SupervisorClosed:
                        say("refused")
                    sys.exit(0)  # through __exit__, as a careless host would
                assert os.waitpid(child, 0)[1] == 0
            assert supervisor.command("test.a", "count") == 2
            say("fine")
    """)
    supervisor.ready()
    assert supervisor.read() == ["refused"]
    assert supervisor.read() == ["fine"]
    assert supervisor.wait() == 0
    wait_until(supervisor.is_gone)


def test_a_fork_of_the_host_does_not_keep_the_workers_of_a_dead_supervisor_alive(
    plugins: PluginFolder, host: Callable[[str], Host]
) -> None:
    plugins.add("test.a")
    supervisor = host("""
        supervisor = make()
        zygote = psutil.Process().children()[0]
        everyone = family()
        fork = os.fork()
        if not fork:
            os.close(1)
            time.sleep(600)
        zygote.kill()  # only the lifeline is left
        wait_until(lambda: not zygote.is_running())
        say("ready", *[pid for pid in everyone if pid != zygote.pid], fork)
        time.sleep(600)
    """)
    supervisor.ready()
    *workers, fork = supervisor.family
    supervisor.kill()
    wait_until(lambda: not any(map(is_alive, workers)))
    assert fork.is_running()
    fork.kill()


def test_acknowledged_writes_are_there_under_their_plugin(
    plugins: PluginFolder, host: Callable[[str], Host], tmp_path: Path
) -> None:
    plugins.add("test.a")
    supervisor = host("""
        supervisor = make()
        value = base64.b64encode(b"kept").decode()
        for plugin in supervisor.plugins:
            inner = json.dumps({"key": "k", "data": value})
            request = json.dumps({"function": "host_storage_set", "input": inner})
            assert not supervisor.call(plugin, "host", request.encode())
        say("ready", *family())
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    supervisor.ready()
    supervisor.wait()
    wait_until(supervisor.is_gone)
    assert stored(tmp_path / "state") == {"k": b"kept"}
