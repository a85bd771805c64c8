"""Guest manifests: what is read, what is refused and with which words, and the cache beside the module."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.shared.errors import AppVersionTooOld, LoadError, ProtocolMismatch
from isoplug.supervisor.plugins import Manifest, check_compatible, parse_manifest, read_cached, write_cached

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL: dict[str, Any] = {
    "id": "diaryx.daily",
    "name": "Daily",
    "version": "1.0.0",
    "description": "A page per day",
    "capabilities": ["custom_commands"],
}


def parsed(**changes: Any) -> Manifest:
    return parse_manifest(json.dumps({**MINIMAL, **changes}).encode(), "folder")


def complaint(data: bytes) -> str:
    with pytest.raises(LoadError) as caught:
        parse_manifest(data, "folder")
    assert caught.value.plugin_id == "folder"
    assert "'folder'" in str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


# --- reading ------------------------------------------------------------------------------------------------


def test_the_required_fields_are_enough() -> None:
    manifest = parsed()
    assert (manifest.id, manifest.protocol_version, manifest.commands, manifest.min_app_version) == (
        "diaryx.daily",
        1,
        (),
        None,
    )


def test_everything_optional_is_read_and_the_unknown_is_kept() -> None:
    manifest = parsed(
        ui=[{"slot": "SettingsTab"}],
        commands=["today"],
        cli=[{"name": "daily"}],
        requested_permissions={
            "defaults": {"read_files": {"include": ["all"]}},
            "reasons": {"read_files": "why"},
        },
        conversions=["heic:jpeg"],
        min_app_version="1.4.0",
        server_functions=[{"name": "n", "method": "GET", "path": "/x", "description": "d"}],
        later={"a": [1]},
    )
    assert manifest.commands == ("today",)
    assert manifest.ui == ({"slot": "SettingsTab"},)
    assert manifest.requested_permissions is not None
    assert manifest.requested_permissions.defaults == {"read_files": {"include": ["all"]}}
    assert manifest.server_functions[0].path == "/x"
    assert manifest.model_extra == {"later": {"a": [1]}}


@pytest.mark.parametrize(("said", "means"), [(True, True), (False, False), ("yes", False), (1, False), (None, False)])
def test_a_plugin_is_stateless_only_when_it_says_true_and_anything_else_is_no_reason_to_refuse_it(
    said: Any, means: bool
) -> None:
    assert parsed(stateless=said).stateless is means
    assert not parsed().stateless


def test_what_the_rust_sdk_writes_for_absent_options_is_accepted() -> None:
    manifest = parsed(requested_permissions=None, min_app_version=None, ui=[], commands=[], cli=[])
    assert manifest.requested_permissions is None
    check_compatible(manifest, "1.4.1")


@pytest.mark.parametrize("strange", ["all", [], 5, {"defaults": None}, {"reasons": ["x"]}, {"other": 1}])
def test_strange_requested_permissions_do_not_refuse_a_plugin(strange: Any) -> None:
    requested = parsed(requested_permissions=strange).requested_permissions
    assert requested is None or (requested.defaults == {} and requested.reasons == {})


def test_unknown_capabilities_are_named_for_a_warning() -> None:
    assert parsed(capabilities=["zz", "file_events", "aa", "aa"]).unknown_capabilities == ("aa", "zz")
    assert parsed().unknown_capabilities == ()


def test_a_guests_field_cannot_take_the_place_of_a_method() -> None:
    manifest = parsed(unknown_capabilities="x", model_dump="y", to_json_object="z", __class__="w")
    assert manifest.unknown_capabilities == ()
    assert manifest.to_json_object()["model_dump"] == "y"


def test_a_manifest_can_be_written_in_python() -> None:
    assert Manifest(**MINIMAL) == parsed()


# --- refusing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON: .*line 1"),
        (b"[]", "is a JSON array, it must be an object"),
        (b"null", "is a JSON null"),
        (b'"x"', "is a JSON string"),
        (b"true", "is a JSON boolean"),
        (b'{"id": "\xff"}', r"is not UTF-8 text \(byte 8\)"),
        (b'{"id": NaN}', "is not JSON"),
        (b'{"id": 1e999}', "has the number inf at 'id'"),
        (b'{"id": "\\ud800"}', "is not JSON"),
        (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", "nested deeper than 100"),
        (b'{"a":' + b"[" * 100_000, "nested deeper than 100"),
        (b'{"a":' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"a":' + b"1" * 4000 + b"}", "too large at 'a'"),
        (b"{}" + b" " * (1 << 20), "bytes long, the limit is 1048576"),
        (b"{}", "id is missing; name is missing; version is missing; description is missing; capabilities"),
    ],
)
def test_what_is_not_a_manifest_is_refused_with_the_reason(data: bytes, says: str) -> None:
    import re

    assert re.search(says, complaint(data))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": 5}, "name must be a string"),
        ({"capabilities": "file_events"}, "capabilities must be a list"),
        ({"capabilities": {"a": 1}}, "capabilities must be a list"),
        ({"capabilities": ["a", 5]}, "capabilities.1 must be a string"),
        ({"commands": None}, "commands must be a list"),
        ({"ui": ["x"]}, "ui.0 must be an object"),
        ({"protocol_version": "1"}, "protocol_version must be a whole number"),
        ({"protocol_version": True}, "protocol_version must be a whole number"),
        ({"protocol_version": 1.0}, "protocol_version must be a whole number"),
        ({"min_app_version": 1.4}, "min_app_version must be a string"),
        ({"server_functions": [{"name": "x"}]}, "server_functions.0.method is missing"),
        ({"id": ""}, "id must have 1 to 200 characters, not 0"),
        ({"id": "x" * 201}, "id must have 1 to 200 characters, not 201"),
        ({"id": None}, "id must be a string"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], says: str) -> None:
    assert says in complaint(json.dumps({**MINIMAL, **changes}).encode())


@pytest.mark.parametrize(
    "plugin_id",
    ["diaryx.sync", "publish", "com.example.word-count", "diaryx.storage.s3", "@scope_x", "日記", "x" * 200],
)
def test_ids_of_the_usual_kinds_are_accepted(plugin_id: str) -> None:
    assert parsed(id=plugin_id).id == plugin_id


@pytest.mark.parametrize(
    "plugin_id",
    [
        "a b",
        "a\n",
        "a:b",
        "a/b",
        "a\\b",
        "..",
        ".",
        "*",
        "a*",
        "all",
        "ALL",
        "a\0b",
        "a\u202eb",
        "a\u00a0b",
        "a\u200bb",
        "\x1b[1m",
    ],
)
def test_ids_that_would_mean_something_else_in_a_scope_a_path_or_a_log_are_refused(plugin_id: str) -> None:
    assert ": id must" in complaint(json.dumps({**MINIMAL, "id": plugin_id}).encode())


@settings(deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_any_answer_of_a_guest_is_a_manifest_or_a_load_error(data: bytes) -> None:
    with pytest.raises(LoadError):
        parse_manifest(data, "folder")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*Manifest.model_fields, "extra"]), json_values))
def test_any_field_of_any_type_gives_a_manifest_or_a_load_error(changes: dict[str, Any]) -> None:
    message = "cannot be used"
    try:
        parsed(**changes)
    except LoadError as error:
        message = str(error)
    assert "cannot be used" in message


# --- compatibility ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, -1, 2, 10**30])
def test_another_protocol_is_refused_with_the_range(version: int) -> None:
    with pytest.raises(ProtocolMismatch) as caught:
        check_compatible(parsed(protocol_version=version), "1.4.1")
    assert (caught.value.guest_version, caught.value.minimum, caught.value.maximum) == (version, 1, 1)
    assert caught.value.plugin_id == "diaryx.daily"


@pytest.mark.parametrize("required", ["1.4.1", "1.4.0", "1.4", "0.99", "1.3.99", None])
def test_an_application_that_is_new_enough_is_accepted(required: str | None) -> None:
    check_compatible(parsed(min_app_version=required), "1.4.1")


@pytest.mark.parametrize(
    "required", ["1.4.2", "1.5", "2.0", "1.10", "", "1", "v1.4", "1.4.0-beta", "x", "1.4.1.0", "1" * 99999]
)
def test_a_newer_or_unreadable_minimum_is_refused(required: str) -> None:
    with pytest.raises(AppVersionTooOld) as caught:
        check_compatible(parsed(min_app_version=required), "1.4.1")
    assert len(str(caught.value)) < 500


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugin.wasm").write_bytes(b"\0asm")
    os.utime(tmp_path / "plugin.wasm", ns=(10**18, 10**18))
    return tmp_path


def cached(folder: Path) -> Manifest | None:
    return read_cached(folder / "manifest.json", folder / "plugin.wasm")


def test_the_cache_keeps_everything_the_guest_said_and_nothing_else(folder: Path) -> None:
    requested = {"defaults": {"x": 1}, "more": 2}
    said = {**MINIMAL, "later": {"b": [None, 1.5, "ü"]}, "requested_permissions": requested}
    manifest = parse_manifest(json.dumps(said).encode(), "folder")
    write_cached(folder / "manifest.json", manifest)
    assert json.loads((folder / "manifest.json").read_text()) == said
    assert cached(folder) == manifest
    assert "\n  " in (folder / "manifest.json").read_text()


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6), json_values, max_size=4))
def test_a_manifest_survives_the_cache_unchanged(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    (folder / "plugin.wasm").touch()
    manifest = parsed(**{key: value for key, value in extra.items() if key not in Manifest.model_fields})
    write_cached(folder / "manifest.json", manifest)
    assert cached(folder) == manifest


@pytest.mark.parametrize(("difference_ns", "fresh"), [(0, True), (1, True), (10**12, True), (-1, False)])
def test_a_cache_is_fresh_from_the_modules_mtime_on(folder: Path, difference_ns: int, fresh: bool) -> None:
    write_cached(folder / "manifest.json", parsed())
    os.utime(folder / "manifest.json", ns=(10**18 + difference_ns,) * 2)
    assert (cached(folder) is not None) is fresh


def test_a_cache_of_no_use_is_ignored(folder: Path) -> None:
    path = folder / "manifest.json"
    assert cached(folder) is None
    for content in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        json.dumps({**MINIMAL, "id": "a:b"}).encode(),
        b" " * (2 << 20),
    ):
        path.write_bytes(content)
        assert cached(folder) is None
    path.unlink()
    path.mkdir()
    assert cached(folder) is None
    path.rmdir()
    os.mkfifo(path)
    assert cached(folder) is None
    path.unlink()
    path.symlink_to("manifest.json")
    assert cached(folder) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert cached(folder) is None
    path.unlink()
    write_cached(path, parsed())
    (folder / "plugin.wasm").unlink()
    assert cached(folder) is None


def test_the_cache_remembers_that_a_plugin_is_stateless(folder: Path) -> None:
    write_cached(folder / "manifest.json", parsed(stateless=True))
    read = cached(folder)
    assert read is not None
    assert read.stateless


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, tmp_path: Path) -> None:
    write_cached(tmp_path / "missing" / "manifest.json", parsed())
    (tmp_path / "manifest.json").mkdir()
    write_cached(tmp_path / "manifest.json", parsed())
    write_cached(tmp_path / "m.json", Manifest.model_validate({**MINIMAL, "extra": object()}))
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "plugin.wasm"]
