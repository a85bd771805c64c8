"""Random bytes to random host functions, by a real guest: an answer or a typed error, and the plugin goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import PROBE, Bench, nothing_left_behind, open_bench
from isoplug.supervisor import GuestTrap, PluginError
from isoplug.supervisor.host import HOST_FUNCTIONS

NO_ERROR_FORM = {name for name, function in HOST_FUNCTIONS.items() if function.refuse is None}
FIELDS = ["path", "prefix", "content", "key", "data", "plugin_id", "command", "params", "token", "level", "message"]
TEXTS = ["", ".", "..", "/", "a.md", "README.md", "\0", "AAE=", PROBE, "echo", "info", "\ud800", "x" * 300, "a/" * 3000]

words = st.sampled_from(TEXTS) | st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
objects = st.dictionaries(st.sampled_from(FIELDS), words | values, max_size=6)


def mutate(text: bytes, at: int, insert: bytes) -> bytes:
    at %= len(text) + 1
    return text[:at] + insert + text[at + len(insert) :]


inputs = st.one_of(
    st.binary(max_size=200),
    objects.map(lambda value: json.dumps(value).encode()),
    objects.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")),
    st.builds(
        mutate, objects.map(lambda value: json.dumps(value).encode()), st.integers(0, 2000), st.binary(max_size=3)
    ),
)


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Bench]:
    rules: dict[str, Any] = {
        name: ["all"] for name in ("read_files", "edit_files", "create_files", "delete_files", "execute_commands")
    }
    with open_bench(tmp_path_factory.mktemp("random"), guest_cache, probe=rules) as opened:
        yield opened


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(function=st.sampled_from(sorted(HOST_FUNCTIONS)), payload=inputs)
def test_any_bytes_to_any_function_are_answered_or_end_that_call_alone(
    bench: Bench, function: str, payload: bytes
) -> None:
    outside = snapshot(bench.plugins.path)
    index = (bench.workspace.path / "README.md").read_bytes()
    try:
        answer = bench.ask(function, payload, timeout=10.0)
        assert isinstance(answer, bytes)
    except GuestTrap as error:
        assert function in NO_ERROR_FORM, error  # noqa: PT017
        assert function in str(error)  # noqa: PT017
    except PluginError as error:
        raise AssertionError(f"{function} ended in {type(error).__name__}: {error}") from error
    assert bench.answers()
    assert snapshot(bench.plugins.path) == outside
    assert (bench.workspace.path / "README.md").read_bytes() == index


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(export=st.sampled_from(["handle_command", "host", "host_many", "on_event", "set_config"]) | words, data=inputs)
def test_any_bytes_to_any_export_end_in_bytes_or_a_typed_error(bench: Bench, export: str, data: bytes) -> None:
    with suppress(PluginError):
        assert isinstance(bench.supervisor.call(PROBE, export, data, timeout=2.0), bytes)
    bench.supervisor.reset(PROBE)  # commands such as "spin" are among what can be hit
    assert bench.answers()
