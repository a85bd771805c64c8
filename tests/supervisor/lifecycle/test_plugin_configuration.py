"""get_config and set_config: the sidecar, the guest, and both at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder
from isoplug.supervisor import ConfigError, GuestTrap, InvalidArgument, PluginNotFound, Supervisor

PROBE = "test.probe"


def sidecar(plugins: PluginFolder) -> Path:
    return plugins.path / PROBE / "config.json"


def test_a_write_is_persisted_and_told_to_the_guest(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    assert supervisor.get_config(PROBE) == {}
    supervisor.set_config(PROBE, {"ä": [1, None]})
    assert json.loads(sidecar(plugins).read_bytes()) == {"ä": [1, None]}
    assert supervisor.get_config(PROBE) == {"ä": [1, None]}
    assert supervisor.command(PROBE, "events")[-1] == {"export": "set_config", "input": {"ä": [1, None]}}
    assert sidecar(plugins).stat().st_mode & 0o077 == 0
    supervisor.set_config(PROBE, {})
    assert supervisor.command(PROBE, "events")[-1] == {"export": "set_config", "input": {}}


def test_what_the_guest_refuses_is_a_config_error_and_still_on_disk(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    with pytest.raises(ConfigError, match="refused, as it asked to be") as caught:
        supervisor.set_config(PROBE, {"reject": True})
    assert caught.value.plugin_id == PROBE
    assert json.loads(sidecar(plugins).read_bytes()) == {"reject": True}
    assert supervisor.get_config(PROBE) == {"colour": "blue"}  # the guest answers with what it works with


def test_what_the_guest_corrects_is_persisted(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervise().set_config(PROBE, {"normalize": True})
    assert json.loads(sidecar(plugins).read_bytes()) == {"normalize": True, "normalized": True}


def test_a_guest_that_traps_over_its_configuration_is_a_trap(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    with pytest.raises(GuestTrap, match="set_config"):
        supervise().set_config(PROBE, {"set_config": "trap"})


@pytest.mark.parametrize("config", [None, [], "text", 5, [("a", 1)]])
def test_a_configuration_is_a_dict(plugins: PluginFolder, supervise: Callable[..., Supervisor], config: Any) -> None:
    plugins.add(config={"colour": "blue"})
    with pytest.raises(InvalidArgument, match="config must be a dict"):
        supervise().set_config(PROBE, config)
    assert json.loads(sidecar(plugins).read_bytes()) == {"colour": "blue"}


def test_a_configuration_that_is_not_json_leaves_the_old_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(config={"colour": "blue"})
    supervisor = supervise()
    for config in ({"a": float("nan")}, {"a": object()}, {1: "a"}, {"a": "\ud800"}, {"a": "x" * (1 << 20)}):
        with pytest.raises(ConfigError):
            supervisor.set_config(PROBE, config)
    assert json.loads(sidecar(plugins).read_bytes()) == {"colour": "blue"}
    assert supervisor.get_config(PROBE) == {"colour": "blue"}


def test_a_configuration_that_cannot_be_written_names_the_file_and_is_not_told_to_the_guest(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    sidecar(plugins).mkdir()
    with pytest.raises(ConfigError, match=r"cannot write.*config\.json"):
        supervisor.set_config(PROBE, {"colour": "red"})
    assert supervisor.get_config(PROBE) == {}
    assert [path.name for path in sidecar(plugins).parent.iterdir() if path.name.startswith(".isoplug")] == []


def test_writers_at_the_same_time_leave_one_whole_configuration_that_the_guest_has_too(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    configurations = [{"writer": number, "text": "x" * 500 * number} for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda config: supervisor.set_config(PROBE, config), configurations))
    on_disk = json.loads(sidecar(plugins).read_bytes())
    assert on_disk in configurations
    assert supervisor.get_config(PROBE) == on_disk
    assert {path.name for path in sidecar(plugins).parent.iterdir()} == {"config.json", "manifest.json", "plugin.wasm"}


def test_an_unknown_plugin_has_no_configuration(plugins: PluginFolder, supervise: Callable[..., Supervisor]) -> None:
    plugins.add()
    supervisor = supervise()
    with pytest.raises(PluginNotFound):
        supervisor.get_config("test.nobody")
    with pytest.raises(PluginNotFound):
        supervisor.set_config("test.nobody", {})
