"""Three hosts found their pool's own etcd, go on in it, and look after it by themselves."""

from __future__ import annotations

import asyncio

import pytest

from poolclient import PoolClient
from poolcore.model import TaskStatus
from support.daemons import Cluster
from support.marked_writes import writers
from support.own_etcd import (
    lose_the_etcd_of,
    power_cut,
    take_in,
    token,
    until_begun,
    voters,
    voting_pool,
)
from support.shared_pool import master_by
from support.wholeness import at_rest

pytestmark = pytest.mark.etcd

CLIENTS = 4


async def test_the_third_host_takes_the_store_into_the_pools_own_etcd(cluster: Cluster) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        phantom, ignite = pool.hosts
        specter = cluster.process("specter", options=["--voter"])
        await specter.start()
        async with writers([(phantom.endpoint, ignite.endpoint)] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            await take_in(phantom, specter)
            pool.hosts.append(specter)
            await pool.voted_by("phantom", "ignite", "specter")
            await book.goes_on(CLIENTS)
        assert not book.refused, "writes wait while the store moves; none is refused"
        book.check(await pool.requests())
        await pool.check_one_store()
        await pool.same_everywhere()
        async with specter.api() as api:
            status = await api.status()
        assert (status.quorum.voters, status.quorum.needed, status.quorum.survives) == (3, 2, 1)
        assert status.engine == "etcd"


async def test_the_loss_of_any_host_is_survived_and_it_comes_back(cluster: Cluster) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        async with writers([pool.endpoints] * CLIENTS) as book:
            for host in pool.hosts:
                await book.goes_on(CLIENTS)
                await power_cut(host)
                async with asyncio.timeout(10):
                    await book.goes_on(5 * CLIENTS)
                await host.start()
                await pool.caught_up(book.newest)
        book.check(await pool.requests())


async def test_all_hosts_are_lost_at_once_and_started_in_another_order(cluster: Cluster) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        async with PoolClient.connect(*pool.endpoints) as client:
            told = await client.set(name_description="acknowledged")
        await asyncio.gather(*map(power_cut, pool.hosts))
        for host in reversed(pool.hosts):
            await host.begin()
        await asyncio.gather(*(host.says("") for host in pool.hosts))
        async with PoolClient.connect(*pool.endpoints) as client:
            again = await client.set(name_label="again")
            assert again.revision > told.revision
            assert (await client.pool()).name_description == "acknowledged"
        await pool.same_everywhere()


async def test_a_pool_of_two_goes_back_to_the_disk_of_its_master(cluster: Cluster) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        async with writers([pool.endpoints[:2]] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            async with PoolClient.connect(*pool.endpoints) as client:
                task = await (await client.eject_host("specter"))
            assert task.status is TaskStatus.SUCCESS, task
            specter = pool.hosts.pop()
            await pool.without_voters()
            await book.goes_on(CLIENTS)
        book.check(await pool.requests())
        await pool.check_one_store()
        await pool.same_everywhere()
        assert token(specter) is None
        # And there again, with another cluster.
        await take_in(pool.hosts[0], specter)
        pool.hosts.append(specter)
        await pool.voted_by("phantom", "ignite", "specter")


async def test_a_voter_that_is_ejected_hands_its_vote_to_another_host_first(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster, "phantom", "ignite", "specter", "wraith") as pool:
        state = await pool.until(lambda s: s.pool.voters is not None)
        assert state.pool.voters is not None
        voting = {state.host(uuid).name_label for uuid in state.pool.voters.hosts}
        assert len(voting) == 3
        leaving = next(h for h in pool.hosts[1:] if h.name in voting)
        async with writers([pool.endpoints[:1]] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            async with PoolClient.connect(*pool.endpoints) as client:
                task = await (await client.eject_host(leaving.name))
            assert task.status is TaskStatus.SUCCESS, task
            pool.hosts.remove(leaving)
            await pool.voted_by(*(host.name for host in pool.hosts))
            await book.goes_on(CLIENTS)
        book.check(await pool.requests())
        await leaving.says("master of pool")
        assert token(leaving) is None
        await pool.same_everywhere()


async def test_a_voter_that_is_gone_for_long_is_replaced(cluster: Cluster) -> None:
    async with voting_pool(cluster, "phantom", "ignite", "specter", "wraith") as pool:
        state = await pool.until(lambda s: s.pool.voters is not None)
        assert state.pool.voters is not None
        voting = {state.host(uuid).name_label for uuid in state.pool.voters.hosts}
        gone = next(h for h in pool.hosts[1:] if h.name in voting)
        async with PoolClient.connect(*pool.endpoints) as client:
            await client.set(failover={"replace_voter_seconds": 2.0})
        await power_cut(gone)
        await pool.voted_by(*(host.name for host in pool.hosts if host is not gone))
        # It is a member like any other when it comes back, and votes no more.
        await gone.start()
        await pool.same_everywhere()
        async with asyncio.timeout(20):
            while token(gone) is not None:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
        # Another loss is survived: the one that took its place has all there is.
        another = next(h for h in pool.hosts[1:] if h is not gone and h.name in voting)
        await power_cut(another)
        async with PoolClient.connect(*pool.endpoints) as client:
            await client.set(name_description="two lost, one after the other")


@pytest.mark.parametrize("left", ["member.json", None])
async def test_a_voter_whose_disk_was_lost_begins_anew_and_votes_again(
    cluster: Cluster, left: str | None
) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        ignite = pool.hosts[1]
        await until_begun(ignite)
        await power_cut(ignite)
        lose_the_etcd_of(ignite, but=left)
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            await ignite.start()
            await pool.until(lambda s: voters(s) == {"phantom", "specter"})
            await pool.voted_by("phantom", "ignite", "specter")
            await book.goes_on(CLIENTS)
            # It has everything, also of the time before: another may be lost.
            await power_cut(pool.hosts[2])
            async with asyncio.timeout(10):
                await book.goes_on(5 * CLIENTS)
        book.check(await pool.requests())


async def test_from_seven_hosts_on_five_vote_and_two_may_be_lost_at_once(cluster: Cluster) -> None:
    names = ["phantom", "ignite", "specter", "wraith", "shade", "revenant", "spectre"]
    async with voting_pool(cluster, *names) as pool:
        state = await pool.until(lambda s: len(voters(s) or ()) == 5 and at_rest(s))
        voting = voters(state) or set()
        async with pool.hosts[0].api() as api:
            status = await api.status()
        assert (status.quorum.voters, status.quorum.needed, status.quorum.survives) == (5, 3, 2)
        lost = [host for host in pool.hosts[1:] if host.name in voting][:2]
        left = [host for host in pool.hosts if host not in lost]
        async with writers([tuple(host.endpoint for host in left)] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            await asyncio.gather(*map(power_cut, lost))
            async with asyncio.timeout(20):
                await book.goes_on(5 * CLIENTS)
            await asyncio.gather(*(host.start() for host in lost))
            await pool.caught_up(book.newest)
            # Six hosts need no five voters: two of them give their votes back.
            async with PoolClient.connect(*(host.endpoint for host in left)) as client:
                task = await (await client.eject_host(lost[0].name))
            assert task.status is TaskStatus.SUCCESS, task
            pool.hosts.remove(lost[0])
            await pool.until(lambda s: len(voters(s) or ()) == 3 and at_rest(s))
            await book.goes_on(CLIENTS)
        book.check(await pool.requests())
        await pool.same_everywhere()


async def test_a_witness_makes_the_third_voter_and_never_leads(cluster: Cluster) -> None:
    async with voting_pool(cluster, "phantom", "ignite") as pool:
        phantom, ignite = pool.hosts
        witness = cluster.process("specter", options=["--voter", "--witness"])
        await witness.start()
        await take_in(phantom, witness)
        pool.hosts.append(witness)
        await pool.voted_by("phantom", "ignite", "specter")
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            await power_cut(phantom)
            async with asyncio.timeout(10):
                await book.goes_on(5 * CLIENTS)
            assert await master_by(ignite) == "ignite"
            await phantom.start()
            await pool.caught_up(book.newest)
        book.check(await pool.requests())
