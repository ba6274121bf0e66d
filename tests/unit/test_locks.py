"""Locks: who gets one, how long it lives, and what a token is worth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.errors import PoolError, Reason
from poolcore.model import Lock, LockId
from poolcore.replica import Put, State, changed
from poolmaster.decide.locks import TTL_LIMIT_SECONDS, acquired, expired, overdue, released
from poolmaster.ledger import Decide, Ledger, Outcome, Request
from poolmaster.locks import LOOK_SECONDS, Locks
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from support.registers import asked, found_register, leading
from support.small_pool import THEN, small_pool
from support.virtual_clock import VirtualClock, run_in_virtual_time

NIGHTLY = LockId("90000000-0000-4000-8000-000000000001")
OTHER = LockId("90000000-0000-4000-8000-000000000002")


# -- deciding -------------------------------------------------------------------------------------


def taken(state: State, uuid: LockId = NIGHTLY, name: str = "nightly", ttl: int = 30) -> Lock:
    return acquired(state, uuid=uuid, name=name, holder="ops@phantom", ttl_seconds=ttl, now=THEN)


def with_lock(state: State, lock: Lock) -> State:
    return replace(state, tables=changed(state.tables, [Put(lock)]))


def test_the_token_is_the_revision_of_the_commit_that_takes_the_lock() -> None:
    lock = taken(small_pool(revision=41))
    assert (lock.token, lock.holder, lock.acquired) == (42, "ops@phantom", THEN)


def test_a_lock_that_somebody_holds_is_refused_with_who_and_since_when() -> None:
    state = with_lock(small_pool(), taken(small_pool()))
    assert taken(state, OTHER, "weekly").name_label == "weekly"
    with pytest.raises(PoolError) as refusal:
        taken(state, OTHER)
    assert refusal.value.reason is Reason.LOCK_HELD
    assert refusal.value.params == {
        "name": "nightly", "holder": "ops@phantom", "since": "2026-01-01T00:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "holder", "ttl", "field"),
    [
        ("", "ops", 1, "name_label"),
        ("a\nb", "ops", 1, "name_label"),
        ("n" * 256, "ops", 1, "name_label"),
        ("nightly", " ", 1, "holder"),
        ("nightly", "o" * 256, 1, "holder"),
        ("nightly", "ops", 0, "ttl_seconds"),
        ("nightly", "ops", TTL_LIMIT_SECONDS + 1, "ttl_seconds"),
    ],
)
def test_what_no_lock_can_have_is_refused_by_field(
    name: str, holder: str, ttl: int, field: str
) -> None:
    with pytest.raises(PoolError) as refusal:
        acquired(small_pool(), uuid=NIGHTLY, name=name, holder=holder, ttl_seconds=ttl, now=THEN)
    assert refusal.value.reason is Reason.INVALID_VALUE
    assert refusal.value.params["field"] == field


def test_what_is_gone_cannot_be_given_up_and_need_not_be_removed() -> None:
    with pytest.raises(PoolError) as refusal:
        released(small_pool(), NIGHTLY)
    assert refusal.value.reason is Reason.LOCK_LOST
    assert expired(small_pool(), [NIGHTLY]) == ()


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1e6)), max_size=9), st.floats(0, 2e6))
def test_a_lock_is_overdue_exactly_when_its_time_has_passed(
    drawn: list[tuple[int, float]], now: float
) -> None:
    locks = [
        replace(taken(small_pool(), ttl=ttl), uuid=LockId(str(number)))
        for number, (ttl, _) in enumerate(drawn)
    ]
    renewed = {LockId(str(number)): at for number, (_, at) in enumerate(drawn)}
    late = {lock.uuid for lock in locks if now - renewed[lock.uuid] >= lock.ttl_seconds}
    assert overdue(locks, renewed, now=now) == late


# -- living ---------------------------------------------------------------------------------------


class LockingPool:
    """A ledger as locks see their master; its time of day can be set."""

    def __init__(self, ledger: Ledger, clock: VirtualClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.wrong_by = timedelta()
        self.locks = Locks(self)

    @property
    def state(self) -> State:
        return self.ledger.state

    def now(self) -> datetime:
        return self.clock.now() + self.wrong_by

    async def fresh(self) -> State:
        await self.ledger.confirm()
        return self.state

    async def write(
        self, decide: Decide, *, request: Request | None = None, while_reserved: bool = False
    ) -> Outcome:
        return await self.ledger.write(decide, request=request)

    async def take(self, name: str = "nightly", request: Request | None = None) -> Lock:
        lock, revision = await self.locks.acquire(
            name=name, holder="ops", ttl_seconds=10, request=request
        )
        assert lock.token <= revision
        return lock

    @property
    def held(self) -> set[str]:
        return {lock.name_label for lock in self.state.all(Lock)}


@asynccontextmanager
async def mastership(store: MemoryStore, clock: VirtualClock) -> AsyncIterator[LockingPool]:
    async with leading(store, clock=clock) as leader, asyncio.TaskGroup() as tasks:
        pool = LockingPool(leader.ledger, clock)
        running = tasks.create_task(pool.locks.run())
        yield pool
        running.cancel()


def play(scenario: Callable[[MemoryStore, VirtualClock], Awaitable[None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(MemoryStoreData(), clock=clock)
        await found_register(store)
        await scenario(store, clock)

    run_in_virtual_time(main)


async def lost(call: Awaitable[object]) -> bool:
    """Whether it is refused because the lock is gone."""
    try:
        await call
    except PoolError as refusal:
        if refusal.reason is not Reason.LOCK_LOST:
            raise
        return True
    return False


def test_a_lock_that_is_not_renewed_lives_its_time_and_hardly_longer() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            first = await pool.take()
            await clock.sleep(9.9)
            assert pool.held == {"nightly"}
            await clock.sleep(0.1 + 2 * LOOK_SECONDS)
            assert pool.held == set()
            assert await lost(pool.locks.renew(first.uuid))
            assert await lost(pool.locks.release(first.uuid, request=None))
            assert (await pool.take()).token > first.token

    play(scenario)


def test_a_lock_that_is_renewed_stays_and_whatever_the_time_of_day_does() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            lock = await pool.take()
            for hours in (1, -2, 3):
                pool.wrong_by += timedelta(hours=hours)
                await clock.sleep(9.5)
                revision = pool.state.revision
                assert await pool.locks.renew(lock.uuid) == lock
                assert pool.state.revision == revision, "a renewal is no commit"
            await pool.locks.release(lock.uuid, request=None)
            assert pool.held == set()

    play(scenario)


def test_of_many_who_ask_at_once_one_gets_the_lock_and_tokens_grow() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            tokens = []
            for _ in range(5):
                answers = await asyncio.gather(
                    *(pool.take() for _ in range(10)), return_exceptions=True
                )
                won = [a for a in answers if isinstance(a, Lock)]
                held = [a for a in answers if isinstance(a, PoolError)]
                assert (len(won), len(held)) == (1, 9)
                assert {error.reason for error in held} == {Reason.LOCK_HELD}
                tokens.append(won[0].token)
                await pool.locks.release(won[0].uuid, request=None)
            assert tokens == sorted(set(tokens))

    play(scenario)


def test_the_next_mastership_keeps_a_lock_and_gives_it_its_full_time() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            lock = await pool.take()
            await clock.sleep(9.0)
        async with mastership(store, clock) as pool:
            await clock.sleep(9.9)
            assert pool.held == {"nightly"}
            assert await pool.locks.renew(lock.uuid) == lock
            await clock.sleep(9.9)
            assert pool.held == {"nightly"}
            await clock.sleep(0.1 + 2 * LOOK_SECONDS)
            assert pool.held == set()

    play(scenario)


def test_a_request_that_is_repeated_finds_its_own_lock_or_learns_that_it_is_gone() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            request = asked(pool.state.revision, 1)
            lock = await pool.take(request=request)
        async with mastership(store, clock) as pool:
            await clock.sleep(9.0)
            assert await pool.take(request=request) == lock
            await clock.sleep(9.0)
            assert pool.held == {"nightly"}, "asking again has renewed it"
            given_up = asked(pool.state.revision, 2)
            await pool.locks.release(lock.uuid, request=given_up)
            await pool.take()
            await pool.locks.release(lock.uuid, request=given_up)
            assert pool.held == {"nightly"}, "the second release was the first"
            assert await lost(pool.take(request=request))

    play(scenario)


def test_a_lock_is_over_for_its_holder_even_if_its_removal_has_to_wait_for_the_store() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            lock = await pool.take()
            store.faults.plan(Fate.REFUSED)
            await clock.sleep(10.0 + LOOK_SECONDS / 2)
            assert pool.held == {"nightly"}
            assert await lost(pool.locks.renew(lock.uuid))
            await clock.sleep(2 * LOOK_SECONDS)
            assert pool.held == set()

    play(scenario)


def test_breaking_a_lock_does_not_touch_the_one_that_was_taken_after_it() -> None:
    async def scenario(store: MemoryStore, clock: VirtualClock) -> None:
        async with mastership(store, clock) as pool:
            first = await pool.take()
            await pool.locks.release(first.uuid, request=None)
            second = await pool.take()
            assert await lost(pool.locks.release(first.uuid, request=None))
            assert await pool.locks.renew(second.uuid) == second

    play(scenario)
