"""A libvirt driver that runs inside a lab host, used from outside like one in this process.

The driver asks the kernel for the interfaces of its own network namespace and libvirtd by a socket
in its own mount namespace, so it has to be where the project's daemon would be.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory
from poolmember.drivers.contract import DriverError
from support.lab_host import LabHost

_TREE = Path(__file__).parents[2]
_LINE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Resources:
    """How much a process has open."""

    open_files: int
    threads: int


class DriverProcess:
    """An open driver on `host`; raises what the driver raises."""

    def __init__(self, host: LabHost) -> None:
        self._host = host
        self._process: asyncio.subprocess.Process | None = None
        self._changes: deque[float] = deque()
        self._changes_ended = False

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._host.inside(),
            sys.executable, "-m", "support.driver_inside",
            self._host.uuid, f"{self._host.address}:7443",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(
                    str(_TREE / folder) for folder in (".", "tests", "proto/gen")
                ),
            },
        )  # fmt: skip
        try:
            await self._answer(seconds=20)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def inventory(self) -> Inventory:
        """The driver's inventory."""
        found: Inventory = await self._ask("inventory")
        return found

    async def inventory_when_it_answers(self, *, within_seconds: float) -> Inventory:
        """The inventory as soon as there is one; the last `DriverError` if there is none."""
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                return await self.inventory()
            except DriverError:
                if time.monotonic() > deadline:
                    raise

    def resources(self) -> Resources:
        """What the driver's process has of the machine now."""
        assert self._process is not None
        # nsenter has to fork to get into a pid namespace: the driver is its child.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        (pid,) = children.read_text().split()
        return Resources(
            open_files=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
        )

    async def longest_pause(self) -> float:
        """How long the driver's event loop was held up at most since the last question, seconds."""
        pause: float = await self._ask("pause")
        return pause

    async def watch(self) -> None:
        """Have it watch for changes from now on; the first, which comes at once, is taken."""
        await self._ask("changes")
        await self.next_change(within_seconds=5)

    async def next_change(self, *, within_seconds: float) -> float:
        """When the next change was told (monotonic time); `TimeoutError` if none is."""
        async with asyncio.timeout(within_seconds):
            while not self._changes:
                await self._read()
        return self._changes.popleft()

    async def no_more_changes(self, *, for_seconds: float) -> None:
        """Read what is still told until nothing has been for some time; forget it."""
        try:
            while True:
                await self.next_change(within_seconds=for_seconds)
        except TimeoutError:
            return

    async def end_of_changes(self, *, within_seconds: float) -> None:
        """Wait until `changes()` has ended."""
        async with asyncio.timeout(within_seconds):
            while not self._changes_ended:
                await self._read()

    async def close(self) -> None:
        """Close the driver; the process goes on until the end of the context."""
        await self._ask("close")

    async def _ask(self, command: str) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        await self._process.stdin.drain()
        return await self._answer(seconds=30)

    async def _answer(self, *, seconds: float) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                kind, value = await self._read()
                if kind == "answer":
                    return value
                if kind == "error":
                    raise DriverError(value)
                if kind == "refused":
                    reason, params = value
                    raise PoolError(Reason(reason), **params)

    async def _read(self) -> tuple[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise AssertionError(f"the driver's process has ended with {code}")
        kind, value = pickle.loads(base64.b64decode(line))
        if kind == "change":
            self._changes.append(value)
        self._changes_ended |= kind == "changes ended"
        return kind, value

    async def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        started = time.monotonic()
        try:
            async with asyncio.timeout(15):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            waited = time.monotonic() - started
            raise AssertionError(
                f"the driver's process had not ended after {waited:.0f} s"
            ) from None
