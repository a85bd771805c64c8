"""Commands, raw calls and their arguments, through the façade. Most share one supervisor: nothing they do crashes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import PluginFolder
from isoplug.supervisor import (
    CallTimeout,
    CommandError,
    CommandNotFound,
    ConfigError,
    InvalidArgument,
    PermissionDenied,
    PluginError,
    PluginNotFound,
    ResourceLimitExceeded,
    Supervisor,
)
from isoplug.supervisor.config import Config

PROBE = "test.probe"


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory, guest_cache: Path) -> Iterator[Supervisor]:
    root = tmp_path_factory.mktemp("commands")
    plugins = PluginFolder(root / "plugins", guest_cache)
    plugins.add()
    plugins.add("test.mute", variant="probe_no_capabilities")
    config = Config(limits={"frame": "1MiB"})
    with Supervisor(plugins.path, state_dir=root / "state", config=config) as running:
        yield running


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, "", "ä\n\x00\u2028😀", [], {}, {"a": [1, {"b": None}]}, 2**53, "x" * 100_000]
)
def test_json_comes_back_as_it_went(supervisor: Supervisor, value: Any) -> None:
    assert supervisor.command(PROBE, "echo", value) == value


def test_bytes_come_back_as_they_went(supervisor: Supervisor) -> None:
    data = bytes(range(256)) * 100
    assert supervisor.call(PROBE, "echo", data) == data
    assert supervisor.call(PROBE, "echo", bytearray(data)) == data
    assert supervisor.call(PROBE, "echo") == b""


def test_an_undeclared_command_is_not_found_and_the_declared_ones_are_named(supervisor: Supervisor) -> None:
    with pytest.raises(CommandNotFound, match=r"'dance'.*echo.*spin") as caught:
        supervisor.command(PROBE, "dance")
    assert (caught.value.plugin_id, caught.value.command) == (PROBE, "dance")


def test_without_the_capability_nothing_is_dispatched(supervisor: Supervisor) -> None:
    with pytest.raises(CommandNotFound, match="it offers: none"):
        supervisor.command("test.mute", "echo")
    assert supervisor.call("test.mute", "echo", b"raw") == b"raw"


def test_an_export_that_is_missing_is_not_found(supervisor: Supervisor) -> None:
    with pytest.raises(CommandNotFound, match="'render_content'; its module exports no function for that"):
        supervisor.call(PROBE, "render_content", b"{}")


def test_an_unknown_plugin_is_not_found_and_the_loaded_ones_are_named(supervisor: Supervisor) -> None:
    with pytest.raises(PluginNotFound, match=r"loaded: test\.mute, test\.probe"):
        supervisor.command("test.nobody", "echo")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("permission_denied", PermissionDenied),
        ("config_error", ConfigError),
        ("not_found", CommandError),
        ("", CommandError),
        ("Permission_Denied", CommandError),
    ],
)
def test_the_error_code_of_an_answer_chooses_the_class(
    supervisor: Supervisor, code: str, kind: type[PluginError]
) -> None:
    with pytest.raises(PluginError) as caught:
        supervisor.command(PROBE, "fail", {"message": "as it was told to", "error_code": code})
    assert type(caught.value) is kind
    assert str(caught.value) == "as it was told to"
    assert caught.value.plugin_id == PROBE
    assert not caught.value.retryable
    if isinstance(caught.value, CommandError):
        assert caught.value.error_code == code


def test_a_failure_without_a_message_still_says_which_command(supervisor: Supervisor) -> None:
    with pytest.raises(CommandError, match="'fail' failed without a reason"):
        supervisor.command(PROBE, "fail", {"message": "", "error_code": "x"})


def test_output_that_is_no_json_is_a_command_error_and_the_worker_stays(supervisor: Supervisor) -> None:
    pids = supervisor.plugins[PROBE].status.worker_pids
    with pytest.raises(CommandError, match="did not answer with JSON"):
        supervisor.command(PROBE, "garbage")
    assert supervisor.plugins[PROBE].status.worker_pids == pids


def test_a_raw_export_that_fails_is_a_command_error_with_its_text(supervisor: Supervisor) -> None:
    with pytest.raises(CommandError, match="out of ink"):
        supervisor.call(PROBE, "raw_fail", b"out of ink")
    with pytest.raises(CommandError):
        supervisor.call(PROBE, "raw_fail", b"\xff\xfe")


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "params",
    [object(), {1, 2}, b"bytes", float("nan"), float("inf"), "\ud800", {("a", "b"): 1}, Path("a"), _cycle(), _deep()],
    ids=lambda value: type(value).__name__,
)
def test_params_that_are_not_json_are_refused_before_anything_is_sent(supervisor: Supervisor, params: Any) -> None:
    before = supervisor.plugins[PROBE].status.calls
    with pytest.raises(InvalidArgument, match="params cannot be sent as JSON"):
        supervisor.command(PROBE, "echo", params)
    assert supervisor.plugins[PROBE].status.calls == before


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True, 10**9, [1], b"1"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(supervisor: Supervisor, timeout: Any) -> None:
    for use in (
        lambda: supervisor.command(PROBE, "echo", timeout=timeout),
        lambda: supervisor.call(PROBE, "echo", timeout=timeout),
        lambda: supervisor.flush_events(timeout),
    ):
        with pytest.raises(InvalidArgument, match="timeout must be"):
            use()


def test_no_timeout_means_the_default(supervisor: Supervisor) -> None:
    assert supervisor.command(PROBE, "echo", 1, timeout=None) == 1
    assert supervisor.command(PROBE, "echo", 1, timeout=5) == 1


@pytest.mark.parametrize("data", ["text", None, 5, ["a"], {"a": 1}])
def test_a_raw_call_takes_bytes_only(supervisor: Supervisor, data: Any) -> None:
    with pytest.raises(InvalidArgument, match="data must be bytes"):
        supervisor.call(PROBE, "echo", data)


@pytest.mark.parametrize("export", ["", None, 5, b"echo"])
def test_an_export_is_named_by_text(supervisor: Supervisor, export: Any) -> None:
    with pytest.raises(InvalidArgument, match="export must be the name"):
        supervisor.call(PROBE, export)


@pytest.mark.parametrize("export", ["echo\0", "ec\0ho", "\ud800", "x" * 100_000, "../echo", "echo "])
def test_a_name_that_no_export_can_have_is_a_typed_error(supervisor: Supervisor, export: str) -> None:
    with pytest.raises((CommandNotFound, InvalidArgument)):
        supervisor.call(PROBE, export)
    assert supervisor.call(PROBE, "echo", b"alive") == b"alive"


def test_an_input_over_the_frame_limit_is_refused_with_both_sizes(supervisor: Supervisor) -> None:
    with pytest.raises(ResourceLimitExceeded, match=r"is 1048577, the limit is 1048576; see limits\.frame"):
        supervisor.call(PROBE, "echo", b"x" * ((1 << 20) + 1))


def test_offered_files_reach_the_guest_during_that_call_only(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "old.zip").write_bytes(b"from a file")
    ask = {"function": "host_request_file", "input": '{"key": "archive"}'}
    assert supervisor.command(PROBE, "host", ask)["answer"] == ""
    assert supervisor.command(PROBE, "host", ask, files={"archive": b"bytes"})["answer"] == "bytes"
    assert supervisor.command(PROBE, "host", ask, files={"archive": tmp_path / "old.zip"})["answer"] == "from a file"
    assert supervisor.command(PROBE, "host", ask, files={"archive": str(tmp_path / "old.zip")})["answer"]
    raw = json.dumps(ask).encode()
    assert supervisor.call(PROBE, "host", raw, files={"archive": b"\xff\0"}) == b"\xff\0"
    assert supervisor.command(PROBE, "host", ask)["answer"] == ""


@pytest.mark.parametrize("offer", ["nowhere.zip", ".", 5, None, ["a"], "a\0b"])
def test_a_file_that_cannot_be_offered_is_refused_with_its_key(supervisor: Supervisor, offer: Any) -> None:
    with pytest.raises(InvalidArgument, match="'archive'"):
        supervisor.command(PROBE, "echo", files={"archive": offer})


def test_an_offered_file_over_the_limit_is_refused(supervisor: Supervisor) -> None:
    with pytest.raises(InvalidArgument, match="'archive' has 1048577 bytes, the limit is 1048576"):
        supervisor.command(PROBE, "echo", files={"archive": b"x" * ((1 << 20) + 1)})


def test_a_cancelled_token_is_seen_by_its_plugin_only(supervisor: Supervisor) -> None:
    supervisor.cancel(PROBE, "upload-7")

    def is_cancelled(plugin_id: str, token: str) -> bool:
        raw = {"function": "host_is_cancelled", "input": json.dumps({"token": token})}
        return bool(json.loads(supervisor.call(plugin_id, "host", json.dumps(raw).encode()))["cancelled"])

    assert is_cancelled(PROBE, "upload-7")
    assert not is_cancelled(PROBE, "upload-8")
    assert not is_cancelled("test.mute", "upload-7")


def test_a_timeout_is_told_with_its_length_and_ends_near_it(
    plugins: PluginFolder, supervise: Callable[..., Supervisor]
) -> None:
    plugins.add()
    supervisor = supervise()
    started_at = time.monotonic()
    with pytest.raises(CallTimeout, match=r"'spin'.* within 0\.3 s"):
        supervisor.command(PROBE, "spin", timeout=0.3)
    assert time.monotonic() - started_at < 15.0  # without a deadline of its own it has 30 s
    assert supervisor.command(PROBE, "count") == 1
