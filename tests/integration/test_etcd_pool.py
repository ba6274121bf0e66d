"""A pool whose store is somebody else's cluster of etcd, and what that cluster suffers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poolclient import PoolClient
from poolcore.errors import PoolError, Reason
from poolmaster.store.etcd.cluster import CALL_SECONDS
from support.certificates import Authority
from support.daemons import Cluster
from support.etcd import EtcdCluster
from support.marked_writes import writers
from support.shared_pool import shared_pool
from support.watching import check_told, watcher
from support.wholeness import same_replicas

pytestmark = pytest.mark.etcd

CLIENTS = 16
MANY = 2_000
MANY_VMS = f'[[vm]]\nname = "vm"\ncount = {MANY}\n[[vm.disk]]\n[[vm.nic]]\n'


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    folder = tmp_path / "etcd"
    folder.mkdir()
    cluster = EtcdCluster(folder, size=3)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.kill()


def url(etcd: EtcdCluster) -> str:
    return f"etcd:{','.join(etcd.addresses)}"


async def test_no_write_is_lost_or_made_twice_when_leaders_of_etcd_are_killed(
    cluster: Cluster, tmp_path: Path, etcd: EtcdCluster
) -> None:
    async with shared_pool(cluster, tmp_path, url=url(etcd)) as pool, watcher(pool) as watching:
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            for _ in range(4):
                leader = await etcd.leader()
                leader.kill()
                async with asyncio.timeout(10):
                    await book.goes_on(CLIENTS)
                leader.start()
                await etcd.until_answers(leader)
                await pool.chain.read_on()
            await pool.attached(await pool.one_master())
        await check_told(pool, watching)
        book.check(pool.chain.requests)
        pool.check_masterships()
        await same_replicas(*pool.hosts)


async def test_without_a_quorum_of_etcd_the_pool_is_read_only_and_comes_back_by_itself(
    cluster: Cluster, tmp_path: Path, etcd: EtcdCluster
) -> None:
    async with shared_pool(cluster, tmp_path, url=url(etcd)) as pool:
        host = pool.hosts[2]
        async with host.api() as api:
            await api.update_pool(add_tags=["before"])
            lost = etcd.members[:2]
            for member in lost:
                member.kill()
            with pytest.raises(PoolError) as refused:
                await api.update_pool(add_tags=["meanwhile"], timeout_seconds=10.0)
            assert refused.value.reason in {
                Reason.NO_MASTER,
                Reason.OUTCOME_UNKNOWN,
                Reason.STORE_UNAVAILABLE,
            }
            status = await api.status()
            assert status.freshness.stale
            for member in lost:
                member.start()
            async with asyncio.timeout(20):
                while True:
                    try:
                        await api.update_pool(add_tags=["afterwards"], timeout_seconds=5.0)
                    except PoolError:
                        continue
                    break
            await pool.attached(await pool.one_master())


async def test_a_host_that_starts_while_etcd_is_down_answers_from_its_replica_meanwhile(
    cluster: Cluster, tmp_path: Path, etcd: EtcdCluster
) -> None:
    async with shared_pool(cluster, tmp_path, url=url(etcd)) as pool:
        host = pool.hosts[2]
        await asyncio.gather(*(host.kill() for host in pool.hosts))
        etcd.kill()
        # Long before it gives up its first attempt to open the store.
        async with asyncio.timeout(CALL_SECONDS):
            await host.start()
        async with host.api() as api:
            assert (await api.status()).freshness.stale
        for member in etcd.members:
            member.start()
        for other in pool.hosts[:2]:
            await other.start()
        await pool.attached(await pool.one_master())


async def test_a_host_with_more_than_etcd_takes_at_once_founds_its_pool(
    cluster: Cluster, etcd: EtcdCluster
) -> None:
    host = cluster.process("phantom", sim=MANY_VMS, options=[f"--store={url(etcd)}", "--insecure"])
    await host.start()
    async with PoolClient.connect(host.endpoint) as pool:
        async with asyncio.timeout(20):
            while len(await pool.vms.list()) < MANY:  # noqa: ASYNC110 - they come by and by
                await asyncio.sleep(0.1)
        vdis = {vdi.uuid for vdi in await pool.vdis.list()}
        assert {vbd.vdi for vbd in await pool.vbds.list()} <= vdis


async def test_a_cluster_that_wants_certificates_gets_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    etcd = EtcdCluster(tmp_path, authority=authority)
    tls = authority.client
    files = f"ca={tls.ca}&cert={tls.certificate}&key={tls.key}"
    try:
        await etcd.start()
        async with shared_pool(cluster, tmp_path, url=f"{url(etcd)}?{files}") as pool:
            async with pool.hosts[1].api() as api:
                assert (await api.status()).engine == "etcd"
                await api.update_pool(add_tags=["seen"])
            await pool.hosts[0].kill()
            await pool.another_master(than=pool.hosts[0])
    finally:
        etcd.kill()
