"""Handing the mastership over, between real daemons that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from poolclient import Conflict, PoolClient, PoolClientError
from poolcore.errors import PoolError
from poolcore.model import Accession, MasterRecord, TaskStatus
from support.api import Api
from support.daemons import Cluster, Host, ProcessHost


@asynccontextmanager
async def trio(
    cluster: Cluster, tmp_path: Path
) -> AsyncIterator[tuple[PoolClient, list[ProcessHost]]]:
    """Three hosts on a shared store, the first of them master, and a client that knows them all."""
    option = f"--store=sqlite://{tmp_path / 'pool.db'}"
    hosts = [
        cluster.process("phantom", options=[option]),
        cluster.process("ignite"),
        cluster.process("specter"),
    ]
    await cluster.start()
    async with hosts[0].api() as api:
        for joining in hosts[1:]:
            await api.join(joining.endpoint)
    async with PoolClient.connect(*(host.endpoint for host in hosts)) as pool:
        yield pool, hosts


async def master_of(pool: PoolClient) -> str:
    master = (await pool.status()).master
    assert master is not None
    return master.name


async def reigns(host: Host) -> list[Accession]:
    async with host.api() as api:
        state = await api.state()
    return [r.why for r in sorted(state.all(MasterRecord), key=lambda r: r.term)]


@asynccontextmanager
async def writing(hosts: Sequence[Host]) -> AsyncIterator[list[str]]:
    """Writers at every host that know nothing of any other; what they were refused with."""
    refused: list[str] = []
    over = asyncio.Event()

    async def write(api: Api, name: str) -> None:
        for number in count():
            if over.is_set():
                return
            try:
                await api.update_pool(add_tags=[f"{name}-{number % 3}"])
            except PoolError as error:
                refused.append(f"{name}: {error.reason}")

    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(host.api()) for host in hosts]
        async with asyncio.TaskGroup() as tasks:
            for host, api in zip(hosts, apis, strict=True):
                tasks.create_task(write(api, host.name))
            try:
                yield refused
            finally:
                over.set()


async def test_no_call_fails_while_the_mastership_goes_round(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with trio(cluster, tmp_path) as (pool, hosts), writing(hosts) as refused:
        for name in ("ignite", "specter", "phantom") * 2:
            task = await (await pool.designate_master(name))
            assert task.status is TaskStatus.SUCCESS
            assert await master_of(pool) == name
        assert refused == []
    assert (await reigns(hosts[0]))[2:] == [Accession.DESIGNATED] * 6


async def test_a_master_that_is_told_to_end_hands_over(cluster: Cluster, tmp_path: Path) -> None:
    async with trio(cluster, tmp_path) as (pool, hosts):
        async with writing(hosts[1:]) as refused:
            assert await hosts[0].stop() == 0
            assert await master_of(pool) in {"ignite", "specter"}
        assert refused == []
        assert (await reigns(hosts[1]))[-1] is Accession.HANDED_OVER
        await hosts[0].start()
        assert await master_of(pool) in {"ignite", "specter"}


async def test_who_cannot_be_master_is_refused_with_the_reason(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with trio(cluster, tmp_path) as (pool, hosts):
        before = (await pool.status()).head
        await pool.hosts.set("specter", failover_priority=0)
        with pytest.raises(Conflict) as refused:
            _ = await pool.designate_master("specter")
        assert refused.value.reason == "HOST_NOT_ELIGIBLE"
        with pytest.raises(PoolClientError) as unknown:
            _ = await pool.designate_master("nonesuch")
        assert unknown.value.reason == "OBJECT_NOT_FOUND"
        await hosts[1].stop()
        with pytest.raises(Conflict) as offline:
            _ = await pool.designate_master("ignite")
        assert offline.value.reason == "HOST_OFFLINE"
        # The present one is no error and nothing happens.
        done = await (await pool.designate_master("phantom"))
        assert done.status is TaskStatus.SUCCESS
        after = (await pool.status()).head
        assert before is not None
        assert after is not None
        assert after.term == before.term


async def test_a_pool_takes_its_own_timings(cluster: Cluster, tmp_path: Path) -> None:
    async with trio(cluster, tmp_path) as (pool, _):
        changed = await pool.set(failover={"suspect_seconds": 2.0, "heartbeat_seconds": 0.5})
        assert changed.object.failover.suspect_seconds == 2.0
        assert changed.object.failover.vote_seconds == 0.2
        with pytest.raises(PoolClientError, match="must be at least"):
            await pool.set(failover={"suspect_seconds": 1.0})
        # Members still follow although heartbeats are rarer now.
        await asyncio.sleep(1.5)
        assert all(host.live for host in (await pool.status()).hosts)
