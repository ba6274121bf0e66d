"""Hosts whose clocks jump by an hour while clients write: nothing happens, and all goes on.

How a daemon's clock is made to jump: `support/jumping_clock.py`.
"""

import asyncio
import sys
from itertools import product
from pathlib import Path

from poolclient import PoolClient
from poolcore.model import FailoverTimings
from support.daemons import Cluster, ProcessHost
from support.marked_writes import writers
from support.shared_pool import SharedPool, shared_pool
from support.watching import check_told, watcher
from support.wholeness import same_replicas

JUMPING_CLOCK = str(Path(__file__).parents[1] / "support" / "jumping_clock.py")
CLIENTS = 8
HOUR_SECONDS = 3600.0
NOTICED_SECONDS = 2 * FailoverTimings().suspect_seconds
"""Time enough for whoever would take a jump for a silence."""
TTL_SECONDS = 60


class Clocks:
    """What each host's clock is off by."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def attach(self, host: ProcessHost) -> None:
        """From its next start on, the host has a clock that can be set."""
        host.inside = (sys.executable, JUMPING_CLOCK, str(self._file(host)))

    def jump(self, host: ProcessHost, seconds: float) -> None:
        """The host's clock is off by so much from now on."""
        temporary = self._folder / "clock.new"
        temporary.write_text(str(seconds))
        temporary.rename(self._file(host))

    def _file(self, host: ProcessHost) -> Path:
        return self._folder / f"{host.name}.clock"


async def told_by(host: ProcessHost) -> float:
    """How much later than it is a host says that it is, in seconds."""
    async with PoolClient.connect(host.endpoint) as client:
        return (await client.host_report()).clock_offset_seconds


async def restarted_with(pool: SharedPool, clocks: Clocks) -> None:
    """Give every host of a pool a clock that can be set."""
    for host in pool.hosts:
        await host.stop()
        clocks.attach(host)
        await host.start()
        await pool.attached(await pool.one_master())


async def test_a_clock_that_jumps_an_hour_changes_nothing(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    clocks = Clocks(tmp_path)
    async with shared_pool(cluster, tmp_path, url=store_url) as pool, watcher(pool) as watching:
        await restarted_with(pool, clocks)
        master = await pool.master()
        before = await pool.chain.head()
        async with (
            PoolClient.connect(*pool.endpoints) as client,
            client.lock("nightly", ttl_seconds=TTL_SECONDS) as lock,
            writers(pool.known_to(CLIENTS)) as book,
        ):
            for host, seconds in product(pool.hosts, (HOUR_SECONDS, -HOUR_SECONDS)):
                clocks.jump(host, seconds)
                await asyncio.sleep(NOTICED_SECONDS)
                await book.goes_on(CLIENTS)
                assert abs(await told_by(host) - seconds) < HOUR_SECONDS / 2
            after = await pool.chain.head()
            assert (after.term, after.master) == (before.term, before.master)
            assert not book.refused
            assert [held.token for held in await client.locks.list()] == [lock.token]
            # Three hosts at three times: whoever is master, changes of master go as ever.
            clocks.jump(pool.others(master)[0], HOUR_SECONDS)
            clocks.jump(pool.others(master)[1], 0.0)
            await master.kill()
            await pool.another_master(than=master)
            await book.goes_on(CLIENTS)
            await master.start()
            await pool.attached(await pool.one_master())
            await (await client.designate_master(master.name))
            await book.goes_on(CLIENTS)
        await check_told(pool, watching)
        book.check(pool.chain.requests)
        pool.check_masterships()
        await same_replicas(await pool.one_master(), *pool.hosts)
