"""A member's session with its master, both ends real, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import (
    VM,
    Address,
    AddressPurpose,
    Host,
    HostMetrics,
    PoolId,
    Reservation,
    Task,
    TaskId,
)
from poolcore.replica import Head, Incarnation, Put, State, dump, snapshot
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.decide.inventory import departed
from poolmaster.ledger import Decision, Ledger
from poolmaster.mastership import claim, found
from poolmaster.sessions import HEARTBEAT_SECONDS, Sessions
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmember.session import Ejected, Follower, Link, Session
from sim.host import Hypervisor
from sim.machine import simulate
from support.memory_replica import MemoryReplica, ReplicaContent
from support.small_pool import IGNITE, INCARNATION, PHANTOM, POOL, THEN, WEB1, small_pool
from support.virtual_clock import VirtualClock

ENDPOINT = "127.0.0.2:7443"
EJECT = Task(
    uuid=TaskId("80000000-0000-4000-8000-000000000001"),
    name_label="Eject host ignite",
    operation="host.eject",
    step="evicted",
    params=Map(host=IGNITE, endpoint=ENDPOINT),
    created=THEN,
)


@dataclass
class Field:
    """A master with its ledger and sessions, and a member that is ready to follow it."""

    clock: VirtualClock
    store: MemoryStore
    ledger: Ledger
    sessions: Sessions
    content: ReplicaContent = field(default_factory=lambda: ReplicaContent(PoolId(POOL)))
    hypervisor: Hypervisor = field(default_factory=lambda: Hypervisor(ENDPOINT))
    told: list[pb.SessionRequest] = field(default_factory=list)
    """What the member has told the master."""

    async def member(self) -> Follower:
        """The member, as after a start of its daemon."""
        await self.hypervisor.open(IGNITE)
        follower = Follower(
            host=IGNITE,
            pool=PoolId(POOL),
            addresses=(Address(purpose=AddressPurpose.MANAGEMENT, endpoint=ENDPOINT),),
            store=MemoryReplica(self.content),
            clock=self.clock,
        )
        await follower.load()
        return follower

    async def link(self, requests: AsyncIterator[pb.SessionRequest], send: Any) -> None:
        """Straight to the master, noting what the member tells."""

        async def noted() -> AsyncIterator[pb.SessionRequest]:
            async for request in requests:
                self.told.append(request)
                yield request

        await self.sessions.serve(noted(), send)

    @asynccontextmanager
    async def attached(self, follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
        """A session that runs as long as the block."""
        session = Session(follower, self.hypervisor, on_welcome=lambda: None)
        running = asyncio.ensure_future(session.run(self.link))  # noqa: TID251 - awaited below
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def rename(self, name: str) -> int:
        """A small write; its revision."""

        def decide(state: State) -> Decision:
            vm = state.get(VM, WEB1)
            assert vm is not None
            return Decision((Put(replace(vm, name_label=name)),))

        return (await self.ledger.write(decide)).revision

    async def evict(self) -> None:
        """Commit that the member is of the pool no more."""
        await self.ledger.write(lambda state: Decision((*departed(state, IGNITE)[0], Put(EJECT))))

    async def in_step(self, follower: Follower) -> None:
        """Wait until the member has all there is, and the master knows it."""
        async with asyncio.timeout(10):
            await self.sessions.attached_at(IGNITE, self.ledger.state.revision)
        assert follower.state is not None
        assert dump(follower.state) == dump(self.ledger.state)
        assert self.content.state == self.ledger.state


def played(
    scenario: Callable[[Field], Coroutine[Any, Any, None]], *, history: int = 10_000
) -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(MemoryStoreData(), clock=clock)
        objects = [
            replace(o, history_revisions=history) if o.uuid == POOL else o  # type: ignore[call-arg]
            for o in small_pool().objects()
        ]
        await found(store, INCARNATION, PHANTOM, tuple(objects))
        head, state = await claim(store, PHANTOM)
        ledger = Ledger(store, head, state, clock=clock)
        sessions = Sessions(ledger, clock=clock)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(ledger.run())
            await scenario(Field(clock, store, ledger, sessions))
            running.cancel()

    simulate(scenario.__qualname__, main)


# -- following ------------------------------------------------------------------------------------


def test_a_new_member_takes_a_snapshot_and_then_every_commit() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
            for number in range(20):
                await at.rename(f"name {number}")
            await at.in_step(follower)
        assert max(at.content.log) == at.ledger.state.revision

    played(scenario)


def test_a_member_that_was_away_for_a_thousand_commits_catches_up_by_deltas() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
        began = at.ledger.state.revision
        for number in range(1000):
            await at.rename(f"name {number}")
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
        assert set(range(began + 1, began + 1001)) <= set(at.content.log)

    played(scenario)


def test_a_member_that_was_away_for_longer_than_the_history_takes_a_snapshot() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
        # Beyond what is in memory, too.
        for number in range(2100):
            await at.rename(f"name {number}")
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
        assert len(at.content.log) <= 100

    played(scenario, history=100)


def test_heartbeats_keep_a_quiet_session_alive() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower) as session:
            await at.in_step(follower)
            await at.clock.sleep(60)
            assert not session.done()
            assert at.clock.monotonic() - follower.heard <= HEARTBEAT_SECONDS

    played(scenario)


def test_another_session_of_the_same_host_replaces_the_first() -> None:
    async def scenario(at: Field) -> None:
        first, second = await at.member(), await at.member()
        async with at.attached(first) as session:
            await at.in_step(first)
            async with at.attached(second):
                with pytest.raises(PoolError):
                    await session
                await at.rename("web 2")
                await at.in_step(second)
                assert at.sessions.get(IGNITE) is not None

    played(scenario)


# -- leaving --------------------------------------------------------------------------------------


def test_an_evicted_member_is_told_and_keeps_the_state_before() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower) as session:
            await at.in_step(follower)
            await asyncio.gather(at.rename("last name"), at.evict())
            with pytest.raises(Ejected):
                await session
        assert follower.state is not None
        assert follower.state.get(Host, IGNITE) is not None
        vm = follower.state.get(VM, WEB1)
        assert vm is not None
        assert vm.name_label == "last name"

    played(scenario)


@pytest.mark.parametrize("history", [10_000, 20])
def test_a_member_that_was_away_when_it_was_evicted_is_told_when_it_comes(history: int) -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
        await at.evict()
        for number in range(30):
            await at.rename(f"name {number}")
        follower = await at.member()
        async with at.attached(follower) as session:
            with pytest.raises(Ejected):
                await session
        assert follower.state is not None
        assert follower.state.get(Host, IGNITE) is not None

    played(scenario, history=history)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_member_evicted_before_its_snapshot_is_told_instead(fresh: bool) -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        if not fresh:
            async with at.attached(follower):
                await at.in_step(follower)
            for number in range(2100):
                await at.rename(f"name {number}")
        straight = at.link

        async def evicted_meanwhile(requests: Any, send: Any) -> None:
            async def slowly(response: pb.SessionResponse) -> None:
                if response.HasField("welcome"):
                    await at.evict()
                await send(response)

            await straight(requests, slowly)

        session = Session(follower, at.hypervisor, on_welcome=lambda: None)
        async with asyncio.timeout(10):
            with pytest.raises(Ejected):
                await session.run(evicted_meanwhile)
        if not fresh:
            assert follower.state is not None
            assert follower.state.get(Host, IGNITE) is not None

    played(scenario, history=50)


def test_a_master_of_an_older_incarnation_does_not_eject_a_host_that_went_on() -> None:
    async def scenario(at: Field) -> None:
        await at.evict()
        next_life = Incarnation(INCARNATION.counter + 1, "70000000-0000-4000-8000-000000000002")
        at.content.state = replace(small_pool(), incarnation=next_life)
        follower = await at.member()
        async with at.attached(follower) as session:
            with pytest.raises(PoolError) as refused:
                await session
        assert refused.value.reason is Reason.INCARNATION_MISMATCH

    played(scenario)


# -- reports --------------------------------------------------------------------------------------


def memory_of(state: State) -> int:
    """The member's memory, as its driver reported it."""
    return next(m.memory_total for m in state.all(HostMetrics) if m.host == IGNITE)


