"""What is measured, as far as a goal refers to it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Name"]


class Name(StrEnum):
    """Names of figures; unique over all sections."""

    PAIR = "bare ZeroMQ PAIR ping-pong"
    IN_PROCESS = "in-process call"
    CALL = "isoplug call"
    CALL_ASYNC = "isoplug call, AsyncSupervisor"
    CALL_TEN = "isoplug call, 10 host calls"
    PROCESS_POOL = "ProcessPoolExecutor"
    PEBBLE = "pebble"
    LOKY = "loky"
    RAY = "Ray actor"
    ONE_CALLER = "1 caller"
    FOUR_CALLERS = "4 callers"
    MOST_CALLERS = "32 callers"
    ONE_SOCKET = "bare sockets, 1 thread"
    FOUR_SOCKETS = "bare sockets, 4 threads"
    MOST_SOCKETS = "bare sockets, 32 threads"
    READ_IN_PROCESS = "10 MB by host_read_file, in-process"
    READ = "10 MB by host_read_file, isoplug"
    REQUEST_IN_PROCESS = "10 MB by host_request_file, in-process"
    REQUEST = "10 MB by host_request_file, isoplug"
    BARE_SQLITE = "write, bare SQLite"
    STORAGE = "write, isoplug's storage"
    START = "worker start, template there"
    LOAD_ONE = "load of 1 plugin"
    LOAD_MANY = "load of 100 plugins"
    RECOVERY = "kill -9 to next answer, isoplug"
    WORKER_MEMORY = "a worker's private memory, 200 plugins"
    SUPERVISOR_MEMORY = "supervisor's memory per plugin, 200 plugins"
    IDLE_CPU = "CPU of all processes, 200 idle plugins"
    IMPORT_EXTISM = 'python -c "import extism"'
    VERSION = "isoplug --version"
    COMMAND = "isoplug call, the whole process"
