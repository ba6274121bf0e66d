"""The engine `memory`: for simulation and tests, with every misfortune an engine may have.

Deterministic: it waits only through the clock it is given, draws no random numbers and starts no
tasks that outlive a call. Several handles may share one `MemoryStoreData`, as daemons share an etcd
cluster; each has its own `faults`. Misfortunes of the whole engine are methods of the data:
`MemoryStoreData.crash`, and `syncs = False` for an engine that acknowledges before it is durable.

Durability ends with the process: there is no file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from enum import Enum, auto

from poolcore.clock import Clock
from poolmaster.store.contract import (
    Compare,
    LeaseId,
    OutcomeUnknown,
    ReadResult,
    StoreFailed,
    StoreUnavailable,
    WatchEvent,
    Write,
    check_written_once,
)
from poolmaster.store.memory_data import NEVER, Flight, MemoryStoreData

__all__ = ["Fate", "Faults", "LateTransaction", "MemoryStore", "MemoryStoreData"]


class Fate(Enum):
    """What becomes of one transaction."""

    SERVED = auto()
    """Nothing special."""
    REFUSED = auto()
    """`StoreUnavailable`, not applied."""
    UNKNOWN_APPLIED = auto()
    """`OutcomeUnknown`, although it was applied, or failed its compares, at once."""
    UNKNOWN_LOST = auto()
    """`OutcomeUnknown`; it never arrives."""
    UNKNOWN_LATE = auto()
    """`OutcomeUnknown`; it waits in `Faults.late` until the test lands or drops it."""
    COMMIT_FAILED_APPLIED = auto()
    """`StoreFailed` at COMMIT, although it became durable; the handle is of no further use."""
    COMMIT_FAILED_LOST = auto()
    """`StoreFailed` at COMMIT, and it did not; the handle is of no further use."""


class LateTransaction:
    """A transaction whose caller was told `OutcomeUnknown` and that is still on its way."""

    def __init__(self, data: MemoryStoreData, flight: Flight) -> None:
        self._data = data
        self._flight = flight

    @property
    def writes(self) -> tuple[Write, ...]:
        """What it would write, to tell several apart."""
        return self._flight.writes

    def land(self) -> bool:
        """It arrives now, and its compares are evaluated now; whether it was applied.

        False, too, when it was dropped or a crash of the engine has taken it.
        """
        self._data.land(self._flight)
        return self._flight.outcome is not None and self._flight.result()

    def drop(self) -> None:
        """It never arrives."""
        self._data.drop(self._flight)


class Faults:
    """What goes wrong for one handle; a fresh one has none.

    * `cut_off`: every call raises `StoreUnavailable`, a call under way ends with `OutcomeUnknown`
      (a transaction) or `StoreUnavailable` (the rest), and watches fall silent until it is over.
      Other handles go on.
    * `latency_seconds`: how long a call takes to reach the engine. A transaction whose caller is
      cancelled meanwhile lands all the same when its time has come.
    * `plan(*fates)`: what becomes of the next transactions, in order of their calls.
    * `late`: the transactions that met `Fate.UNKNOWN_LATE`, in order of their calls.
    """

    def __init__(self, data: MemoryStoreData) -> None:
        self.latency_seconds = 0.0
        self.late: list[LateTransaction] = []
        self._data = data
        self._cut_off = False
        self._plan: deque[Fate] = deque()

    @property
    def cut_off(self) -> bool:
        """Whether the engine cannot be reached."""
        return self._cut_off

    @cut_off.setter
    def cut_off(self, value: bool) -> None:
        self._cut_off = value
        self._data.ring()

    def plan(self, *fates: Fate) -> None:
        """The next transactions meet these fates, one each; later ones are served."""
        self._plan.extend(fates)

    def next_fate(self) -> Fate:
        """Take the fate of the transaction that is being sent."""
        return self._plan.popleft() if self._plan else Fate.SERVED


class MemoryStore:
    """A handle on a `MemoryStoreData`; see `poolmaster.store.contract` for what is promised.

    Every call lets other tasks run at least once before it reaches the engine and once before its
    answer is back, as a call to a real engine does.
    """

    engine = "memory"

    def __init__(self, data: MemoryStoreData, *, clock: Clock) -> None:
        self.faults = Faults(data)
        self._data = data
        self._clock = clock
        self._life = data.crashes
        self._commit_failed = False
        self._closed = asyncio.Event()
        self._flights: set[Flight] = set()

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """As `Store.transact`, with the fate that `faults` has in store for it."""
        check_written_once(writes)
        self._ensure_usable()
        await asyncio.sleep(0)
        self._ensure_usable()
        fate = self.faults.next_fate()
        if fate is Fate.REFUSED:
            raise StoreUnavailable("refused")
        if fate is Fate.UNKNOWN_LOST:
            raise OutcomeUnknown("no answer")
        if fate is Fate.COMMIT_FAILED_LOST:
            raise self._fail()
        if fate is Fate.UNKNOWN_LATE:
            late = self._data.send(compares, writes, due=NEVER)
            self.faults.late.append(LateTransaction(self._data, late))
            raise OutcomeUnknown("no answer yet")
        applied = await self._fly(compares, writes)
        if fate is Fate.COMMIT_FAILED_APPLIED:
            raise self._fail()
        if fate is Fate.UNKNOWN_APPLIED or self.faults.cut_off:
            raise OutcomeUnknown("the answer was lost")
        return applied

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        """As `Store.read`; a local read is as fresh as a linearizable one."""
        if limit is not None and limit < 1:
            raise ValueError("limit must be 1 or more")
        await self._reach()
        result = self._data.read(start, end, limit)
        await asyncio.sleep(0)
        return result

    async def watch(
        self, start: bytes, end: bytes, *, after_version: int
    ) -> AsyncIterator[WatchEvent]:
        """As `Store.watch`; every change is told, overwritten ones too."""
        seen = after_version
        bell = asyncio.Event()
        with self._data.ringing(bell):
            while not self._closed.is_set():
                bell.clear()
                self._ensure_alive()
                self._data.settle(self._clock.monotonic())
                if not self.faults.cut_off:
                    newest = self._data.version
                    for event in self._data.changes(start, end, after_version=seen):
                        yield event
                        if self._closed.is_set():
                            return
                    seen = max(seen, newest)
                if not bell.is_set():
                    await self._wait(bell)

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """As `Store.grant_lease`."""
        await self._reach()
        return self._data.grant_lease(ttl_seconds, self._clock.monotonic())

    async def keep_alive(self, lease: LeaseId) -> bool:
        """As `Store.keep_alive`."""
        await self._reach()
        return self._data.keep_alive(lease, self._clock.monotonic())

    async def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        await self._reach()
        self._data.revoke(lease)

    async def close(self) -> None:
        """As `Store.close`; `Faults.late` stays under way."""
        while pending := [flight.due for flight in self._flights if flight.outcome is None]:
            if self._life != self._data.crashes:
                break
            await self._clock.sleep(max(pending) - self._clock.monotonic())
            self._data.settle(self._clock.monotonic())
        self._closed.set()
        self._data.ring()

    async def _fly(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        sent = self._clock.monotonic()
        self._data.settle(sent)
        self._flights = {flight for flight in self._flights if flight.outcome is None}
        flight = self._data.send(compares, writes, due=sent + self.faults.latency_seconds)
        self._flights.add(flight)
        self._data.settle(sent)
        while True:
            # At least once: the answer, too, takes its way.
            await self._clock.sleep(flight.due - self._clock.monotonic())
            self._ensure_alive()
            self._data.settle(self._clock.monotonic())
            if flight.outcome is not None:
                return flight.result()

    async def _reach(self) -> None:
        self._ensure_usable()
        await self._clock.sleep(self.faults.latency_seconds)
        self._ensure_usable()
        self._data.settle(self._clock.monotonic())

    async def _wait(self, bell: asyncio.Event) -> None:
        due = self._data.next_due()
        if due == NEVER:
            await bell.wait()
            return
        async with asyncio.TaskGroup() as group:
            timer = group.create_task(self._ring_after(due - self._clock.monotonic(), bell))
            await bell.wait()
            timer.cancel()

    async def _ring_after(self, seconds: float, bell: asyncio.Event) -> None:
        await self._clock.sleep(seconds)
        bell.set()

    def _fail(self) -> StoreFailed:
        self._commit_failed = True
        self._data.ring()
        return StoreFailed("an earlier COMMIT failed")

    def _ensure_alive(self) -> None:
        if self._commit_failed:
            raise StoreFailed("an earlier COMMIT failed")
        if self._life != self._data.crashes:
            raise StoreFailed("the engine has crashed")

    def _ensure_usable(self) -> None:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        self._ensure_alive()
        if self.faults.cut_off:
            raise StoreUnavailable("cut off")
