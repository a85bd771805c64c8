"""Runs a recorded call again: in a fresh worker with the same limits, every host call answered from the recording, no
service touched.

The file may be anybody's. It is parsed within bounds, nothing of it is executed but the module, which runs as locked
down as any plugin, under limits that this host allows.
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isoplug.shared.errors import InvalidArgument, PluginError
from isoplug.shared.limits import clip
from isoplug.shared.messages import Failed, Returned
from isoplug.shared.version import VERSION
from isoplug.supervisor.assembly import OwnServices, build_launcher, build_services, module_folder
from isoplug.supervisor.calls import CallRunner, Delivery, Frame, Proceed
from isoplug.supervisor.config import Config, Limits
from isoplug.supervisor.deadline import MAX_TIMEOUT_SECONDS, Deadline
from isoplug.supervisor.files import read_bounded, reason
from isoplug.supervisor.host import GuestAbort, NoHttp
from isoplug.supervisor.integrity import sha256_of
from isoplug.supervisor.machine import check_platform
from isoplug.supervisor.permissions import DenyAll
from isoplug.supervisor.plugins.module import Module, Stamp
from isoplug.supervisor.plugins.table import PluginTable
from isoplug.supervisor.pool import Worker
from isoplug.supervisor.pool.budget import Exceeded
from isoplug.supervisor.pool.link import Breach, Gone, Silence
from isoplug.supervisor.recording import (
    MAX_FILE_BYTES,
    MODULES,
    End,
    Ending,
    HostCall,
    Recording,
    Step,
    Unanswered,
    Unreadable,
    decode,
    redacted_request,
)
from isoplug.supervisor.runtime_folder import make_runtime_folder
from isoplug.supervisor.websockets import NoSockets

__all__ = ["Asked", "Replayed", "Verdict", "read_recording", "replay"]

#: Of a start that was recorded: as much as ``calls.start_timeout`` gives by default, for each of its steps.
_LEAST_PATIENCE_SECONDS = 1.0
#: Of a request, in a message.
_SHOWN_BYTES = 300
#: Bounds that a recording may not raise, since its file may be anybody's.
_BOUNDED = ("wasm_memory", "process_memory", "open_files", "processes", "output", "frame", "wasm_module")
#: The same; here 0 is no bound.
_BOUNDED_UNLESS_0 = ("cpu_per_call", "cpu_total")


class Verdict(StrEnum):
    """How a call went the second time."""

    SAME = "same"  #: the same host calls, the same result
    SAME_CRASH = "same_crash"  #: it crashed again, with the same cause
    OTHER_RESULT = "other_result"  #: the same host calls, and then another end, or no crash
    OTHER_CRASH = "other_crash"  #: it crashed otherwise, or for the first time
    OTHER_HOST_CALL = "other_host_call"  #: from one of them on the guest asked something else
    FEWER_HOST_CALLS = "fewer_host_calls"
    MORE_HOST_CALLS = "more_host_calls"


@dataclass(frozen=True, slots=True)
class Asked:
    """A host call: what was asked, without secrets."""

    function: str
    request: bytes

    def __str__(self) -> str:
        return self.around(0)

    def around(self, place: int) -> str:
        """With so much of the request as fits into a message: what is around that byte."""
        begin = max(0, place - _SHOWN_BYTES // 2)
        shown = self.request[begin : begin + _SHOWN_BYTES].decode("utf-8", "replace")
        before, after = "…" if begin else "", "…" if begin + _SHOWN_BYTES < len(self.request) else ""
        return f"{clip(self.function, _SHOWN_BYTES)} {before}{shown}{after}".rstrip()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of running ``recording`` again.

    ``export`` is where it went otherwise, or ended: one of the start, or the recorded call. ``host_call`` counts from
    1 within that export; ``then`` and ``now`` are what was asked there. ``recorded`` and ``ending`` are its ends;
    ``ending`` is None when it was stopped where it went otherwise. ``notes`` say what may explain a difference.
    """

    recording: Recording
    verdict: Verdict
    export: str
    recorded: Ending
    ending: Ending | None
    host_call: int | None = None
    then: Asked | None = None
    now: Asked | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        return self.verdict in (Verdict.SAME, Verdict.SAME_CRASH)

    def __str__(self) -> str:
        recorded, ending = self.recorded, self.ending
        match self.verdict:
            case Verdict.SAME:
                return f"same result: {ending}"
            case Verdict.SAME_CRASH:
                return f"crashed again with the same signature: {self.recording.signature}"
            case Verdict.OTHER_HOST_CALL:
                then, now = _told_apart(self.then, self.now)
                return f"different at host call {self.host_call} of {self.export}: then {then}, now {now}"
            case Verdict.MORE_HOST_CALLS:
                return f"went on further in {self.export}: host call {self.host_call} was not recorded: {self.now}"
            case Verdict.FEWER_HOST_CALLS:
                return f"host call {self.host_call} of {self.export} did not come: {self.then}; now {ending}"
            case Verdict.OTHER_CRASH:
                return f"another crash in {self.export}: then {recorded}, now {ending}"
            case Verdict.OTHER_RESULT:
                return f"different result of {self.export}: then {recorded}, now {ending}"

    def to_json(self) -> dict[str, Any]:
        """Bytes as text, with what is not UTF-8 replaced."""
        return {
            "verdict": self.verdict.value,
            "same": self.is_same,
            "summary": str(self),
            "plugin": self.recording.plugin_id,
            "call": self.recording.call.export,
            "export": self.export,
            "host_call": self.host_call,
            "then": None if self.then is None else _asked_json(self.then),
            "now": None if self.now is None else _asked_json(self.now),
            "recorded_end": _ending_json(self.recorded),
            "end": None if self.ending is None else _ending_json(self.ending),
            "notes": list(self.notes),
        }