def test_a_report_that_meets_the_end_of_a_reservation_is_committed_at_once() -> None:
    async def scenario(at: Field) -> None:
        reservation = Reservation(
            pool=PoolId(POOL), pool_name="specter", task=EJECT.uuid, addresses=()
        )

        def reserved(state: State) -> Decision:
            return Decision((Put(replace(state.pool, reservation=reservation)),))

        def free(state: State) -> Decision:
            return Decision((Put(replace(state.pool, reservation=None)),))

        follower = await at.member()
        async with at.attached(follower):
            await at.in_step(follower)
            await at.ledger.write(reserved)
            # While this is under way, the report and the end of the reservation wait together.
            at.store.faults.latency_seconds = 1.0
            under_way = asyncio.ensure_future(at.rename("busy"))  # noqa: TID251 - awaited below
            await at.clock.sleep(0.1)
            profile = replace(at.hypervisor.description.profile, memory_total=2**30)
            at.hypervisor.describe(replace(at.hypervisor.description, profile=profile))
            await at.clock.sleep(0.1)
            await asyncio.gather(at.ledger.write(free), under_way)
            await at.clock.sleep(5)
            assert memory_of(at.ledger.state) == 2**30

    played(scenario)


def test_a_store_that_refuses_for_a_moment_does_not_end_a_session() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        async with at.attached(follower) as session:
            await at.in_step(follower)
            at.store.faults.cut_off = True
            profile = replace(at.hypervisor.description.profile, memory_total=2**30)
            at.hypervisor.describe(replace(at.hypervisor.description, profile=profile))
            await at.clock.sleep(2)
            at.store.faults.cut_off = False
            await at.clock.sleep(5)
            assert not session.done()
            assert memory_of(at.ledger.state) == 2**30

    played(scenario)


