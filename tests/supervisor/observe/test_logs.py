"""Log lines: their form, and that no text in a field can forge another one."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplug.supervisor.observe import get_logger, to_stderr
from isoplug.supervisor.observe.logs import MAX_VALUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = get_logger("isoplug.supervisor.tests")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def last(self) -> str:
        return logging.Formatter("%(message)s").format(self.records[-1])


@pytest.fixture(scope="module")
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("isoplug.supervisor.tests")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_an_event_is_a_line_of_fields_in_order(lines: Lines) -> None:
    LOG.info("worker.exited", plugin="resize", pid=4711, signal="SIGKILL", cause="out of memory", code=None)
    assert lines.last == 'worker.exited plugin=resize pid=4711 signal=SIGKILL cause="out of memory" code=null'
    assert lines.records[-1].levelno == logging.INFO


def test_bound_fields_come_first(lines: Lines) -> None:
    LOG.bind(plugin="p").warning("call.slow", seconds=1.5, path=Path("/a b"))
    assert lines.last == 'call.slow plugin=p seconds=1.5 path="/a b"'


def test_the_record_says_who_logged(lines: Lines) -> None:
    for log in (LOG.debug, LOG.error, LOG.exception, LOG.bind(a=1).info):
        log("event.here")
        assert lines.records[-1].filename == "test_logs.py"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("", '""'),
        ("a\nworker.exited pid=1", r'"a\nworker.exited pid=1"'),
        ("a\r\t\x1b[31m\x9b", r'"a\r\t\x1b[31m\x9b"'),
        ('say "hi" \\', r'"say \"hi\" \\"'),
        ("a=b", '"a=b"'),
        ("\u202e\u2028\u200b", r'"\u202e\u2028\u200b"'),
        ("\ud800", r'"\ud800"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("%s %d", '"%s %d"'),
        ("日記", '"日記"'),
        (b"secret bytes", '"<12 bytes>"'),
        (ValueError("a\nb"), r'"ValueError: a\nb"'),
    ],
)
def test_values_are_escaped(lines: Lines, value: object, written: str) -> None:
    LOG.info("e", v=value)
    assert lines.last == f"e v={written}"


names = st.text(min_size=1).filter(lambda name: name not in ("event", "method_name", "self", "exc_info"))


@settings(deadline=None)
@given(st.text(), st.text(max_size=5000), names)
def test_any_text_stays_one_printable_bounded_line(lines: Lines, event: str, value: str, key: str) -> None:
    LOG.info(event, **{key: value})
    line = lines.last
    assert line.isprintable()
    line.encode()
    assert len(line.encode()) < 2 * MAX_VALUE_BYTES + 80


@settings(deadline=None)
@given(st.text(max_size=300))
def test_an_escaped_value_can_be_read_back(lines: Lines, value: str) -> None:
    LOG.info("e", v=value, after=1)
    match = re.fullmatch(r'e v=(?:"((?:[^"\\]|\\.)*)"|([^ "=\\]+)) after=1', lines.last)
    assert match is not None
    if match[1] is not None:
        body = re.sub(r"[^\x00-\x7f]", lambda c: f"\\U{ord(c[0]):08x}", match[1])
        assert body.encode("ascii").decode("unicode_escape") == value
    else:
        assert match[2] == value


@pytest.mark.parametrize("text", ["x" * 10_000_000, "\n" * 10_000, "é" * 10_000, "\U000e0001" * 10_000])
def test_long_values_are_cut_and_say_by_how_much(lines: Lines, text: str) -> None:
    LOG.info("e", v=text)
    assert len(lines.last.encode()) <= MAX_VALUE_BYTES + 4
    match = re.search(r'"\.\.\.\((\d+)_more\)$', lines.last)
    assert match is not None
    assert 0 < int(match[1]) < len(text)


def test_a_value_that_cannot_be_shown_does_not_break_the_call(lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    LOG.info("e", v=Broken(), n=10**10_000)
    assert 'v="<Broken that cannot be shown: RuntimeError>"' in lines.last
    assert 'n="<int that cannot be shown: ValueError>"' in lines.last


def test_an_exception_is_fields_of_the_same_line(lines: Lines) -> None:
    try:
        raise ValueError("bad\nforged event=1")
    except ValueError as error:
        LOG.exception("host.failed", plugin="p")
        first = lines.last
        LOG.error("host.failed", plugin="p", exc_info=error)
    start = r'host.failed plugin=p exception="ValueError: bad\nforged event=1" traceback="Traceback'
    assert first.startswith(start)
    assert "\n" not in first
    assert lines.last.split(" traceback=")[0] == first.split(" traceback=")[0]


def test_levels_are_the_hosts(lines: Lines) -> None:
    logger = logging.getLogger("isoplug.supervisor.tests")
    logger.setLevel(logging.ERROR)
    count = len(lines.records)
    LOG.info("unseen")
    LOG.error("seen")
    logger.setLevel(logging.DEBUG)
    assert len(lines.records) == count + 1


def test_a_host_that_configures_structlog_for_itself_changes_nothing_here(lines: Lines) -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()], cache_logger_on_first_use=False)
    try:
        get_logger("isoplug.supervisor.tests").info("e", a=1)
        assert lines.last == "e a=1"
    finally:
        structlog.reset_defaults()


def test_importing_configures_nothing_and_a_host_without_logging_sees_nothing() -> None:
    code = """
import logging, structlog
before = (logging.root.handlers[:], logging.root.level, logging.getLoggerClass())
from isoplug.supervisor.observe import get_logger
get_logger("isoplug.x").error("unseen", exc_info=ValueError("x"))
assert before == (logging.root.handlers, logging.root.level, logging.getLoggerClass())
assert not structlog.is_configured()
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert run.stdout == run.stderr == ""


def test_to_stderr_writes_time_and_level_once_to_whatever_stderr_is(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("isoplug")
    handlers, level = logger.handlers[:], logger.level
    try:
        to_stderr("debug")
        to_stderr(logging.INFO)
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        log = get_logger("isoplug.elsewhere")
        log.info("plugin.loaded", plugin="p")
        log.debug("unseen")
        time, rest = stream.getvalue().split(" ", 1)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        assert rest == "INFO plugin.loaded plugin=p\n"
    finally:
        logger.handlers[:], logger.level = handlers, level
        logger.setLevel(level)


def test_events_that_nobody_wants_to_see_cost_no_structlog() -> None:
    script = """import sys
from isoplug.supervisor.observe import get_logger, to_stderr
log = get_logger("isoplug.late")
to_stderr("WARNING")
log.info("nobody.asked", plugin="p")
print("structlog" in sys.modules)
log.warning("somebody.asked", plugin="p")
to_stderr("INFO")
log.info("now.wanted", plugin="p")
print("structlog" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert [line.split(maxsplit=2)[1:] for line in done.stderr.splitlines()] == [
        ["WARNING", "somebody.asked plugin=p"],
        ["INFO", "now.wanted plugin=p"],
    ]
