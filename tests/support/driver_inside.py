"""Runs a libvirt driver inside a lab host for `support.driver_process`, which starts it.

Takes one command a line on stdin; answers, and reports on its own account, on stdout: one line
each, a pickle in base64.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import sys
import time
from typing import Any

from poolcore.errors import PoolError
from poolcore.model import HostId
from poolmember.drivers.contract import DriverError
from poolmember.drivers.libvirt_driver import LibvirtDriver

TICK_SECONDS = 0.02


def report(kind: str, value: Any) -> None:
    """One line to the other side."""
    sys.stdout.buffer.write(base64.b64encode(pickle.dumps((kind, value))) + b"\n")
    sys.stdout.buffer.flush()


class LongestPause:
    """How long the event loop did not get to its ticks, in seconds, since last asked."""

    def __init__(self) -> None:
        self._longest = 0.0

    async def watch(self) -> None:
        """Tick, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self._longest = max(self._longest, time.monotonic() - before - TICK_SECONDS)

    def take(self) -> float:
        """The longest pause so far; starts anew."""
        longest, self._longest = self._longest, 0.0
        return longest


async def report_changes(driver: LibvirtDriver) -> None:
    """Tell of each change with the time, which is the same clock on both sides."""
    async for _ in driver.changes():
        report("change", time.monotonic())
    report("changes ended", None)


async def obey(driver: LibvirtDriver, pause: LongestPause, tasks: asyncio.TaskGroup) -> None:
    """Carry out the commands from stdin until it ends."""
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while command := (await stdin.readline()).decode().strip():
        try:
            if command == "inventory":
                report("answer", await driver.inventory())
            elif command == "changes":
                tasks.create_task(report_changes(driver))
                report("answer", None)
            elif command == "pause":
                report("answer", pause.take())
            elif command == "close":
                await driver.close()
                report("answer", None)
        except DriverError as error:
            report("error", str(error))


async def main(host: str, management_endpoint: str) -> None:
    """Open the driver, say how that went, obey."""
    driver = LibvirtDriver(management_endpoint=management_endpoint)
    try:
        await driver.open(HostId(host))
    except PoolError as error:
        report("refused", (error.reason, dict(error.params)))
        return
    report("answer", None)
    pause = LongestPause()
    try:
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(pause.watch())
            await obey(driver, pause, tasks)
            await driver.close()
            ticking.cancel()
    finally:
        await driver.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
