"""Transactions that were on their way to a host that froze, and land when it goes on.

How often in a row: `TRIALS` in the environment, 5 without it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from random import Random

import pytest

from chaos.clients import Clients
from net.misfortunes import PATIENCE_SECONDS, go_on, in_use, on_both, whole
from poolclient import PoolClient
from poolmaster.store.contract import Compare, OutcomeUnknown, StoreError, Write
from poolmaster.store.etcd.cluster import SEND_SECONDS
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from support.history import History, Outcome
from support.netlab.lab import NetLab
from support.timeline import Timeline, findings

pytestmark = pytest.mark.net

TRIALS = int(os.environ.get("TRIALS", "5"))
SCRIPTS = 8
KEY = b"\xfe/late"
"""Behind all keys of the pool."""


@on_both()
async def test_nothing_is_lost_or_repeated_by_transactions_that_hang_at_a_frozen_leader(
    lab: NetLab,
) -> None:
    async with lab.pool() as pool, in_use(pool) as book:
        for _ in range(TRIALS):
            leader = await lab.etcd_leader()
            await leader.freeze()
            await go_on(book)
            leader.thaw()
            await go_on(book)
            await whole(pool)


@on_both()
async def test_what_a_frozen_leader_was_sent_lands_before_every_other_or_never(
    lab: NetLab,
) -> None:
    async with lab.pool() as pool:
        async with lab.hosts[0].api() as api:
            uuid = (await api.status()).pool_uuid
        async with in_use(pool):
            for trial in range(TRIALS):
                leader = await lab.etcd_leader()
                others = [host.etcd.client for host in lab.others(leader)]
                late = await opened(uuid, leader.etcd.client)
                other = await opened(uuid, *others)
                before, after = await value(late), b"second %d" % trial
                await leader.freeze()
                with pytest.raises(OutcomeUnknown):
                    await late.transact([Compare(KEY, before)], [Write(KEY, b"late %d" % trial)])
                await swapped(other, before, after)
                leader.thaw()
                await whole(pool)
                assert await value(late) == await value(other) == after
                await late.close()
                await other.close()


async def test_a_write_whose_answer_from_etcd_is_lost_is_not_told_as_refused(lab: NetLab) -> None:
    asked, other, _ = lab.hosts
    async with lab.pool() as pool:
        clients = Clients(History(), pool.endpoints, [host.name for host in lab.hosts])
        async with asyncio.TaskGroup() as tasks:
            for number in range(SCRIPTS):
                tasks.create_task(clients.write_plainly(f"script{number}", Random(number)))
            for _ in range(TRIALS):
                master = lab.known(await pool.master())
                if master is asked:
                    # On one host there is no network between a daemon and etcd.
                    async with PoolClient.connect(*pool.endpoints) as client:
                        await (await client.designate_master(other.name))
                    master = other
                # Every daemon asks the first member that the store's URL names.
                lab.cut_one_way(asked, master)
                await asyncio.sleep(SEND_SECONDS + 0.5)
                lab.heal()
                await whole(pool)
            clients.over = True
        await pool.chain.read_on()
        told = clients.history.operations
        assert sum(o.outcome is Outcome.OK for o in told) > TRIALS
        assert findings(told, Timeline(pool.chain.deltas)) == []


async def opened(pool: str, *addresses: str) -> EtcdStore:
    """A handle that knows only these members."""
    return await EtcdStore.open(EtcdOptions(addresses), pool=pool)


async def value(store: EtcdStore) -> bytes | None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(StoreError):
                items = (await store.read(KEY)).items
                return items[0].value if items else None


async def swapped(store: EtcdStore, before: bytes | None, after: bytes) -> None:
    """Move the key from one value to another, as a writer does who settles what is unknown."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(StoreError):
                await store.transact([Compare(KEY, before)], [Write(KEY, after)])
            if (now := await value(store)) != before:
                assert now == after
                return
