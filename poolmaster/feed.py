"""The newest commits in memory, for everybody who follows the chain: members and event watchers.

A follower is nothing but a revision. As long as it is close behind it is served from a bounded
ring; one that lags is served from the store's log, and one from before the history gets
`HISTORY_GONE`. So no follower, however slow, costs memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from poolcore.errors import PoolError, Reason
from poolcore.replica import Delta
from poolmaster.layout import read_log
from poolmaster.store.contract import Store, StoreError

RING = 2_048
RING_BYTES = 32 * 1024 * 1024
CHUNK = 256
CHUNK_BYTES = 4 * 1024 * 1024
"""At most this many commits, and not more after so many bytes, are handed out at once: a message
to a member has a limit, and one commit may have a megabyte."""
LOG_PAGE = 64
"""How many commits are read from the store at once, whatever their size."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit and the bytes it was committed as."""

    delta: Delta
    data: bytes

    @property
    def revision(self) -> int:
        """Which commit it is."""
        return self.delta.commit.revision


class Feed:
    """The commits of this mastership, and through the store those before it.

    Only acknowledged commits are published: nobody learns of one whose outcome is not known.
    """

    def __init__(self, store: Store, revision: int, *, ring: int = RING) -> None:
        self._store = store
        self._ring: deque[Commit] = deque()
        self._ring_length = ring
        self._ring_bytes = 0
        self._revision = revision
        self._changed = asyncio.Event()
        self._over: PoolError | None = None

    @property
    def revision(self) -> int:
        """The last published revision."""
        return self._revision

    def publish(self, commits: Sequence[Commit]) -> None:
        """Make consecutive commits known; they follow the last published one."""
        self._ring.extend(commits)
        self._ring_bytes += sum(len(commit.data) for commit in commits)
        while len(self._ring) > self._ring_length or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().data)
        self._revision = commits[-1].revision
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self, reason: PoolError) -> None:
        """The mastership is over: everybody who follows gets `reason`."""
        self._over = reason
        self._changed.set()

    async def wait(self, revision: int) -> None:
        """Until a commit after `revision` has been published; raises when the mastership ends."""
        while self._revision <= revision:
            if self._over is not None:
                raise self._over
            await self._changed.wait()

    async def after(self, revision: int) -> list[Commit]:
        """The commits that follow `revision`, as many as go together; waits until there is one.

        `HISTORY_GONE` when the next one is no longer kept, `NO_MASTER` when the store, which a
        follower that lags is served from, does not answer.
        """
        await self.wait(revision)
        if self._ring and self._ring[0].revision <= revision + 1:
            start = revision + 1 - self._ring[0].revision
            return _chunk(islice(self._ring, start, start + CHUNK))
        try:
            found = await read_log(self._store, after=revision, limit=LOG_PAGE)
        except StoreError as error:
            raise PoolError(Reason.NO_MASTER, host="the master", problem=str(error)) from error
        # What the store has beyond the published revision is not acknowledged yet.
        commits = [Commit(d, b) for d, b in found if d.commit.revision <= self._revision]
        if not commits or commits[0].revision != revision + 1:
            oldest = commits[0].revision - 1 if commits else self._revision
            raise PoolError(Reason.HISTORY_GONE, since=str(revision), oldest=str(oldest))
        return _chunk(commits)


def _chunk(commits: Iterable[Commit]) -> list[Commit]:
    """The first commits, at least one, that are not larger than a message may be."""
    chosen: list[Commit] = []
    size = 0
    for commit in commits:
        size += len(commit.data)
        if chosen and size > CHUNK_BYTES:
            break
        chosen.append(commit)
    return chosen
