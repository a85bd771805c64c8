"""``isoplug sign`` and ``isoplug verify``, as a person or a shell script runs them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import SCRIPT, needs_script
from conftest import PluginFolder, wait_until
from isoplug.supervisor.integrity import checksum_file, sha256_of, signature_file
from isoplug.supervisor.integrity.ed25519 import SigningKey, new_key_pair

PASSPHRASE = "ISOPLUG_KEY_PASSPHRASE"
Run = Callable[..., tuple[str, str]]

pytestmark = needs_script


@pytest.fixture
def wasm(plugins: PluginFolder) -> Path:
    return plugins.add(folder="words")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("verify", ..., code=6)``: stdout and stderr; the exit code must be ``code``."""

    def run(*arguments: str | Path, code: int = 0, passphrase: str = "") -> tuple[str, str]:
        environment = {**os.environ, PASSPHRASE: passphrase}
        command = [str(SCRIPT), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture
def signed(wasm: Path, tmp_path: Path) -> Path:
    """The module, signed by author.pem."""
    make_pair(tmp_path, "author")
    signature = SigningKey.load(tmp_path / "author.pem", None).sign(sha256_of(wasm.read_bytes()))
    signature_file(wasm).write_text(signature.to_text())
    return wasm


def make_pair(folder: Path, name: str, passphrase: str | None = None) -> None:
    new_key_pair(folder / f"{name}.pem", folder / f"{name}.pub", passphrase)


def test_a_new_key_signs_and_its_public_half_verifies(run: Run, wasm: Path) -> None:
    sha256 = sha256_of(wasm.read_bytes())
    made = json.loads(run("sign", "--new-key", "author.pem", "--json")[0])
    assert (made["private_key"], made["public_key"]) == ("author.pem", "author.pub")
    assert sha256 in run("sign", wasm, "--key", "author.pem")[0]
    out, _ = run("verify", wasm, "--key", "author.pub")
    assert sha256 in out
    assert "good, by author.pub" in out


def test_a_module_that_was_changed_is_not_verified(run: Run, signed: Path) -> None:
    signed.write_bytes(signed.read_bytes() + b"\0")
    out, err = run("verify", signed, "--key", "author.pub", code=6)
    assert out == ""
    assert "integrity_error" in err
    assert "signature of another module" in err


def test_one_of_several_keys_is_enough_and_a_stranger_s_is_not(run: Run, signed: Path, tmp_path: Path) -> None:
    make_pair(tmp_path, "other")
    run("verify", signed, "--key", "other.pub", "--key", "author.pub")
    assert "not trusted" in run("verify", signed, "--key", "other.pub", code=6)[1]


def test_nothing_is_verified_where_nothing_vouches_for_the_module(run: Run, signed: Path) -> None:
    """Also where there is a signature, which anybody may have made."""
    assert "nothing vouches" in run("verify", signed, code=6)[1]
    signature_file(signed).unlink()
    assert "is not signed" in run("verify", signed, "--key", "author.pub", code=6)[1]


def test_a_hash_beside_the_module_is_enough_and_says_that_the_signature_was_not_checked(run: Run, signed: Path) -> None:
    checksum_file(signed).write_text(sha256_of(signed.read_bytes()))
    out, _ = run("verify", signed)
    assert "plugin.wasm.sha256" in out
    assert "not checked" in out
    checksum_file(signed).write_text("ab" * 32)
    assert "abababababab" in run("verify", signed, code=6)[1]


def test_the_configuration_says_which_hashes_and_keys_count(run: Run, signed: Path, tmp_path: Path) -> None:
    config, sha256 = tmp_path / "isoplug.toml", sha256_of(signed.read_bytes())
    config.write_text(f'[signatures]\ntrusted_keys = ["author.pub"]\n[plugins."a.b"]\nsha256 = "{sha256.upper()}"\n')
    answer = json.loads(run("verify", signed, "--config", config, "--json")[0])
    assert (answer["signed_by"], answer["pinned_by"]) == ("author.pub", ['plugins."a.b".sha256'])
    run("inspect", signed, "--config", config)
    config.write_text(f'[plugins.words]\nsha256 = "{"ab" * 32}"\n')
    assert 'plugins."words".sha256' in run("verify", signed, "--config", config, code=6)[1]
    assert "integrity_error" in run("inspect", signed, "--config", config, code=6)[1]
    config.write_text("[signatures]\nrequired = true\n")
    assert "names no key" in run("verify", signed, "--config", config, code=2)[1]


def test_a_protected_key_takes_its_passphrase_from_the_environment(run: Run, wasm: Path) -> None:
    run("sign", "--new-key", "author.pem", "--passphrase", passphrase="sesame")
    assert "set ISOPLUG_KEY_PASSPHRASE" in run("sign", wasm, "--key", "author.pem", code=2)[1]
    assert "passphrase is wrong" in run("sign", wasm, "--key", "author.pem", code=2, passphrase="barley")[1]
    assert not signature_file(wasm).exists()
    run("sign", wasm, "--key", "author.pem", passphrase="sesame")
    assert signature_file(wasm).exists()


def test_a_passphrase_is_asked_for_in_a_terminal_and_not_shown(wasm: Path, tmp_path: Path) -> None:
    make_pair(tmp_path, "author", "sesame")
    ours, theirs = pty.openpty()
    try:
        command = [SCRIPT, "sign", wasm, "--key", "author.pem"]
        environment = {name: value for name, value in os.environ.items() if name != PASSPHRASE}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        ) as process:
            shown = b""
            while b"Passphrase of author.pem: " not in shown:  # its end is written when nothing is echoed any more
                shown += os.read(ours, 4096)
            os.write(ours, b"sesame\n")
            assert process.wait(60) == 0
            wait_until(signature_file(wasm).exists)
            shown += os.read(ours, 4096)
        assert b"sesame" not in shown
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_key_that_others_may_read_is_used_with_a_warning(run: Run, wasm: Path, tmp_path: Path) -> None:
    make_pair(tmp_path, "author")
    (tmp_path / "author.pem").chmod(0o644)
    assert "chmod 600" in run("sign", wasm, "--key", "author.pem")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sign"], 2, "give a WASM and --key FILE"),
        (["sign", "words.wasm", "--new-key", "author.pem"], 2, "give a WASM and --key FILE"),
        (["sign", "words.wasm", "--key", "words.wasm"], 2, "not a private key in PEM"),
        (["sign", "none.wasm", "--key", "author.pem"], 2, "cannot read none.wasm: No such file"),
        (["sign", "/", "--key", "author.pem"], 2, "cannot read /: is a directory"),
        (["sign", "--new-key", "author.pem"], 2, "exists already"),
        (["sign", "--new-key", "/"], 2, "names the private key's file"),
        (["sign", "--new-key", "nowhere/author.pem"], 2, "cannot write nowhere/author.pem: No such file"),
        (["verify", "none.wasm", "--key", "author.pub"], 6, "cannot read none.wasm: No such file"),
        (["verify", "words.wasm", "--key", "author.pem"], 2, "is a private key"),
        (["verify", "/", "--key", "author.pub"], 6, "cannot read /: is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_with_what_to_do(
    run: Run, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    make_pair(tmp_path, "author")
    (tmp_path / "words.wasm").write_bytes(b"\0asm\x01\0\0\0")
    out, err = run(*arguments, code=code)
    assert out == ""
    assert words in " ".join(err.split())


def test_the_help_of_both_leads_with_examples(run: Run) -> None:
    for command in ("sign", "verify"):
        out, _ = run(command, "--help")
        assert out.index("Examples:") < out.index("Options:")
