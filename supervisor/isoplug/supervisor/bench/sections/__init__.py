"""What can be measured, in the order in which it is. A section is a module with ``measure`` and an entry here."""

from __future__ import annotations

from typing import Final

from isoplug.supervisor.bench.lab import Section
from isoplug.supervisor.bench.sections import (
    calls,
    commands,
    files,
    lockdown,
    memory,
    payloads,
    recording,
    recovery,
    starts,
    storage,
    throughput,
)

__all__ = ["SECTIONS"]

SECTIONS: Final = (
    Section("calls", "one call: bare sockets, Extism in this process, isoplug, pools of processes", calls.measure),
    Section("payloads", "one call with 1 KB to 10 MB there and back", payloads.measure),
    Section(
        "throughput",
        "calls a second of 1 to 32 threads, and round trips of bare sockets",
        throughput.measure,
    ),
    Section("lockdown", "a call and a restart with the workers locked down, and not", lockdown.measure),
    Section("recording", "a call that is recorded, and one that is not", recording.measure),
    Section("files", "10 MB through host_read_file and host_request_file", files.measure),
    Section("storage", "durable writes, beside bare SQLite", storage.measure),
    Section("starts", "start of a worker, load of 1 and of 100 plugins", starts.measure),
    Section("recovery", "kill -9 to the next answer, beside pools of processes", recovery.measure),
    Section("memory", "memory and idle CPU of up to 200 plugins", memory.measure),
    Section("commands", "isoplug on the command line, as whole processes", commands.measure),
)
