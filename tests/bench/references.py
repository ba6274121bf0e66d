"""What the figures are compared with: the same machine, disk and libraries without this project.

* Bare SQLite: one row per transaction, one writer, WAL and `synchronous=FULL` as in the store. What
  one disk write costs, and so the most that writes without group commit could reach.
* Bare etcd: one key per transaction, over one connection with gRPC's Python library, one
  transaction at a time of each writer.
* An empty gRPC server (`bench.echo_server`, a process of its own): what a call costs in Python
  before anything is done.
* Bare streams (`bench.stream_server`, a process of its own): what it costs in Python to send
  to many others over a connection each, before anything is done.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

from bench.figures import Spread
from bench.loads import Load, closed
from bench.processes import answer, running
from poolcore.wire.channels import open_channel
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.etcd.calls import TXN

ROW_BYTES = 300
"""About what a small object and its delta take."""


def bare_sqlite(folder: Path, seconds: float) -> Load:
    """Transactions of one row each, for so long, in a new file in `folder`."""
    file = folder / "bare.sqlite"
    latencies: list[float] = []
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS kv (key INTEGER PRIMARY KEY, value BLOB NOT NULL)"
        )
        began = time.perf_counter()
        while (asked := time.perf_counter()) < began + seconds:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO kv (value) VALUES (zeroblob(?))", (ROW_BYTES,))
            connection.execute("COMMIT")
            latencies.append(time.perf_counter() - asked)
        took = time.perf_counter() - began
    return Load(len(latencies) / took, Spread.of(latencies))


async def bare_etcd(address: str, writers: int, seconds: float) -> Load:
    """Transactions of one key each, by so many writers for so long, in the etcd at `address`."""
    async with open_channel(address) as channel:
        send: Any = channel.unary_unary(
            TXN.path,
            request_serializer=TXN.request.SerializeToString,
            response_deserializer=TXN.response.FromString,
        )
        numbers = count(time.monotonic_ns())  # none that an earlier round has had

        async def transact(writer: int) -> None:
            key = f"bench/{writer}/{next(numbers)}".encode()
            put = pb.PutRequest(key=key, value=bytes(ROW_BYTES))
            compare = pb.Compare(key=key, target=pb.Compare.CREATE, create_revision=0)
            request = pb.TxnRequest(compare=[compare], success=[pb.RequestOp(request_put=put)])
            answer = await send(request, timeout=10.0)
            if not answer.succeeded:
                raise RuntimeError("etcd has refused a transaction that nothing is in the way of")

        return await closed(writers, seconds, transact)


class Echo:
    """An empty gRPC server and channels to it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    async def calls(self, channels: int, seconds: float) -> Load:
        """Empty calls over so many connections, one at a time on each."""
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(open_channel(self._endpoint))
                for _ in range(channels)
            ]
            call: list[Any] = [channel.unary_unary("/bench.Echo/Echo") for channel in opened]
            await asyncio.gather(*(c(b"") for c in call))
            return await closed(channels, seconds, lambda writer: call[writer](b"x" * ROW_BYTES))


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    """The empty server, running."""
    async with running("echo_server") as process:
        yield Echo(f"127.0.0.1:{int(await answer(process))}")


async def bare_streams(receivers: int, processes: int, seconds: float) -> float:
    """Messages per second that a server gets to so many receivers, who share some processes."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running("stream_server", str(seconds)))
        endpoint = f"127.0.0.1:{int(await answer(server))}"
        each = str(receivers // processes)
        started = [
            await stack.enter_async_context(running("stream_receivers", endpoint, each))
            for _ in range(processes)
        ]
        for process in started:
            await answer(process)
        assert server.stdin is not None
        server.stdin.write(b"\n")
        received = [int(await answer(process)) for process in started]
    return sum(received) / seconds
