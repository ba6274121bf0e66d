"""Whom a member obeys, and what it takes from them: incarnations, terms, snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Incarnation
from poolcore.replica import Head, State, snapshot
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmember.session import Follower, Link, Session
from sim.session_field import Field, played
from support.small_pool import INCARNATION, PHANTOM, small_pool

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
