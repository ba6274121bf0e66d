"""Hosts whose address changes take their etcd along: the pool's store is found where they are."""

from __future__ import annotations

import asyncio

import pytest

from poolclient import PoolClient
from poolcore.clock import SystemClock
from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside
from poolmaster.store import urls
from poolmaster.store.contract import StoreError
from poolmaster.store.etcd import cluster as etcd
from poolmaster.store.etcd.membership import members
from support.daemons import Cluster, ProcessHost
from support.marked_writes import writers
from support.own_etcd import VotingPool, etcds, power_cut, voting_pool
from support.wholeness import identity_of

pytestmark = pytest.mark.etcd

PATIENCE_SECONDS = 30.0
CLIENTS = 4


async def listed(pool: VotingPool) -> set[tuple[str, str]]:
    """Where the members are reached by each other and by clients, as their cluster says."""
    client = etcd.Cluster([beside(e, CLIENT_PORT) for e in pool.endpoints], clock=SystemClock())
    try:
        return {(member.peer, member.client) for member in await members(client)}
    except StoreError:
        return set()
    finally:
        await client.close()


def known_to(host: ProcessHost) -> set[str]:
    """Where a host looks for the store at its next start."""
    membership = identity_of(host).membership
    assert membership is not None
    return set(urls.etcd_addresses(membership.store or "etcd:nowhere:1"))


async def found_where_they_are(pool: VotingPool) -> None:
    """Until etcd's own list, and what each host keeps, say where the hosts are now."""
    places = {(beside(e, PEER_PORT), beside(e, CLIENT_PORT)) for e in pool.endpoints}
    clients = {client for _, client in places}
    async with asyncio.timeout(PATIENCE_SECONDS):
        # Neither the list nor files tell anybody that they have changed.
        while await listed(pool) != places:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while any(known_to(host) != clients for host in pool.hosts):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_voter_with_another_address_is_a_voter_there(cluster: Cluster) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        master = await pool.master()
        # The master last: another one tells etcd of it.
        others = [host for host in pool.hosts if host is not master]
        for host in (*others, master):
            (former,) = etcds(host)
            await host.stop()
            host.endpoint = cluster.loopback.endpoint()
            await host.start()
            await found_where_they_are(pool)
            assert etcds(host) != [former], "it listens where the host was"
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            # Whichever is lost, the two that are left reach each other where they are.
            for host in pool.hosts:
                await power_cut(host)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await book.goes_on(5 * CLIENTS)
                await host.start()
                await pool.caught_up(book.newest)
        book.check(await pool.requests())
        state = await pool.voted_by("phantom", "ignite", "specter")
        assert state.pool.voters is not None


async def test_a_host_that_was_off_comes_back_with_another_address_and_votes(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster) as pool:
        await pool.voted_by("phantom", "ignite", "specter")
        specter = pool.hosts[2]
        await power_cut(specter)
        async with PoolClient.connect(*pool.endpoints[:2]) as client:
            await client.set(name_description="without specter")
        specter.endpoint = cluster.loopback.endpoint()
        await specter.start()
        await found_where_they_are(pool)
        await power_cut(pool.hosts[0])
        async with PoolClient.connect(*pool.endpoints[1:]) as client:
            await client.set(name_description="with specter")
