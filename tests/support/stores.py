"""Stores around other stores: for watching what passes, and for engines with something wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from poolmaster.store.contract import Compare, LeaseId, ReadResult, Store, WatchEvent, Write


class StoreAround:
    """A store that passes everything on to another one; subclasses change what they are about."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.engine = inner.engine

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        return await self.inner.transact(compares, writes)

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        return await self.inner.read(start, end, limit=limit, linearizable=linearizable)

    def watch(self, start: bytes, end: bytes, *, after_version: int) -> AsyncIterator[WatchEvent]:
        return self.inner.watch(start, end, after_version=after_version)

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        return await self.inner.grant_lease(ttl_seconds)

    async def keep_alive(self, lease: LeaseId) -> bool:
        return await self.inner.keep_alive(lease)

    async def revoke(self, lease: LeaseId) -> None:
        await self.inner.revoke(lease)

    async def close(self) -> None:
        await self.inner.close()


class WatchedStore(StoreAround):
    """Remembers the transactions that were sent, and how many were under way at once."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.sent: list[tuple[Sequence[Compare], Sequence[Write]]] = []
        self.reads = 0
        self.most_under_way = 0
        self._under_way = 0

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        self.sent.append((compares, writes))
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            return await super().transact(compares, writes)
        finally:
            self._under_way -= 1

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        self.reads += 1
        return await super().read(start, end, limit=limit, linearizable=linearizable)


class InterruptedStore(StoreAround):
    """Something happens before it is read or written for the first time, or each time."""

    def __init__(
        self,
        inner: Store,
        *,
        before_read_of: bytes | None = None,
        before_writing: bool = False,
        happens: Callable[[], Awaitable[object]],
        times: int = 1,
    ) -> None:
        super().__init__(inner)
        self._before_read_of = before_read_of
        self._before_writing = before_writing
        self._happens = happens
        self.times = times
        """How often it will still happen."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if self._before_writing:
            await self._interrupt()
        return await super().transact(compares, writes)

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        if self._before_read_of is not None and start.startswith(self._before_read_of):
            await self._interrupt()
        return await super().read(start, end, limit=limit, linearizable=linearizable)

    async def _interrupt(self) -> None:
        if self.times:
            self.times -= 1
            await self._happens()
