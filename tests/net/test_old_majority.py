"""After an emergency transition the old majority comes back alive, with an etcd that works.

It had the quorum, and has it again: among themselves its hosts can elect a master of the old
incarnation, and write. They must neither change nor take in the pool that has gone on without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from net.last_host import goes_on_alone
from net.misfortunes import FEW_CLIENTS, answers_from_its_replica, comes_true, on_own_etcd
from poolclient import PoolClient
from poolcore.model import Incarnation
from poolmember.inspection import inspect
from support.marked_writes import Book, writers
from support.netlab.host import NetHost
from support.netlab.lab import NetLab
from support.own_etcd import VotingPool, token

pytestmark = pytest.mark.net

WRITES = 40

Return = Callable[[NetLab, NetHost, Sequence[NetHost]], Awaitable[Book]]
"""How the old hosts come back; what they were told of writes meanwhile."""


async def switched_on(lab: NetLab, *hosts: NetHost) -> None:
    for host in hosts:
        lab.link_up(host)
    await asyncio.gather(*(host.start() for host in hosts))


@asynccontextmanager
async def apart(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> AsyncIterator[Book]:
    """The old hosts come back where the new master is not; at the beginning they have written."""
    lab.isolate(last)
    await switched_on(lab, *old)
    known = tuple(host.endpoint for host in old)
    async with writers([known] * FEW_CLIENTS, to=old[0].name) as beyond:
        await beyond.goes_on(WRITES)
    yield beyond


async def together(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> Book:
    """All at once, where the new master is."""
    await switched_on(lab, *old)
    return Book()


async def one_after_the_other(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> Book:
    for host in reversed(old):
        await switched_on(lab, host)
    return Book()


async def apart_and_healed(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> Book:
    async with apart(lab, last, old) as beyond:
        lab.heal()
    return beyond


async def apart_and_healed_in_parts(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> Book:
    """One of them hears the new master first, while the other one still hears the old etcd."""
    first, second = old
    async with apart(lab, last, old) as beyond:
        lab.heal()
        lab.cut(last, second)
        await comes_true(lambda: life_of(first) == life_of(last) is not None)
        async with second.api() as api:
            await answers_from_its_replica(api)
        lab.heal()
    return beyond


async def before_the_new_master(lab: NetLab, last: NetHost, old: Sequence[NetHost]) -> Book:
    """The new master is down when they come back, and comes last."""
    await last.kill()
    async with apart(lab, last, old) as beyond:
        lab.heal()
        await last.start()
    return beyond


@on_own_etcd()
@pytest.mark.parametrize(
    ("number", "come_back"),
    [
        (2, together),
        (1, one_after_the_other),
        (2, apart_and_healed),
        (1, apart_and_healed_in_parts),
        (2, before_the_new_master),
        # The host that founded the pool, and led it until the others were lost.
        (0, apart_and_healed),
        (0, before_the_new_master),
    ],
)
async def test_the_old_majority_becomes_members_and_saves_what_it_had_beyond(
    lab: NetLab, number: int, come_back: Return
) -> None:
    last = lab.hosts[number]
    old = lab.others(last)
    async with lab.pool() as pool:
        former = token(last)
        async with writers([pool.endpoints] * FEW_CLIENTS) as before:
            await before.goes_on(WRITES)
        await asyncio.sleep(1.0)
        await lab.lose(*old)
        await goes_on_alone(last)
        # Its member of the old etcd ends: it is of no use, and nobody is to hear it.
        await comes_true(lambda: token(last) != former)
        async with writers([(last.endpoint,)] * FEW_CLIENTS, to=last.name) as new:
            await new.goes_on(WRITES)
            beyond = await come_back(lab, last, old)
            after = VotingPool([last, *old])
            await after.voted_by(*(host.name for host in lab.hosts))
            await new.goes_on(WRITES)
        assert token(last) not in {None, former}
        await after.same_everywhere()
        await after.check_one_store()
        there = await after.requests()
        before.check(there)
        new.check(there)
        assert not beyond.acknowledged.keys() & there.keys()
        assert beyond.acknowledged.keys() <= await recovered(after)


def life_of(host: NetHost) -> Incarnation | None:
    """What the replica on a host's disk is of; none while another one takes its place."""
    state = inspect(host.state_dir).state
    return None if state is None else state.incarnation


async def recovered(pool: VotingPool) -> set[str]:
    """The requests that the hosts have saved of commits which the pool has not."""
    found = set()
    async with PoolClient.connect(*pool.endpoints) as client:
        for recovery in (await client.recoveries()).found:
            changes = await client.recovery(recovery.host, recovery.name)
            found |= {change.request_id for change in changes if change.request_id is not None}
    return found
