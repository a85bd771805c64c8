"""Keys in the environment and in a keyring."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from typing import Any

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.backends.null
import keyring.errors
import pytest

from isoplug.shared.errors import SetupError
from isoplug.supervisor.secrets import EnvironmentKey, KeyringKey

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
VARIABLE = "ISOPLUG_TEST_KEY"


# --- the environment ------------------------------------------------------------------------------------------------


def test_a_variable_holds_the_key_and_none_is_made_for_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    source = EnvironmentKey(VARIABLE)
    assert source.load() is None
    with pytest.raises(SetupError, match=rf"{VARIABLE} is not set.*urandom"):
        source.make()
    monkeypatch.setenv(VARIABLE, f" {TEXT}\n")
    assert source.load() == KEY


@pytest.mark.parametrize("text", ["", " ", TEXT[:-1], TEXT[4:], "hunter2" * 10, "ключ" * 11, "\udcff" * 44, "=" * 44])
def test_a_variable_with_something_else_is_refused_by_its_name_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SetupError, match=rf"{VARIABLE} holds no key.*base64 of 32 bytes") as caught:
        EnvironmentKey(VARIABLE).load()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# --- a keyring ------------------------------------------------------------------------------------------------------


class Remembering(keyring.backend.KeyringBackend):
    """A keyring that keeps what it is given for as long as it lives, and fails as it is told to."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.failure: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.failure is not None:
            raise type(self.failure)(f"cannot store {password}")
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def ring() -> Iterator[Remembering]:
    before = keyring.get_keyring()
    remembering = Remembering()
    keyring.set_keyring(remembering)
    yield remembering
    keyring.set_keyring(before)


def test_a_keyring_keeps_a_key_per_state_folder(ring: Remembering) -> None:
    one, other = KeyringKey("/state/one"), KeyringKey("/state/other")
    assert one.load() is None
    key = one.make()
    assert len(key) == 32
    assert one.load() == key
    assert KeyringKey("/state/one").load() == key
    assert other.load() is None
    assert other.make() != key
    assert sorted(ring.entries) == [("isoplug", "/state/one"), ("isoplug", "/state/other")]


def test_an_entry_that_is_no_key_is_refused(ring: Remembering) -> None:
    ring.entries["isoplug", "/state"] = "hunter2"
    with pytest.raises(SetupError, match="keyring's entry 'isoplug' for '/state' holds no key") as caught:
        KeyringKey("/state").load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("failure", [keyring.errors.KeyringLocked(), OSError(), keyring.errors.PasswordSetError()])
def test_what_a_keyring_raises_is_told_by_its_name_alone(ring: Remembering, failure: Exception) -> None:
    ring.failure = failure
    with pytest.raises(SetupError, match=rf"the keyring failed \({type(failure).__name__}\)") as caught:
        KeyringKey("/state").make()
    assert "cannot store" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_keyring_that_keeps_nothing_is_noticed_before_anything_is_encrypted() -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.null.Keyring())
    try:
        with pytest.raises(SetupError, match="not kept"):
            KeyringKey("/state").make()
    finally:
        keyring.set_keyring(before)


def test_a_machine_without_a_keyring_is_told_what_to_choose() -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(SetupError, match=r'none that can be used.*"file" or "env"'):
            KeyringKey("/state")
    finally:
        keyring.set_keyring(before)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "keyring"]:
        monkeypatch.delitem(sys.modules, name)
    missing: Any = None  # Python's own way of saying that a module is not to be had
    monkeypatch.setitem(sys.modules, "keyring", missing)
    with pytest.raises(SetupError, match=r"isoplug\[keyring\]"):
        KeyringKey("/state")
