"""The life of a call: lease a worker, send the call, answer its host calls, and say truthfully how it ended."""

from __future__ import annotations

from isoplug.supervisor.calls.cancellation import Cancellation
from isoplug.supervisor.calls.crash import Crash, OnCrash
from isoplug.supervisor.calls.frame import Frame
from isoplug.supervisor.calls.interceptor import Delivery, Interceptor, Proceed
from isoplug.supervisor.calls.options import CallOptions
from isoplug.supervisor.calls.poison import Poisoned
from isoplug.supervisor.calls.runner import CallRunner
from isoplug.supervisor.calls.steps import Steps, finish

__all__ = [
    "CallOptions",
    "CallRunner",
    "Cancellation",
    "Crash",
    "Delivery",
    "Frame",
    "Interceptor",
    "OnCrash",
    "Poisoned",
    "Proceed",
    "Steps",
    "finish",
]
