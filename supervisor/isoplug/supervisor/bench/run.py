"""A run: the sections, one after the other, each in a folder of its own."""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.facts import facts
from isoplug.supervisor.bench.figures import Figure
from isoplug.supervisor.bench.floor import plain_extism
from isoplug.supervisor.bench.goals import sections_far_off
from isoplug.supervisor.bench.lab import FULL, Lab, Pace, Section
from isoplug.supervisor.bench.report import Report
from isoplug.supervisor.bench.sections import SECTIONS
from isoplug.supervisor.files import reason
from isoplug.supervisor.private_folder import PrivateFolder

__all__ = ["Settings", "run", "sections_named"]

#: Two hundred plugins take some eight descriptors each.
_OPEN_FILES: Final = 8192


@dataclass(frozen=True, slots=True)
class Settings:
    """Which sections are measured, and how much."""

    sections: tuple[Section, ...] = SECTIONS
    pace: Pace = FULL


def sections_named(names: Sequence[str]) -> tuple[Section, ...]:
    """In the order in which they are measured. Raises SetupError for a name that is none."""
    known = {section.name: section for section in SECTIONS}
    if wrong := [name for name in names if name not in known]:
        raise SetupError(f"no section {wrong[0]!r}; there are {', '.join(known)}")
    return tuple(section for section in SECTIONS if section.name in names)


def run(settings: Settings, on_progress: Callable[[str, float], None] = lambda section, share: None) -> Report:
    """Measure; it takes minutes. ``on_progress`` hears which section it is at, and which share of all is done.

    Raises SetupError, and whatever isoplug raises when it does not work here. Whatever ends it, nothing stays behind.
    """
    began_at, begin = datetime.now(UTC), time.monotonic()
    missing: dict[str, str] = {}
    figures: dict[str, Sequence[Figure]] = {}
    again: list[str] = []
    at, done = "the machine", 0

    def tell(share: float) -> None:
        on_progress(at, (done + share) / len(settings.sections))

    try:
        with PrivateFolder.make("isoplug-bench-") as folder, _many_descriptors(), plain_extism():
            tell(0.0)
            where = facts(folder / "facts")
            for section in _turns(settings, figures):
                at, done = section.name, min(len(figures), len(settings.sections) - 1)
                tell(0.0)
                if at in figures:
                    again.append(at)
                with ExitStack() as cleanup:
                    own = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=folder)))
                    gc.collect()
                    figures[at] = section.measure(Lab(at, own, settings.pace, cleanup, tell, missing))
    except OSError as error:
        raise SetupError(f"cannot measure {at}: {reason(error)}") from error
    options = {"sections": list(figures), **asdict(settings.pace), "measured_again": again}
    passed = time.monotonic() - begin
    return Report(
        began_at.isoformat(timespec="seconds"), passed, tuple(chain(*figures.values())), missing, options, where
    )


def _turns(settings: Settings, figures: Mapping[str, Sequence[Figure]]) -> Iterator[Section]:
    """Each section, and those again that are far off by then."""
    yield from settings.sections
    for _ in range(settings.pace.again):
        far_off = sections_far_off(tuple(chain(*figures.values())))
        yield from [section for section in settings.sections if section.name in far_off]


@contextmanager
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
