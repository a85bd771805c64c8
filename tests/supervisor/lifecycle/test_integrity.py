"""Modules that were pinned or signed, and what becomes of others: on load, reload, upgrade and inspect."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import ask
from conftest import PluginFolder, Workspace, wait_until
from isoplug.supervisor import IntegrityError, LoadError, SetupError, Supervisor, inspect
from isoplug.supervisor.config import Config, OwnPlugin, Signatures
from isoplug.supervisor.integrity import checksum_file, sha256_of, signature_file
from isoplug.supervisor.integrity.ed25519 import SigningKey, new_key_pair
from versions import PROBE, build, put, status

OTHER = "ab" * 32


def pinned(sha256: str, key: str = PROBE) -> Config:
    return Config(plugins={key: OwnPlugin(sha256=sha256)})


def hash_of(wasm: Path) -> str:
    return sha256_of(wasm.read_bytes())


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, with its public one beside it, where no plugin reaches."""
    path = tmp_path / "keys" / "author.pem"
    path.parent.mkdir()
    new_key_pair(path, path.with_suffix(".pub"), None)
    return path


def trusting(key: Path, *, required: bool = True) -> Config:
    return Config(signatures=Signatures(trusted_keys=(key.with_suffix(".pub"),), required=required))


def sign(wasm: Path, key: Path) -> None:
    signature_file(wasm).write_text(SigningKey.load(key, None).sign(hash_of(wasm)).to_text())


# --- pins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [PROBE, "probe-folder"])
def test_a_pinned_module_is_loaded_and_another_one_is_not(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], by: str
) -> None:
    wasm = plugins.add(folder="probe-folder")
    assert PROBE in supervise(config=pinned(hash_of(wasm), by)).plugins
    refused = supervise(config=pinned(OTHER, by))
    assert not refused.plugins
    error = refused.load_errors["probe-folder"]
    assert isinstance(error, IntegrityError)
    assert f'plugins."{by}".sha256' in str(error)
    assert error.plugin_id == by
    with pytest.raises(IntegrityError):
        refused.load_plugin(wasm)


