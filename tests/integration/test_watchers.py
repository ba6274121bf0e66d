"""Watchers that follow the pool over many changes of master, of each kind.

Over how many: `WATCHED_CHANGES` in the environment, 6 without it.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest

from poolclient import PoolClient
from poolcore.model import Kind
from poolcore.replica import Put
from support.daemons import Cluster, ProcessHost
from support.marked_writes import writers
from support.shared_pool import SharedPool, shared_pool
from support.watching import WATCH_SECONDS, check_told, watcher

WATCHED_CHANGES = int(os.environ.get("WATCHED_CHANGES", "6"))
CLIENTS = 4
POOL = str(Path(sys.executable).with_name("pool"))


async def killed(pool: SharedPool, master: ProcessHost) -> None:
    """The master dies, and comes back when there is another."""
    await master.kill()
    await pool.another_master(than=master)
    await master.start()


async def ended(pool: SharedPool, master: ProcessHost) -> None:
    """The master's daemon is told to end, as for an update, and is started again."""
    assert await master.stop() == 0
    await pool.another_master(than=master)
    await master.start()


async def designated(pool: SharedPool, master: ProcessHost) -> None:
    """A person designates another host."""
    async with PoolClient.connect(*pool.endpoints) as client:
        await (await client.designate_master(pool.others(master)[0].name))


class Lines:
    """What `pool events -o json` prints, as it is printed."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, int, str, str]] = []
        """Revision, term, kind and uuid of each."""
        self._told = asyncio.Event()

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Until the command ends."""
        async for line in stream:
            found = json.loads(line)
            self.changes.append((found["revision"], found["term"], found["kind"], found["uuid"]))
            self._told.set()

    async def until(self, revision: int) -> None:
        """Until a change of that revision was printed."""
        while not self.changes or self.changes[-1][0] < revision:
            self._told.clear()
            await self._told.wait()


@asynccontextmanager
async def command_that_watches(*hosts: ProcessHost) -> AsyncIterator[Lines]:
    """`pool events` from the first commit on, as long as the block runs."""
    servers = ",".join(host.endpoint for host in hosts)
    process = await asyncio.create_subprocess_exec(
        POOL, "--server", servers, "events", "--since", "0", "-o", "json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, limit=2**24,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    lines = Lines()
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(lines.read(process.stdout))
            yield lines
            reading.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        else:
            pytest.fail(f"`pool events` has ended: {await process.stderr.read()!r}")
        await process.wait()


def changes_in(pool: SharedPool) -> list[tuple[int, int, str, str]]:
    """What the command has to print of the pool's chain."""
    found = []
    for delta in pool.chain.deltas:
        for change in delta.changes:
            kind: Kind = change.object.KIND if isinstance(change, Put) else change.kind
            uuid = change.object.uuid if isinstance(change, Put) else change.uuid
            found.append((delta.commit.revision, delta.commit.term, kind.value, uuid))
    return found


async def test_watchers_see_every_commit_once_and_in_order_over_changes_of_master(
    cluster: Cluster, tmp_path: Path, store_url: str
) -> None:
    async with shared_pool(cluster, tmp_path, url=store_url) as pool:
        first_term = (await pool.chain.head()).term
        async with watcher(pool) as watching, command_that_watches(*pool.hosts) as lines:
            async with writers(pool.known_to(CLIENTS)) as book:
                await book.goes_on(CLIENTS)
                for change in islice(cycle((killed, designated, ended)), WATCHED_CHANGES):
                    await change(pool, await pool.master())
                    async with asyncio.timeout(10):
                        await book.goes_on(CLIENTS)
                    await pool.attached(await pool.one_master())
                    await pool.chain.read_on()
            await check_told(pool, watching)
            expected = changes_in(pool)
            async with asyncio.timeout(WATCH_SECONDS):
                await lines.until(expected[-1][0])
            assert lines.changes[: len(expected)] == expected
        book.check(pool.chain.requests)
        assert (await pool.chain.head()).term == first_term + WATCHED_CHANGES
        pool.check_masterships()
