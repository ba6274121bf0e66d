"""A store as a plain dict, and a machine that does the same to an engine and compares."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contract.engines import Engine
from poolmaster.store.contract import (
    Compare,
    Item,
    LeaseGone,
    LeaseId,
    Store,
    Write,
)

T = TypeVar("T")

# Few keys and values, so that transactions meet; neighbours in the order of bytes.
KEYS = [b"a", b"a\x00", b"a\xff", b"b"]
FENCE = b"fence"
AS_IT_IS = "as it is"
EVERYTHING = (b"\x00", b"\xff\xff")

keys = st.sampled_from(KEYS)
starts = st.sampled_from([EVERYTHING[0], *KEYS[:2]])
ends = st.sampled_from([EVERYTHING[1], *KEYS[-1:]])
values = st.sampled_from([b"1", None, b"", None])
# Most compares hold, or little would ever be written.
compared_values = st.sampled_from([AS_IT_IS, AS_IT_IS, AS_IT_IS, None, b"1"])
handles = st.integers(0, 1)


@dataclass
class Model:
    """What the store must hold."""

    items: dict[bytes, Item] = field(default_factory=dict)
    lease_of: dict[bytes, LeaseId] = field(default_factory=dict)
    leases: dict[LeaseId, tuple[float, float]] = field(default_factory=dict)
    """Time to live and end of each."""
    version: int = 0
    now: float = 0.0
    history: list[dict[bytes, bytes]] = field(default_factory=lambda: [{}])
    """Keys and values as of each version."""

    def transact(self, compares: list[Compare], writes: list[Write]) -> bool | None:
        """As the contract says; none for `LeaseGone`."""
        state = self.history[-1]
        if any(state.get(compare.key) != compare.value for compare in compares):
            return False
        if any(write.lease is not None and write.lease not in self.leases for write in writes):
            return None
        self.write(writes)
        return True

    def write(self, writes: list[Write]) -> None:
        if not any(write.value is not None or write.key in self.items for write in writes):
            return
        self.version += 1
        for write in writes:
            self.items.pop(write.key, None)
            self.lease_of.pop(write.key, None)
            if write.value is not None:
                self.items[write.key] = Item(write.key, write.value, self.version)
                if write.lease is not None:
                    self.lease_of[write.key] = write.lease
        self.history.append({item.key: item.value for item in self.items.values()})

    def end(self, lease: LeaseId) -> None:
        self.leases.pop(lease, None)
        self.write([Write(key, None) for key, of in self.lease_of.items() if of == lease])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for lease, (_, ends) in sorted(self.leases.items(), key=lambda item: (item[1][1], item[0])):
            if ends <= self.now:
                self.end(lease)


class StoreMachine(RuleBasedStateMachine):
    """Subclasses say which engine; two handles on one store are used in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.runner = asyncio.Runner()
        self.model = Model()
        self.granted: list[LeaseId] = []
        self.engine = self.make_engine()
        self.handles: list[Store] = []

    def make_engine(self) -> Engine:
        raise NotImplementedError

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.engine.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    @initialize()
    def open(self) -> None:
        self.handles = [self.run(self.engine.open()) for _ in range(2)]

    @rule(
        handle=handles,
        compared=st.dictionaries(keys, compared_values, max_size=2),
        written=st.dictionaries(keys, st.tuples(values, st.none() | st.integers(0, 9)), max_size=4),
    )
    def transact(
        self,
        handle: int,
        compared: dict[bytes, Any],
        written: dict[bytes, tuple[bytes | None, int | None]],
    ) -> None:
        state = self.model.history[-1]
        compares = [
            Compare(key, state.get(key) if value == AS_IT_IS else value)
            for key, value in compared.items()
        ]
        writes = [
            Write(key, value, self._lease(number) if value is not None else None)
            for key, (value, number) in written.items()
        ]
        expected = self.model.transact(compares, writes)
        outcome: bool | None
        try:
            outcome = self.run(self.handles[handle].transact(compares, writes))
        except LeaseGone:
            outcome = None
        assert outcome == expected

    @rule(handle=handles, which=st.sets(keys, min_size=2))
    def remove(self, handle: int, which: set[bytes]) -> None:
        writes = [Write(key, None) for key in sorted(which)]
        assert self.run(self.handles[handle].transact([], writes))
        self.model.write(writes)

    @rule(handle=handles, start=starts, end=ends, limit=st.none() | st.integers(1, 3))
    def read_range(self, handle: int, start: bytes, end: bytes, limit: int | None) -> None:
        result = self.run(self.handles[handle].read(start, end, limit=limit))
        found = [self.model.items[key] for key in sorted(self.model.items) if start <= key < end]
        assert list(result.items) == found[:limit]
        assert result.more == (limit is not None and len(found) > limit)
        assert result.version == self.model.version

    @rule(handle=handles, key=keys)
    def read_key(self, handle: int, key: bytes) -> None:
        result = self.run(self.handles[handle].read(key))
        assert list(result.items) == [item for item in [self.model.items.get(key)] if item]
        assert not result.more

    @rule(handle=handles, writer=handles, part=st.sampled_from([0.0, 0.5, 1.0]))
    def watch(self, handle: int, writer: int, part: float) -> None:
        since = int(self.model.version * part)
        last = [Write(FENCE, b"%d" % self.model.version)]
        assert self.run(self.handles[writer].transact([], last)) == self.model.transact([], last)
        assert [item.key for item in self.run(self.handles[handle].read(FENCE)).items] == [FENCE]
        state = self.run(self._replayed(self.handles[handle], since))
        assert state == self.model.history[-1]

    @rule(handle=handles, ttl_seconds=st.integers(1, 5))
    def grant_lease(self, handle: int, ttl_seconds: int) -> None:
        lease = self.run(self.handles[handle].grant_lease(ttl_seconds))
        assert lease not in self.granted
        self.granted.append(lease)
        self.model.leases[lease] = (ttl_seconds, self.model.now + ttl_seconds)

    @rule(handle=handles, number=st.integers(0, 9))
    def keep_alive(self, handle: int, number: int) -> None:
        lease = self._lease(number)
        if lease is None:
            return
        known = self.model.leases.get(lease)
        assert self.run(self.handles[handle].keep_alive(lease)) == (known is not None)
        if known is not None:
            self.model.leases[lease] = (known[0], self.model.now + known[0])

    @rule(handle=handles, number=st.integers(0, 9))
    def revoke(self, handle: int, number: int) -> None:
        lease = self._lease(number)
        if lease is not None:
            self.run(self.handles[handle].revoke(lease))
            self.model.end(lease)

    @rule(seconds=st.integers(1, 3))
    def pass_time(self, seconds: int) -> None:
        self.run(self.engine.pass_time(seconds))
        self.model.pass_time(seconds)
        # An engine may remove an ended lease's keys as late as in the next transaction.
        assert self.run(self.handles[0].transact([], []))

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        self.run(self.handles[handle].close())
        self.handles[handle] = self.run(self.engine.open())

    @invariant()
    def every_handle_sees_the_model(self) -> None:
        for handle in self.handles:
            result = self.run(handle.read(*EVERYTHING))
            assert {item.key: item for item in result.items} == self.model.items
            assert result.version == self.model.version

    def _lease(self, number: int | None) -> LeaseId | None:
        if number is None or not self.granted:
            return None
        return self.granted[number % len(self.granted)]

    async def _replayed(self, store: Store, since: int) -> dict[bytes, bytes]:
        """The state of version `since` with what a watch tells up to the present applied to it."""
        state = dict(self.model.history[since])
        told: set[tuple[bytes, int]] = set()
        version = since
        async with asyncio.timeout(5), aclosing(store.watch(*EVERYTHING, after_version=since)) as w:  # type: ignore[type-var]
            async for event in w:
                assert event.version >= version
                assert (event.key, event.version) not in told
                told.add((event.key, event.version))
                version = event.version
                if event.value is None:
                    state.pop(event.key, None)
                else:
                    state[event.key] = event.value
                if event.key == FENCE and event.version == self.model.version:
                    break
        return state
