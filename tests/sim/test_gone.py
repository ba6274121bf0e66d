"""Hosts that are forgotten, declared dead, or have what the pool has not: their sessions."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import (
    VM,
    Host,
    HostMetrics,
    Incarnation,
    Message,
    PoolId,
    TaskStatus,
)
from poolcore.replica import CommitId, Delta, Put, State, apply
from poolcore.wire.chain import encode_delta
from poolmanager.v1 import host_service_pb2 as host_pb
from poolmaster.decide.gone import declared_dead, forgotten
from poolmaster.ledger import Decision
from sim.session_field import EJECT, Field, played
from sim.world import World, is_refused, play
from support.memory_recoveries import MemoryRecoveries
from support.memory_replica import ReplicaContent
from support.small_pool import IGNITE, POOL, WEB1, small_pool

OLDER = Incarnation(0, "70000000-0000-4000-8000-000000000000")


def names(state: State) -> list[str]:
    return sorted(message.name for message in state.all(Message))


async def forget(at: Field) -> None:
    def decide(state: State) -> Decision:
        return Decision(forgotten(state, IGNITE, now=at.clock.now()).changes)

    await at.ledger.write(decide)


async def refusal_of(session: asyncio.Task[None]) -> PoolError:
    with pytest.raises(PoolError) as told:
        await session
    return told.value


@pytest.mark.parametrize("away", [False, True])
def test_a_forgotten_host_is_told_so_even_if_it_was_ejected_once(away: bool) -> None:
    async def scenario(at: Field) -> None:
        past = replace(EJECT, status=TaskStatus.SUCCESS)
        await at.ledger.write(lambda _: Decision((Put(past),)))
        follower = await at.member()
        async with at.attached(follower) as session:
            await at.in_step(follower)
            if away:
                session.cancel()
                await asyncio.gather(session, return_exceptions=True)
            await forget(at)
            running = at.attached(await at.member()) if away else nullcontext(session)
            async with running as told_in:
                told = await refusal_of(told_in)
        assert told.reason is Reason.HOST_FORGOTTEN
        assert told.params["incarnation"] == str(at.ledger.state.incarnation.counter)
        assert follower.state is not None
        assert follower.state.get(Host, IGNITE) is not None, "it has still what it knew"

    played(scenario)


def test_a_host_declared_dead_is_so_until_its_session_is_up() -> None:
    async def scenario(at: Field) -> None:
        liveness = asyncio.ensure_future(at.sessions.run())  # noqa: TID251 - cancelled below
        await at.ledger.write(
            lambda state: Decision(declared_dead(state, IGNITE, now=at.clock.now()))
        )
        async with at.attached(await at.member()):
            while any(m.declared_dead for m in at.ledger.state.all(HostMetrics)):
                await at.ledger.feed.wait(at.ledger.state.revision)
        assert names(at.ledger.state) == ["HOST_CAME_BACK", "HOST_DECLARED_DEAD"]
        liveness.cancel()
        await asyncio.gather(liveness, return_exceptions=True)

    played(scenario)


def beyond() -> ReplicaContent:
    """A replica of an older incarnation, with a commit that nobody else has."""
    before = replace(small_pool(), incarnation=OLDER)
    vm = before.get(VM, WEB1)
    assert vm is not None
    change = Put(replace(vm, name_description="lost"))
    delta = Delta(OLDER.uuid, CommitId(1, 11), before.last, (change,))
    return ReplicaContent(PoolId(POOL), 1, apply(before, delta), {11: encode_delta(delta)})


def test_what_a_returning_host_had_is_noted_once() -> None:
    async def scenario(at: Field) -> None:
        at.content = beyond()
        recoveries = MemoryRecoveries()
        for _ in range(3):
            follower = await at.member()
            follower.recoveries = recoveries
            async with at.attached(follower):
                while "COMMITS_RECOVERED" not in names(at.ledger.state):
                    await at.ledger.feed.wait(at.ledger.state.revision)
                await at.in_step(follower)
                await at.clock.sleep(1.0)
        (message,) = at.ledger.state.all(Message)
        assert message.obj_uuid == IGNITE
        assert "had 1 commit that this pool does not have" in message.body
        assert list(recoveries.lines) == ["0-70000000"]

    played(scenario)


def test_a_dead_host_is_given_up_through_any_host_and_forgotten() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite, specter = world.add("phantom", "ignite", "specter")
        await world.until(lambda: phantom.mastership and ignite.mastership and specter.mastership)
        await world.join(phantom, ignite)
        await world.join(phantom, specter)
        ask = host_pb.DeclareHostDeadRequest(host="ignite", request_id=world.new_request(phantom))
        with pytest.raises(PoolError) as alive:
            await world.ask(specter, "HostService/DeclareHostDead", ask)
        assert is_refused(alive.value, Reason.HOST_IS_LIVE)

        ignite.cut_power()
        await world.let_pass(1.0)
        first = await world.ask(specter, "HostService/DeclareHostDead", ask)
        again = await world.ask(phantom, "HostService/DeclareHostDead", ask)
        assert first.host_metrics.declared_dead
        assert first.revision == again.revision
        gone = host_pb.ForgetHostRequest(host="ignite", request_id=world.new_request(phantom))
        first = await world.ask(specter, "HostService/ForgetHost", gone)
        again = await world.ask(phantom, "HostService/ForgetHost", gone)
        assert (first.host, first.revision) == (ignite.uuid, again.revision)
        assert world.members(phantom) == {phantom.uuid, specter.uuid}

        before = ignite.membership
        ignite.power_on()
        await world.let_pass(10.0)
        assert ignite.membership == before, "it founds nothing"
        assert ignite.life is not None
        assert ignite.life.follower is not None
        assert ignite.life.follower.following is None
        ignite.reset()
        await world.until(lambda: ignite.mastership)
        await world.join(phantom, ignite)

    play("forgotten", scenario)
