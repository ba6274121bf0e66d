"""What the host measures about its own disk, for preflight row 23."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FSYNCS = 5
VALID_SECONDS = 60.0
_BLOCK = b"\0" * 4096


@dataclass(frozen=True, slots=True)
class Disk:
    """How the state directory's disk is doing."""

    free_bytes: int
    fsync_seconds: float
    """Median of a few writes of one block."""


class DiskGauge:
    """Measures the disk, not more often than once a minute. Blocks: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._measured: tuple[float, float] | None = None

    def read(self) -> Disk:
        """The disk now; the fsync time may be a minute old."""
        now = time.monotonic()
        if self._measured is None or now - self._measured[0] > VALID_SECONDS:
            self._measured = (now, self._fsync_seconds())
        return Disk(shutil.disk_usage(self._path).free, self._measured[1])

    def _fsync_seconds(self) -> float:
        times = []
        with tempfile.TemporaryFile(dir=self._path) as file:
            for _ in range(FSYNCS):
                file.write(_BLOCK)
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
        return statistics.median(times)
