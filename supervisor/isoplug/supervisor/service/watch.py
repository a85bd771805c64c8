"""Noticing changes in the plugins folder. The door to ``watchfiles``.

watchfiles groups what happens within a step, but it counts paths, so a file that is still being written looks quiet to
it. A change is therefore reported only after a whole pause in which nothing at all has happened. It also goes on in
silence when the folder itself is replaced (a deployment that switches a symbolic link, a mount); the pauses are used
to see whether the path still leads to the folder that is watched.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from watchfiles import Change, watch

from isoplug.supervisor.files import TEMPORARY_PREFIX
from isoplug.supervisor.observe.logs import get_logger

__all__ = ["FolderWatch"]

_log = get_logger(__name__)

#: Without a further change, after which a change is reported. Polling sees changes every ``_POLL_MS`` at most.
_QUIET_MS = 600
_QUIET_POLLING_MS = 2_500
#: How often the library looks at what the kernel has told it.
_STEP_MS = 200
_POLL_MS = 2_000
#: A folder that never comes to rest is reported all the same: reloading refuses what is half-written.
_PATIENCE_SECONDS = 30.0
#: Between looks for a folder that is not there.
_ABSENT_SECONDS = 1.0


class FolderWatch:
    """Calls ``on_change`` from a thread of its own, each time that ``folder`` has changed and come to rest.

    ``folder`` need not be there, and may be replaced by another. ``is_polling``: look at it every two seconds
    instead of asking the kernel, for network file systems; done anyway where the kernel refuses.
    """

    def __init__(self, folder: Path, on_change: Callable[[], None], *, is_polling: bool) -> None:
        self._folder, self._on_change, self._is_polling = folder, on_change, is_polling
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="isoplug-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended, which takes a fraction of a second."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        is_changed = False  # since it was last reported, or perhaps: nobody was looking
        while not self._stopping.is_set():
            identity = self._identity()
            if identity is None:
                self._await_folder()
            else:
                self._watch(identity, is_changed)
            is_changed = True

    def _watch(self, identity: tuple[int, int], is_changed: bool) -> None:
        """Until something has changed and come to rest, the path leads elsewhere, or this way of watching fails.

        The change is reported by the next watch, once that sees the folder: a new folder may be one that this watch
        has no means to see into, and then beginning anew is what fails.
        """
        try:
            changed_at: float | None = None
            quiet_ms = _QUIET_POLLING_MS if self._is_polling else _QUIET_MS
            for changes in watch(
                self._folder,
                watch_filter=_is_of_interest,
                step=_STEP_MS,
                debounce=quiet_ms,
                rust_timeout=quiet_ms,
                yield_on_timeout=True,
                stop_event=self._stopping,
                force_polling=self._is_polling,
                poll_delay_ms=_POLL_MS,
                # With it the library ignores every refusal, also that of a kernel without watches, and sees nothing.
                ignore_permission_denied=self._is_polling,
            ):
                if self._identity() != identity:
                    return
                if changes:
                    changed_at = changed_at or time.monotonic()
                    if time.monotonic() - changed_at < _PATIENCE_SECONDS:
                        continue
                if is_changed and (changes or changed_at is None):
                    is_changed = False
                    self._on_change()
                if changed_at is not None:
                    return
        except (OSError, RuntimeError) as error:  # the latter: watchfiles' own error, which it does not export
            self._cope(error)

    def _cope(self, error: OSError | RuntimeError) -> None:
        if self._identity() is None:
            return
        if self._is_polling:
            _log.warning("watch.failed", folder=str(self._folder), reason=str(error))
            self._stopping.wait(_ABSENT_SECONDS)
        else:
            advice = "raise fs.inotify.max_user_instances and max_user_watches"
            _log.warning("watch.polling_instead", folder=str(self._folder), reason=str(error), advice=advice)
            self._is_polling = True

    def _await_folder(self) -> None:
        _log.warning("watch.folder_is_gone", folder=str(self._folder))
        while self._identity() is None and not self._stopping.wait(_ABSENT_SECONDS):
            pass

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._folder)
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _is_of_interest(_change: Change, path: str) -> bool:
    """Not what isoplug itself writes there: cached manifests, and files that are half-written, which the kernel calls
    ``#`` and a number while they have no name."""
    name = os.path.basename(path)
    is_unnamed = name.startswith("#") and name[1:].isdecimal()
    return name != "manifest.json" and not name.startswith(TEMPORARY_PREFIX) and not is_unnamed
