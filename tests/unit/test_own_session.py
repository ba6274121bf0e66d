"""The master's own host keeps its replica, without a wire in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import CommitId, DeltaDoesNotFollow, State, dump, snapshot
from poolmaster.ledger import Ledger
from poolmaster.sessions import Sessions
from poolmaster.store.contract import Store
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmember.drivers.sim import SimDriver
from poolmember.own_session import PACE_SECONDS, OwnSession
from poolmember.session import Follower
from support.memory_replica import MemoryReplica, ReplicaContent
from support.registers import INCARNATION, PHANTOM, POOL, counting, found_register, leading
from support.virtual_clock import VirtualClock, run_in_virtual_time


@dataclass
class Own:
    """A mastership and its own host's replica."""

    ledger: Ledger
    sessions: Sessions
    content: ReplicaContent
    follower: Follower
    session: OwnSession
    writes: int = 0

    def count(self) -> None:
        self.writes += 1

    async def in_step(self) -> None:
        """Wait until the replica has durably got everything."""
        await self.sessions.attached_at(PHANTOM, self.ledger.state.revision)


@asynccontextmanager
async def own(
    store: Store, clock: VirtualClock, content: ReplicaContent | None = None
) -> AsyncIterator[Own]:
    """A mastership, and a session of its own host that does not run yet."""
    content = content or ReplicaContent(POOL)
    async with leading(store, clock=clock) as leader:
        sessions = Sessions(leader.ledger, clock=clock)
        driver = SimDriver(None, host_name="phantom", management_endpoint="127.0.0.1:7443")
        await driver.open(PHANTOM)
        replica = MemoryReplica(content, changed=lambda _: found.count())
        follower = Follower(PHANTOM, POOL, (), replica, clock)
        session = OwnSession(leader.ledger, sessions, follower, driver)
        found = Own(leader.ledger, sessions, content, follower, session)
        yield found
        await driver.close()


@asynccontextmanager
async def running(session: OwnSession) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(session.run())  # noqa: TID251 - awaited below
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def founded(clock: VirtualClock, *, history: int = 10_000) -> Store:
    store = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(store, history=history)
    return store


def test_the_replica_becomes_what_the_master_has_and_stays_so() -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with own(await founded(clock), clock) as host, running(host.session):
            await host.in_step()
            await host.ledger.write(counting("first"))
            await host.ledger.write(counting("second"))
            await host.in_step()
            assert host.content.state is not None
            assert dump(host.content.state) == dump(host.ledger.state)

    run_in_virtual_time(scenario)


def test_in_memory_the_host_has_the_state_once() -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with own(await founded(clock), clock) as host, running(host.session):
            await host.in_step()
            assert host.follower.state is host.ledger.state
            await host.ledger.write(counting("first"))
            await host.in_step()
            assert host.follower.state is host.ledger.state

    run_in_virtual_time(scenario)


def test_what_was_committed_within_a_moment_becomes_durable_together() -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with own(await founded(clock), clock) as host, running(host.session):
            await host.in_step()
            await clock.sleep(PACE_SECONDS)
            before = host.writes
            for number in range(10):
                await host.ledger.write(counting(f"write{number}"))
                await clock.sleep(PACE_SECONDS / 10)
            await host.in_step()
            assert host.writes - before == 2

    run_in_virtual_time(scenario)


def test_a_replica_that_was_away_is_brought_up_by_the_log() -> None:
    async def scenario(clock: VirtualClock) -> None:
        store, content = await founded(clock), ReplicaContent(POOL)
        async with own(store, clock, content) as host, running(host.session):
            await host.in_step()
        async with leading(store, clock=clock) as leader:
            for number in range(600):
                await leader.ledger.write(counting(f"write{number % 10}"))
        async with own(store, clock, content) as host, running(host.session):
            await host.in_step()
            assert sorted(content.log) == list(range(2, host.ledger.state.revision + 1))
            assert content.state is not None
            assert dump(content.state) == dump(host.ledger.state)

    run_in_virtual_time(scenario)


def test_a_replica_from_before_the_history_gets_a_snapshot() -> None:
    async def scenario(clock: VirtualClock) -> None:
        store, content = await founded(clock, history=5), ReplicaContent(POOL)
        async with own(store, clock, content) as host, running(host.session):
            await host.in_step()
        async with leading(store, clock=clock) as leader:
            for number in range(20):
                await leader.ledger.write(counting(f"write{number}"))
        async with own(store, clock, content) as host, running(host.session):
            await host.in_step()
            assert content.state is not None
            assert dump(content.state) == dump(host.ledger.state)

    run_in_virtual_time(scenario)


def test_a_replica_of_another_chain_is_refused_and_then_replaced() -> None:
    async def scenario(clock: VirtualClock) -> None:
        store = await founded(clock)
        content = ReplicaContent(POOL, state=elsewhere(revision=1))
        async with own(store, clock, content) as host:
            with pytest.raises(DeltaDoesNotFollow):
                await host.session.run()
            host.follower.start_over()
            async with running(host.session):
                await host.in_step()
                assert content.state is not None
                assert dump(content.state) == dump(host.ledger.state)

    run_in_virtual_time(scenario)


def test_a_replica_that_is_ahead_of_the_store_is_left_as_it_is() -> None:
    async def scenario(clock: VirtualClock) -> None:
        state = elsewhere(revision=9)
        content = ReplicaContent(POOL, state=state)
        async with own(await founded(clock), clock, content) as host:
            with pytest.raises(PoolError) as refused:
                await host.session.run()
            assert refused.value.reason is Reason.REPLICA_AHEAD
            host.follower.start_over()
            with pytest.raises(PoolError) as refused:
                await host.session.run()
            assert refused.value.reason is Reason.REPLICA_AHEAD
            assert content.state is state

    run_in_virtual_time(scenario)


def test_another_session_of_the_same_host_takes_its_place() -> None:
    async def scenario(clock: VirtualClock) -> None:
        async with own(await founded(clock), clock) as host, running(host.session) as task:
            await host.in_step()
            async with host.sessions.attached(PHANTOM, None):
                with pytest.raises(PoolError) as ended:
                    await task
            assert ended.value.reason is Reason.NO_MASTER

    run_in_virtual_time(scenario)


def elsewhere(*, revision: int) -> State:
    """A state whose last commit no mastership of the test has made."""
    return snapshot(INCARNATION, CommitId(0, revision), (), ())
