"""Where things are in the store, and how a state is read from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.clock import SystemClock
from poolcore.model import Kind
from poolcore.replica import Head, apply, dump
from poolcore.wire.chain import encode_delta
from poolmaster.claiming import Claimed, claim
from poolmaster.layout import (
    HEAD,
    LOG,
    OBJECTS,
    commit_writes,
    decode_head,
    encode_head,
    load,
    log_key,
    object_key,
    read_head,
    read_log,
    request_key,
)
from poolmaster.ledger import SteppedDown
from poolmaster.mastership import found
from poolmaster.store.contract import (
    Compare,
    ReadResult,
    Store,
    StoreFailed,
    StoreUnavailable,
    Write,
    prefix_end,
)
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmaster.store.sqlite import SqliteStore
from support import strategies
from support.chain_samples import FOUNDED, commits, following
from support.registers import (
    IGNITE,
    INCARNATION,
    PHANTOM,
    POOL,
    asked,
    counting,
    found_register,
    leading,
)
from support.stores import StoreAround
from support.virtual_clock import VirtualClock

CLOCK = SystemClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "memory":
        store = MemoryStore(MemoryStoreData(), clock=VirtualClock())
    else:
        store = await SqliteStore.found(
            tmp_path / "store.db", pool=POOL, incarnation=INCARNATION.uuid
        )
    yield store
    await store.close()


@given(strategies.heads)
def test_a_head_survives_its_encoding_and_equal_heads_are_equal_bytes(head: Head) -> None:
    assert decode_head(encode_head(head)) == head
    assert encode_head(decode_head(encode_head(head))) == encode_head(head)


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_keys_of_the_log_sort_as_revisions_do(one: int, other: int) -> None:
    assert (log_key(one) < log_key(other)) == (one < other)
    assert LOG <= log_key(one) < prefix_end(LOG)


def test_keys_of_different_things_are_different() -> None:
    keys = {
        HEAD,
        log_key(1),
        request_key("1-nonce0001"),
        *(object_key(kind, "u") for kind in Kind),
        object_key(Kind.VM, "v"),
    }
    assert len(keys) == 4 + len(Kind)


@settings(max_examples=30)  # Objects of every kind take long to draw.
@given(commits)
def test_the_writes_of_the_commits_keep_what_the_window_keeps(commits: list) -> None:  # type: ignore[type-arg]
    # One by one as the engine would apply them, whatever becomes of the length of the history.
    state, keys = FOUNDED, set[bytes]()
    for changes, is_asked, new_term in commits:
        delta = following(state, changes, asked=is_asked, new_term=new_term)
        after = apply(state, delta)
        for write in commit_writes(state, after, delta, encode_delta(delta)).values():
            (keys.discard if write.value is None else keys.add)(write.key)
        state = after
    assert {k for k in keys if k.startswith(b"req/")} == {
        request_key(id_) for id_ in state.requests.by_id
    }
    founded = {object_key(o.KIND, o.uuid) for o in FOUNDED.objects()}
    present = {object_key(o.KIND, o.uuid) for o in state.objects()}
    assert {k for k in keys if k.startswith(OBJECTS)} - founded == present - founded


async def test_a_store_is_founded_once(store: Store) -> None:
    await found_register(store)
    with pytest.raises(StoreFailed):
        await found_register(store)
    assert await read_head(store) == Head(INCARNATION, term=1, revision=1, master=PHANTOM)


async def test_an_empty_store_holds_no_pool(store: Store) -> None:
    assert await read_head(store) is None
    for reading in (load(store), claim(store, PHANTOM)):
        with pytest.raises(StoreFailed):
            await reading


async def test_a_store_without_its_newest_delta_is_not_taken_for_a_pool(store: Store) -> None:
    await found_register(store)
    await store.transact([], [Write(log_key(1), None)])
    with pytest.raises(StoreFailed):
        await load(store)


async def test_of_two_that_claim_at_once_one_is_master(store: Store) -> None:
    await found_register(store)
    claims = await asyncio.gather(
        *(claim(store, host) for host in (PHANTOM, IGNITE)), return_exceptions=True
    )
    heads = [c.head for c in claims if isinstance(c, Claimed)]
    assert await read_head(store) == max(heads, key=lambda head: head.term)
    assert len({head.term for head in heads}) == len(heads)


class CommitsMeanwhile(StoreAround):
    """A store in which a commit comes between two pages of a reader, a few times."""

    def __init__(self, inner: Store, times: int) -> None:
        super().__init__(inner)
        self.times = times

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        found = await super().read(start, end, limit=limit, linearizable=linearizable)
        if start.startswith(OBJECTS) and self.times:
            self.times -= 1
            async with leading(self.inner, clock=CLOCK) as leader:
                await leader.ledger.write(counting(f"meanwhile{self.times}"))
        return found


async def test_a_state_is_never_read_half_old_half_new(store: Store) -> None:
    await found_register(store)
    head, state = await load(CommitsMeanwhile(store, 3))
    assert head.revision == state.revision == 4
    assert dump(state) == dump((await load(store))[1])


async def test_a_claim_is_refused_when_somebody_claims_meanwhile(store: Store) -> None:
    await found_register(store)

    class ClaimedMeanwhile(StoreAround):
        async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
            await claim(self.inner, IGNITE)
            return await super().transact(compares, writes)

    with pytest.raises(SteppedDown):
        await claim(ClaimedMeanwhile(store), PHANTOM)


async def test_the_log_is_read_in_pages_and_in_order(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        for number in range(9):
            await leader.ledger.write(counting("write"), request=asked(1, number))
    assert [d.commit.revision for d, _ in await read_log(store, after=0, limit=4)] == [1, 2, 3, 4]
    assert [d.commit.revision for d, _ in await read_log(store, after=8, limit=9)] == [9, 10]
    assert await read_log(store, after=10, limit=9) == []
    for delta, data in await read_log(store, after=0, limit=99):
        assert encode_delta(delta) == data


async def test_founding_an_unreachable_store_is_no_founding() -> None:
    data = MemoryStoreData()
    store = MemoryStore(data, clock=VirtualClock())
    store.faults.cut_off = True
    with pytest.raises(StoreUnavailable):
        await found(store, INCARNATION, PHANTOM, ())
    store.faults.cut_off = False
    assert await read_head(store) is None
