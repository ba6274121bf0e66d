"""The processes that a benchmark starts besides the daemons, and what the kernel tells of them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """For a child that uses this folder's modules and no settings of whoever runs the benchmark."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("POOLMEMBER_", "POOL_"))}
    return inherited | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


@asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of this folder as a process, which ends when its stdin does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"bench.{module}", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
        env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def answer(process: asyncio.subprocess.Process, question: str | None = None) -> bytes:
    """The next line that a process prints, if it is asked something then to that."""
    assert process.stdin is not None
    assert process.stdout is not None
    if question is not None:
        process.stdin.write(f"{question}\n".encode())
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the benchmark ended with {await process.wait()}")
    return line


def memory_bytes(pid: int) -> tuple[int, int]:
    """What a process has in memory, now and at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    now, most = (int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


async def until_idle(pid: int) -> None:
    """Until a process has used next to no processor time for half a second."""
    while True:
        before = _processor_seconds(pid)
        await asyncio.sleep(0.5)
        if _processor_seconds(pid) - before < 0.05:
            return


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
