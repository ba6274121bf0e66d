"""A store to claim the mastership of, on an engine whose leases have a clock of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from poolcore.replica import State
from poolmaster.store.contract import Store
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmaster.store.sqlite import SqliteOptions, SqliteStore
from support.registers import INCARNATION, POOL, counting, leading
from support.virtual_clock import VirtualClock


@dataclass
class Field:
    """A store of some engine, and the clock of its leases."""

    store: Store
    clock: VirtualClock

    async def written(self, number: int) -> State:
        """The state after so many further commits, by a mastership of the first host."""
        async with leading(self.store, clock=self.clock) as leader:
            writes = (leader.ledger.write(counting("write")) for _ in range(number))
            await asyncio.gather(*writes)
            return leader.ledger.state


@asynccontextmanager
async def empty_field(engine: str, folder: Path) -> AsyncIterator[Field]:
    """An empty store of that engine, `memory` or `sqlite`."""
    clock = VirtualClock()
    store: Store
    if engine == "memory":
        store = MemoryStore(MemoryStoreData(), clock=clock)
    else:
        store = await SqliteStore.found(
            folder / "store.db",
            pool=POOL,
            incarnation=INCARNATION.uuid,
            options=SqliteOptions(clock=clock.monotonic),
        )
    try:
        yield Field(store, clock)
    finally:
        await store.close()
