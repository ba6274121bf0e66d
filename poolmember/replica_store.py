"""The durable replica of the pool's metadata that every host keeps.

The file is used from one thread of its own: each operation is one hop there and back, and one
transaction, however many deltas it brings. (aiosqlite hops once per statement and offers no public
way to do more at a time.) Operations happen in the order in which they were called.

A caller that is cancelled does not cancel what was begun: `head` tells what has become of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from poolcore.model import PoolId
from poolcore.replica import Delta, State, dump
from poolmanager.v1 import chain_pb2
from poolmember.replica_file import ReplicaFile
from poolmember.replica_schema import ReplicaHead

T = TypeVar("T")


class ReplicaStore:
    """See the module's docstring; made by `open`, given back by `close`."""

    def __init__(self, file: ReplicaFile, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, pool: PoolId, create: bool = False) -> ReplicaStore:
        """Open the replica of `pool`; `create` makes an empty one where there is none.

        Raises `STATE_MISSING`, `STATE_ON_NETWORK_FILESYSTEM`, `STATE_CORRUPT`,
        `STATE_SCHEMA_TOO_NEW`, `STATE_OF_ANOTHER_POOL` or `STATE_UNWRITABLE`, and then has changed
        no byte of the file.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replica")
        opening = thread.submit(ReplicaFile.open, path, pool=pool, create=create)
        try:
            file = await asyncio.wrap_future(opening)
        except BaseException:
            # Cancelled: what the thread opens nevertheless is closed there, too.
            thread.submit(_close_opened, opening)
            thread.shutdown(wait=False)
            raise
        return cls(file, thread)

    @property
    def head(self) -> ReplicaHead:
        """How far the replica is, durably."""
        return self._file.head

    async def load(self) -> tuple[State | None, int]:
        """The state, none before the first snapshot, and the highest term that was obeyed.

        `STATE_CORRUPT` when an object cannot be decoded.
        """
        return await self._in_thread(lambda: (self._file.load(), self._file.head.highest_term))

    async def append(self, deltas: Sequence[tuple[Delta, bytes]]) -> None:
        """Apply consecutive deltas, each with the bytes it came as: all of them, or none.

        Durable on return. `DeltaDoesNotFollow` when one does not follow its predecessor. After
        `STATE_UNWRITABLE`, because the disk refused, they may all be there: the next operation
        finds out, and `head` says so from then on.
        """
        await self._in_thread(lambda: self._file.append(deltas))

    async def replace(self, frames: Sequence[chain_pb2.SnapshotFrame]) -> State:
        """Become what a complete snapshot says, all at once, and return that state.

        `MalformedMessage` for an incomplete snapshot or a wrong digest, `STATE_OF_ANOTHER_POOL`
        for one of another pool: the old content stays then, as it does after a crash midway.
        """
        return await self._in_thread(lambda: self._file.replace(frames))

    async def obey(self, term: int) -> None:
        """Record durably that no term below `term` is obeyed any more."""
        await self._in_thread(lambda: self._file.obey(term))

    async def log_after(self, revision: int) -> list[bytes]:
        """Every delta after `revision`, serialized, in order; `HISTORY_GONE` if one is missing."""
        return await self._in_thread(lambda: self._file.log_after(revision))

    async def read_log(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` serialized deltas that follow revision `after`, as far as they are kept."""
        return await self._in_thread(lambda: self._file.read_log(after, limit))

    async def dump(self) -> str:
        """The canonical form of the state; empty before the first snapshot."""

        def text() -> str:
            state = self._file.load()
            return "" if state is None else dump(state)

        return await self._in_thread(text)

    async def close(self) -> None:
        """Give the file back after everything that was begun has ended; once is enough."""
        if not self._closed:
            self._closed = True
            await self._in_thread(self._file.close)
            self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _close_opened(opening: Future[ReplicaFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
