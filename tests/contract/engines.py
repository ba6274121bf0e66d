"""The engines that the contract suite runs over, each behind the same small harness.

A new engine gets a harness here and a name in `conftest.py`; nothing else of the suite changes.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Protocol

from contract.remote_store import RemoteStore
from poolmaster.store.contract import Store
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmaster.store.sqlite import SqliteOptions, SqliteStore
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

    async def pass_time(self, seconds: float) -> None:
        """Let leases grow older."""
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

    async def pass_time(self, seconds: float) -> None:
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

    async def pass_time(self, seconds: float) -> None:
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
