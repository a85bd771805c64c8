"""Reports of crashes: one small file for each kind of crash, in a private folder of the state folder.

    crashes/3f9c1a2b7d4e.json

What is the same crash is said by its signature: the plugin, the export, and the cause without addresses and sizes. The
file has what is known of the latest one, when and how the ones before it ended, and how many there were; so a storm
of crashes writes one small file each time, and never more files than kinds. When several supervisors over one state
folder have the same crash at the same moment, some may not be counted: the one that writes last is the one that counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoplug.shared.errors import GuestTrap, ResourceLimitExceeded, WorkerCrashed
from isoplug.shared.limits import clip
from isoplug.supervisor.calls import Crash
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool import Worker
from isoplug.supervisor.recording.place import remove, remove_leftovers, write_whole
from isoplug.supervisor.recording.signature import cause_of

__all__ = ["CrashLog", "CrashReport", "Occurrence", "read_crashes"]

_log = get_logger(__name__)

_MAX_REPORTS = 200
#: Beyond it so many may be written before the oldest are removed.
_SLACK = 20
_MAX_OCCURRENCES = 10
_MAX_EFFECTS = 50
_TEXT_BYTES = 16 * 1024
#: Escapes may take six times the bytes of a text.
_MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{12}\.json")
#: Of a file that somebody else wrote: what can be shown as a date (until the year 8900), and as a number.
_LATEST = 2.2e11
_MOST = 10**15

_Time = Annotated[float, Field(ge=-_LATEST / 10, le=_LATEST)]
_Count = Annotated[int, Field(ge=0, le=_MOST)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Occurrence(_Part):
    """One crash. ``at`` is Unix time; ``recording`` names the file of its recording, when calls were
    recorded."""

    at: _Time
    doing: str
    outcome: str
    recording: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,240}$")] | None


class CrashReport(_Part):
    """All crashes of one kind: how many (``count``), and the latest in detail. ``occurrences`` are the latest ten, the
    newest first. ``id`` stands for the signature, and is the same whenever and wherever that crash happens."""

    id: str
    signature: str
    plugin_id: str
    export: str
    count: _Count
    first_at: _Time
    occurrences: list[Occurrence]
    code: str
    message: str
    reason: str | None
    trap: str | None
    evidence: str | None
    pid: int | None
    calls_served: int | None
    effects: list[str]
    effect_count: _Count
    host_calls: list[Annotated[list[str], Field(min_length=4, max_length=4)]]
    log: list[Annotated[list[str], Field(min_length=3, max_length=3)]]

    @property
    def latest(self) -> Occurrence:
        return self.occurrences[0]

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


@dataclass(frozen=True, slots=True)
class _Kind:
    id: str
    signature: str

    @classmethod
    def of(cls, crash: Crash) -> _Kind:
        signature = f"{crash.plugin_id} {crash.export or 'start'}: {cause_of(crash.error)}"
        return cls(hashlib.sha256(signature.encode("utf-8", "replace")).hexdigest()[:12], signature)


class CrashLog:
    """Thread-safe; called by the runner, and never fails a call. ``recording_of`` says where the call of a worker was
    recorded, ``scrub`` takes known secrets out of a text."""

    def __init__(
        self,
        folder: Path,
        recording_of: Callable[[Worker], Path | None] = lambda _: None,
        scrub: Callable[[str], str] = str,
    ) -> None:
        self._folder, self._recording_of, self._scrub = folder, recording_of, scrub
        self._lock = threading.Lock()
        self._until_look = 0
        self._is_failing = False

    def __call__(self, crash: Crash) -> str | None:
        """The id of the report, or None when there is none."""
        try:
            with self._lock:
                kind = _Kind.of(crash)
                report = self._report(kind, crash, _read(self._folder / f"{kind.id}.json"))
                text = json.dumps(report.to_json(), ensure_ascii=True)
                write_whole(self._folder, f"{kind.id}.json", text.encode())
                self._until_look -= 1
                if self._until_look < 0:
                    self._make_room()
            self._is_failing = False
            return kind.id
        except OSError as error:
            if not self._is_failing:  # said once for all that follow without a success between
                self._is_failing, folder = True, str(self._folder)
                _log.warning("crash.not_reported", folder=folder, reason=reason(error), advice="make room there")
        except Exception:  # noqa: BLE001  whatever a report meets, the caller is to hear of the crash itself
            _log.exception("crash.not_reported", plugin=crash.plugin_id)
        return None

    def _report(self, kind: _Kind, crash: Crash, before: CrashReport | None) -> CrashReport:
        error, record, now = crash.error, crash.record, time.time()
        recording = None if crash.worker is None else self._recording_of(crash.worker)
        latest = Occurrence(
            at=now,
            doing=self._text(crash.doing),
            outcome=record.outcome.value,
            recording=None if recording is None else recording.name,
        )
        earlier = [] if before is None else before.occurrences[: _MAX_OCCURRENCES - 1]
        crashed = error if isinstance(error, WorkerCrashed) else None
        return CrashReport(
            id=kind.id,
            signature=self._text(kind.signature),
            plugin_id=self._text(crash.plugin_id),
            export=self._text(crash.export),
            count=1 if before is None else min(before.count + 1, _MOST),
            first_at=now if before is None else before.first_at,
            occurrences=[latest, *earlier],
            code=error.code,
            message=self._text(error.message),
            reason=crashed.reason.value if crashed else _limit(error),
            trap=self._text(error.trap) if isinstance(error, GuestTrap) else None,
            evidence=self._text(crashed.evidence) if crashed else None,
            pid=None if crash.worker is None else crash.worker.pid,
            calls_served=None if crash.worker is None else crash.worker.calls,
            effects=[self._text(str(effect)) for effect in record.effects[:_MAX_EFFECTS]],
            effect_count=record.effect_count,
            host_calls=[
                [entry.plugin_id, entry.function, self._text(entry.target), self._text(entry.result)]
                for entry in record.host_calls
            ],
            log=[[line.plugin_id, self._text(line.level), self._text(line.message)] for line in record.log],
        )

    def _text(self, text: str) -> str:
        """Without lone surrogates, which no JSON reader takes."""
        return clip(self._scrub(text).encode("utf-8", "replace").decode(), _TEXT_BYTES)

    def _make_room(self) -> None:
        """The kinds that have not happened for the longest time go."""
        ages = []
        for path in _files(self._folder):
            with suppress(OSError):  # another supervisor has removed it
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages)[: max(0, len(ages) - _MAX_REPORTS + _SLACK)]:
            remove(path)
        remove_leftovers(self._folder)
        self._until_look = _SLACK


def read_crashes(folder: Path) -> list[CrashReport]:
    """All reports, the latest crash first. What is not one is skipped, and logged."""
    reports = [report for path in _files(folder) if (report := _read(path)) is not None]
    return sorted(reports, key=lambda report: -report.latest.at)


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                yield Path(entry.path)


def _read(path: Path) -> CrashReport | None:
    try:
        report = CrashReport.model_validate_json(read_bounded(path, _MAX_FILE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = reason(error) if isinstance(error, OSError) else f"{error.error_count()} fields cannot be read"
        _log.warning("crash.report_skipped", file=str(path), reason=why)
        return None
    if not report.occurrences or f"{report.id}.json" != path.name:
        _log.warning("crash.report_skipped", file=str(path), reason="it is not what its name says")
        return None
    return report


def _limit(error: object) -> str | None:
    return error.key if isinstance(error, ResourceLimitExceeded) else None
