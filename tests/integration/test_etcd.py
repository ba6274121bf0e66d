"""The engine `etcd` on real clusters whose members are killed, frozen and cut down to size."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import (
    Compare,
    LeaseGone,
    OutcomeUnknown,
    StoreError,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    WatchEvent,
    WatchGone,
    Write,
)
from poolmaster.store.etcd.calls import COMPACT, TXN
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from support.certificates import Authority
from support.etcd import EtcdCluster, EtcdMember

pytestmark = pytest.mark.etcd

POOL = "6f1d6a5e-0000-4000-8000-000000000001"
EVERYTHING = (b"\x00", b"\xff\xff")
PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def running(
    folder: Path, *, size: int = 3, arguments: tuple[str, ...] = ()
) -> AsyncIterator[EtcdCluster]:
    cluster = EtcdCluster(folder, size=size, arguments=arguments)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.kill()


@asynccontextmanager
async def opened(
    cluster: EtcdCluster, *members: EtcdMember, founded: EtcdStore | None = None
) -> AsyncIterator[EtcdStore]:
    """A handle that asks these members, the first of them first; all of them if none is named."""
    asked = members or cluster.members
    options = EtcdOptions(tuple(member.address for member in asked), tls=cluster.tls)
    if founded is None:
        store = await EtcdStore.found(options, pool=POOL, incarnation=str(uuid.uuid4()))
    else:
        store = await EtcdStore.open(options, pool=POOL, incarnation=founded.incarnation)
    try:
        yield store
    finally:
        await store.close()


async def value(store: EtcdStore, key: bytes, *, linearizable: bool = True) -> bytes | None:
    items = (await store.read(key, linearizable=linearizable)).items
    return items[0].value if items else None


async def written(store: EtcdStore, key: bytes, new: bytes) -> None:
    """Write until it is acknowledged; safe because nobody else writes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(StoreError):
                if await store.transact([], [Write(key, new)]):
                    return
            await asyncio.sleep(0.02)


# -- members that are lost ------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [EtcdMember.kill, EtcdMember.freeze])
async def test_a_member_that_is_lost_is_left_for_another(
    tmp_path: Path, harm: Callable[[EtcdMember], None]
) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        nearest, *others = [m for m in cluster.members if m is not leader]
        async with opened(cluster, nearest, leader, *others) as store:
            assert await store.transact([], [Write(b"a", b"1")])
            harm(nearest)

            began = time.monotonic()
            assert await value(store, b"a") == b"1"
            assert time.monotonic() - began < 1.5
            await written(store, b"a", b"2")
            assert await value(store, b"a") == b"2"


@pytest.mark.parametrize("leads", [True, False])
async def test_a_frozen_member_holds_up_its_first_callers_only(tmp_path: Path, leads: bool) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        nearest = leader if leads else next(m for m in cluster.members if m is not leader)
        others = [m for m in cluster.members if m is not nearest]
        async with opened(cluster, nearest, *others) as store:
            await written(store, b"a", b"1")
            nearest.freeze()
            assert await value(store, b"a") == b"1"
            await written(store, b"a", b"2")
            slow = 0
            for number in range(200):
                began = time.monotonic()
                await written(store, b"a", b"%d" % number)
                assert await value(store, b"a") == b"%d" % number
                slow += time.monotonic() - began > 0.5
                await asyncio.sleep(0.02)
            assert slow <= 2, "it is asked again and again"
            nearest.thaw()
            await cluster.until_answers(nearest)


