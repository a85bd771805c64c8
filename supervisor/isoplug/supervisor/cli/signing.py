"""``isoplug sign | verify``: who vouches for a module."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isoplug.supervisor.cli.options import config_option, json_option, print_json, printable, reporting

if TYPE_CHECKING:
    from isoplug.supervisor.integrity import IntegrityPolicy
    from isoplug.supervisor.integrity.ed25519 import SigningKey

__all__ = ["sign", "verify"]

_PASSPHRASE = "ISOPLUG_KEY_PASSPHRASE"

#: As much as ``limits.wasm_module`` may be.
_MAX_BYTES = 1 << 30


@click.command()
@click.argument("wasm", type=click.Path(path_type=Path), required=False)
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The private key to sign with (PEM).")
@click.option(
    "--new-key", type=click.Path(path_type=Path), metavar="FILE", help="Make a private key, and FILE's .pub beside it."
)
@click.option("--passphrase", is_flag=True, help="Protect the new key with a passphrase.")
@json_option
@reporting
def sign(wasm: Path | None, key: Path | None, new_key: Path | None, passphrase: bool, as_json: bool) -> None:
    """Sign a plugin.wasm: write plugin.wasm.sig beside it, for whoever trusts the key.

    Keys are Ed25519. A passphrase is asked for, or taken from ISOPLUG_KEY_PASSPHRASE.

    \b
    Examples:
      isoplug sign --new-key author.pem
      isoplug sign plugins/words/plugin.wasm --key author.pem
    """
    if new_key is not None and wasm is None and key is None:
        _make_key(new_key, passphrase, as_json)
    elif wasm is not None and key is not None and new_key is None and not passphrase:
        _sign(wasm, key, as_json)
    else:
        raise click.UsageError("give a WASM and --key FILE to sign, or --new-key FILE alone to make a key")


@click.command()
@click.argument("wasm", type=click.Path(path_type=Path))
@click.option(
    "--key", "keys", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="A public key that you trust."
)
@config_option
@json_option
@reporting
def verify(wasm: Path, keys: tuple[Path, ...], config: Path | None, as_json: bool) -> None:
    """Check a plugin.wasm without running it: its hash, and its signature.

    The hash is compared with plugin.wasm.sha256 beside it and with the pins in --config. The signature has to be by one
    of the keys that --key names, of which there may be several; without --key, by one that --config trusts. Exit code
    6 when something speaks against the module, and when nothing speaks for it.

    \b
    Examples:
      isoplug verify plugins/words/plugin.wasm --key author.pub
      isoplug verify plugins/words/plugin.wasm --config isoplug.toml --json
    """
    from isoplug.shared.errors import IntegrityError, LoadError
    from isoplug.supervisor.files import read_bounded, reason
    from isoplug.supervisor.integrity import checksum_file, read_checksum, sha256_of, signature_file
    from isoplug.supervisor.plugins.folder import PluginFiles

    policy, name = _policy(keys, config), PluginFiles.beside(wasm).name
    try:
        sha256 = sha256_of(read_bounded(wasm, _MAX_BYTES))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read {wasm}: {reason(error)}; check its path") from error
    signer = policy.check(wasm, name, sha256)
    pinned_by = [f'plugins."{key}".sha256' for key, pin in policy.pins.items() if pin == sha256]
    if read_checksum(wasm, name) is not None:
        pinned_by.append(checksum_file(wasm).name)
    if signer is None and not pinned_by:
        raise IntegrityError(
            f"nothing vouches for {wasm}: there is no {checksum_file(wasm).name} beside it, no pin with its SHA-256 "
            f"({sha256}) and no signature by a key that is trusted; give --key FILE, or --config FILE"
        )
    found = "none" if not signature_file(wasm).exists() else "not checked, for no key is trusted"
    if as_json:
        print_json({"sha256": sha256, "pinned_by": pinned_by, "signed_by": None if signer is None else signer.name})
        return
    click.echo(f"sha256     {sha256}")
    click.echo(f"pinned     {printable(', '.join(pinned_by)) or 'no'}")
    click.echo(f"signature  {found if signer is None else f'good, by {printable(signer.name)}'}")


def _make_key(private: Path, is_protected: bool, as_json: bool) -> None:
    from isoplug.supervisor.integrity.ed25519 import new_key_pair

    if not private.name or private.suffix == ".pub":
        raise click.UsageError("--new-key names the private key's file, such as author.pem; the public one gets .pub")
    public = private.with_suffix(".pub")
    text = new_key_pair(private, public, _passphrase(private, is_new=True) if is_protected else None)
    if as_json:
        print_json({"private_key": str(private), "public_key": str(public), "key": text})
    else:
        click.echo(f"{printable(str(private))}  keep it to yourself: it signs")
        click.echo(f"{printable(str(public))}  give it to whoever is to trust you: it verifies")


def _sign(wasm: Path, key: Path, as_json: bool) -> None:
    from isoplug.shared.errors import SetupError
    from isoplug.supervisor.files import read_bounded, reason, write_atomically
    from isoplug.supervisor.integrity import sha256_of, signature_file

    signing_key, target = _signing_key(key), signature_file(wasm)
    try:
        signature = signing_key.sign(sha256_of(read_bounded(wasm, _MAX_BYTES)))
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read {wasm}: {reason(error)}; check its path") from error
    try:
        write_atomically(target, signature.to_text().encode(), new_mode=0o644)
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write {target}: {reason(error)}; sign a copy in a folder of yours") from error
    if as_json:
        print_json({"signature": str(target), "sha256": signature.sha256})
    else:
        click.echo(f"{printable(str(target))}  signs the SHA-256 {signature.sha256}")


def _signing_key(path: Path) -> SigningKey:
    from isoplug.supervisor.integrity.ed25519 import PassphraseNeeded, SigningKey, is_open_to_others

    try:
        key = SigningKey.load(path, None)
    except PassphraseNeeded:
        key = SigningKey.load(path, _passphrase(path, is_new=False))
    if is_open_to_others(path):
        click.secho(f"isoplug: other users may read the private key {path}; run: chmod 600 '{path}'", err=True)
    return key


def _passphrase(path: Path, *, is_new: bool) -> str:
    """Raises SetupError when there is nobody to ask."""
    from isoplug.shared.errors import SetupError

    given = os.environ.get(_PASSPHRASE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise SetupError(f"the passphrase of {path} is missing: set {_PASSPHRASE}, or run this in a terminal")
    answer: str = click.prompt(f"Passphrase of {path}", hide_input=True, confirmation_prompt=is_new, err=True)
    return answer


def _policy(keys: tuple[Path, ...], config: Path | None) -> IntegrityPolicy:
    """That of the configuration; with ``keys``, a signature by one of them is a must."""
    from dataclasses import replace

    from isoplug.supervisor.config import Config, load_config
    from isoplug.supervisor.integrity import configured_policy
    from isoplug.supervisor.integrity.ed25519 import load_trusted_key

    policy = configured_policy(Config() if config is None else load_config(config))
    if not keys:
        return policy
    return replace(policy, trusted=[load_trusted_key(key) for key in keys], is_signature_required=True)
