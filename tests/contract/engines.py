"""The engines that the contract suite runs over, each behind the same small harness.

A new engine gets a harness here and a name in `conftest.py`; nothing else of the suite changes.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import uuid
from pathlib import Path
from typing import Protocol

from contract.remote_store import RemoteStore
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import Store
from poolmaster.store.etcd.calls import DELETE_RANGE
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmaster.store.sqlite import SqliteOptions, SqliteStore
from support.etcd import EtcdCluster
from support.virtual_clock import VirtualClock

KEPT_VERSIONS = 50
"""What the engines are told to keep for watches to start from; they may keep a little more."""

POOL = "6f1d6a5e-0000-4000-8000-000000000001"
INCARNATION = "6f1d6a5e-0000-4000-8000-000000000002"


class Engine(Protocol):
    """One store, and time as its leases see it."""

    too_many_bytes: int
    """A value of this size makes a transaction too large."""

    async def open(self) -> Store:
        """A further handle on the store; the first call founds it."""
        ...

    async def pass_time(self, seconds: float, *, ends: bool = False) -> None:
        """Let leases grow older; `ends`: so that one ends, which takes some engines longer."""
        ...

    async def close(self) -> None:
        """Close every handle that is still open."""
        ...


class MemoryEngine:
    """Handles that share one `MemoryStoreData`."""

    too_many_bytes = 1_000_001

    def __init__(
        self, *, kept_versions: int = KEPT_VERSIONS, handle: type[MemoryStore] = MemoryStore
    ) -> None:
        self.clock = VirtualClock()
        self.data = MemoryStoreData(kept_versions=kept_versions, max_transaction_bytes=1_000_000)
        self._handle = handle
        self._handles: list[MemoryStore] = []

    async def open(self) -> MemoryStore:
        self._handles.append(self._handle(self.data, clock=self.clock))
        return self._handles[-1]

    async def pass_time(self, seconds: float, *, ends: bool = False) -> None:
        await self.clock.advance(seconds)

    async def close(self) -> None:
        for handle in self._handles:
            await handle.close()


class FileClock:
    """Seconds in a file, so that several processes have the same made-up time."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack("d", 1000.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> float:
        (seconds,) = struct.unpack("d", self._memory)
        return float(seconds)

    def advance(self, seconds: float) -> None:
        self._memory[:] = struct.pack("d", self() + seconds)


class SqliteEngine:
    """Handles of one process on a shared file."""

    too_many_bytes = 64 * 1024 * 1024 + 1

    def __init__(self, folder: Path, *, kept_versions: int = KEPT_VERSIONS) -> None:
        self.kept_versions = kept_versions
        self.path = folder / "store.db"
        self.clock_path = folder / "clock"
        self.clock = FileClock(self.clock_path)
        self._handles: list[Store] = []

    async def open(self) -> Store:
        options = SqliteOptions(clock=self.clock, kept_versions=self.kept_versions)
        handle = await self._open(options)
        self._handles.append(handle)
        return handle

    async def _open(self, options: SqliteOptions) -> Store:
        make = SqliteStore.open if self.path.exists() else SqliteStore.found
        return await make(
            self.path, pool=POOL, incarnation=INCARNATION, shared=True, options=options
        )

    async def pass_time(self, seconds: float, *, ends: bool = False) -> None:
        self.clock.advance(seconds)

    async def close(self) -> None:
        for handle in self._handles:
            await handle.close()


class SqliteEngineOfTwoProcesses(SqliteEngine):
    """As `SqliteEngine`, but every handle after the first lives in another process."""

    def __init__(self, folder: Path, socket: Path) -> None:
        super().__init__(folder)
        self._socket = socket

    async def _open(self, options: SqliteOptions) -> Store:
        if not self.path.exists():
            return await super()._open(options)
        return await RemoteStore.open(
            self._socket, self.path, self.clock_path, kept_versions=self.kept_versions
        )


class EtcdEngine:
    """Handles on a store in a running cluster, of an incarnation of its own."""

    too_many_bytes = 2 * 1024 * 1024
    LATE_SECONDS = 2.0
    """By how much a lease may end late: its leader looks twice a second, and has work to do."""

    def __init__(self, cluster: EtcdCluster, *, kept_versions: int = KEPT_VERSIONS) -> None:
        self.cluster = cluster
        self.options = EtcdOptions(
            addresses=cluster.addresses, tls=cluster.tls, kept_versions=kept_versions
        )
        self.incarnation = str(uuid.uuid4())
        self._handles: list[EtcdStore] = []

    async def open(self) -> EtcdStore:
        make = EtcdStore.open if self._handles else EtcdStore.found
        handle = await make(self.options, pool=POOL, incarnation=self.incarnation)
        self._handles.append(handle)
        return handle

    async def pass_time(self, seconds: float, *, ends: bool = False) -> None:
        await asyncio.sleep(seconds + (self.LATE_SECONDS if ends else 0.0))

    async def close(self) -> None:
        for handle in self._handles:
            await handle.close()
        # Otherwise leases that end later would count in the versions of the next test's store.
        async with self.cluster.client(*self.cluster.members) as client:
            everything = pb.DeleteRangeRequest(key=b"\x00", range_end=b"\x00")
            await client.ask(DELETE_RANGE, everything)
