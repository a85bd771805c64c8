"""Logs as events with fields, one line each: ``worker.exited plugin=resize pid=4711 cause=deadline``.

structlog in front, standard ``logging`` behind, and no global state: importing this configures neither
(structlog's processors are passed per logger), hosts route the ``isoplug`` logger as they like, and
``to_stderr`` is for the command line. Fields often carry guests' text, so every value is escaped and bounded:
nothing a guest says can start a new line, move a terminal's cursor or fill a disk.

Callers log facts, never payloads or secrets; bytes are shown as their length alone. ``event`` is taken by
structlog as a name: use ``event_type``.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import structlog

__all__ = ["MAX_VALUE_BYTES", "get_logger", "to_stderr"]

MAX_VALUE_BYTES: Final = 2048
"""Of one value as written, escapes included."""

ROOT: Final = "isoplug"

_PLAIN: Final = re.compile(r"""[!#-<>-\[\]-~]+""")  # printable ASCII but space, ", = and the backslash
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}

_LINE: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"

#: Of a logger's methods.
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}

# Frames between the caller and logging: structlog's bound method and its proxy. Tested by what %(filename)s
# says.
_STACK_LEVEL: Final = 4

logging.getLogger(ROOT).addHandler(logging.NullHandler())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: ``get_logger(__name__).info("worker.exited", plugin=plugin_id, pid=pid)``.

    ``.bind(plugin=...)`` keeps fields. ``exc_info=True`` adds the exception as one escaped field. No value
    can make a log call raise.
    """
    return cast("structlog.stdlib.BoundLogger", _Logger(name))


class _Logger:
    """structlog's logger, made for the first event that somebody wants to see. Importing structlog brings rich and
    attrs, a sixth of all that a command line imports, and most runs of one log nothing. Its methods are as the levels
    are when they are asked for: ask with each event, keep none."""

    def __init__(self, name: str) -> None:
        self._standard = logging.getLogger(name)

    def __getattr__(self, method: str) -> Any:
        level = _LEVELS.get(method)
        if level is not None and not self._standard.isEnabledFor(level):
            return _log_nothing
        return getattr(self._bound, method)

    @cached_property
    def _bound(self) -> Any:
        import structlog

        return structlog.wrap_logger(
            self._standard,
            processors=[structlog.stdlib.filter_by_level, _render],
            wrapper_class=structlog.stdlib.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
        )


def _log_nothing(*_: object, **__: object) -> None:
    pass


def to_stderr(level: int | str) -> None:
    """Send isoplug's events of this level and above to stderr. Calling it again changes the level."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        handler = _StderrHandler()
        handler.setFormatter(_UtcFormatter(_LINE, _TIME))
        logger.addHandler(handler)


class _UtcFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment, since command line tests and hosts replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute in the base class
        return sys.stderr


# --- one event as one line ----------------------------------------------------------------------------------


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """structlog's last processor: the event as the arguments of the standard logger's method."""
    name = event.pop("event", "")
    exception = _exception(event.pop("exc_info", None))
    event.pop("stack_info", None)
    parts = [_escaped(_text(name))]
    parts += [f"{_NOT_A_NAME.sub('_', str(key))[:64]}={_escaped(_text(value))}" for key, value in event.items()]
    if exception is not None:
        # The end of a traceback tells most, so it is the beginning that is cut.
        trace = "".join(traceback.format_exception(exception))[-MAX_VALUE_BYTES // 2 :]
        parts += [f"exception={_escaped(_text(exception))}", f"traceback={_escaped(trace)}"]
    # exc_info=False, or Logger.exception() would have the traceback printed again, over many lines.
    return (" ".join(parts),), {"stacklevel": _STACK_LEVEL, "exc_info": False}


def _exception(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as exception, _):
            return exception
        case None | False:
            return None
        case _:
            return sys.exc_info()[1]


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception as error:  # noqa: BLE001 - a log call must not be what fails; the line says what happened
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _escaped(text: str) -> str:
    """``text`` as a logfmt value: bare when plain, else in quotes; one printable line of bounded length."""
    if len(text) <= MAX_VALUE_BYTES and _PLAIN.fullmatch(text):
        return text
    written: list[str] = []
    room = MAX_VALUE_BYTES - 40  # for the quotes and the note
    for count, character in enumerate(text):
        shown = character if character.isprintable() and character not in '"\\' else _escape(character)
        room -= len(shown.encode())
        if room < 0:
            return f'"{"".join(written)}"...({len(text) - count}_more)'
        written.append(shown)
    return f'"{"".join(written)}"'


def _escape(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
