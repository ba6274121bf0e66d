"""Kill -9 of the master, and the power cut of a voter, at every step of a move of the store.

Into the pool's own etcd and back to one disk, as the step tables have them. Afterwards the pool is
in just one of the two, what every client was told holds, and it takes writes again.
"""

from __future__ import annotations

import asyncio
import signal

import pytest

from poolclient import PoolClient
from poolmaster.operations.found_etcd import FoundEtcd
from poolmaster.operations.leave_etcd import LeaveEtcd
from support.daemons import Cluster
from support.marked_writes import writers
from support.own_etcd import MOVE_SECONDS, power_cut, take_in, voters, voting_pool

pytestmark = pytest.mark.etcd

CLIENTS = 4
ENDED, FOUNDED = "pool.succession:ended", "pool.succession:founded"
"""The old store's last commit has been made; the new one has its register."""
FOUNDING = [*(f"{FoundEtcd.name}:{step.name}" for step in FoundEtcd.steps), ENDED, FOUNDED,
            f"{FoundEtcd.name}:done"]  # fmt: skip
LEAVING = [*(f"{LeaveEtcd.name}:{step.name}" for step in LeaveEtcd.steps), ENDED, FOUNDED,
           f"{LeaveEtcd.name}:done"]  # fmt: skip
IN_VAIN = f"{FoundEtcd.name}:moving"
"""Recorded, but not done: the next mastership gives this attempt up, and tries again later."""


@pytest.mark.parametrize("point", FOUNDING)
async def test_the_master_dies_when_founding_has_come_to(point: str, cluster: Cluster) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        phantom = pool.hosts[0]
        specter = cluster.process("specter", options=["--voter"])
        await specter.start()
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            phantom.kill_at(point)
            await take_in(phantom, specter)
            pool.hosts.append(specter)
            assert await phantom.ended(seconds=MOVE_SECONDS) == -signal.SIGKILL
            phantom.kill_at()
            await phantom.start()
            state = await pool.until(
                lambda s: s.pool.in_step is not None or s.pool.voters is not None
            )
            if point == IN_VAIN:
                assert state.pool.voters is None
            else:
                await pool.voted_by("phantom", "ignite", "specter")
            await book.goes_on(CLIENTS)
        await pool.check_one_store()
        book.check(await pool.requests())
        await pool.same_everywhere()


async def test_a_host_without_a_vote_finds_the_store_that_the_lost_master_has_just_moved(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster, "phantom", "specter") as pool:
        phantom, specter = pool.hosts
        ignite = cluster.process("ignite", options=["--no-voter"])
        wraith = cluster.process("wraith", options=["--voter"])
        await asyncio.gather(ignite.start(), wraith.start())
        await take_in(phantom, ignite)
        phantom.kill_at(FOUNDED)
        await take_in(phantom, wraith)
        assert await phantom.ended(seconds=MOVE_SECONDS) == -signal.SIGKILL
        # Their etcds go on, and nobody who votes can tell it.
        await asyncio.gather(specter.kill(), wraith.kill())
        await ignite.says("master of pool")
        async with ignite.api() as api:
            assert voters(await api.state()) == {"phantom", "specter", "wraith"}


@pytest.mark.parametrize("point", FOUNDING)
async def test_a_voter_loses_its_power_when_founding_has_come_to(
    point: str, cluster: Cluster
) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        phantom = pool.hosts[0]
        specter = cluster.process("specter", options=["--voter"])
        await specter.start()
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            phantom.stop_at(point)
            await take_in(phantom, specter)
            pool.hosts.append(specter)
            await phantom.stopped(seconds=MOVE_SECONDS)
            phantom.stop_at()
            await power_cut(specter)
            phantom.signal(signal.SIGCONT)
            await book.goes_on(CLIENTS)
            await specter.start()
            await book.goes_on(CLIENTS)
        await pool.check_one_store()
        book.check(await pool.requests())
        await pool.same_everywhere()


@pytest.mark.parametrize("point", LEAVING)
async def test_the_master_dies_when_leaving_has_come_to(point: str, cluster: Cluster) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        master = await pool.master()
        leaving, other = (host for host in pool.hosts if host is not master)
        async with writers([(master.endpoint, other.endpoint)] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            master.kill_at(point)
            async with PoolClient.connect(master.endpoint) as client:
                task = await client.eject_host(leaving.name)
            assert task.uuid
            pool.hosts.remove(leaving)
            assert await master.ended(seconds=MOVE_SECONDS) == -signal.SIGKILL
            master.kill_at()
            await master.start()
            await book.goes_on(CLIENTS)
        await pool.check_one_store()
        book.check(await pool.requests())
        await pool.same_everywhere()


@pytest.mark.parametrize("point", LEAVING)
async def test_the_other_voter_loses_its_power_when_leaving_has_come_to(
    point: str, cluster: Cluster
) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        master = await pool.master()
        leaving, other = (host for host in pool.hosts if host is not master)
        async with writers([(master.endpoint, other.endpoint)] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            master.stop_at(point)
            async with PoolClient.connect(other.endpoint) as client:
                task = await client.eject_host(leaving.name)
            assert task.uuid
            pool.hosts.remove(leaving)
            await master.stopped(seconds=MOVE_SECONDS)
            master.stop_at()
            await power_cut(other)
            master.signal(signal.SIGCONT)
            await other.start()
            await book.goes_on(CLIENTS)
        await pool.check_one_store()
        book.check(await pool.requests())
        await pool.same_everywhere()
