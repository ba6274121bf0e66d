"""A store that lives in another process, as the store of another daemon of the machine does.

`RemoteStore` passes calls over a Unix socket to a process that runs this very file as a program and
opens the shared SQLite file there; each connection is a store of its own. Messages are pickles with
their length before them.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

from poolmaster.store.contract import (
    Compare,
    LeaseId,
    ReadResult,
    StoreError,
    StoreUnavailable,
    WatchEvent,
    Write,
)

END = "end"


@contextmanager
def store_process(socket: Path) -> Iterator[Path]:
    """A process that serves stores at `socket`, until the block ends."""
    with subprocess.Popen([sys.executable, __file__, socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield socket
        process.terminate()


def _encoded(message: object) -> bytes:
    body = pickle.dumps(message)
    return struct.pack("!I", len(body)) + body


async def _receive(reader: asyncio.StreamReader) -> Any:
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    return pickle.loads(await reader.readexactly(length))


class RemoteStore:
    """The near side; an answer or a watch event per message, matched by the call's number."""

    engine = "sqlite"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Queue[tuple[str, Any]]] = {}
        self._closed = False
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, socket: Path, path: Path, clock: Path, *, kept_versions: int
    ) -> RemoteStore:
        store = cls(*await asyncio.open_unix_connection(socket))
        store._writer.write(_encoded((path, clock, kept_versions)))
        await _receive(store._reader)  # it is open
        store._listening = asyncio.get_running_loop().create_task(store._listen())
        return store

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        return bool(await self._call("transact", compares, writes))

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        result = await self._call("read", start, end, limit=limit, linearizable=linearizable)
        assert isinstance(result, ReadResult)
        return result

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        if self._closed:
            return
        number, answers = self._send("watch", start, end, after_version=after_version)
        try:
            while True:
                kind, value = await answers.get()
                if kind == END:
                    return
                if kind == "error":
                    raise value
                yield value
        finally:
            del self._answers[number]
            if not self._closed:
                self._writer.write(_encoded((number, "cancel", (), {})))

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        return LeaseId(await self._call("grant_lease", ttl_seconds))

    async def keep_alive(self, lease: LeaseId) -> bool:
        return bool(await self._call("keep_alive", lease))

    async def revoke(self, lease: LeaseId) -> None:
        await self._call("revoke", lease)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.write_eof()  # the far side closes its store, and then the connection
        assert self._listening is not None
        await self._listening
        self._writer.close()
        await self._writer.wait_closed()

    def _send(
        self, name: str, *args: object, **kwargs: object
    ) -> tuple[int, asyncio.Queue[tuple[str, Any]]]:
        number = next(self._numbers)
        answers = self._answers[number] = asyncio.Queue()
        self._writer.write(_encoded((number, name, args, kwargs)))
        return number, answers

    async def _call(self, name: str, *args: object, **kwargs: object) -> Any:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        number, answers = self._send(name, *args, **kwargs)
        try:
            kind, value = await answers.get()
        finally:
            del self._answers[number]
        if kind == "error":
            raise value
        return value

    async def _listen(self) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                number, kind, value = await _receive(self._reader)
                if number in self._answers:
                    self._answers[number].put_nowait((kind, value))


# -- the far side ---------------------------------------------------------------------------------


class _Server:
    def __init__(self, store: Any, writer: asyncio.StreamWriter) -> None:
        self._store = store
        self._writer = writer
        self._watches: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        async with asyncio.TaskGroup() as group:
            with suppress(asyncio.IncompleteReadError):
                while True:
                    number, name, args, kwargs = await _receive(reader)
                    if name == "cancel":
                        self._watches.pop(number).cancel()
                    elif name == "watch":
                        watching = self._watch(number, args, kwargs)
                        self._watches[number] = group.create_task(watching)
                    else:
                        group.create_task(self._answer(number, name, args, kwargs))
            await self._store.close()
        self._writer.close()

    def _reply(self, number: int, kind: str, value: object) -> None:
        self._writer.write(_encoded((number, kind, value)))

    async def _answer(self, number: int, name: str, args: Any, kwargs: Any) -> None:
        try:
            self._reply(number, "value", await getattr(self._store, name)(*args, **kwargs))
        except (StoreError, ValueError) as error:
            self._reply(number, "error", error)

    async def _watch(self, number: int, args: Any, kwargs: Any) -> None:
        try:
            async with aclosing(self._store.watch(*args, **kwargs)) as events:
                async for event in events:
                    self._reply(number, "value", event)
            self._reply(number, END, None)
        except StoreError as error:
            self._reply(number, "error", error)


async def _connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from contract.engines import FileClock
    from poolmaster.store.sqlite import SqliteOptions, SqliteStore

    path, clock, kept_versions = await _receive(reader)
    options = SqliteOptions(clock=FileClock(clock), kept_versions=kept_versions)
    store = await SqliteStore.open(path, pool=None, incarnation=None, shared=True, options=options)
    writer.write(_encoded("open"))
    await _Server(store, writer).serve(reader)


async def _main(socket: str) -> None:
    async with await asyncio.start_unix_server(_connected, socket) as server:
        print("listening", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    here = Path(__file__).resolve()
    sys.path[:0] = [str(here.parents[1]), str(here.parents[2])]
    asyncio.run(_main(sys.argv[1]))
