"""What the members in a process note, and how they tell it to the benchmark."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any


class Notes:
    """When the last of the members in this process had applied a commit.

    Moments are of the machine's monotonic clock, which all its processes share.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self._revisions = dict.fromkeys(members, 0)
        self._moments: dict[int, float] = {}
        self._changed = asyncio.Event()

    def has_snapshot(self, member: str, revision: int) -> None:
        """A member has the state at a revision."""
        self._moved(member, revision)

    def has_applied(self, member: str, revision: int, *, commits: int) -> None:
        """A member has applied so many commits, the last of them that of `revision`."""
        now = time.monotonic()
        # Each member overwrites what an earlier one noted: what stays is the last one's moment.
        self._moments.update((revision - nth, now) for nth in range(commits))
        self._moved(member, revision)

    def _moved(self, member: str, revision: int) -> None:
        self._revisions[member] = revision
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, revision: int) -> None:
        while min(self._revisions.values()) < revision:
            await self._changed.wait()

    async def tell(self, members: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run the members; say `ready` when all have their snapshots.

        Then, asked for a revision, say when the last member had each commit up to it, and end.
        """
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(member) for member in members]
            await self._until(1)
            print("ready", flush=True)
            await self._until(int(await asyncio.to_thread(sys.stdin.readline) or 0))
            print(json.dumps(self._moments), flush=True)
            for task in following:
                task.cancel()
