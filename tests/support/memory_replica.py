"""A replica in memory: the surface of `poolmember.replica_store.ReplicaStore` without a file.

What has become durable is in a `ReplicaContent`, which outlives the objects that use it, as a file
outlives a daemon. `tests/unit/test_replica_memory.py` holds both to the same behaviour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolcore.replica import Delta, DeltaDoesNotFollow, State, apply, dump
from poolcore.wire.chain import SnapshotAssembler
from poolcore.wire.codec import MalformedMessage
from poolmanager.v1 import chain_pb2
from poolmember.replica_schema import ReplicaHead


@dataclass
class ReplicaContent:
    """What is durable."""

    pool: PoolId
    highest_term: int = 0
    state: State | None = None
    log: dict[int, bytes] = field(default_factory=dict)


async def _at_once() -> None:
    return


class MemoryReplica:
    """See the module's docstring.

    `sync` is awaited before each write becomes durable; what it raises, the write raises, and then
    nothing has changed. `changed` is told the content after each write.
    """

    def __init__(
        self,
        content: ReplicaContent,
        *,
        sync: Callable[[], Awaitable[None]] = _at_once,
        changed: Callable[[ReplicaContent], None] = lambda _: None,
    ) -> None:
        self._content = content
        self._sync = sync
        self._changed = changed
        self._writing: Callable[[], None] | None = None
        """What makes the write that is under way durable."""

    @property
    def head(self) -> ReplicaHead:
        content = self._content
        state = content.state
        if state is None:
            return ReplicaHead(content.pool, content.highest_term, None, None)
        return ReplicaHead(content.pool, content.highest_term, state.incarnation, state.last)

    async def load(self) -> tuple[State | None, int]:
        return self._content.state, self._content.highest_term

    async def append(self, deltas: Sequence[tuple[Delta, bytes]]) -> None:
        content = self._content
        state = content.state
        if not deltas:
            return
        if state is None:
            raise DeltaDoesNotFollow("the replica has no snapshot yet")
        log = dict(content.log)
        for delta, raw in deltas:
            state = apply(state, delta)
            log[delta.commit.revision] = raw
            oldest = state.revision - state.history_revisions
            log = {revision: data for revision, data in log.items() if revision > oldest}
        after = state
        crossed = any(delta.succession is not None for delta, _ in deltas)

        def land() -> None:
            content.state, content.log = after, log
            content.highest_term = max(0 if crossed else content.highest_term, after.last.term)
            self._changed(content)

        await self._write(land)

    async def replace(self, frames: Sequence[chain_pb2.SnapshotFrame]) -> State:
        content = self._content
        assembler, state = SnapshotAssembler(), None
        for frame in frames:
            if state is not None:
                raise MalformedMessage("a frame after the last one of the snapshot")
            state = assembler.add(frame)
        if state is None:
            raise MalformedMessage("the snapshot ends before its last frame")
        if state.pool.uuid != content.pool:
            raise PoolError(
                Reason.STATE_OF_ANOTHER_POOL,
                path="the snapshot",
                found=f"pool {state.pool.uuid}",
                expected=f"pool {content.pool}",
            )
        before, after = content.state, state

        def land() -> None:
            same = before is None or before.incarnation.uuid == after.incarnation.uuid
            content.highest_term = max(content.highest_term if same else 0, after.last.term)
            content.state, content.log = after, {}
            self._changed(content)

        await self._write(land)
        return after

    async def _write(self, land: Callable[[], None]) -> None:
        self._writing = land
        try:
            await self._sync()
            land()
        finally:
            self._writing = None

    def finish_writing(self) -> None:
        """What was under way has got to the disk before the power went off."""
        if self._writing is not None:
            self._writing()
            self._writing = None

    async def obey(self, term: int) -> None:
        if term > self._content.highest_term:
            await self._sync()
            self._content.highest_term = max(self._content.highest_term, term)

    async def log_after(self, revision: int) -> list[bytes]:
        content = self._content
        last = 0 if content.state is None else content.state.revision
        kept = sorted(r for r in content.log if r > revision)
        oldest = kept[0] if kept else last + 1
        if revision < last and oldest != revision + 1:
            raise PoolError(Reason.HISTORY_GONE, since=str(revision), oldest=str(oldest))
        return [content.log[r] for r in kept]

    async def read_log(self, after: int, limit: int) -> list[bytes]:
        kept = sorted(r for r in self._content.log if r > after)
        return [self._content.log[r] for r in kept[:limit]]

    async def dump(self) -> str:
        return "" if self._content.state is None else dump(self._content.state)

    async def close(self) -> None:
        return