def test_a_module_that_is_pinned_by_its_folder_never_runs(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    """One that is not even WebAssembly behind its first bytes is refused for its hash, so nothing has looked at it."""
    wasm = plugins.add_bytes("words", b"\0asm\x01\0\0\0garbage")
    supervisor = supervise(config=pinned(OTHER, "words"))
    assert isinstance(supervisor.load_errors["words"], IntegrityError)
    assert not isinstance(supervise(config=pinned(hash_of(wasm), "words")).load_errors["words"], IntegrityError)


def test_a_module_that_is_refused_for_its_id_gets_no_configuration_and_leaves_no_cache(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add(config={"set_config": "trap", "init": "trap"}, folder="elsewhere")
    supervisor = supervise(config=pinned(OTHER))
    assert isinstance(supervisor.load_errors["elsewhere"], IntegrityError)  # and no GuestTrap
    assert not wasm.with_name("manifest.json").exists()


def test_a_pin_by_the_folder_s_name_is_no_section_that_counts_for_nobody(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    wasm = plugins.add(folder="probe-folder")
    supervise(config=pinned(hash_of(wasm), "probe-folder"))
    assert "plugin_not_loaded" not in caplog.text
    supervise(config=Config(plugins={"probe-folder": OwnPlugin(sha256=hash_of(wasm), workers=2)}))
    assert "config.plugin_not_loaded plugin=probe-folder" in caplog.text


def test_a_pin_by_id_that_refused_its_module_has_counted(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    plugins.add(folder="probe-folder")
    assert supervise(config=pinned(OTHER)).load_errors
    assert "plugin_not_loaded" not in caplog.text


@pytest.mark.parametrize("by", [PROBE, "probe-folder"])
def test_an_upgrade_of_a_pinned_plugin_is_refused_and_the_old_version_stays(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], by: str
) -> None:
    wasm = plugins.add(folder="probe-folder")
    old = wasm.read_bytes()
    supervisor = supervise(config=pinned(sha256_of(old), by))
    put(wasm, build(plugins))
    for force in (False, True):
        report = supervisor.reload(force=force)
        assert report.upgraded == ()
        assert isinstance(report.refused["probe-folder"], IntegrityError)
    assert "the new version was refused" in (status(supervisor).upgrade or "")
    assert sha256_of(old)[:12] in (status(supervisor).upgrade or "")
    assert supervisor.call(PROBE, "echo", b"x") == b"x"
    assert status(supervisor).version == "1.0.0"
    put(wasm, old)
    assert not supervisor.reload().refused
    assert status(supervisor).upgrade is None


def test_a_restart_runs_what_was_pinned_whatever_lies_in_the_folder_by_then(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    supervisor = supervise(config=pinned(hash_of(wasm)))
    put(wasm, build(plugins))
    os.kill(status(supervisor).worker_pids[0], 9)
    wait_until(lambda: status(supervisor).restarts == 1 and status(supervisor).state == "ready")
    assert json.loads(supervisor.call(PROBE, "manifest"))["version"] == "1.0.0"


# --- the file beside the module ---------------------------------------------------------------------------------------


def test_the_hash_beside_a_module_refuses_a_changed_one_until_it_is_changed_as_well(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    checksum_file(wasm).write_text(f"{hash_of(wasm)}  plugin.wasm\n")
    supervisor = supervise()
    put(wasm, build(plugins))
    assert isinstance(supervisor.reload().refused[PROBE], IntegrityError)
    assert status(supervisor).version == "1.0.0"
    checksum_file(wasm).write_text(hash_of(wasm))
    assert supervisor.reload().upgraded == (PROBE,)
    assert status(supervisor).version == "2.0.0"


def test_a_module_that_was_refused_is_tried_again_when_the_file_beside_it_changes(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    wasm = plugins.add()
    checksum_file(wasm).write_text(OTHER)
    supervisor = supervise()
    first = supervisor.load_errors[PROBE]
    assert isinstance(first, IntegrityError)
    assert supervisor.reload().refused[PROBE] is first  # nothing has changed
    checksum_file(wasm).unlink()
    assert supervisor.reload().loaded == (PROBE,)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_only_signed_modules_are_loaded_where_signatures_are_required(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], key: Path
) -> None:
    sign(plugins.add("test.signed"), key)
    plugins.add("test.unsigned")
    sign(plugins.add("test.changed"), key)
    put(plugins.path / "test.changed" / "plugin.wasm", build(plugins, plugin_id="test.changed"))
    supervisor = supervise(config=trusting(key))
    assert set(supervisor.plugins) == {"test.signed"}
    assert {name: type(error) for name, error in supervisor.load_errors.items()} == {
        "test.unsigned": IntegrityError,
        "test.changed": IntegrityError,
    }
    sign(plugins.path / "test.unsigned" / "plugin.wasm", key)
    assert supervisor.reload().loaded == ("test.unsigned",)


def test_an_upgrade_needs_a_signature_of_its_own(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], key: Path
) -> None:
    wasm = plugins.add()
    sign(wasm, key)
    supervisor = supervise(config=trusting(key))
    put(wasm, build(plugins))
    assert "signature of another module" in str(supervisor.reload().refused[PROBE])
    signature_file(wasm).unlink()
    assert "is not signed" in str(supervisor.reload().refused[PROBE])
    sign(wasm, key)
    assert supervisor.reload().upgraded == (PROBE,)


def test_a_signed_module_in_another_folder_is_the_same_plugin_with_its_own_id(
    plugins: PluginFolder, supervise: Callable[..., Supervisor], key: Path
) -> None:
    wasm = plugins.add()
    sign(wasm, key)
    shutil.copytree(wasm.parent, plugins.path / "test.admin")
    (plugins.path / "test.admin" / "manifest.json").write_text(json.dumps({"id": "test.admin"}))
    supervisor = supervise(config=trusting(key))
    assert set(supervisor.plugins) == {PROBE}
    assert set(supervisor.load_errors) & {"test.admin", PROBE}


def test_without_trusted_keys_signatures_do_not_matter(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    signature_file(plugins.add()).write_text("garbage")
    assert PROBE in supervise().plugins


def test_a_key_within_reach_of_plugins_and_one_that_cannot_be_read_stop_the_start(
    plugins: PluginFolder, workspace: Workspace, supervise: Callable[..., Supervisor], key: Path
) -> None:
    for folder in (workspace.path, plugins.path):
        copy = shutil.copy(key.with_suffix(".pub"), folder / "author.pub")
        with pytest.raises(SetupError, match=r"signatures\.trusted_keys .* within plugins' reach"):
            supervise(config=Config(signatures=Signatures(trusted_keys=(Path(copy),))))
    with pytest.raises(SetupError, match="cannot read the public key"):
        supervise(config=Config(signatures=Signatures(trusted_keys=(key.with_suffix(".none"),))))


def test_guests_write_neither_hashes_nor_signatures_of_modules_in_the_workspace(
    workspace: Workspace, plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    workspace.grant(create_files=["all"], edit_files=["all"])
    (workspace.path / "tools").mkdir()
    wasm = Path(shutil.copy(plugins.add(), workspace.path / "tools" / "plugin.wasm"))
    supervisor = supervise(plugins_dir=None)
    supervisor.load_plugin(wasm)
    for path in (checksum_file(wasm), signature_file(wasm)):
        assert ask(supervisor, "host_write_file", {"path": f"tools/{path.name}", "content": "x"}) != b""
        assert not path.exists()
    assert ask(supervisor, "host_write_file", {"path": "tools/note.txt", "content": "x"}) == b""


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_refuses_what_a_supervisor_would_refuse(plugins: PluginFolder, key: Path) -> None:
    wasm = plugins.add()
    assert inspect(wasm, config=pinned(hash_of(wasm))).id == PROBE
    for config in (pinned(OTHER), trusting(key)):
        with pytest.raises(IntegrityError):
            inspect(wasm, config=config)
    sign(wasm, key)
    assert inspect(wasm, config=trusting(key)).id == PROBE
    checksum_file(wasm).write_text(OTHER)
    with pytest.raises(IntegrityError):
        inspect(wasm)


def test_a_path_without_a_file_s_name_is_a_load_error() -> None:
    for path in ("/", "."):
        with pytest.raises(LoadError, match="is a directory"):
            inspect(path)
