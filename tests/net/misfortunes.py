"""What the stories in this folder have in common: clients that write and watch, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from poolclient import PoolClient
from poolcore.errors import PoolError
from support.api import Api
from support.marked_writes import Book, writers
from support.netlab.host import NetHost
from support.netlab.lab import NetLab
from support.shared_pool import SharedPool
from support.watching import check_told, watcher
from support.wholeness import same_replicas

CLIENTS = 8
FEW_CLIENTS = 2
"""Their writes of two minutes are all among those that the pool remembers, the last 10,000."""
PATIENCE_SECONDS = 15.0
"""Far more than anything here takes; the figures are the benchmarks' business."""


OWN: dict[str, Any] = {"own_etcd": True}
"""What `running_lab` is told for a pool that founds its own etcd."""


def on_own_etcd(**options: Any) -> pytest.MarkDecorator:
    """Of a test: its pool founds its own etcd, in a lab with these options."""
    return pytest.mark.parametrize("lab", [OWN | options], indirect=True)


def on_both(**options: Any) -> pytest.MarkDecorator:
    """Of a test: it runs on an etcd that is given, and on the pool's own."""
    return pytest.mark.parametrize("lab", [options, OWN | options], indirect=True)


@asynccontextmanager
async def in_use(pool: SharedPool) -> AsyncIterator[Book]:
    """Clients that know all hosts write as long as the block runs, and one watches.

    At the end, with all faults undone: every host has the same, nothing that was acknowledged is
    lost or made twice, and each term had one master.
    """
    async with watcher(pool) as watching, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(pool.chain.keep_reading())
        async with writers([pool.endpoints] * CLIENTS) as book:
            await go_on(book)
            yield book
            await whole(pool)
            await go_on(book)
        reading.cancel()
        await check_told(pool, watching)
    book.check(pool.chain.requests)
    pool.check_masterships()
    master = await pool.one_master()
    await same_replicas(master, *pool.others(master))


async def go_on(book: Book) -> None:
    """Until so many more writes were acknowledged that each client may have made one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await book.goes_on(CLIENTS)


async def whole(pool: SharedPool) -> None:
    """Until all hosts follow one master again."""
    await pool.attached(await pool.one_master())
    await pool.chain.read_on()


async def answers_from_its_replica(api: Api) -> None:
    """Until a host answers with what it has itself, and says so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            # A read that waits for a mastership to be confirmed is refused when that ends.
            with suppress(PoolError):
                if (await api.status()).freshness.stale:
                    return
            await asyncio.sleep(0.02)


async def comes_true(condition: Callable[[], bool]) -> None:
    """Until something holds that tells nobody when it does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)


async def leading_in_everything(lab: NetLab, pool: SharedPool) -> NetHost:
    """The host that etcd's leader is on, made the master too."""
    host = await lab.etcd_leader()
    async with PoolClient.connect(*pool.endpoints) as client:
        await (await client.designate_master(host.name))
    await host.says("master of pool")
    await pool.attached(host)
    return host
