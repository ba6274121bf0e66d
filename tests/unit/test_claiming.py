"""Claiming the mastership: who wins, and what a claim that fails leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import HostId, Incarnation
from poolcore.replica import Head, dump
from poolmaster.claiming import ATTEMPTS, Claimed, claim
from poolmaster.layout import ALIVE, load, read_head
from poolmaster.ledger import SteppedDown
from poolmaster.store.contract import (
    Compare,
    LeaseId,
    OutcomeUnknown,
    Store,
    StoreError,
    StoreFailed,
    Write,
)
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from support.claims import Field, empty_field
from support.registers import IGNITE, INCARNATION, PHANTOM, counting, found_register, leading
from support.stores import InterruptedStore, StoreAround
from support.virtual_clock import VirtualClock, run_in_virtual_time

SPECTER = HostId("6f1d6a5e-0000-4000-8000-00000000000c")


@pytest.fixture(params=["memory", "sqlite"])
async def field(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Field]:
    async with empty_field(request.param, tmp_path) as field:
        yield field


class GrantsSeen(StoreAround):
    """Remembers the leases that were granted."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.leases: list[LeaseId] = []

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        self.leases.append(await super().grant_lease(ttl_seconds))
        return self.leases[-1]


async def test_a_claim_of_a_mastership_that_is_over_is_refused_and_leaves_no_trace(
    field: Field,
) -> None:
    await found_register(field.store)
    over = await read_head(field.store)
    await claim(field.store, PHANTOM, alive_seconds=5.0)
    head = await read_head(field.store)
    granted = GrantsSeen(field.store)
    with pytest.raises(SteppedDown):
        await claim(granted, IGNITE, of=over, alive_seconds=5.0)
    assert await read_head(field.store) == head
    assert [item.value for item in (await field.store.read(ALIVE)).items] == [PHANTOM.encode()]
    assert [await field.store.keep_alive(lease) for lease in granted.leases] == [False]


async def test_a_claim_of_another_incarnation_is_refused(field: Field) -> None:
    await found_register(field.store)
    head = await read_head(field.store)
    assert head is not None
    other = replace(head, incarnation=Incarnation(1, "6f1d6a5e-0000-4000-8000-0000000000ff"))
    with pytest.raises(SteppedDown):
        await claim(field.store, IGNITE, of=other)
    assert await read_head(field.store) == head


async def test_commits_of_the_same_term_in_between_are_overtaken(field: Field) -> None:
    await found_register(field.store)
    async with leading(field.store, clock=field.clock) as leader:
        of = leader.ledger.head

        async def the_master_commits() -> None:
            await leader.ledger.write(counting("write"))

        interrupted = InterruptedStore(
            field.store, before_writing=True, happens=the_master_commits, times=3
        )
        claimed = await claim(interrupted, IGNITE, of=of)
        assert interrupted.times == 0
        assert claimed.head == Head(INCARNATION, of.term + 1, of.revision + 3, IGNITE)
        assert dump(claimed.state) == dump(leader.ledger.state)


@pytest.mark.parametrize("knows_of", [True, False])
async def test_a_claim_that_came_in_between_is_not_overtaken(field: Field, knows_of: bool) -> None:
    await found_register(field.store)
    of = await read_head(field.store) if knows_of else None

    async def another_claims() -> None:
        await claim(field.store, SPECTER)

    interrupted = InterruptedStore(field.store, before_writing=True, happens=another_claims)
    with pytest.raises(SteppedDown):
        await claim(interrupted, IGNITE, of=of)
    head = await read_head(field.store)
    assert head is not None
    assert (head.term, head.master) == (2, SPECTER)


async def test_a_claim_gives_up_when_a_master_commits_again_and_again() -> None:
    clock = VirtualClock()
    store = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(store)
    async with leading(store, clock=clock) as leader:

        async def the_master_commits() -> None:
            await leader.ledger.write(counting("write"))

        interrupted = InterruptedStore(
            store, before_writing=True, happens=the_master_commits, times=2 * ATTEMPTS
        )
        with pytest.raises(SteppedDown):
            await claim(interrupted, IGNITE)
        assert interrupted.times == ATTEMPTS
        assert await read_head(store) == leader.ledger.head


async def test_a_store_without_a_pool_is_not_claimed(field: Field) -> None:
    with pytest.raises(StoreFailed, match="no pool"):
        await claim(field.store, IGNITE)


async def test_the_alive_key_goes_when_its_lease_ends(field: Field) -> None:
    await found_register(field.store)
    claimed = await claim(field.store, IGNITE, alive_seconds=5.0)
    assert claimed.lease is not None
    await field.clock.advance(4.0)
    assert [item.value for item in (await field.store.read(ALIVE)).items] == [IGNITE.encode()]
    assert await field.store.keep_alive(claimed.lease)
    await field.clock.advance(4.9)
    assert (await field.store.read(ALIVE)).items
    await field.clock.advance(0.2)
    assert not (await field.store.read(ALIVE)).items
    assert await read_head(field.store) == claimed.head, "the mastership does not depend on it"


async def test_the_alive_key_of_the_new_master_outlives_the_lease_of_the_old_one(
    field: Field,
) -> None:
    await found_register(field.store)
    await claim(field.store, PHANTOM, alive_seconds=5.0)
    await field.clock.advance(3.0)
    await claim(field.store, IGNITE, alive_seconds=5.0)
    await field.clock.advance(3.0)
    assert [item.value for item in (await field.store.read(ALIVE)).items] == [IGNITE.encode()]


