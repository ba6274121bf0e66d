"""Real clusters whose files grow: they are written anew, and full ones take writes again."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from poolclient import PoolClient, PoolClientError
from poolcore.clock import SystemClock
from poolcore.outlook import Warning
from poolmanager.v1 import pool_service_pb2
from poolmaster.etcd_upkeep import EtcdUpkeep
from poolmaster.store.contract import OutcomeUnknown, StoreError, TransactionTooLarge, Write
from poolmaster.store.etcd.limits import Limits, limits_of
from poolmaster.store.etcd.room import room_of
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from support.daemons import Cluster
from support.etcd import EtcdCluster, etcd_binary
from support.marked_writes import writers
from support.own_etcd import VotingPool, voting_pool

pytestmark = pytest.mark.etcd

POOL = "6f1d6a5e-0000-4000-8000-000000000001"
PIECE = 256 * 1024
MIB = 1024 * 1024
PATIENCE_SECONDS = 60.0
CLIENTS = 4
SMALL_QUOTA = 24 * MIB


@asynccontextmanager
async def running(
    folder: Path, *, size: int = 3, arguments: Sequence[str] = ()
) -> AsyncIterator[EtcdCluster]:
    cluster = EtcdCluster(folder, size=size, arguments=arguments)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.kill()


@asynccontextmanager
async def opened(addresses: Sequence[str], *, pool: str = POOL) -> AsyncIterator[EtcdStore]:
    options = EtcdOptions(tuple(addresses), prefix=f"{uuid.uuid4()}/")
    store = await EtcdStore.found(options, pool=pool, incarnation=str(uuid.uuid4()))
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def looked_after(store: EtcdStore, *, own: bool = True) -> AsyncIterator[EtcdUpkeep]:
    """What a master does beside its other business."""
    upkeep = EtcdUpkeep(store.cluster, is_own=lambda: own, clock=SystemClock())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(upkeep.run())
        yield upkeep
        running.cancel()


async def overwrite(store: EtcdStore, times: int) -> None:
    """Write the same key again and again."""
    for number in range(times):
        assert await store.transact([], [Write(b"large", bytes([number % 256]) * PIECE)])


async def is_full(store: EtcdStore) -> bool:
    found = await room_of(store.cluster, store.cluster.endpoints[0])
    return found is not None and found.full


async def fill(addresses: Sequence[str]) -> None:
    """Write beside the pool until the cluster takes nothing any more."""
    async with opened(addresses, pool=str(uuid.uuid4())) as store:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await is_full(store):
                with suppress(OutcomeUnknown):
                    await overwrite(store, 4)


async def sizes(store: EtcdStore) -> list[int]:
    found = [await room_of(store.cluster, endpoint) for endpoint in store.cluster.endpoints]
    return [room.size_bytes for room in found if room is not None]


def said(warnings: Iterable[Warning | pool_service_pb2.Warning]) -> bool:
    """Whether a person is told that the cluster is full."""
    return "ETCD_FULL" in {warning.code for warning in warnings}


async def test_files_are_written_anew_one_by_one_and_that_of_the_leader_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("poolmaster.decide.etcd_upkeep.DEFRAGMENT_BYTES", 8 * MIB)
    monkeypatch.setattr("poolmaster.decide.etcd_upkeep.COMPACT_BYTES", 8 * MIB)
    monkeypatch.setattr("poolmaster.decide.etcd_upkeep.PAUSE_SECONDS", 0.2)
    monkeypatch.setattr("poolmaster.etcd_upkeep.LOOK_SECONDS", 0.2)
    caplog.set_level(logging.INFO, "poolmaster.store.etcd.room")
    async with running(tmp_path) as cluster, opened(cluster.addresses) as store:
        await overwrite(store, 64)
        leader = await cluster.leader()
        assert min(await sizes(store)) > 12 * MIB
        async with looked_after(store), asyncio.timeout(PATIENCE_SECONDS):
            while max(await sizes(store)) > 4 * MIB:
                # None is refused, or has an unknown outcome.
                assert await store.transact([], [Write(b"small", b"meanwhile")])
                await asyncio.sleep(0.01)
        anew = [r.getMessage().split()[5] for r in caplog.records if "anew" in r.message]
        assert sorted(anew) == sorted(cluster.addresses)
        assert anew[-1] == leader.address
        assert await cluster.leader() is not leader


async def test_a_cluster_at_its_quota_takes_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolmaster.etcd_upkeep.LOOK_SECONDS", 0.2)
    quota = ("--quota-backend-bytes", str(SMALL_QUOTA))
    async with running(tmp_path, arguments=quota) as cluster, opened(cluster.addresses) as store:
        await fill(cluster.addresses)
        with pytest.raises(StoreError):
            await overwrite(store, 1)
        async with looked_after(store):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    with suppress(StoreError):
                        await overwrite(store, 1)
                        break
                    await asyncio.sleep(0.1)
        assert max(await sizes(store)) < SMALL_QUOTA / 2


async def test_of_somebody_elses_full_cluster_a_person_is_told_and_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolmaster.etcd_upkeep.LOOK_SECONDS", 0.2)
    quota = ("--quota-backend-bytes", str(SMALL_QUOTA))
    async with (
        running(tmp_path, size=1, arguments=quota) as cluster,
        opened(cluster.addresses) as store,
        looked_after(store, own=False) as upkeep,
    ):
        await fill(cluster.addresses)
        async with asyncio.timeout(PATIENCE_SECONDS):
            # A look tells nobody.
            while not said(upkeep.warnings):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        # It has been looked at several times since.
        await asyncio.sleep(1.0)
        assert await is_full(store)


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        (("--max-txn-ops", "128"), Limits(fewer_operations=True, request_bytes=MIB * 3 // 2)),
        (("--max-txn-ops", "4095"), Limits(fewer_operations=True, request_bytes=MIB * 3 // 2)),
        (("--max-request-bytes", str(8 * MIB - 4096)), Limits(request_bytes=8 * MIB - 4096)),
        (("--max-request-bytes", str(8 * MIB)), Limits()),
    ],
    ids=["etcd's defaults", "an operation too few", "some bytes too few", "as the pool asks"],
)
async def test_a_member_tells_its_limits_and_nothing_changes_there(
    tmp_path: Path, arguments: Sequence[str], limits: Limits
) -> None:
    async with (
        running(tmp_path, size=1, arguments=arguments) as cluster,
        cluster.client(*cluster.members) as client,
    ):
        (endpoint,) = client.endpoints
        before = await client.status(endpoint)
        assert await limits_of(endpoint) == limits
        after = await client.status(endpoint)
        # Not even proposed.
        assert (after.raft_index, after.db_size) == (before.raft_index, before.db_size)


async def test_limits_of_somebody_elses_cluster_that_are_too_low_are_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running(tmp_path, size=1, arguments=("--max-txn-ops", "128")) as etcd:
        host = cluster.local("phantom", options=[f"--store=etcd:{etcd.addresses[0]}"])
        await host.start()
        async with host.api() as api, asyncio.timeout(PATIENCE_SECONDS):
            told: list[str] = []
            while len(told) < 2:
                found = (await api.status()).warnings
                told = [warning.remedy for warning in found if warning.code == "ETCD_LIMIT"]
                await asyncio.sleep(0.05)
        assert "--max-txn-ops=4096" in told[0]
        assert "--max-request-bytes=8388608" in told[1]
        await host.stop()


async def test_a_request_that_is_larger_than_the_cluster_takes_is_refused_whole(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, size=1) as cluster, opened(cluster.addresses) as store:
        pieces = [Write(b"%d" % number, bytes(PIECE)) for number in range(8)]
        with pytest.raises(TransactionTooLarge):
            await store.transact([], pieces)
        assert (await store.read(b"\0", b"\xff")).items == ()
        assert await store.transact([], pieces[:4])


# -- in a pool ------------------------------------------------------------------------------------


@pytest.fixture
def small_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The etcd that hosts find has a small quota, whatever they tell it."""
    program = tmp_path / "bin" / "etcd"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {etcd_binary()} "$@" --quota-backend-bytes={SMALL_QUOTA}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


