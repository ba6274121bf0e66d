"""A client that follows the pool's commits while a test does something to its hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from poolclient import PoolClient
from poolcore.replica import CommitId
from support.shared_pool import SharedPool

WATCH_SECONDS = 20.0
"""In which a watcher is told of everything: a stream that is silent for 15 s is opened anew."""


class Watcher:
    """What a client is told of the pool's history, as far as that is kept."""

    def __init__(self) -> None:
        self.seen: list[CommitId] = []
        self._told = asyncio.Event()

    async def run(self, pool: PoolClient, *, since: int) -> None:
        """Follow, from the commit after `since` on."""
        async with aclosing(pool.events(since=since)) as events:
            async for event in events:
                self.seen.append(event.commit)
                self._told.set()

    async def until(self, revision: int) -> None:
        """Until it was told of a revision."""
        while not self.seen or self.seen[-1].revision < revision:
            self._told.clear()
            await self._told.wait()


@asynccontextmanager
async def watcher(pool: SharedPool, *addresses: str) -> AsyncIterator[Watcher]:
    """A client that knows these hosts, or all, and follows the pool as long as the block runs."""
    found = Watcher()
    known = addresses or pool.endpoints
    async with PoolClient.connect(*known) as client, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(found.run(client, since=pool.chain.begins_after))
        yield found
        following.cancel()


async def check_told(pool: SharedPool, watching: Watcher) -> None:
    """That the watcher is told of every commit exactly once and in order, the newest too."""
    await pool.chain.read_on()
    commits = [delta.commit for delta in pool.chain.deltas]
    async with asyncio.timeout(WATCH_SECONDS):
        await watching.until(commits[-1].revision)
    assert watching.seen[: len(commits)] == commits
