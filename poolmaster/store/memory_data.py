"""What a memory store holds: the shared, synchronous half of `poolmaster.store.memory`.

A `MemoryStoreData` is to `MemoryStore` what an etcd cluster is to its clients: one state that many
handles share. It knows no clock; every call that depends on time is told the present moment, in
seconds, and first does what has become due: leases end and delayed transactions land, in the order
of their moments.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from poolmaster.store.contract import (
    Compare,
    Item,
    LeaseGone,
    LeaseId,
    ReadResult,
    TransactionTooLarge,
    WatchEvent,
    WatchGone,
    Write,
)

NEVER = math.inf


class Bell(Protocol):
    """What watchers wait for; `asyncio.Event` is one."""

    def set(self) -> None:
        """Wake whoever waits."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    version: int
    lease: LeaseId | None


@dataclass(slots=True)
class _Lease:
    ttl_seconds: float
    ends: float
    keys: set[bytes] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Flight:
    """A transaction on its way: sent, and not yet at the engine."""

    compares: tuple[Compare, ...]
    writes: tuple[Write, ...]
    due: float
    """When it lands, in the clock's seconds; `NEVER`: when `MemoryStoreData.land` is called."""
    outcome: bool | Exception | None = None
    """None until it has landed."""

    def result(self) -> bool:
        """Whether it was applied; raises what the engine refused it with."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            raise RuntimeError("the transaction has not landed")
        return self.outcome


class MemoryStoreData:
    """The state that the handles of one memory store share.

    `kept_versions` bounds how far back a watch may start; `max_transaction_bytes` (keys and values)
    and `max_transaction_writes` are the limits above which a transaction is refused.
    """

    def __init__(
        self,
        *,
        kept_versions: int = 10_000,
        max_transaction_bytes: int | None = None,
        max_transaction_writes: int | None = None,
    ) -> None:
        self.version = 0
        self.syncs = True
        """Whether each transaction is durable when it is acknowledged. See `crash`."""
        self.crashes = 0
        """How often it crashed; a handle of an earlier life is of no further use."""
        self._kept_versions = kept_versions
        self._max_bytes = max_transaction_bytes
        self._max_writes = max_transaction_writes
        self._entries: dict[bytes, _Entry] = {}
        self._keys: list[bytes] = []
        self._leases: dict[LeaseId, _Lease] = {}
        self._lease_ids = itertools.count(1)
        self._log: deque[WatchEvent] = deque()
        self._oldest = 0
        self._flights: list[Flight] = []
        self._unsynced: list[tuple[int, dict[bytes, _Entry | None]]] = []
        self._bells: set[Bell] = set()

    # -- transactions -----------------------------------------------------------------------------

    def send(self, compares: Sequence[Compare], writes: Sequence[Write], *, due: float) -> Flight:
        """Put a transaction on its way; it lands in the first call told a moment of `due` or later.

        Raises `TransactionTooLarge` at once.
        """
        self._check_size(compares, writes)
        flight = Flight(tuple(compares), tuple(writes), due)
        self._flights.append(flight)
        self.ring()
        return flight

    def land(self, flight: Flight) -> None:
        """Let the transaction arrive now: its compares see the state as it is.

        Nothing happens if it has arrived before, was dropped, or was in flight at a crash.
        """
        if flight not in self._flights:
            return
        self._flights.remove(flight)
        try:
            flight.outcome = self._apply(flight.compares, flight.writes)
        except LeaseGone as refusal:
            flight.outcome = refusal

    def drop(self, flight: Flight) -> None:
        """Let the transaction never arrive."""
        if flight in self._flights:
            self._flights.remove(flight)

    def settle(self, now: float) -> None:
        """Do what has become due up to the moment `now`."""
        while (due := self.next_due()) <= now and due < NEVER:
            ended = [lease for lease, state in self._leases.items() if state.ends == due]
            for lease in ended:
                self.revoke(lease)
            for flight in [flight for flight in self._flights if flight.due == due]:
                self.land(flight)

    def next_due(self) -> float:
        """The moment at which something becomes due next, or `NEVER`."""
        leases = (lease.ends for lease in self._leases.values())
        flights = (flight.due for flight in self._flights)
        return min(itertools.chain(leases, flights), default=NEVER)

    def _check_size(self, compares: Sequence[Compare], writes: Sequence[Write]) -> None:
        if self._max_writes is not None and len(writes) > self._max_writes:
            raise TransactionTooLarge(f"{len(writes)} writes, {self._max_writes} are allowed")
        size = sum(len(c.key) + len(c.value or b"") for c in compares)
        size += sum(len(w.key) + len(w.value or b"") for w in writes)
        if self._max_bytes is not None and size > self._max_bytes:
            raise TransactionTooLarge(f"{size} bytes, {self._max_bytes} are allowed")

    def _apply(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        if not all(self._value(compare.key) == compare.value for compare in compares):
            return False
        for write in writes:
            if write.lease is not None and write.lease not in self._leases:
                raise LeaseGone(f"lease {write.lease} has ended")
        self._write(writes)
        return True

    def _value(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def _write(self, writes: Sequence[Write]) -> None:
        effective = [w for w in writes if w.value is not None or w.key in self._entries]
        if not effective:
            return
        self.version += 1
        if not self.syncs:
            self._unsynced.append(
                (self.version, {w.key: self._entries.get(w.key) for w in effective})
            )
        for write in effective:
            entry = None
            if write.value is not None:
                entry = _Entry(write.value, self.version, write.lease)
            self._place(write.key, entry)
            self._log.append(WatchEvent(write.key, write.value, self.version))
        self._forget_old_versions()
        self.ring()

    def _place(self, key: bytes, entry: _Entry | None) -> None:
        before = self._entries.pop(key, None)
        if before is not None and before.lease in self._leases:
            self._leases[before.lease].keys.discard(key)
        if entry is None:
            if before is not None:
                del self._keys[bisect.bisect_left(self._keys, key)]
            return
        if before is None:
            bisect.insort(self._keys, key)
        self._entries[key] = entry
        if entry.lease in self._leases:
            self._leases[entry.lease].keys.add(key)

    def _forget_old_versions(self) -> None:
        self._oldest = max(self._oldest, self.version - self._kept_versions)
        while self._log and self._log[0].version <= self._oldest:
            self._log.popleft()

    # -- reading ----------------------------------------------------------------------------------

    def read(self, start: bytes, end: bytes | None, limit: int | None) -> ReadResult:
        """As `Store.read`, of the present state."""
        if end is None:
            keys = [start] if start in self._entries else []
        else:
            first = bisect.bisect_left(self._keys, start)
            keys = self._keys[first : bisect.bisect_left(self._keys, end, lo=first)]
        more = limit is not None and len(keys) > limit
        items = (
            Item(key, e.value, e.version) for key in keys[:limit] for e in [self._entries[key]]
        )
        return ReadResult(tuple(items), self.version, more)

    def changes(self, start: bytes, end: bytes, *, after_version: int) -> list[WatchEvent]:
        """Every change in `[start, end)` after the version, in order; raises `WatchGone`."""
        if after_version < self._oldest:
            raise WatchGone(self._oldest)
        newest_first = itertools.takewhile(
            lambda event: event.version > after_version, reversed(self._log)
        )
        return [event for event in newest_first if start <= event.key < end][::-1]

    @contextmanager
    def ringing(self, bell: Bell) -> Iterator[None]:
        """Within the block `bell` is set at each change of the state or of what is due."""
        self._bells.add(bell)
        try:
            yield
        finally:
            self._bells.remove(bell)

    def ring(self) -> None:
        """Wake every watcher, to look again."""
        for bell in self._bells:
            bell.set()

    # -- leases -----------------------------------------------------------------------------------

    def grant_lease(self, ttl_seconds: float, now: float) -> LeaseId:
        """As `Store.grant_lease`."""
        lease = LeaseId(next(self._lease_ids))
        self._leases[lease] = _Lease(ttl_seconds, now + ttl_seconds)
        self.ring()
        return lease

    def keep_alive(self, lease: LeaseId, now: float) -> bool:
        """As `Store.keep_alive`."""
        state = self._leases.get(lease)
        if state is None:
            return False
        state.ends = now + state.ttl_seconds
        return True

    def revoke(self, lease: LeaseId) -> None:
        """As `Store.revoke`."""
        state = self._leases.pop(lease, None)
        if state is not None:
            self._write([Write(key, None) for key in sorted(state.keys)])

    # -- crashing ---------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make durable what was acknowledged while `syncs` was off."""
        self._unsynced.clear()

    def crash(self) -> None:
        """The engine's machine loses power and comes back with what was durable.

        While `syncs` is off, transactions are acknowledged before they are durable and the crash
        takes back those since the last `sync`; leases end, and what was in flight never lands.
        """
        for version, before in reversed(self._unsynced):
            for key, entry in before.items():
                self._place(key, entry)
            self.version = version - 1
        self._unsynced.clear()
        while self._log and self._log[-1].version > self.version:
            self._log.pop()
        self._flights.clear()
        self.crashes += 1
        for lease in list(self._leases):
            self.revoke(lease)
        self.ring()
