"""A TCP proxy before a host that can lose what it carries: a network that fails."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024
WAIT_SECONDS = 20.0


class Proxy:
    """Passes connections to `endpoint` on to `target`, both `host:port`; a context manager."""

    def __init__(self, endpoint: str, target: str) -> None:
        self.endpoint = endpoint
        self._target = target
        self._requests, self._answers = asyncio.Event(), asyncio.Event()
        self._held = b""
        self._holds_more = asyncio.Event()
        self._carrying: set[asyncio.Task[None]] = set()
        self._open = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        host, _, port = self.endpoint.rpartition(":")
        self._server = await asyncio.start_server(self._carry, host, int(port))
        self.heal()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()
        # Nobody may wait at a gate any more; there is nothing left to carry through it.
        self._requests.set()
        self._answers.set()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._carrying)

    def hold(self, *, requests: bool = False, answers: bool = False) -> None:
        """Keep back from now on what goes to `target`, or what it says."""
        if requests:
            self._requests.clear()
        if answers:
            self._answers.clear()

    async def holds(self, words: bytes) -> None:
        """Until something with these bytes in it is kept back."""
        async with asyncio.timeout(WAIT_SECONDS):
            while words not in self._held:
                await self._holds_more.wait()
                self._holds_more.clear()

    def cut(self) -> None:
        """Break every connection and take no new ones; what was held back is lost."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Take connections again, and carry everything."""
        self._open = True
        self._held = b""
        self._requests.set()
        self._answers.set()

    async def _carry(
        self, from_caller: asyncio.StreamReader, to_caller: asyncio.StreamWriter
    ) -> None:
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)
        if not self._open:
            to_caller.transport.abort()
            return
        host, _, port = self._target.rpartition(":")
        try:
            from_target, to_target = await asyncio.open_connection(host, int(port))
        except OSError:
            to_caller.transport.abort()
            return
        self._writers |= {to_caller, to_target}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(from_caller, to_target, self._requests))
                tasks.create_task(self._pump(from_target, to_caller, self._answers))
        finally:
            self._writers -= {to_caller, to_target}

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gate: asyncio.Event,
    ) -> None:
        # Reading goes on while the gate is closed: what is to be kept back may come in pieces, and
        # behind other things.
        read: asyncio.Queue[bytes] = asyncio.Queue()

        async def take() -> None:
            data = b"..."
            while data:
                data = await source.read(CHUNK_BYTES)
                if not gate.is_set():
                    self._held += data
                    self._holds_more.set()
                read.put_nowait(data)

        async def pass_on() -> None:
            while data := await read.get():
                await gate.wait()
                sink.write(data)
                await sink.drain()

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(take())
                tasks.create_task(pass_on())
        except* ConnectionError:
            # Cut, here or by one of the two sides; the other one is told.
            pass
        sink.close()
