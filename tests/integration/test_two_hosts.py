"""A pool of two hosts with the store at the master, the other host's replica in step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from integration.test_designate import master_of, reigns, writing
from poolclient import PoolClient
from poolcore.model import Accession, TaskStatus
from support.daemons import Cluster, ProcessHost


@asynccontextmanager
async def pair(cluster: Cluster) -> AsyncIterator[tuple[PoolClient, list[ProcessHost]]]:
    """Two hosts, the first of them master and the second in step; a client that knows both."""
    hosts = [cluster.process("phantom"), cluster.process("ignite")]
    await cluster.start()
    async with hosts[0].api() as api:
        await api.join(hosts[1].endpoint)
        await api.in_step()
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield pool, hosts


async def test_no_call_fails_while_the_mastership_goes_to_and_fro(cluster: Cluster) -> None:
    async with pair(cluster) as (pool, hosts), writing(list(hosts)) as refused:
        for name in ("ignite", "phantom") * 3:
            task = await (await pool.designate_master(name))
            assert task.status is TaskStatus.SUCCESS
            assert await master_of(pool) == name
    assert refused == []
    assert Accession.SUCCESSION not in await reigns(hosts[0])
