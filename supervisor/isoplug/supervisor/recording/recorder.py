"""Stands around every call and keeps what it looked like to the guest."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from isoplug.shared.errors import PluginError
from isoplug.shared.messages import Failed, Returned
from isoplug.shared.version import VERSION
from isoplug.supervisor.calls import Delivery, Proceed
from isoplug.supervisor.files import reason
from isoplug.supervisor.host import GuestAbort
from isoplug.supervisor.observe.logs import get_logger
from isoplug.supervisor.pool import Worker
from isoplug.supervisor.pool.budget import Exceeded
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.pool.worker import Origin
from isoplug.supervisor.recording.codec import MAX_FILE_BYTES, MAX_RECORDED_BYTES, encode, size_of
from isoplug.supervisor.recording.redaction import REDACTED, KnownSecrets, TooMuchToScrub
from isoplug.supervisor.recording.ring import Ring
from isoplug.supervisor.recording.tape import Ending, HostCall, Recording, Step, Unanswered

__all__ = ["Recorder", "Tape"]

_log = get_logger(__name__)

#: One call may take this part of the ring.
_SHARE = 8


class Tape:
    """Of one call: takes its place as that which answers host calls. At most ``room_bytes`` are kept; ``is_cut`` says
    that there was more."""

    def __init__(self, delivery: Delivery, secrets: KnownSecrets, room_bytes: int) -> None:
        self._serve, self._secrets, self._room_bytes = delivery.serve, secrets, room_bytes - len(delivery.data)
        self._plugin_id, self._export, self._data = delivery.plugin_id, delivery.export, delivery.data
        self._calls: list[HostCall] = []
        self.is_cut = self._room_bytes < 0
        delivery.serve = self._answer

    def step(self, ending: Ending) -> Step:
        self._room_bytes -= len(ending.output)
        if self._room_bytes < 0:
            self.is_cut = True
            ending = Ending(ending.kind, b"", ending.text, ending.cause)
        return Step(self._export, b"" if self.is_cut else self._data, tuple(self._calls), ending)

    def _answer(self, function: str, request: bytes) -> bytes:
        try:
            answer = self._serve(function, request)
        except (Silence, Gone, Breach, Exceeded, GuestAbort) as end:
            self._keep(function, request, b"", _UNANSWERED[type(end)], str(end))
            raise
        self._keep(function, request, answer)
        return answer

    def _keep(
        self,
        function: str,
        request: bytes,
        answer: bytes,
        unanswered: Unanswered = Unanswered.NOT,
        text: str = "",
    ) -> None:
        # Also when there is no room: it comes again.
        request, answer = self._secrets.note(function, request, answer, self._plugin_id)
        if self.is_cut:
            return
        call = HostCall(function, request, answer, unanswered, text)
        self._room_bytes -= size_of(call)
        if self._room_bytes < 0:
            self.is_cut = True
            self._calls.clear()
        else:
            self._calls.append(call)


_UNANSWERED = {
    Silence: Unanswered.DEADLINE,
    Gone: Unanswered.GONE,
    Breach: Unanswered.BROKEN,
    Exceeded: Unanswered.BROKEN,
    GuestAbort: Unanswered.ABORTED,
}


@dataclass(slots=True)
class _Life:
    """What is known of a worker. ``told`` is the configuration that it was given since its start, ``crash`` the file of
    the call that has cost its life."""

    start: list[Step] = field(default_factory=list)
    told: Step | None = None
    is_cut: bool = False
    crash: Path | None = None

    @property
    def steps(self) -> list[Step]:
        return self.start if self.told is None else [*self.start, self.told]


class Recorder:
    """An ``Interceptor`` that writes each call into ``ring``, when it has ended, in its thread. A disk that is full or
    fails costs a line in the log, never a call."""

    def __init__(self, ring: Ring, ring_bytes: int) -> None:
        self._ring = ring
        self._room_bytes = min(MAX_RECORDED_BYTES, ring_bytes // _SHARE)
        self._lock = threading.Lock()
        self._lives: WeakKeyDictionary[Worker, _Life] = WeakKeyDictionary()
        self._digests: WeakKeyDictionary[Origin, str] = WeakKeyDictionary()
        self._secrets = KnownSecrets()
        self._missed = 0

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor``."""
        life = self._life_of(delivery.worker)
        at, patience_seconds = time.time(), delivery.deadline.remaining_seconds()
        served = delivery.worker.calls - len(life.start)
        tape = Tape(delivery, self._secrets, self._room_bytes - sum(map(_size, life.steps)))
        try:
            outcome = proceed(delivery)
        except (Silence, Gone, Breach, Exceeded, GuestAbort) as end:
            step = tape.step(Ending.of_loss(end, delivery.worker))
            self._write(delivery, life, step, tape.is_cut, at, served, patience_seconds)
            raise
        step = tape.step(Ending.of(outcome))
        if delivery.is_lent or step.ending.is_crash:
            self._write(delivery, life, step, tape.is_cut, at, served, patience_seconds)
            if delivery.export == "set_config":
                life.told = step
                life.is_cut = life.is_cut or tape.is_cut
        else:  # ``shutdown`` as well: nothing comes after it
            life.start.append(step)
            life.is_cut = life.is_cut or tape.is_cut
        return outcome

    def crash_of(self, worker: Worker) -> Path | None:
        """The file of the call that has cost ``worker`` its life, if it was recorded."""
        with self._lock:
            life = self._lives.get(worker)
            return None if life is None else life.crash

    def scrub(self, text: str) -> str:
        """Without the secrets that recording has come across."""
        try:
            return self._secrets.scrub_text(text)
        except TooMuchToScrub:
            return REDACTED

    # --- inside ---------------------------------------------------------------------------------------------------

    def _life_of(self, worker: Worker) -> _Life:
        with self._lock:
            return self._lives.setdefault(worker, _Life())

    def _write(
        self,
        delivery: Delivery,
        life: _Life,
        call: Step,
        is_cut: bool,
        at: float,
        served: int,
        patience_seconds: float,
    ) -> None:
        try:
            steps = (*(() if life.is_cut else life.steps), call)
            gap = f"it and its host calls take more than {self._room_bytes} bytes" if is_cut else ""
            if life.is_cut:
                gap = f"its start takes more than {self._room_bytes} bytes"
            try:
                *start, call = self._secrets.scrub_steps(steps)
            except TooMuchToScrub:
                start, call, gap = [], self._bare(steps[-1]), "it is too long to look for so many secrets in it"
            origin = delivery.worker.origin
            recording = Recording(
                plugin_id=delivery.plugin_id,
                sha256=self._digest_of(origin),
                at=at,
                served=served,
                patience_seconds=patience_seconds,
                limits=origin.limits.model_dump_json(),
                isoplug_version=VERSION,
                start=tuple(start),
                call=call,
                gap=gap,
            )
            data = encode(recording)
            if len(data) > MAX_FILE_BYTES:
                gap = f"without secrets it takes more than {MAX_FILE_BYTES} bytes"
                recording = replace(recording, start=(), call=self._bare(call), gap=gap)
                data = encode(recording)
            path = self._ring.add(recording, data, origin.read)
            life.crash = path if call.ending.is_crash else None
        except (OSError, PluginError) as error:  # PluginError: the module is closed, or its private copy damaged
            self._miss(error)
        except Exception:  # noqa: BLE001  a call is worth more than its recording
            _log.exception("recording.failed", plugin=delivery.plugin_id)
        else:
            self._resume()

    def _bare(self, step: Step) -> Step:
        """Its export, and how it ended."""
        return Step(step.export, b"", (), Ending(step.ending.kind, cause=self.scrub(step.ending.cause)))

    def _digest_of(self, origin: Origin) -> str:
        with self._lock:
            known = self._digests.get(origin)
        if known is None:
            known = hashlib.sha256(origin.read()).hexdigest()
            with self._lock:
                self._digests[origin] = known
        return known

    def _miss(self, error: OSError | PluginError) -> None:
        """Said once for all that follow without a success between."""
        with self._lock:
            self._missed += 1
            is_first = self._missed == 1
        if is_first:
            why = reason(error) if isinstance(error, OSError) else str(error)
            _log.warning("recording.failed", folder=str(self._ring.folder), reason=why, advice="make room there")

    def _resume(self) -> None:
        if self._missed:
            with self._lock:
                missed, self._missed = self._missed, 0
            if missed:
                _log.warning("recording.resumed", missed=missed)


def _size(step: Step) -> int:
    return len(step.data) + len(step.ending.output) + sum(map(size_of, step.host_calls))