def _told_apart(then: Asked | None, now: Asked | None) -> tuple[str, str]:
    """Both, where they begin to differ."""
    if then is None or now is None or then.function != now.function:
        return str(then), str(now)
    pairs = enumerate(zip(then.request, now.request, strict=False))
    shorter = min(len(then.request), len(now.request))
    place = next((at for at, (one, other) in pairs if one != other), shorter)
    return then.around(place), now.around(place)


def _asked_json(asked: Asked) -> dict[str, str]:
    return {"function": asked.function, "request": asked.request.decode("utf-8", "replace")}


def _ending_json(ending: Ending) -> dict[str, str]:
    output = ending.output.decode("utf-8", "replace")
    return {"kind": ending.kind.value, "cause": ending.cause, "text": ending.text, "output": output}


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Raises InvalidArgument for what is not a recording, or cannot be read."""
    try:
        return decode(read_bounded(Path(path), MAX_FILE_BYTES))
    except Unreadable as error:
        raise InvalidArgument(f"{os.fspath(path)!r} is not a recording that can be read: {error}") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"cannot read the recording {os.fspath(path)!r}: {reason(error)}; recordings lie in the folder recordings "
            "of the state folder, as long as they are kept"
        ) from error


def replay(
    path: str | os.PathLike[str], *, module: str | os.PathLike[str] | None = None, config: Config | None = None
) -> Replayed:
    """Run a recorded call again, and compare.

    Args:
        path: the file of the recording.
        module: a plugin.wasm to run in place of the one that was recorded, for example one in which a defect was
            mended; by default that one, which is kept beside the recording.
        config: what it allows is what a recording may demand of limits; its ``lockdown`` counts.

    Raises:
        InvalidArgument: it is not a recording, or not one that can be run again; the text says why.
        LoadError, SetupError: the module, this machine.
    """
    check_platform()
    recording, config = read_recording(path), config or Config()
    if recording.gap:
        raise InvalidArgument(f"{os.fspath(path)!r} cannot be run again: {recording.gap}")
    limits = _limits_of(recording, config)
    wasm = _module_of(recording, Path(path), None if module is None else Path(module), limits)
    alone = config.override(plugins_dir=None, workspace=None, state_dir=None, root_index=None)
    own = OwnServices(permissions=DenyAll(), http=NoHttp(), websockets=NoSockets())
    player = _Player()
    with ExitStack() as cleanup:
        runtime = cleanup.enter_context(make_runtime_folder())
        services = build_services(alone, own, None, None, runtime, cleanup)
        launcher = build_launcher(alone, runtime, cleanup)
        runner = CallRunner(
            PluginTable(),
            services,
            call_timeout_seconds=alone.calls.timeout,
            max_depth=0,
            interceptors=(player,),
        )
        copies = module_folder(alone, None, None)
        name, stamp = recording.plugin_id, Stamp(0, 0, len(wasm), 0, 0)
        code = Module(sha256_of(wasm), Path(path), stamp, copies, launcher, name, limits)
        cleanup.callback(code.close)
        code.keep(wasm)
        worker = launcher.launch(code.template, Deadline.after(alone.calls.start_timeout))
        cleanup.callback(worker.end)
        replayed = _play(recording, runner, worker, player, alone)
    return _with_notes(replayed, is_own_module=module is not None)


def _play(recording: Recording, runner: CallRunner, worker: Worker, player: _Player, config: Config) -> Replayed:
    for step in recording.start:
        result = _play_step(recording, step, runner, worker, player, config.calls.start_timeout)
        if not result.is_same:
            return result
    seconds = config.calls.timeout
    if recording.call.ending.kind is End.TIMEOUT:  # it would only wait longer for the same
        seconds = min(seconds, recording.patience_seconds)
    return _play_step(recording, recording.call, runner, worker, player, seconds)


def _play_step(
    recording: Recording, step: Step, runner: CallRunner, worker: Worker, player: _Player, seconds: float
) -> Replayed:
    deadline = Deadline.after(min(max(seconds, _LEAST_PATIENCE_SECONDS), MAX_TIMEOUT_SECONDS))
    player.begin(step)
    frame = Frame(runner.new_chain(), deadline)
    try:
        runner.call_starting(worker, recording.plugin_id, step.export, step.data, frame)
    except PluginError:
        if not player.has_played:  # its input is larger than the configuration allows
            raise
    return player.result(recording)


class _Diverged(Exception):
    """The guest goes another way than it went when it was recorded; nobody knows what it would be answered."""


class _Player:
    """An ``Interceptor`` that answers host calls from one step of a recording after the other."""

    def __init__(self) -> None:
        self._step: Step
        self._worker: Worker
        self._count = 0
        self._now: Asked | None = None
        self._ending: Ending | None = None

    def begin(self, step: Step) -> None:
        self._step, self._count, self._now, self._ending = step, 0, None, None

    def intercept(self, delivery: Delivery, proceed: Proceed) -> Returned | Failed:
        """See ``Interceptor``."""
        self._worker = delivery.worker
        delivery.serve = self._answer
        try:
            outcome = proceed(delivery)
        except _Diverged:
            raise Gone from None
        except (Silence, Gone, Breach, Exceeded, GuestAbort) as end:
            self._ending = Ending.of_loss(end, delivery.worker)
            raise
        self._ending = Ending.of(outcome)
        return outcome

    @property
    def has_played(self) -> bool:
        return self._now is not None or self._ending is not None

    def result(self, recording: Recording) -> Replayed:
        step, ending = self._step, self._ending
        if self._now is not None:
            is_more = self._count > len(step.host_calls)
            then = None if is_more else _asked(step.host_calls[self._count - 1])
            verdict = Verdict.MORE_HOST_CALLS if is_more else Verdict.OTHER_HOST_CALL
            return Replayed(recording, verdict, step.export, step.ending, None, self._count, then, self._now)
        if self._count < len(step.host_calls):
            then = _asked(step.host_calls[self._count])
            verdict = Verdict.FEWER_HOST_CALLS
            return Replayed(recording, verdict, step.export, step.ending, ending, self._count + 1, then)
        assert ending is not None
        return Replayed(recording, _compared(step.ending, ending), step.export, step.ending, ending)

    def _answer(self, function: str, request: bytes) -> bytes:
        self._count += 1
        now = Asked(function, redacted_request(function, request))
        if self._count > len(self._step.host_calls) or _asked(call := self._step.host_calls[self._count - 1]) != now:
            self._now = now
            raise _Diverged
        match call.unanswered:
            case Unanswered.NOT:
                return call.answer
            case Unanswered.ABORTED:
                raise GuestAbort(call.text)
            case Unanswered.DEADLINE:
                raise Silence
            case Unanswered.GONE:  # a worker that waits for an answer does not die by itself
                self._worker.process.kill()
                raise Gone
            case Unanswered.BROKEN:
                raise Breach(call.text)


def _asked(call: HostCall) -> Asked:
    return Asked(call.function, call.request)


def _compared(then: Ending, now: Ending) -> Verdict:
    if then.is_like(now):
        return Verdict.SAME_CRASH if now.is_crash else Verdict.SAME
    return Verdict.OTHER_CRASH if now.is_crash else Verdict.OTHER_RESULT


def _with_notes(replayed: Replayed, *, is_own_module: bool) -> Replayed:
    recording, notes = replayed.recording, []
    if is_own_module:
        notes.append("another module was run than the one that was recorded")
    if recording.isoplug_version != VERSION:
        notes.append(f"it was recorded by isoplug {recording.isoplug_version}, this is {VERSION}")
    if any(call.unanswered is Unanswered.GONE for call in recording.call.host_calls):
        notes.append("the worker was killed from outside during its last host call, and so it was now")
    if replayed.verdict is Verdict.OTHER_RESULT and replayed.recorded.cause == "SIGKILL":
        notes.append("nothing that a guest computes ends in SIGKILL: it was killed by somebody, or for want of memory")
    if not replayed.is_same and recording.served:
        notes.append(
            f"the instance had answered {recording.served} calls before; what it kept in memory from them is not in "
            "the recording"
        )
    return replace(replayed, notes=tuple(notes))


def _limits_of(recording: Recording, config: Config) -> Limits:
    """Those of the plugin. Raises InvalidArgument for more than this host would give it."""
    try:
        limits = Limits.model_validate_json(recording.limits)
    except ValidationError as error:
        raise InvalidArgument(f"the limits in the recording make no sense ({error.error_count()} errors)") from error
    allowed = config.of_plugin(recording.plugin_id).limits
    for name in (*_BOUNDED, *_BOUNDED_UNLESS_0):
        wanted, most = getattr(limits, name), getattr(allowed, name)
        if name in _BOUNDED_UNLESS_0:
            wanted, most = (bound or math.inf for bound in (wanted, most))
        if wanted > most:
            raise InvalidArgument(
                f"it was recorded with limits.{name} = {wanted}, here {most} is allowed; give the configuration of "
                "the host that recorded it (--config), if you trust it"
            )
    return limits


def _module_of(recording: Recording, path: Path, module: Path | None, limits: Limits) -> bytes:
    file = path.parent / MODULES / f"{recording.sha256}.wasm" if module is None else module
    try:
        wasm = read_bounded(file, limits.wasm_module)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"cannot read the module {str(file)!r}: {reason(error)}; name it with --module (its SHA-256 is "
            f"{recording.sha256})"
        ) from error
    if module is None and hashlib.sha256(wasm).hexdigest() != recording.sha256:
        raise InvalidArgument(f"the module {str(file)!r} was changed; name the right one with --module")
    return wasm