# -- what a member obeys --------------------------------------------------------------------------


def saying(*responses: pb.SessionResponse, told: list[pb.SessionRequest] | None = None) -> Link:
    """A master that says this and then nothing more."""

    async def link(
        requests: AsyncIterator[pb.SessionRequest],
        send: Callable[[pb.SessionResponse], Awaitable[None]],
    ) -> None:
        for response in responses:
            await send(response)
        async for request in requests:
            if told is not None:
                told.append(request)

    return link


def welcome(term: int, incarnation: Incarnation = INCARNATION) -> pb.SessionResponse:
    head = Head(incarnation, term, 10, PHANTOM)
    return pb.SessionResponse(welcome=pb.Welcome(head=to_proto(head)))


def frames(state: State) -> list[pb.SessionResponse]:
    return [pb.SessionResponse(snapshot=frame) for frame in snapshot_frames(state)]


async def heard(at: Field, link: Link) -> Follower:
    """The member after three silent seconds, or whatever else ended its session."""
    follower = await at.member()
    with pytest.raises(PoolError) as ended:
        await Session(follower, at.hypervisor, on_welcome=lambda: None).run(link)
    if ended.value.reason is not Reason.NO_MASTER:
        raise ended.value
    return follower


def test_frames_before_a_welcome_are_not_obeyed() -> None:
    async def scenario(at: Field) -> None:
        follower = await heard(at, saying(*frames(small_pool())))
        assert follower.state is None

    played(scenario)


def test_a_master_of_an_older_term_is_not_obeyed_also_after_a_restart() -> None:
    async def scenario(at: Field) -> None:
        await heard(at, saying(welcome(5)))
        with pytest.raises(PoolError) as refused:
            await heard(at, saying(welcome(4), *frames(small_pool())))
        assert refused.value.reason is Reason.HOST_IS_SLAVE
        assert at.content.state is None

    played(scenario)


def test_a_newer_incarnation_is_obeyed_whatever_its_term_and_the_older_never_again() -> None:
    async def scenario(at: Field) -> None:
        await heard(at, saying(welcome(5), *frames(small_pool())))
        next_life = Incarnation(2, "70000000-0000-4000-8000-000000000002", forked_at=10)
        reborn = snapshot(next_life, small_pool().last, small_pool().objects(), ())
        follower = await heard(at, saying(welcome(2, next_life), *frames(reborn)))
        assert follower.state == reborn
        assert at.content.highest_term == 2
        for older in (welcome(9), welcome(9, replace(next_life, uuid="another of the same count"))):
            with pytest.raises(PoolError) as refused:
                await heard(at, saying(older))
            assert refused.value.reason is Reason.INCARNATION_MISMATCH

    played(scenario)


def test_a_snapshot_older_than_the_replica_is_refused() -> None:
    async def scenario(at: Field) -> None:
        await heard(at, saying(welcome(1), *frames(small_pool(revision=10))))
        with pytest.raises(PoolError) as refused:
            await heard(at, saying(welcome(1), *frames(small_pool(revision=9))))
        assert refused.value.reason is Reason.REPLICA_AHEAD
        assert at.content.state == small_pool(revision=10)

    played(scenario)


def test_a_snapshot_of_the_same_number_is_acknowledged_too() -> None:
    async def scenario(at: Field) -> None:
        await heard(at, saying(welcome(1), *frames(small_pool())))
        follower = await at.member()
        follower.start_over()
        told: list[pb.SessionRequest] = []
        link = saying(welcome(1), *frames(small_pool()), told=told)
        with pytest.raises(PoolError):
            await Session(follower, at.hypervisor, on_welcome=lambda: None).run(link)
        assert [r.applied.revision for r in told if r.HasField("applied")] == [10]

    played(scenario)
