"""Three hosts found their pool's own etcd, and go on in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from poolclient import PoolClient
from poolcore.model import TaskStatus
from poolmaster.operations.found_etcd import FoundEtcd
from support.daemons import WAIT_SECONDS, Cluster, ProcessHost
from support.marked_writes import writers
from support.wholeness import same_replicas

pytestmark = pytest.mark.etcd

NAMES = ("phantom", "ignite", "specter")


@asynccontextmanager
async def three(cluster: Cluster) -> AsyncIterator[tuple[Sequence[ProcessHost], PoolClient]]:
    """Hosts that may vote, in one pool whose store is at the first of them."""
    hosts = [cluster.process(name, options=["--voter"]) for name in NAMES]
    await asyncio.gather(*(host.start() for host in hosts))
    async with PoolClient.connect(hosts[0].endpoint) as client:
        for host in hosts[1:]:
            assert (await (await client.add_host(host.endpoint))).status is TaskStatus.SUCCESS
        yield hosts, client


async def founded(client: PoolClient) -> None:
    """Until the pool is in its own etcd."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            tasks = await client.tasks.list()
            found = [t for t in tasks if t.operation == FoundEtcd.name]
            if any(t.status.is_final for t in found):
                assert found[-1].status is TaskStatus.SUCCESS, found[-1]
                return
            await asyncio.sleep(0.1)


async def test_a_pool_of_two_goes_back_to_the_disk_of_its_master(cluster: Cluster) -> None:
    async with three(cluster) as (hosts, client):
        await founded(client)
        before = await client.set(name_description="in etcd")
        await (await client.eject_host("specter"))
        async with asyncio.timeout(WAIT_SECONDS):
            while (await client.pool()).voters is not None:
                await asyncio.sleep(0.1)
        after = await client.set(name_label="two")
        assert after.revision > before.revision
        assert (await client.pool()).name_description == "in etcd"
        await same_replicas(*hosts[:2])


async def test_the_third_host_takes_the_store_into_the_pools_own_etcd(cluster: Cluster) -> None:
    async with three(cluster) as (hosts, client):
        endpoints = tuple(host.endpoint for host in hosts)
        async with writers([endpoints] * 4) as book:
            await book.goes_on(4)
            await founded(client)
            await book.goes_on(4)
        assert not book.refused
        pool = await client.pool()
        assert pool.voters is not None
        assert len(pool.voters.hosts) == 3
        for host in hosts:
            await host.says("")
        await same_replicas(hosts[0], *hosts[1:])
        # The master's daemon is gone: another host goes on, its etcd runs on.
        await hosts[0].kill()
        async with PoolClient.connect(*endpoints) as another:
            await another.set(name_description="without phantom")
        await hosts[0].start()
        await same_replicas(hosts[1], hosts[0], hosts[2])
