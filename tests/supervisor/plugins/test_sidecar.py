"""The configuration sidecar."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.shared.errors import ConfigError
from isoplug.supervisor.plugins import read_config, write_config
from isoplug.supervisor.plugins.sidecar import MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("c") / "config.json"
    write_config(path, config, "p")
    assert read_config(path, "p") == config
    assert json.loads(path.read_text()) == config


def test_a_missing_file_is_none_and_an_empty_object_is_not(path: Path) -> None:
    assert read_config(path, "p") is None
    path.write_text("{}")
    assert read_config(path, "p") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"[1]", "is a JSON array"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": Infinity}', "is not JSON"),
        (b'{"a": [1e400]}', r"has the number inf at 'a\[0\]'"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b'{"a": 1' + b" " * MAX_CONFIG_BYTES + b"}", "larger than"),
    ],
)
def test_a_file_that_is_no_configuration_is_a_config_error_that_names_it(path: Path, content: bytes, says: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        read_config(path, "diaryx.daily")
    assert caught.value.plugin_id == "diaryx.daily"
    assert str(path) in str(caught.value)


def test_special_files_never_hang(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_config(path, "p")
    path.unlink()
    for target in ("/dev/zero", "/dev/null", "config.json", "/proc/self/mem"):
        path.symlink_to(target)
        with pytest.raises(ConfigError):
            read_config(path, "p")
        path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        read_config(path, "p")


class Strange:
    pass


def cyclic() -> dict[str, Any]:
    config: dict[str, Any] = {}
    config["self"] = config
    return config


def deep() -> dict[str, Any]:
    config: Any = 1
    for _ in range(5000):
        config = {"a": config}
    return {"a": config}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"a": float("nan")}, "number nan at 'a'"),
        ({"a": [0.0, float("-inf")]}, r"number -inf at 'a\[1\]'"),
        ({1: 2}, "keys must be text"),
        ({"a": {None: 2}}, "key None below 'a'"),
        ({"a": {"b": Strange()}}, "has a Strange at 'a.b'"),
        ({"a": b"x"}, "has a bytes at 'a'"),
        ({"a": {1, 2}}, "has a set"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        ({"a": 10**5000}, "too large"),
        (cyclic(), "nested deeper"),
        (deep(), "nested deeper"),
        ({"a": "x" * MAX_CONFIG_BYTES}, "the limit is 1048576"),
        ([1], "must be an object"),
        (None, "must be an object"),
    ],
)
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(path: Path, config: Any, says: str) -> None:
    write_config(path, {"old": True}, "p")
    with pytest.raises(ConfigError, match=says):
        write_config(path, config, "p")
    assert read_config(path, "p") == {"old": True}
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_a_place_that_cannot_be_written_is_a_config_error(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_config(path / "below" / "config.json", {}, "p")
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        write_config(path, {}, "p")
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(path: Path) -> None:
    write_config(path, {"token": "x"}, "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    write_config(path, {"token": "y"}, "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
