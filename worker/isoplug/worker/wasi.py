"""The life of a disposable process: run one WASI program, say how it ended, be gone.

The supervisor starts it in a fresh interpreter with an empty environment, in a session of its own. Its standard input
holds the program's; its standard output and error are pipes that the supervisor reads. The verdict has a pipe of its
own, so nothing that a program prints can be taken for one.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

from isoplug.shared.lockdown import Lockdown
from isoplug.shared.wasi import Order, Verdict, VerdictKind, encode_verdict
from isoplug.worker.lockdown import lifeline, program, rlimits

if TYPE_CHECKING:
    import wasmtime

__all__ = ["main"]

#: Descriptors of the process: a dozen of the runtime's, the rest are the program's files.
_OPEN_FILES = 256
#: The runtime would start threads by the number of cores, and 64 of them take all the memory that it has.
_THREADS = {"RAYON_NUM_THREADS": "2", "TOKIO_WORKER_THREADS": "1"}
#: Elements of a table, at 8 bytes each, and how many tables and memories a module may have.
_TABLE_ELEMENTS = 1_000_000
_TABLES = 16
_MEMORIES = 1


def main(order_fd: int, verdict_fd: int, lifeline_fd: int) -> None:
    """Entry point. Never returns."""
    lifeline.tie(lifeline_fd, signal.SIGKILL)
    with open(order_fd, "rb") as file:
        order = Order.decode(file.read())
    rlimits.lower(
        (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, order.cpu_seconds),
            (resource.RLIMIT_DATA, order.process_memory_bytes),
            *rlimits.UNCOUNTED,
            (resource.RLIMIT_FSIZE, order.file_bytes),
            (resource.RLIMIT_NOFILE, _OPEN_FILES),
        )
    )
    os.environ.update(_THREADS)
    os.write(verdict_fd, encode_verdict(_run(order)))
    os._exit(0)  # threads of the runtime may still wait for something


def _run(order: Order) -> Verdict:
    try:
        import wasmtime
    except ImportError as error:
        return Verdict(VerdictKind.MISSING, str(error))
    protection = program.lock(order.folder, order.lockdown)  # what is imported later could not be read any more
    if protection.missing and order.lockdown is Lockdown.FULL:
        return Verdict(VerdictKind.UNPROTECTED, protection.gaps)
    engine = wasmtime.Engine()  # its cache of compiled code is off unless asked for: nothing is left on disk
    store = wasmtime.Store(engine)
    store.set_limits(
        memory_size=order.program_memory_bytes,
        table_elements=_TABLE_ELEMENTS,
        instances=1,
        tables=_TABLES,
        memories=_MEMORIES,
    )
    store.set_wasi(_wasi_config(order.arguments))
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    start = None
    try:
        instance = linker.instantiate(store, wasmtime.Module(engine, order.module))
        export = instance.exports(store).get("_start")
        if not isinstance(export, wasmtime.Func) or export.type(store).params or export.type(store).results:
            return Verdict(VerdictKind.REFUSED, "it exports no function `_start` without parameters and results")
        start = export
        start(store)
    except wasmtime.ExitTrap as exit_:  # also when the module's own start function was all it needed
        return Verdict(VerdictKind.EXITED, str(exit_.code))
    except wasmtime.Trap as trap:
        return Verdict(VerdictKind.TRAPPED, _words(trap))
    except wasmtime.WasmtimeError as error:  # of a program that runs: a host function of WASI trapped
        return Verdict(VerdictKind.REFUSED if start is None else VerdictKind.TRAPPED, _words(error))
    return Verdict(VerdictKind.EXITED, "0")


def _words(error: Exception) -> str:
    """The runtime's text with the cause first. There it stands last, after a backtrace that may fill a verdict."""
    before, _, cause = str(error).partition("Caused by:")
    return f"{cause.strip()}\n{before.strip()}".strip()


def _wasi_config(arguments: list[str]) -> wasmtime.WasiConfig:
    """Its arguments, the working folder and the three standard streams; no environment, and nothing else."""
    import wasmtime

    config = wasmtime.WasiConfig()
    config.argv = ["program", *arguments]
    config.inherit_stdin()
    config.inherit_stdout()
    config.inherit_stderr()
    for name in ("/", "."):  # as in the reference: programs name files either way
        config.preopen_dir(".", name)
    return config
