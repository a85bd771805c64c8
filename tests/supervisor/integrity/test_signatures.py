"""Keys, signatures, and what a module needs to be let in."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from isoplug.shared.errors import IntegrityError, SetupError
from isoplug.supervisor.integrity import IntegrityPolicy, Signature, TrustedKey, sha256_of, signature_file
from isoplug.supervisor.integrity.ed25519 import (
    PassphraseNeeded,
    SigningKey,
    is_signed_by,
    load_trusted_key,
    new_key_pair,
)
from isoplug.supervisor.integrity.signature import parse_signature, signed_message

WASM = b"\0asm\x01\0\0\0"
SHA256 = sha256_of(WASM)


def make_pair(folder: Path, name: str = "author", passphrase: str | None = None) -> tuple[SigningKey, TrustedKey]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    new_key_pair(private, public, passphrase)
    return SigningKey.load(private, passphrase), load_trusted_key(public)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[SigningKey, TrustedKey]:
    return make_pair(tmp_path)


@pytest.fixture
def wasm(tmp_path: Path) -> Path:
    path = tmp_path / "words" / "plugin.wasm"
    path.parent.mkdir()
    path.write_bytes(WASM)
    return path


def refusal(policy: IntegrityPolicy, wasm: Path, sha256: str = SHA256) -> str:
    with pytest.raises(IntegrityError) as caught:
        policy.check(wasm, "words", sha256)
    assert caught.value.plugin_id == "words"
    return str(caught.value)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_a_signature_holds_for_its_key_and_its_module_only(pair: tuple[SigningKey, TrustedKey], tmp_path: Path) -> None:
    key, trusted = pair
    _, other = make_pair(tmp_path, "other")
    signature = key.sign(SHA256)
    assert (signature.sha256, signature.key) == (SHA256, trusted.key)
    assert is_signed_by(trusted.key, SHA256, signature.signature)
    assert not is_signed_by(other.key, SHA256, signature.signature)
    assert not is_signed_by(trusted.key, sha256_of(b"x"), signature.signature)
    flipped = bytes([signature.signature[0] ^ 1]) + signature.signature[1:]
    assert not is_signed_by(trusted.key, SHA256, flipped)
    assert not is_signed_by(b"\xff" * 32, SHA256, signature.signature)


def test_what_is_signed_cannot_be_taken_for_anything_else() -> None:
    message = signed_message(SHA256)
    assert message.startswith(b"isoplug plugin module 1\0")
    assert message.endswith(bytes.fromhex(SHA256))
    assert SHA256.encode() not in message


def test_the_text_of_a_signature_is_read_back_as_it_was(pair: tuple[SigningKey, TrustedKey]) -> None:
    signature = pair[0].sign(SHA256)
    assert parse_signature(signature.to_text().encode()) == signature
    assert parse_signature(signature.to_text().replace("\n", "\r\n").encode()) == signature


TEXT = Signature(SHA256, bytes(32), bytes(64)).to_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not begin with"),
        (TEXT.replace("signature 1", "signature 2", 1), "another version"),
        (TEXT + "key x\n", "5 lines"),
        (TEXT.rpartition("signature ")[0], "3 lines"),
        (TEXT.replace("sha256 ", "sha512 "), "'sha256' is missing"),
        (TEXT.replace(SHA256, SHA256.upper()), "sha256 is not one"),
        (TEXT.replace(SHA256, SHA256[:-1]), "sha256 is not one"),
        (TEXT.replace("key ", "key !"), "key is not base64"),
        (TEXT.replace("AAAA", "", 1), "key has 29 bytes, not 32"),
        (TEXT.replace("signature A", "signature AAAAA"), "signature has 67 bytes, not 64"),
        (TEXT.replace("key ", "key\t"), "'key' is missing"),
        ("\u00e9", "not text"),
    ],
)
def test_any_other_text_is_no_signature_and_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_signature(text.encode())


# --- what is let in ---------------------------------------------------------------------------------------------------


def test_without_pins_and_keys_everything_is_let_in(wasm: Path) -> None:
    signature_file(wasm).write_text("no signature at all")
    assert IntegrityPolicy().check(wasm, "words", SHA256) is None


def test_a_pin_names_both_hashes_and_where_it_stands(wasm: Path) -> None:
    policy = IntegrityPolicy(pins={"words": "ab" * 32, "test.words": SHA256})
    words = refusal(policy, wasm)
    assert SHA256[:12] in words
    assert "abababababab" in words
    assert str(wasm) in words
    assert 'plugins."words".sha256' in words
    policy.check(wasm, "elsewhere", SHA256)
    policy.check_pin(wasm, "elsewhere", "test.words", SHA256)
    with pytest.raises(IntegrityError):
        policy.check_pin(wasm, "elsewhere", "test.words", sha256_of(b"x"))


def test_a_signature_by_a_trusted_key_is_let_in(wasm: Path, pair: tuple[SigningKey, TrustedKey]) -> None:
    signature_file(wasm).write_text(pair[0].sign(SHA256).to_text())
    for is_required in (True, False):
        assert IntegrityPolicy({}, [pair[1]], is_required).check(wasm, "words", SHA256) == pair[1]


def test_no_signature_is_refused_only_where_one_is_required(wasm: Path, pair: tuple[SigningKey, TrustedKey]) -> None:
    assert IntegrityPolicy({}, [pair[1]]).check(wasm, "words", SHA256) is None
    assert "is not signed" in refusal(IntegrityPolicy({}, [pair[1]], is_signature_required=True), wasm)


@pytest.mark.parametrize("is_required", [True, False])
def test_a_wrong_signature_is_refused_also_where_none_is_required(
    wasm: Path, pair: tuple[SigningKey, TrustedKey], tmp_path: Path, is_required: bool
) -> None:
    key, trusted = pair
    stranger, _ = make_pair(tmp_path, "stranger")
    policy, path = IntegrityPolicy({}, [trusted], is_required), signature_file(wasm)
    path.write_text(stranger.sign(SHA256).to_text())
    assert "not trusted (trusted: author.pub)" in refusal(policy, wasm)
    # A stranger who writes the trusted key's name above a signature of his own.
    path.write_text(Signature(SHA256, trusted.key, stranger.sign(SHA256).signature).to_text())
    assert "forged or damaged" in refusal(policy, wasm)
    path.write_text(key.sign(sha256_of(b"x")).to_text())
    assert "signature of another module" in refusal(policy, wasm)
    # The old module's signature under the new one's hash.
    path.write_text(Signature(SHA256, trusted.key, key.sign(sha256_of(b"x")).signature).to_text())
    assert "forged or damaged" in refusal(policy, wasm)
    path.write_text("isoplug signature 1\n")
    assert "cannot use the signature" in refusal(policy, wasm)
    path.unlink()
    path.mkdir()
    assert "is a directory" in refusal(policy, wasm)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_new_private_key_is_for_its_owner_only_and_nothing_is_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "author.pem", tmp_path / "author.pub"
    text = new_key_pair(private, public, None)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert base64.b64decode(text) == load_trusted_key(public).key
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(SetupError, match="never overwritten"):
        new_key_pair(private, tmp_path / "x.pub", None)
    with pytest.raises(SetupError, match="never overwritten"):
        new_key_pair(tmp_path / "x.pem", public, None)
    assert (private.read_bytes(), public.read_bytes()) == before
    assert sorted(os.listdir(tmp_path)) == ["author.pem", "author.pub"]


def test_a_protected_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    _, trusted = make_pair(tmp_path, passphrase="open sesame")
    path = tmp_path / "author.pem"
    assert SigningKey.load(path, "open sesame").public_bytes == trusted.key
    with pytest.raises(PassphraseNeeded):
        SigningKey.load(path, None)
    with pytest.raises(SetupError, match="passphrase is wrong"):
        SigningKey.load(path, "open barley")
    make_pair(tmp_path, "bare")
    SigningKey.load(tmp_path / "bare.pem", "a passphrase that is not needed")


@pytest.mark.parametrize("data", [b"", b"MZ", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    with pytest.raises(SetupError, match="not a private key in PEM"):
        SigningKey.load(path, None)
    with pytest.raises(SetupError, match=r"is not a public key in PEM|is a private key"):
        load_trusted_key(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(SetupError, match=r"cannot read the p.* key"):
            SigningKey.load(missing, None)
        with pytest.raises(SetupError, match=r"cannot read the p.* key"):
            load_trusted_key(missing)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    make_pair(tmp_path)
    with pytest.raises(SetupError, match="is a private key"):
        load_trusted_key(tmp_path / "author.pem")
    with pytest.raises(SetupError, match="not a private key"):
        SigningKey.load(tmp_path / "author.pub", None)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine has no openssl")
def test_keys_of_openssl_are_taken_and_other_kinds_refused(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    for kind, options in {"ed25519": [], "x25519": [], "ed448": []}.items():
        openssl("genpkey", "-algorithm", kind, *options, "-out", f"{kind}.pem")
        openssl("pkey", "-in", f"{kind}.pem", "-pubout", "-out", f"{kind}.pub")
    key, trusted = SigningKey.load(tmp_path / "ed25519.pem", None), load_trusted_key(tmp_path / "ed25519.pub")
    assert is_signed_by(trusted.key, SHA256, key.sign(SHA256).signature)
    (tmp_path / "message").write_bytes(signed_message(SHA256))
    (tmp_path / "signature").write_bytes(key.sign(SHA256).signature)
    verify = ("pkeyutl", "-verify", "-pubin", "-inkey", "ed25519.pub", "-rawin", "-in", "message")
    openssl(*verify, "-sigfile", "signature")
    for kind in ("x25519", "ed448"):
        with pytest.raises(SetupError, match="another kind than Ed25519"):
            SigningKey.load(tmp_path / f"{kind}.pem", None)
        with pytest.raises(SetupError, match="another kind than Ed25519"):
            load_trusted_key(tmp_path / f"{kind}.pub")
