"""A host that comes and goes: the pool keeps the quorum that it has without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import pytest

from net.misfortunes import CLIENTS, go_on, in_use, leading_in_everything, on_own_etcd
from poolclient import PoolClient
from poolcore.replica import State
from support.daemons import ProcessHost
from support.marked_writes import writers
from support.netlab.command import command
from support.netlab.host import NetHost
from support.netlab.lab import NetLab
from support.own_etcd import VotingPool, voters

pytestmark = pytest.mark.net

PAUSE_SECONDS = 2.0
"""Without a write, at most. Nothing that is needed for one comes and goes."""
REPLACE_SECONDS = 2.0

Rhythm = Sequence[tuple[float, float]]
"""For how many seconds it is away, and there again, in turn."""
Flap = Callable[[NetLab, NetHost, Rhythm], Awaitable[None]]


async def cable_flaps(lab: NetLab, host: NetHost, rhythm: Rhythm) -> None:
    for away, there in rhythm:
        lab.link_down(host)
        await asyncio.sleep(away)
        lab.link_up(host)
        await asyncio.sleep(there)


async def power_flaps(_: NetLab, host: NetHost, rhythm: Rhythm) -> None:
    for away, there in rhythm:
        await host.kill()
        await asyncio.sleep(away)
        await host.begin()
        await asyncio.sleep(there)


def irregular(seed: int, times: int, *, longest: float) -> Rhythm:
    chance = Random(seed)
    return [(chance.uniform(0.02, longest), chance.uniform(0.02, longest)) for _ in range(times)]


@on_own_etcd()
@pytest.mark.parametrize(
    ("flap", "rhythm"),
    [
        # Shorter than a suspicion, around an election of etcd, longer than both.
        (cable_flaps, [(0.1, 0.1)] * 20 + [(0.6, 0.3)] * 8 + [(2.0, 0.7)] * 2),
        (cable_flaps, irregular(1, 12, longest=1.5)),
        # Not up before it goes again, hardly up, and up.
        (power_flaps, [(0.0, 0.3)] * 4 + [(0.2, 1.0)] * 4 + [(0.5, 3.0)] * 2),
    ],
    ids=["cable", "cable, irregular", "power"],
)
async def test_a_third_host_that_comes_and_goes_holds_up_nobody(
    lab: NetLab, flap: Flap, rhythm: Rhythm
) -> None:
    async with lab.pool() as pool:
        master = await leading_in_everything(lab, pool)
        flapping, steady = lab.others(master)
        term = (await pool.chain.head()).term
        known = (master.endpoint, steady.endpoint)
        # Some clients know the flapping host, too, and have to find away from it.
        async with in_use(pool) as book, writers([known] * CLIENTS) as undisturbed:
            await go_on(undisturbed)
            await flap(lab, flapping, rhythm)
            await go_on(undisturbed)
            await go_on(book)
        assert undisturbed.longest_pause_seconds < PAUSE_SECONDS
        assert not undisturbed.refused
        assert not undisturbed.unknown
        undisturbed.check(pool.chain.requests)
        assert (await pool.chain.head()).term == term
        await VotingPool(list(lab.hosts)).voted_by(*(host.name for host in lab.hosts))
        await survives_a_loss(pool.hosts)


@on_own_etcd(size=4)
@pytest.mark.parametrize(
    ("flap", "rhythm"),
    [
        (cable_flaps, [(REPLACE_SECONDS + 0.1 * n, 0.3) for n in range(12)]),
        (power_flaps, [(REPLACE_SECONDS, 0.1 + 0.4 * n) for n in range(8)]),
    ],
    ids=["cable", "power"],
)
async def test_while_a_voter_that_comes_and_goes_is_replaced_the_others_keep_the_quorum(
    lab: NetLab, flap: Flap, rhythm: Rhythm
) -> None:
    async with lab.pool() as pool:
        async with PoolClient.connect(*pool.endpoints) as client:
            await client.set(failover={"replace_voter_seconds": REPLACE_SECONDS})
        master = await leading_in_everything(lab, pool)
        voting = VotingPool([master, *lab.others(master)])
        names = voters(await voting.until(lambda s: voters(s) is not None)) or set()
        flapping = next(host for host in lab.others(master) if host.name in names)
        steady = lab.others(flapping)
        term = (await pool.chain.head()).term
        known = tuple(host.endpoint for host in steady)
        async with in_use(pool), writers([known] * CLIENTS) as undisturbed:
            await go_on(undisturbed)
            await flap(lab, flapping, rhythm)
            # And then it is gone for long.
            await lab.lose(flapping)
            await voting.until(lambda s: _voted_by(s, steady))
            await survives_a_loss(steady)
            await go_on(undisturbed)
            lab.link_up(flapping)
            await flapping.start()
        assert undisturbed.longest_pause_seconds < PAUSE_SECONDS
        assert not undisturbed.refused
        assert not undisturbed.unknown
        undisturbed.check(pool.chain.requests)
        assert (await pool.chain.head()).term == term


def _voted_by(state: State, hosts: Sequence[NetHost]) -> bool:
    return voters(state) == {host.name for host in hosts}


async def survives_a_loss(hosts: Sequence[ProcessHost]) -> None:
    """That the pool says so: three hosts vote, and all of them are there."""
    status = (await command(hosts, "status", "-o", "json")).json
    assert status["quorum"] == {"voters": 3, "needed": 2, "survives": 1}
