"""Clients that write all the time, and the book of what they were told of each write."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

from poolclient import NoMaster, OutcomeUnknown, PoolClient, TimedOut
from poolcore.requests import request_id

PAUSE_SECONDS = 0.02
"""Of each client between two writes: the store must remember what the test has not read yet."""


@dataclass
class Book:
    """What the clients were told, by request id."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    """The revisions of writes that were."""
    refused: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    """Of an outcome that is not known yet."""
    unknown: int = 0
    """How often a client was told that."""
    newest: int = 0
    """The highest acknowledged revision."""
    told_at: list[float] = field(default_factory=list)
    """When each acknowledgement came, in seconds of the event loop's clock."""
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledge(self, asked: str, revision: int) -> None:
        """A write was made."""
        self.acknowledged[asked] = revision
        self.newest = max(self.newest, revision)
        self.told_at.append(asyncio.get_running_loop().time())
        self._told.set()
        self._told = asyncio.Event()

    @property
    def longest_pause_seconds(self) -> float:
        """Of the times from one acknowledgement to the next one, the longest."""
        return max(b - a for a, b in pairwise(self.told_at))

    async def goes_on(self, writes: int = 1) -> None:
        """Until so many more writes have been acknowledged."""
        end = len(self.acknowledged) + writes
        while len(self.acknowledged) < end:
            await self._told.wait()

    def check(self, made: Mapping[str, int]) -> None:
        """That what was made (revisions by request id) is what the clients were told."""
        assert not self.open, "every unknown outcome has been settled"
        lost = {a for a, revision in self.acknowledged.items() if made.get(a) != revision}
        assert not lost, f"acknowledged and not in the chain there: {lost}"
        made_all_the_same = self.refused & made.keys()
        assert not made_all_the_same, f"refused and made: {made_all_the_same}"


class Writers:
    """Several clients, each writing to an entry of its own at one host's object, one by one."""

    def __init__(self, book: Book, *, to: str) -> None:
        self.book = book
        self._to = to
        self._over = False

    def end(self) -> None:
        """Each client settles the write it has under way, and makes no other."""
        self._over = True

    async def write(self, addresses: Sequence[str], name: str) -> None:
        """One client's writes, until the end."""
        async with PoolClient.connect(*addresses) as pool:
            for number in count():
                if self._over:
                    return
                await self._one(pool, name, f"{name} {number}")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _one(self, pool: PoolClient, name: str, mark: str) -> None:
        """One write, until it is known what has become of it."""
        asked = request_id(pool.revision, secrets.token_hex(8))
        unknown = False
        while True:
            try:
                done = await pool.hosts.set(self._to, other_config={name: mark}, request_id=asked)
            except OutcomeUnknown as error:
                if error.request_id != asked:
                    raise
                unknown = True
                self.book.unknown += 1
                self.book.open.add(asked)
            except (NoMaster, TimedOut):
                # Of a repetition, this tells nothing about the first attempt.
                if not unknown:
                    self.book.refused.add(asked)
                    return
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.book.open.discard(asked)
                self.book.acknowledge(asked, done.revision)
                return


@asynccontextmanager
async def writers(
    addresses: Sequence[Sequence[str]], *, to: str = "phantom"
) -> AsyncIterator[Book]:
    """So many clients that write as long as the block runs, each with the addresses it knows.

    They write to the object of the host `to`. When it ends, every write of theirs has an outcome.
    """
    found = Writers(Book(), to=to)
    async with asyncio.TaskGroup() as tasks:
        for number, known in enumerate(addresses):
            tasks.create_task(found.write(known, f"client{number}"))
        yield found.book
        found.end()
