"""Runs a Python command with a clock that jumps: `python jumping_clock.py FILE COMMAND ARGS…`.

What the time of day is off by, in seconds, stands in FILE and may change at any time; no file means
nothing. Python's own ways of asking for the time of day give it; clocks that never jump, which is
what they are for, do not. Time of day that libraries ask the system for by themselves is the true
one: of those in use only gRPC and SQLite could. gRPC calculates deadlines with Python's time of day
and with the system's; on a real machine both jump together, so here both are the true one.
"""

from __future__ import annotations

import datetime as datetime_module
import importlib
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILE = Path(sys.argv[1])
TRUE = datetime_module.datetime
_time, _time_ns, _clock_gettime = time.time, time.time_ns, time.clock_gettime


def offset() -> float:
    """By how many seconds the clock is wrong now."""
    try:
        return float(FILE.read_text())
    except (OSError, ValueError):
        return 0.0


class Jumping(TRUE):
    """The time of day of this process."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return TRUE.now(tz) + datetime_module.timedelta(seconds=offset())


def clock_gettime(clock: int) -> float:
    """As `time.clock_gettime`."""
    return _clock_gettime(clock) + (offset() if clock == time.CLOCK_REALTIME else 0.0)


if __name__ == "__main__":
    time.time = lambda: _time() + offset()
    time.time_ns = lambda: _time_ns() + int(offset() * 1e9)
    time.clock_gettime = clock_gettime
    datetime_module.datetime = Jumping  # type: ignore[misc]  # that is what this file is about
    # Not before: it brings libraries that take the time of day as they find it.
    for module in ("grpc.aio._utils", "grpc._cython.cygrpc"):
        vars(importlib.import_module(module))["time"] = SimpleNamespace(time=_time)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
