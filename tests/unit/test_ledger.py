"""The ledger on every engine while nothing goes wrong: order, batches, request ids, history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolcore.clock import SystemClock
from poolcore.errors import PoolError, Reason
from poolcore.model import VM, Kind
from poolcore.replica import Put, Remove, State, apply, dump, snapshot
from poolmaster.batch import BATCH_BYTES, BATCH_WRITES
from poolmaster.layout import LOG, REQUESTS, load, read_log
from poolmaster.ledger import Decision
from poolmaster.store.contract import Store, Write, prefix_end
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmaster.store.sqlite import SqliteStore
from support.registers import (
    COUNTER,
    IGNITE,
    INCARNATION,
    POOL,
    asked,
    changing_nothing,
    counted,
    counting,
    found_register,
    leading,
)
from support.stores import WatchedStore
from support.virtual_clock import VirtualClock


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


CLOCK = SystemClock()


async def test_what_is_acknowledged_is_what_the_next_master_loads(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        for number in range(1, 4):
            outcome = await leader.ledger.write(counting(f"write{number}"))
            assert (outcome.revision, outcome.result) == (number + 1, number)
            assert outcome.delta is not None
        acknowledged = leader.ledger.state
    head, state = await load(store)
    assert dump(state) == dump(acknowledged)
    assert (head.revision, head.term) == (4, 2)


async def test_concurrent_writes_become_one_transaction_with_a_revision_each(store: Store) -> None:
    await found_register(store)
    watched = WatchedStore(store)
    async with leading(watched, clock=CLOCK) as leader:
        watched.sent.clear()
        writes = [leader.ledger.write(counting(f"write{n}")) for n in range(50)]
        outcomes = await asyncio.gather(*writes)
    assert [o.revision for o in outcomes] == list(range(2, 52))
    assert [o.result for o in outcomes] == list(range(1, 51))
    assert len(watched.sent) == 1


async def test_one_batch_is_in_flight_and_what_comes_meanwhile_is_the_next(store: Store) -> None:
    await found_register(store)
    watched = WatchedStore(store)
    async with leading(watched, clock=CLOCK) as leader:
        watched.sent.clear()

        async def writer(name: str) -> None:
            for number in range(20):
                await leader.ledger.write(counting(f"{name}.{number}"))

        await asyncio.gather(*(writer(f"writer{n}") for n in range(8)))
        assert counted(leader.ledger.state) == 160
    assert watched.most_under_way == 1
    assert len(watched.sent) <= 21, "eight writers that wait for each other go together"


async def test_a_batch_has_a_limit_of_writes_and_of_bytes(store: Store) -> None:
    await found_register(store)
    watched = WatchedStore(store)
    async with leading(watched, clock=CLOCK) as leader:
        watched.sent.clear()
        await asyncio.gather(
            *(leader.ledger.write(counting("write")) for _ in range(BATCH_WRITES + 1))
        )
        assert len(watched.sent) == 2
        watched.sent.clear()
        third = BATCH_BYTES // 3
        await asyncio.gather(
            *(leader.ledger.write(counting("big", padding=third)) for _ in range(5))
        )
        assert len(watched.sent) == 2


async def test_a_write_larger_than_the_limit_is_refused_and_its_neighbours_are_not(
    store: Store,
) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        before, refused, after = await asyncio.gather(
            leader.ledger.write(counting("before")),
            leader.ledger.write(counting("large", padding=BATCH_BYTES)),
            leader.ledger.write(counting("after")),
            return_exceptions=True,
        )
        assert isinstance(refused, PoolError)
        assert refused.reason is Reason.REQUEST_TOO_LARGE
        assert not isinstance(before, BaseException)
        assert not isinstance(after, BaseException)
        assert (before.revision, after.revision) == (2, 3)
        assert counted(leader.ledger.state) == 2


async def test_each_write_is_decided_on_what_the_one_before_it_leaves(store: Store) -> None:
    await found_register(store)

    def remove(state: State) -> Decision:
        return Decision((Remove(Kind.VM, COUNTER),))

    def refuse_if_gone(state: State) -> Decision:
        if state.get(VM, COUNTER) is None:
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind="vm", name="counter")
        return Decision(())

    async with leading(store, clock=CLOCK) as leader:
        counts, removed, refused = await asyncio.gather(
            leader.ledger.write(counting("write")),
            leader.ledger.write(remove),
            leader.ledger.write(refuse_if_gone),
            return_exceptions=True,
        )
        assert not isinstance(counts, BaseException)
        assert not isinstance(removed, BaseException)
        assert isinstance(refused, PoolError)
        assert refused.reason is Reason.OBJECT_NOT_FOUND


async def test_an_error_in_a_decision_hits_only_its_own_caller(store: Store) -> None:
    await found_register(store)

    def broken(state: State) -> Decision:
        raise ZeroDivisionError("a bug")

    async with leading(store, clock=CLOCK) as leader:
        outcomes = await asyncio.gather(
            leader.ledger.write(counting("before")),
            leader.ledger.write(broken),
            leader.ledger.write(counting("after")),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ZeroDivisionError)
        assert counted(leader.ledger.state) == 2


async def test_a_write_that_changes_nothing_becomes_no_commit(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        outcome = await leader.ledger.write(changing_nothing)
        assert (outcome.revision, outcome.delta) == (1, None)
        assert leader.ledger.head.revision == 1


async def test_with_a_request_id_it_does_so_that_it_can_be_asked_again(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        first = await leader.ledger.write(changing_nothing, request=asked(1, 1))
        assert first.revision == 2
        await leader.ledger.write(counting("between"))
        again = await leader.ledger.write(changing_nothing, request=asked(1, 1))
        assert (again.revision, again.repeated) == (2, True)
        assert again.delta == first.delta


# -- request ids ----------------------------------------------------------------------------------


async def test_a_repeated_request_gets_its_first_outcome_and_is_not_done_again(
    store: Store,
) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        first = await leader.ledger.write(counting("write"), request=asked(1, 1))
        again = await leader.ledger.write(counting("write"), request=asked(1, 1))
        assert again.repeated
        assert (again.revision, again.delta) == (first.revision, first.delta)
        assert counted(leader.ledger.state) == 1


async def test_the_next_master_knows_the_requests_of_the_one_before(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        first = await leader.ledger.write(counting("write"), request=asked(1, 1))
    async with leading(store, host=IGNITE, clock=CLOCK) as leader:
        again = await leader.ledger.write(counting("write"), request=asked(1, 1))
        assert again.repeated
        assert again.revision == first.revision
        assert await leader.ledger.first_outcome(asked(1, 1)) == again
        assert await leader.ledger.first_outcome(asked(1, 2)) is None


async def test_the_same_request_twice_in_one_batch_is_done_once(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        first, again = await asyncio.gather(
            leader.ledger.write(counting("write"), request=asked(1, 1)),
            leader.ledger.write(counting("write"), request=asked(1, 1)),
        )
        assert (first.repeated, again.repeated) == (False, True)
        assert (again.revision, again.delta) == (first.revision, first.delta)
        assert counted(leader.ledger.state) == 1


async def test_another_payload_under_the_same_id_is_refused(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        await leader.ledger.write(counting("write"), request=asked(1, 1))
        with pytest.raises(PoolError) as refused:
            await leader.ledger.write(counting("other"), request=asked(1, 1, "other"))
        assert refused.value.reason is Reason.REQUEST_ID_REUSED
        assert counted(leader.ledger.state) == 1


async def test_an_id_from_below_the_window_is_refused_and_never_executed(store: Store) -> None:
    await found_register(store, history=3)
    async with leading(store, clock=CLOCK) as leader:
        done = asked(1, 1)
        await leader.ledger.write(counting("first"), request=done)
        for number in range(3):
            await leader.ledger.write(counting(f"write{number}"))
        for old in (done, asked(0, 2), asked(1, 3)):
            with pytest.raises(PoolError) as refused:
                await leader.ledger.write(counting("again"), request=old)
            assert refused.value.reason is Reason.REQUEST_TOO_OLD
        assert counted(leader.ledger.state) == 4
        assert (await leader.ledger.write(counting("new"), request=asked(3, 4))).revision == 6


async def test_an_id_from_the_future_is_refused(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as leader:
        with pytest.raises(PoolError) as refused:
            await leader.ledger.write(counting("write"), request=asked(2, 1))
        assert refused.value.reason is Reason.INVALID_VALUE
        assert counted(leader.ledger.state) == 0


# -- history --------------------------------------------------------------------------------------


async def test_store_and_state_keep_the_same_history(store: Store) -> None:
    await found_register(store, history=4)
    async with leading(store, clock=CLOCK) as leader:
        # Odd ones with an id; several at once, so that one batch trims what it has written.
        for first in range(1, 21, 10):
            base = leader.ledger.state.revision
            await asyncio.gather(
                *(
                    leader.ledger.write(
                        counting("w"), request=asked(base, number) if number % 2 else None
                    )
                    for number in range(first, first + 3)
                )
            )
        state = leader.ledger.state
    logged = [delta.commit.revision for delta, _ in await read_log(store, after=0, limit=100)]
    assert logged == [4, 5, 6, 7]
    kept = (await store.read(REQUESTS, prefix_end(REQUESTS))).items
    assert len(kept) == len(state.requests.by_id) == len(state.requests.by_revision)
    assert set(state.requests.by_revision) <= set(logged)
    assert dump((await load(store))[1]) == dump(state)


async def test_the_deltas_in_the_log_lead_from_the_first_state_to_the_last(store: Store) -> None:
    await found_register(store)
    _, state = await load(store)
    async with leading(store, clock=CLOCK) as leader:
        for number in range(10):
            await leader.ledger.write(counting("write"), request=asked(1, number))
        last = leader.ledger.state
    for delta, _ in await read_log(store, after=1, limit=100):
        state = apply(state, delta)
    assert dump(state) == dump(last)
    again = snapshot(last.incarnation, last.last, last.objects(), last.requests.by_id.values())
    assert again == last


# -- reads and the change of masters --------------------------------------------------------------


async def test_one_read_of_head_confirms_everybody_who_asked_before_it(store: Store) -> None:
    await found_register(store)
    watched = WatchedStore(store)
    async with leading(watched, clock=CLOCK) as leader:
        watched.reads = 0
        heads = await asyncio.gather(*(leader.ledger.confirm() for _ in range(20)))
        assert set(heads) == {leader.ledger.head}
        assert watched.reads == 1


async def test_a_deposed_master_cannot_write_and_says_so(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as old, leading(store, host=IGNITE, clock=CLOCK) as new:
        with pytest.raises(PoolError) as refused:
            await old.ledger.write(counting("old"))
        assert refused.value.reason is Reason.NO_MASTER
        assert "head" in await old.stepped_down()
        await new.ledger.write(counting("new"))
        assert counted((await load(store))[1]) == 1
        for late in (old.ledger.write(counting("late")), old.ledger.confirm()):
            with pytest.raises(PoolError) as refused:
                await late
            assert refused.value.reason is Reason.NO_MASTER


async def test_a_deposed_master_cannot_confirm_a_read(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as old, leading(store, host=IGNITE, clock=CLOCK):
        with pytest.raises(PoolError) as refused:
            await old.ledger.confirm()
        assert refused.value.reason is Reason.NO_MASTER
        await old.stepped_down()


async def test_a_deposed_master_does_not_say_that_nothing_has_to_be_changed(store: Store) -> None:
    await found_register(store)
    async with leading(store, clock=CLOCK) as old, leading(store, host=IGNITE, clock=CLOCK) as new:
        await new.ledger.write(counting("new"))
        with pytest.raises(PoolError) as refused:
            await old.ledger.write(changing_nothing)
        assert refused.value.reason is Reason.NO_MASTER


async def test_a_deposed_master_does_not_refuse_by_its_old_state(store: Store) -> None:
    await found_register(store)

    def needs_a_write(state: State) -> Decision:
        if not counted(state):
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind="vm", name="counted")
        return Decision(())

    async with leading(store, clock=CLOCK) as old, leading(store, host=IGNITE, clock=CLOCK) as new:
        await new.ledger.write(counting("new"))
        with pytest.raises(PoolError) as refused:
            await old.ledger.write(needs_a_write)
        assert refused.value.reason is Reason.NO_MASTER


async def test_each_claim_is_a_new_term_of_the_same_host_too(store: Store) -> None:
    await found_register(store)
    terms = []
    for _ in range(3):
        async with leading(store, clock=CLOCK) as leader:
            terms.append(leader.ledger.head.term)
    assert terms == [2, 3, 4]


async def test_history_beyond_the_log_is_not_loaded_from_keys_that_are_no_deltas(
    store: Store,
) -> None:
    await found_register(store)
    await store.transact([], [Write(b"lof", b"before the log"), Write(b"log0", b"behind it")])
    assert [d.commit.revision for d, _ in await read_log(store, after=0, limit=9)] == [1]
    assert LOG == b"log/"


async def test_an_object_put_twice_in_one_write_is_what_was_put_last(store: Store) -> None:
    await found_register(store)

    def twice(state: State) -> Decision:
        first, second = counting("first")(state).changes[0], counting("second")(state).changes[0]
        assert isinstance(second, Put)
        return Decision((first, Remove(Kind.VM, COUNTER), second))

    async with leading(store, clock=CLOCK) as leader:
        await leader.ledger.write(twice)
        state = leader.ledger.state
    assert dump((await load(store))[1]) == dump(state)
    counter = state.get(VM, COUNTER)
    assert counter is not None
    assert set(counter.other_config) == {"n", "second"}


async def test_a_slow_commit_does_not_make_head_unconfirmed_again() -> None:
    clock = VirtualClock()
    store = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(store)
    async with leading(store, clock=clock) as leader:
        store.faults.latency_seconds = 2.0
        writing = asyncio.ensure_future(leader.ledger.write(counting("slow")))  # noqa: TID251 - awaited below
        await clock.advance(1.5)
        store.faults.latency_seconds = 0.0
        await leader.ledger.confirm()
        confirmed_at = leader.ledger.confirmed_at
        await clock.advance(0.5)
        await writing
        assert leader.ledger.confirmed_at >= confirmed_at