async def voters_of(pool: VotingPool) -> tuple[str, ...]:
    state = await pool.voted_by(*(host.name for host in pool.hosts))
    assert state.pool.voters is not None
    addresses = [state.host(uuid).address.rpartition(":") for uuid in state.pool.voters.hosts]
    return tuple(f"{ip}:{int(port) + 1}" for ip, _, port in addresses)


@pytest.mark.usefixtures("small_etcd")
async def test_a_pool_whose_own_etcd_is_full_says_so_and_goes_on_by_itself(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster) as pool:
        addresses = await voters_of(pool)
        async with writers([pool.endpoints] * CLIENTS) as book:
            await book.goes_on(CLIENTS)
            await fill(addresses)
            async with pool.hosts[0].api() as api, asyncio.timeout(PATIENCE_SECONDS):
                # A status tells nobody that it has changed.
                while not said((await api.status()).warnings):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await book.goes_on(5 * CLIENTS)
                while said((await api.status()).warnings):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        book.check(await pool.requests())


@pytest.mark.usefixtures("small_etcd")
async def test_hosts_that_find_their_etcd_full_elect_a_master_all_the_same(
    cluster: Cluster,
) -> None:
    async with voting_pool(cluster) as pool:
        addresses = await voters_of(pool)
        await pool.check_one_store()
        await asyncio.gather(*(host.kill() for host in pool.hosts))
        await fill(addresses)
        left = pool.hosts[1:]
        await asyncio.gather(*(host.start() for host in left))
        async with PoolClient.connect(*(host.endpoint for host in left)) as client:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    with suppress(PoolClientError):
                        await client.set(name_description="there is room again")
                        break
                    await asyncio.sleep(0.2)
