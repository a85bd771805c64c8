"""A folder with every bad plugin there is, and two good ones that do not notice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import PluginFolder
from guests import guest
from isoplug.supervisor import AppVersionTooOld, LoadError, PluginError, ProtocolMismatch, Supervisor
from isoplug.supervisor.config import Config

BAD_MANIFESTS = {
    "empty": "is empty",
    "not_json": "is not JSON",
    "not_object": "must be an object",
    "missing_id": "id is missing",
    "wrong_types": "id must be a string",
    "not_utf8": "is not UTF-8",
    "huge": "the limit is",
    "deep": "nested",
    "fail": "no manifest today",
    "trap": "trapped in export 'manifest'",
    "spin": "did not finish export 'manifest' within 5 s",
}
BAD_MODULES = {
    "start_trap": "start_trap",
    "start_spin": "start_spin",
    "start_host_call": "start_host_call",
    "initialize_trap": "initialize_trap",
}


@dataclass(frozen=True)
class Zoo:
    supervisor: Supervisor
    folder: Path

    def error(self, name: str) -> PluginError:
        return self.supervisor.load_errors[name]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Zoo]:
    root = tmp_path_factory.mktemp("zoo")
    (root / "workspace").mkdir()
    plugins = PluginFolder(root / "plugins", guest_cache)
    plugins.add("good.first", folder="a-good")
    plugins.add("good.last", folder="z-good")
    for variant in BAD_MANIFESTS:
        plugins.add(variant=f"bad_manifest_{variant}", folder=f"manifest-{variant}")
    for variant in BAD_MODULES:
        plugins.add(variant=variant, folder=variant)
    for variant in ("unknown_import", "probe_protocol_2", "probe_app_99", "probe_app_unreadable", "probe_init_trap"):
        plugins.add(f"bad.{variant}", variant=variant, folder=variant)
    plugins.add("good.first", folder="b-same-id")
    plugins.add("bad.sidecar", folder="sidecar")
    (plugins.path / "sidecar" / "config.json").write_text("{half of")
    wasm = guest("minimal", guest_cache).read_bytes()
    plugins.add_bytes("empty", b"")
    plugins.add_bytes("garbage", b"MZ\x90\0 this is another kind of program")
    plugins.add_bytes("text", b"(module)")
    plugins.add_bytes("component", b"\0asm\x0d\0\x01\0")
    plugins.add_bytes("truncated", wasm[: len(wasm) // 2])
    plugins.add_bytes("header-only", wasm[:8])
    plugins.add_bytes("too-large", wasm.ljust(5 << 20, b"\0"))
    (plugins.path / "is-folder" / "plugin.wasm").mkdir(parents=True)
    (plugins.path / "is-fifo").mkdir()
    os.mkfifo(plugins.path / "is-fifo" / "plugin.wasm")
    for name, target in {"dangling": "nowhere.wasm", "loop": "plugin.wasm", "device": "/dev/zero"}.items():
        (plugins.path / name).mkdir()
        (plugins.path / name / "plugin.wasm").symlink_to(target)
    # What is no plugin at all:
    (plugins.path / "notes").mkdir()
    (plugins.path / "notes" / "README.md").write_text("no module here")
    (plugins.path / "plugin.wasm").write_bytes(wasm)
    (plugins.path / ".hidden-file").write_text("x")
    config = Config(calls={"start_timeout": 5.0}, limits={"wasm_module": 4 << 20})
    with Supervisor(plugins.path, root / "workspace", state_dir=root / "state", config=config) as supervisor:
        yield Zoo(supervisor, plugins.path)


def test_the_good_plugins_load_and_work_among_all_the_bad_ones(zoo: Zoo) -> None:
    assert list(zoo.supervisor.plugins) == ["good.first", "good.last"]
    assert zoo.supervisor.command("good.first", "echo", 1) == 1
    assert zoo.supervisor.command("good.last", "echo", 2) == 2


def test_every_bad_plugin_is_reported_by_its_folder_and_nothing_else_is(zoo: Zoo) -> None:
    folders = {path.name for path in zoo.folder.iterdir() if path.is_dir()}
    assert set(zoo.supervisor.load_errors) == folders - {"a-good", "z-good", "notes"}
    for name, error in zoo.supervisor.load_errors.items():
        print(name, type(error).__name__, error)
        assert error.plugin_id, name
        assert len(str(error)) < 2000, name


@pytest.mark.parametrize(("variant", "text"), BAD_MANIFESTS.items())
def test_a_bad_manifest_is_reported_with_what_is_wrong(zoo: Zoo, variant: str, text: str) -> None:
    error = zoo.error(f"manifest-{variant}")
    assert text in str(error)
    assert f"manifest-{variant}" in str(error)
    assert not (zoo.folder / f"manifest-{variant}" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "is-folder": "is a directory",
        "is-fifo": "not a regular file",
        "device": "not a regular file",
        "dangling": "No such file or directory",
        "loop": "symbolic links",
        "empty": "is not a WebAssembly module",
        "garbage": "is not a WebAssembly module",
        "text": "is not a WebAssembly module",
        "component": "a component, perhaps",
        "too-large": "raise limits.wasm_module",
    }.items(),
)
def test_a_file_that_is_no_module_is_named_with_the_reason(zoo: Zoo, name: str, text: str) -> None:
    error = zoo.error(name)
    assert isinstance(error, LoadError)
    assert text in str(error)
    assert str(zoo.folder / name / "plugin.wasm") in str(error)


@pytest.mark.parametrize("name", ["truncated", "header-only", *BAD_MODULES])
def test_a_module_that_cannot_be_instantiated_is_reported_with_its_folder(zoo: Zoo, name: str) -> None:
    assert name in str(zoo.error(name))


def test_an_unknown_import_is_named(zoo: Zoo) -> None:
    error = zoo.error("unknown_import")
    assert isinstance(error, LoadError)
    assert "host_does_not_exist" in str(error)


def test_another_protocol_is_refused_with_both_versions(zoo: Zoo) -> None:
    error = zoo.error("probe_protocol_2")
    assert isinstance(error, ProtocolMismatch)
    assert (error.guest_version, error.minimum, error.maximum) == (2, 1, 1)


@pytest.mark.parametrize(("name", "required"), [("probe_app_99", "99.0.0"), ("probe_app_unreadable", "soon")])
def test_an_application_that_is_too_old_is_refused_with_both_versions(zoo: Zoo, name: str, required: str) -> None:
    error = zoo.error(name)
    assert isinstance(error, AppVersionTooOld)
    assert (error.required, error.running) == (required, "1.4.1")


def test_the_second_folder_with_an_id_is_refused_and_the_first_named(zoo: Zoo) -> None:
    error = zoo.error("b-same-id")
    assert isinstance(error, LoadError)
    assert error.plugin_id == "good.first"
    assert str(zoo.folder / "a-good" / "plugin.wasm") in str(error)


def test_a_sidecar_that_is_not_json_is_reported_with_its_path(zoo: Zoo) -> None:
    assert str(zoo.folder / "sidecar" / "config.json") in str(zoo.error("sidecar"))


def test_an_init_that_traps_is_a_plugin_that_does_not_load(zoo: Zoo) -> None:
    assert "trapped in export 'init'" in str(zoo.error("probe_init_trap"))
    assert "bad.probe_init_trap" not in zoo.supervisor.plugins


def test_a_newer_application_admits_what_an_older_one_refuses(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add(variant="probe_app_99")
    assert list(supervise(app_version="99.0").plugins) == ["test.probe"]


def test_a_folder_that_is_a_link_to_a_plugin_is_one(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], tmp_path: Path
) -> None:
    wasm = plugins.add()
    wasm.parent.rename(tmp_path / "elsewhere")
    (plugins.path / "linked").symlink_to(tmp_path / "elsewhere")
    assert supervise().plugins["test.probe"].wasm_path == plugins.path / "linked" / "plugin.wasm"


def test_a_hundred_plugins_load_together_and_the_bad_ones_among_them_are_named(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = guest("minimal", plugins.cache).read_bytes()
    bad = {f"bad-{number}" for number in range(0, 100, 10)}
    good = {f"p.{number}" for number in range(90)}
    for name in bad:
        plugins.add_bytes(name, wasm[:-20])
    for plugin_id in good:
        plugins.add_bytes(plugin_id, _minimal_with_id(wasm, plugin_id))
    supervisor = supervise()
    assert set(supervisor.plugins) == good
    assert set(supervisor.load_errors) == bad
    pids = {pid for status in supervisor.status().values() for pid in status.worker_pids}
    assert len(pids) == 90
    assert all(supervisor.call(plugin_id, "manifest") for plugin_id in good)


def _minimal_with_id(wasm: bytes, plugin_id: str) -> bytes:
    """``minimal`` with another id of the same length, padded in the manifest's white space."""
    changed, count = re.subn(rb'"id": "test\.minimal"', f'"id": "{plugin_id}"'.encode().ljust(20), wasm)
    assert count == 1
    assert len(changed) == len(wasm)
    return changed
