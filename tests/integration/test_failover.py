"""Masters that die or freeze while clients write, in a pool of three that share their store.

How often the master is killed in a row: `FAILOVERS` in the environment, 5 without it.
"""

import asyncio
import os
import secrets
import signal
from pathlib import Path

from poolcore.errors import PoolError, Reason
from poolcore.requests import request_id
from poolmanager.v1 import pool_service_pb2
from support.api import Api
from support.daemons import Cluster, ProcessHost
from support.marked_writes import Book, writers
from support.shared_pool import shared_pool
from support.watching import check_told, watcher
from support.wholeness import same_replicas

FAILOVERS = int(os.environ.get("FAILOVERS", "5"))
CLIENTS = 16
READERS = 4
FROZEN_SECONDS = 10.0


async def test_no_write_is_lost_or_made_twice_when_masters_are_killed(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with shared_pool(cluster, tmp_path, url=store_url) as pool:
        first_term = (await pool.chain.head()).term
        async with watcher(pool) as watching:
            async with writers(pool.known_to(CLIENTS)) as book:
                await book.goes_on(CLIENTS)
                for _ in range(FAILOVERS):
                    master = await pool.master()
                    await master.kill()
                    successor = await pool.another_master(than=master)
                    async with asyncio.timeout(5):
                        await book.goes_on(CLIENTS)
                    await master.start()
                    await pool.attached(successor)
                    await pool.chain.read_on()
            await check_told(pool, watching)
        book.check(pool.chain.requests)
        assert (await pool.chain.head()).term == first_term + FAILOVERS
        pool.check_masterships()
        await same_replicas(*pool.hosts)


class Reader:
    """Clients of one host that read all the time, and check every answer.

    Revisions of fresh answers never go back, and each contains what was acknowledged to anybody
    before the read began.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self.fresh = 0
        """How many answers said that they were."""
        self.terms: set[int] = set()

    async def run(self, host: ProcessHost) -> None:
        """One client, until cancelled."""
        newest = 0
        async with host.api() as api:
            while True:
                acknowledged = self._book.newest
                try:
                    request = pool_service_pb2.GetStatusRequest()
                    status = await api.call(api.pools.GetStatus, request, timeout_seconds=30.0)
                except PoolError:
                    await asyncio.sleep(0.005)
                    continue
                if status.freshness.stale:
                    continue
                revision = status.freshness.revision
                assert revision >= newest, "an answer that is called fresh is older than the last"
                assert revision >= acknowledged, "an answer that is called fresh lacks a write"
                newest = revision
                self.fresh += 1
                self.terms.add(status.head.term)


async def test_a_master_that_was_frozen_neither_writes_nor_answers_as_if_it_were_one(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with (
        shared_pool(cluster, tmp_path, url=store_url) as pool,
        watcher(pool) as watching,
        asyncio.TaskGroup() as tasks,
    ):
        old = await pool.master()
        async with writers(pool.known_to(CLIENTS)) as book, old.api() as at_old:
            reader = Reader(book)
            reading = [tasks.create_task(reader.run(old)) for _ in range(READERS)]
            await book.goes_on(CLIENTS)
            before = await pool.chain.head()
            await at_old.status()  # It has a connection, which a frozen host would not take.
            await pool.freeze(old)
            thaw_at = asyncio.get_running_loop().time() + FROZEN_SECONDS
            # What it finds when it goes on: a write that it was sent while it was the master.
            late = request_id(before.revision, secrets.token_hex(8))
            writing = tasks.create_task(outcome_of(at_old, late))
            successor = await pool.another_master(than=old)
            async with asyncio.timeout(5):
                await book.goes_on(CLIENTS)
            await asyncio.sleep(thaw_at - asyncio.get_running_loop().time())
            await book.goes_on(CLIENTS)
            assert not writing.done()
            old.signal(signal.SIGCONT)
            await old.says("following")
            await pool.attached(successor)
            fresh = reader.fresh
            await book.goes_on(10 * CLIENTS)
            for task in reading:
                task.cancel()
        await check_told(pool, watching)
        book.check(pool.chain.requests)
        assert (late in pool.chain.requests) is (await writing)
        assert reader.fresh > fresh, "it answers again, by passing on to the new master"
        assert reader.terms == {before.term, before.term + 1}
        assert (await pool.chain.head()).term == before.term + 1
        pool.check_masterships()
        await same_replicas(successor, *pool.others(successor))


async def outcome_of(api: Api, asked: str) -> bool:
    """Whether a write at a host was acknowledged in the end."""
    try:
        await api.update_pool(asked=asked, add_tags=["late"], timeout_seconds=30.0)
    except PoolError as error:
        if error.reason not in {Reason.NO_MASTER, Reason.HOST_IS_SLAVE}:
            raise
        return False
    return True


async def test_a_master_that_was_killed_comes_back_as_a_member_that_has_everything(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with shared_pool(cluster, tmp_path, url=store_url) as pool:
        old = await pool.master()
        await old.kill()
        successor = await pool.another_master(than=old)
        async with successor.api() as api:
            await api.commits(200)
        await old.start()
        await old.says("following")
        await pool.attached(successor)
        await same_replicas(successor, *pool.others(successor))
        async with old.api() as api:
            status = await api.status()
            roles = {host.name: host.role for host in status.hosts}
            assert not status.freshness.stale
            assert roles[old.name] == pool_service_pb2.ROLE_MEMBER
            assert roles[successor.name] == pool_service_pb2.ROLE_MASTER
            await api.update_pool(add_tags=["through-the-old-master"])


async def test_the_last_host_takes_over_when_the_key_of_the_dead_master_has_expired(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with shared_pool(cluster, tmp_path, url=store_url) as pool:
        master = await pool.master()
        member, last = pool.others(master)
        async with writers([pool.endpoints] * 4) as book:
            await book.goes_on(4)
            await asyncio.gather(master.kill(), member.kill())
            assert await pool.another_master(than=master) is last
            async with asyncio.timeout(5):
                await book.goes_on(20)
            await asyncio.gather(master.start(), member.start())
            await pool.attached(last)
        await pool.chain.read_on()
        book.check(pool.chain.requests)
        assert (await pool.master()) is last
        pool.check_masterships()
        await same_replicas(last, *pool.others(last))