async def test_a_member_that_is_behind_answers_no_compare_with_what_it_has(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster, opened(cluster) as store:
        leader = await cluster.leader()
        behind, other = (m for m in cluster.members if m is not leader)
        async with opened(cluster, behind, founded=store) as near:
            assert await store.transact([], [Write(b"head", b"1")])
            assert await value(near, b"head") == b"1"
            behind.freeze()
            await written(store, b"head", b"2")
            for member in (leader, other):
                member.freeze()
            behind.thaw()
            # It has not noticed yet that it is alone.
            with suppress(StoreError):
                assert not await near.transact([Compare(b"head", b"1")], [])
            for member in (leader, other):
                member.thaw()
            await cluster.until_answers(behind)
            assert await near.transact([Compare(b"head", b"2")], [])


async def test_a_new_leader_serves_what_the_killed_one_acknowledged(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, opened(cluster) as store:
        for number in range(20):
            assert await store.transact([], [Write(b"%d" % number, b"1")])
        (await cluster.leader()).kill()
        await written(store, b"last", b"1")
        assert len((await store.read(*EVERYTHING)).items) == 21


async def test_without_a_quorum_nothing_is_written_and_only_local_reads_answer(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster, opened(cluster) as store:
        assert await store.transact([], [Write(b"a", b"1")])
        nearest, *others = cluster.members
        async with opened(cluster, nearest, founded=store) as near:
            assert await value(near, b"a") == b"1"
            for member in others:
                member.kill()
            with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                await near.transact([], [Write(b"a", b"2")])
            with pytest.raises(StoreUnavailable):
                await near.read(b"a")
            assert await value(near, b"a", linearizable=False) == b"1"
            # It has noticed by now that it has no leader: nothing is sent that might land later.
            with pytest.raises(StoreUnavailable):
                await near.transact([], [Write(b"a", b"3")])
            for member in others:
                member.start()
            await cluster.until_answers(nearest)
            assert await value(near, b"a") in {b"1", b"2"}


# -- outcomes that are not known ------------------------------------------------------------------


async def test_what_a_frozen_member_was_sent_lands_late_or_never_but_not_after_another(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster:
        leader = await cluster.leader()
        others = [m for m in cluster.members if m is not leader]
        async with opened(cluster, leader) as store:
            assert await store.transact([], [Write(b"head", b"0")])
            async with opened(cluster, *others, founded=store) as other:
                for number in range(3):
                    old = await value(other, b"head")
                    leader = await cluster.leader()
                    async with opened(cluster, leader, founded=store) as frozen:
                        await frozen.read(b"head")
                        leader.freeze()
                        with pytest.raises(OutcomeUnknown):
                            await frozen.transact(
                                [Compare(b"head", old)], [Write(b"head", b"late %d" % number)]
                            )
                        new = b"second %d" % number
                        await swapped(other, old, new)
                        leader.thaw()
                        await cluster.until_answers(leader)
                        for _ in range(20):
                            assert await value(other, b"head") == new
                            await asyncio.sleep(0.02)


async def swapped(store: EtcdStore, old: bytes | None, new: bytes) -> None:
    """Move `head` from one value to another, as a settling writer does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(StoreError):
                if await store.transact([Compare(b"head", old)], [Write(b"head", new)]):
                    return
                assert await value(store, b"head") == new
                return
            await asyncio.sleep(0.05)


async def test_a_transaction_that_crosses_the_quota_is_never_called_not_applied(
    tmp_path: Path,
) -> None:
    quota = ("--quota-backend-bytes", str(4 * 1024 * 1024))
    async with running(tmp_path, size=1, arguments=quota) as cluster, opened(cluster) as store:
        unknown: set[bytes] = set()

        async def write(number: int) -> None:
            key = b"%02d" % number
            try:
                assert await store.transact([], [Write(key, bytes(256 * 1024))])
            except OutcomeUnknown:
                unknown.add(key)

        # Together: those that cross it side by side are applied, and told that there is no space.
        # It is looked at now and then only, so it takes some more than fit.
        tried = 0
        while not unknown:
            assert tried < 400, "the quota was never reached"
            await asyncio.gather(*(write(number) for number in range(tried, tried + 20)))
            tried += 20
        found = {item.key for item in (await store.read(*EVERYTHING)).items}
        assert found | unknown == {b"%02d" % number for number in range(tried)}


# -- limits ---------------------------------------------------------------------------------------


async def test_too_many_operations_are_refused_whole(tmp_path: Path) -> None:
    limit = ("--max-txn-ops", "10")
    async with running(tmp_path, size=1, arguments=limit) as cluster, opened(cluster) as store:
        with pytest.raises(TransactionTooLarge):
            await store.transact([], [Write(b"%d" % n, b"1") for n in range(11)])
        assert (await store.read(*EVERYTHING)).items == ()
        assert await store.transact([], [Write(b"%d" % n, b"1") for n in range(10)])


async def test_a_lease_that_is_gone_does_no_harm_to_the_cluster(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, opened(cluster) as store:
        lease = await store.grant_lease(5)
        await store.revoke(lease)
        with pytest.raises(LeaseGone):
            await store.transact([], [Write(b"a", b"1"), Write(b"b", b"1", lease)])
        assert (await store.read(*EVERYTHING)).items == ()
        await asyncio.sleep(0.2)
        assert all(member.runs for member in cluster.members)


# -- watching -------------------------------------------------------------------------------------


async def test_a_watch_goes_on_at_another_member_without_gap_or_duplicate(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, opened(cluster) as store:
        told: list[WatchEvent] = []
        all_told = asyncio.Event()

        async def watch() -> None:
            async for event in store.watch(*EVERYTHING, after_version=0):
                told.append(event)
                if event.key == b"last":
                    all_told.set()

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch())
            for number, member in enumerate(cluster.members):
                await written(store, b"before", b"%d" % number)
                member.kill()
                await written(store, b"after", b"%d" % number)
                member.start()
                await cluster.until_answers(member)
            await written(store, b"last", b"1")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await all_told.wait()
            watching.cancel()
        versions = [event.version for event in told]
        # A write whose outcome was unknown was given again, so there may be more than seven.
        assert versions == list(range(1, len(versions) + 1))


async def test_a_removal_at_the_compacted_revision_is_not_missed(tmp_path: Path) -> None:
    async with running(tmp_path, size=1) as cluster, opened(cluster) as store:
        await store.transact([], [Write(b"a", b"1")])
        await store.transact([], [Write(b"a", None)])
        await store.transact([], [Write(b"b", b"1")])
        async with cluster.client(*cluster.members) as client:
            there = await client.ask(TXN, pb.TxnRequest())
            await client.ask(COMPACT, pb.CompactionRequest(revision=there.header.revision - 1))
        # Its removal is the compacted revision: a watch that needs it has to be refused.
        with pytest.raises(WatchGone) as gone:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await anext(aiter(store.watch(*EVERYTHING, after_version=1)))
        assert gone.value.oldest == 2
        async with asyncio.timeout(PATIENCE_SECONDS):
            event = await anext(aiter(store.watch(*EVERYTHING, after_version=2)))
        assert event == WatchEvent(b"b", b"1", 3)


# -- whose store it is ----------------------------------------------------------------------------


async def test_a_store_that_was_founded_anew_is_shut_to_the_one_before(tmp_path: Path) -> None:
    async with running(tmp_path, size=1) as cluster, opened(cluster) as store:
        assert await store.transact([], [Write(b"a", b"1")])
        options = EtcdOptions(cluster.addresses)
        with pytest.raises(PoolError) as refused:
            await EtcdStore.found(options, pool=POOL, incarnation="new")
        assert refused.value.reason is Reason.STATE_OF_ANOTHER_POOL

        newer = await EtcdStore.found(
            options, pool=POOL, incarnation="new", replacing=store.incarnation
        )
        # Somebody who was not told that it was founded asks again.
        again = await EtcdStore.found(
            options, pool=POOL, incarnation="new", replacing=store.incarnation
        )
        await again.close()
        for linearizable in (True, False):
            with pytest.raises(StoreFailed):
                await store.read(b"a", linearizable=linearizable)
        with pytest.raises(StoreFailed):
            await store.transact([], [Write(b"a", b"2")])
        assert (await newer.read(*EVERYTHING)).items == ()
        assert await newer.transact([], [Write(b"a", b"3")])
        with pytest.raises(PoolError) as refused:
            await EtcdStore.open(options, pool=POOL, incarnation=store.incarnation)
        assert refused.value.reason is Reason.STATE_OF_ANOTHER_POOL
        await newer.close()


async def test_a_cluster_with_another_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    ours, theirs = Authority(made(tmp_path / "ours")), Authority(made(tmp_path / "theirs"))
    cluster = EtcdCluster(tmp_path, authority=theirs)
    try:
        await cluster.start()
        options = EtcdOptions(cluster.addresses, tls=ours.client)
        with pytest.raises(StoreUnavailable):
            await EtcdStore.open(options, pool=POOL)
    finally:
        cluster.kill()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
