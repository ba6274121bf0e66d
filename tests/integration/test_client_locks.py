"""Locks with real daemons: who waits, who is told, and what outlives whom."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from poolclient import (
    BlockingPoolClient,
    LockHeld,
    LockLost,
    NotFound,
    PoolClient,
)
from support.daemons import Cluster, LocalHost


async def a_pool(cluster: Cluster) -> tuple[LocalHost, LocalHost]:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    return phantom, ignite


@asynccontextmanager
async def alone(cluster: Cluster) -> AsyncIterator[PoolClient]:
    phantom = cluster.local("phantom")
    await phantom.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        yield pool


async def test_clients_of_several_hosts_have_a_lock_one_after_the_other(cluster: Cluster) -> None:
    tokens: list[int] = []
    inside = 0

    async def work(endpoint: str) -> None:
        nonlocal inside
        async with PoolClient.connect(endpoint) as pool:
            for _ in range(3):
                async with pool.lock("nightly", wait_seconds=30.0) as lock:
                    inside += 1
                    assert inside == 1
                    tokens.append(lock.token)
                    await asyncio.sleep(0.01)
                    inside -= 1
                assert lock.released

    hosts = await a_pool(cluster)
    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(work(hosts[number % 2].endpoint))
    assert len(tokens) == 18
    assert tokens == sorted(set(tokens))


async def test_a_lock_that_is_held_is_refused_at_once_or_when_waiting_is_over(
    cluster: Cluster,
) -> None:
    async with alone(cluster) as pool, pool.lock("nightly", holder="cron") as lock:
        with pytest.raises(LockHeld, match="held by cron since") as held:
            await pool.lock("nightly").acquire()
        assert held.value.params["holder"] == "cron"
        began = time.monotonic()
        with pytest.raises(LockHeld):
            await pool.lock("nightly", wait_seconds=0.3).acquire()
        assert time.monotonic() - began >= 0.3
        assert [found.token for found in await pool.locks.list()] == [lock.token]
        assert await pool.locks.get("nightly") == lock.lock


async def test_a_lock_that_is_renewed_outlives_its_time_to_live(cluster: Cluster) -> None:
    async with alone(cluster) as pool:
        async with pool.lock("nightly", ttl_seconds=4) as lock:
            await asyncio.sleep(8.5)
            lock.check()
            assert await pool.locks.list()
        assert lock.lost is None
        assert not await pool.locks.list()


async def test_whoever_holds_a_lock_that_is_broken_is_stopped(cluster: Cluster) -> None:
    async with alone(cluster) as pool:
        lock = pool.lock("nightly", ttl_seconds=3)

        async def break_and_go_on() -> None:
            async with lock:
                broken = await pool.break_lock("nightly")
                assert broken == lock.lock
                await asyncio.sleep(20.0)

        with pytest.raises(LockLost, match="Lock “nightly” is lost"):
            await break_and_go_on()
        assert isinstance(lock.lost, LockLost)
        assert not lock.released
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        with pytest.raises(NotFound):
            await pool.break_lock("nightly")


async def test_a_block_that_ends_before_it_is_told_learns_of_the_loss_at_its_end(
    cluster: Cluster,
) -> None:
    async def break_and_end(pool: PoolClient, error: Exception | None) -> None:
        async with pool.lock("nightly"):
            await pool.break_lock("nightly")
            if error is not None:
                raise error

    async with alone(cluster) as pool:
        with pytest.raises(LockLost):
            await break_and_end(pool, None)
        with pytest.raises(ValueError, match="its own"):
            await break_and_end(pool, ValueError("its own error comes first"))


async def test_a_block_that_is_cancelled_or_fails_gives_its_lock_up(cluster: Cluster) -> None:
    async with alone(cluster) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), pool.lock("nightly"):
                await asyncio.sleep(20.0)
        with pytest.raises(ValueError, match="no"):
            async with pool.lock("nightly"):
                raise ValueError("no")
        assert not await pool.locks.list()


async def test_whoever_is_cancelled_while_taking_a_lock_leaves_none_behind(
    cluster: Cluster,
) -> None:
    async with alone(cluster) as pool:
        for turns in range(12):
            taking = asyncio.ensure_future(  # noqa: TID251 - awaited below
                pool.lock("nightly").acquire()
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            assert taking.cancelled()
            assert not await pool.locks.list()


async def test_a_lock_is_kept_while_the_master_restarts(cluster: Cluster) -> None:
    phantom = cluster.process("phantom")
    await phantom.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        async with pool.lock("nightly", ttl_seconds=15) as lock:
            await phantom.kill()
            await phantom.start()
            assert await pool.locks.get("nightly") == lock.lock
            with pytest.raises(LockHeld):
                await pool.lock("nightly").acquire()
            lock.check()
        assert lock.released


async def test_a_holder_that_cannot_renew_stops_by_itself(cluster: Cluster) -> None:
    phantom = cluster.process("phantom")
    await phantom.start()
    async with PoolClient.connect(phantom.endpoint) as pool:
        lock = pool.lock("nightly", ttl_seconds=2)

        async def freeze_and_go_on() -> None:
            async with lock:
                phantom.signal(signal.SIGSTOP)
                await asyncio.sleep(20.0)

        began = time.monotonic()
        with pytest.raises(LockLost, match="could not be renewed in time"):
            await freeze_and_go_on()
        assert time.monotonic() - began < 5.0
        phantom.signal(signal.SIGCONT)
        async with pool.lock("nightly", wait_seconds=10.0) as later:
            assert later.token > lock.token


async def test_a_lock_that_cannot_be_given_up_is_left_to_end_by_itself(
    cluster: Cluster,
) -> None:
    phantom = cluster.process("phantom")
    await phantom.start()
    async with PoolClient.connect(phantom.endpoint, timeout_seconds=0.5) as pool:
        async with pool.lock("nightly") as lock:
            phantom.signal(signal.SIGSTOP)
        assert (lock.released, lock.lost) == (False, None)
        phantom.signal(signal.SIGCONT)


async def test_the_blocking_twin(cluster: Cluster) -> None:
    phantom = cluster.process("phantom")
    await phantom.start()

    def lose(pool: BlockingPoolClient) -> None:
        with pool.lock("nightly", ttl_seconds=3) as lock:
            pool.break_lock("nightly")
            while lock.lost is None:
                time.sleep(0.05)
            with pytest.raises(LockLost):
                lock.check()

    def work() -> None:
        with BlockingPoolClient.connect(phantom.endpoint) as pool:
            with pool.lock("nightly") as lock:
                assert (lock.token, lock.lost) == (lock.lock.token, None)
                assert [found.uuid for found in pool.locks.list()] == [lock.lock.uuid]
                with pytest.raises(LockHeld):
                    pool.lock("nightly").acquire()
            assert lock.released
            with pytest.raises(LockLost):
                lose(pool)

    await asyncio.to_thread(work)
