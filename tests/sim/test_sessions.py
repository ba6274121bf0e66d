"""A member's session with its master, both ends real, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, FailoverTimings, Host, HostMetrics, Incarnation, PoolId, Reservation
from poolcore.replica import Put, State
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.ledger import Decision
from poolmember.session import Ejected, Session
from sim.session_field import EJECT, Field, played
from support.small_pool import IGNITE, INCARNATION, POOL, WEB1, small_pool

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
            assert at.clock.monotonic() - follower.heard <= FailoverTimings().heartbeat_seconds

    played(scenario)


def test_a_master_is_heard_while_a_slow_disk_takes_what_it_said() -> None:
    async def scenario(at: Field) -> None:
        follower = await at.member()
        append = follower.store.append

        async def slow(deltas: Any) -> None:
            await at.clock.sleep(3)
            await append(deltas)

        async with at.attached(follower) as session:
            await at.in_step(follower)
            follower.store.append = slow  # type: ignore[method-assign]
            began = at.clock.monotonic()
            for number in range(25):
                await at.rename(f"name {number}")
                await at.clock.sleep(0.1)
                silent = at.clock.monotonic() - follower.heard
                assert silent <= 2 * FailoverTimings().heartbeat_seconds
                # What it tells as stale is not called newer than it is.
                assert follower.kept_up <= began
            await at.in_step(follower)
            assert not session.done()
        assert follower.kept_up > began

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