# -- unknown outcomes -----------------------------------------------------------------------------


async def faulty(*fates: Fate) -> tuple[MemoryStore, MemoryStore]:
    """A founded store: a handle that meets these fates, and one that sees the truth."""
    clock, data = VirtualClock(), MemoryStoreData()
    other = MemoryStore(data, clock=clock)
    await found_register(other)
    store = MemoryStore(data, clock=clock)
    store.faults.plan(*fates)
    return store, other


async def test_a_claim_whose_answer_was_lost_has_won() -> None:
    store, other = await faulty(Fate.UNKNOWN_APPLIED)
    claimed = await claim(store, IGNITE, alive_seconds=5.0)
    assert claimed.head.term == 2
    assert await read_head(other) == claimed.head
    assert claimed.lease is not None
    assert await store.keep_alive(claimed.lease)


async def test_a_claim_that_was_lost_is_unknown_and_can_be_repeated() -> None:
    store, other = await faulty(Fate.UNKNOWN_LOST)
    before = await read_head(other)
    with pytest.raises(OutcomeUnknown):
        await claim(store, IGNITE, of=before)
    assert await read_head(other) == before
    assert (await claim(store, IGNITE, of=before)).head.term == 2


async def test_a_claim_that_lands_late_names_its_host_which_may_claim_again() -> None:
    store, other = await faulty(Fate.UNKNOWN_LATE)
    with pytest.raises(OutcomeUnknown):
        await claim(store, IGNITE, of=await read_head(other))
    [late] = store.faults.late
    assert late.land()
    landed = await read_head(other)
    assert landed is not None
    assert landed.master == IGNITE
    assert (await claim(store, IGNITE, of=landed)).head.term == 3


async def test_a_claim_that_lands_after_the_next_one_is_void() -> None:
    store, other = await faulty(Fate.UNKNOWN_LATE)
    before = await read_head(other)
    with pytest.raises(OutcomeUnknown):
        await claim(store, IGNITE, of=before)
    won = await claim(other, SPECTER, of=before)
    [late] = store.faults.late
    assert not late.land()
    assert await read_head(other) == won.head


FATES = [
    *[Fate.SERVED] * 4,
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]

attempts = st.lists(
    st.tuples(
        st.sampled_from([PHANTOM, IGNITE, SPECTER]),
        st.sampled_from([0.0, 0.001, 0.002]),  # when it begins
        st.sampled_from([0.0, 0.001, 0.002]),  # how long each call takes
        st.sampled_from(FATES),
        st.sampled_from([None, 0.001, 0.003]),  # when it lands, if that is late
    ),
    min_size=2,
    max_size=8,
)


@given(attempts)
def test_no_term_is_ever_won_twice(
    attempts: list[tuple[HostId, float, float, Fate, float | None]],
) -> None:
    won: list[Claimed] = []

    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData()
        truth = MemoryStore(data, clock=clock)
        await found_register(truth)
        claiming = {host: asyncio.Lock() for host in (PHANTOM, IGNITE, SPECTER)}

        async def contend(
            host: HostId, begins: float, latency: float, fate: Fate, lands: float | None
        ) -> None:
            await clock.sleep(begins)
            store = MemoryStore(data, clock=clock)
            store.faults.latency_seconds = latency
            store.faults.plan(fate)
            # A host claims once at a time: what bears its name in the register is its own.
            async with claiming[host]:
                with suppress(SteppedDown, StoreError):
                    won.append(await claim(store, host))
            if lands is not None:
                await clock.sleep(lands)
                for late in store.faults.late:
                    late.land()

        async with asyncio.TaskGroup() as tasks:
            for attempt in attempts:
                tasks.create_task(contend(*attempt))
        head, state = await load(truth)
        assert all(claimed.head.term <= head.term for claimed in won)
        assert all(dump(claimed.state) == dump(state) for claimed in won)

    run_in_virtual_time(main)
    terms = [claimed.head.term for claimed in won]
    assert len(set(terms)) == len(terms)


class FirstClaimLandsLate(StoreAround):
    """A claim that was given up lands while a later one of the same host is unanswered."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.memory = inner

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        try:
            return await super().transact(compares, writes)
        except OutcomeUnknown:
            if len(self.memory.faults.late) == 2:
                self.memory.faults.late[0].land()
            raise


async def test_an_earlier_claim_that_lands_late_is_not_taken_for_this_one() -> None:
    clock = VirtualClock()
    memory = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(memory)
    memory.faults.plan(Fate.UNKNOWN_LATE, Fate.UNKNOWN_LATE)
    store = FirstClaimLandsLate(memory)
    for _ in range(2):
        # The key is under the lease of the first, which nobody keeps alive any more.
        with pytest.raises(OutcomeUnknown):
            await claim(store, IGNITE, alive_seconds=5.0)
    claimed = await claim(store, IGNITE, alive_seconds=5.0)
    assert claimed.lease is not None
    await clock.advance(4.0)
    assert await memory.keep_alive(claimed.lease)
    await clock.advance(4.0)
    assert (await memory.read(ALIVE)).items
