"""Commits that this host has and its pool has not: put aside before the replica forgets them.

A pool that went on without its newest commits, by an emergency transition, is of a newer
incarnation. A host of the older one comes back as a member and takes the pool's state. What it had
committed beyond the last revision that both share is written down first, one line of JSON for each
object that a commit changed (docs/recovery.md), for people to look at and to make again what is
worth it. Nothing makes it again by itself.

What an object was before a commit is told by the host's own history as far as that is kept, and
else by the pool's present state.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from poolcore.facts import Recovery
from poolcore.model import HostId, Incarnation, Kind, Object, Pool, PoolId
from poolcore.replica import Delta, Put, plain
from poolcore.wire.chain import decode_delta
from poolcore.wire.codec import MalformedMessage, from_proto, object_from_proto
from poolmanager.v1 import chain_pb2
from poolmaster.succession import shared_revision

if TYPE_CHECKING:
    from poolmember.session import Follower

log = logging.getLogger(__name__)

PAGE = 64

Key = tuple[Kind, str]
ReadLog = Callable[[int, int], Awaitable[Sequence[Delta]]]
"""`(after, limit)` to the deltas that follow a revision, as far as they are kept."""
Known = Mapping[Key, Object]
"""Objects of the pool that went on, by what they are."""


class Recoveries(Protocol):
    """What a host has put aside. What `save` has written is durable on its return."""

    async def save(self, name: str, lines: Sequence[str]) -> None:
        """Add lines to what is there under a name; a commit that is there is replaced.

        `STATE_UNWRITABLE` if the disk refuses.
        """
        ...

    async def all(self) -> tuple[Recovery, ...]:
        """What there is, the oldest incarnation first."""
        ...

    async def read(self, name: str, after: int) -> tuple[tuple[str, ...], int | None]:
        """Lines behind the first `after` ones, and where to go on, none at the end.

        KeyError when there is nothing of that name.
        """
        ...


async def save_beyond(
    recoveries: Recoveries,
    read_log: ReadLog,
    *,
    after: int,
    host: HostId,
    pool: PoolId,
    incarnation: Incarnation,
    known: Callable[[set[Key]], Known] = lambda keys: {},
) -> int:
    """Put aside every commit of a log after a revision; how many there were.

    `read_log` reads a replica's or a store's, of the given incarnation. `known` is asked for
    objects of the pool that went on, where the log does not tell what an object was.
    """
    beyond = [delta async for delta in _deltas(read_log, after)]
    if not beyond:
        return 0
    history = _History({_key(change) for delta in beyond for change in delta.changes})
    await history.read(read_log, after)
    history.complete(known)
    of = {"host": host, "pool": pool, "incarnation": plain(incarnation)}
    lines = [line for delta in beyond for line in _lines(delta, history, of)]
    await recoveries.save(recovery_name(incarnation), lines)
    return len(beyond)


def recovery_name(incarnation: Incarnation) -> str:
    """The name under which commits of an incarnation are put aside."""
    return f"{incarnation.counter}-{incarnation.uuid[:8]}"


def objects_in(frames: Iterable[chain_pb2.SnapshotFrame], keys: set[Key]) -> Known:
    """Some of the objects that a snapshot holds, as far as it has them."""
    found = {}
    for frame in frames:
        for message in frame.objects:
            which = message.WhichOneof("object")
            key = (Kind(which), getattr(message, which).uuid) if which in set(Kind) else None
            if key in keys:
                found[key] = object_from_proto(message)
    return found


async def put_aside(follower: Follower, frames: Sequence[chain_pb2.SnapshotFrame]) -> None:
    """Save what a replica has and the pool has not, before a snapshot replaces it."""
    incarnation = from_proto(frames[0].header.incarnation)
    await put_aside_beyond(
        follower, _pool_in(frames), incarnation, known=partial(objects_in, frames)
    )


async def put_aside_beyond(
    follower: Follower,
    pool: Pool,
    incarnation: Incarnation,
    *,
    known: Callable[[set[Key]], Known] = lambda keys: {},
) -> None:
    """Save what a host has that the pool, by now of another incarnation, has not.

    Also what only the disk of its etcd has: the master may be gone that would have told it.
    """
    ours = follower.store.head.incarnation
    if ours is None or follower.recoveries is None:
        return
    shared = shared_revision(pool, incarnation, ours)
    if shared is None:
        return
    lives = {incarnation.uuid, *(ancestor.uuid for ancestor in pool.lineage)}
    on_disk = [
        delta
        for delta in await _only_on_disk(follower, ours)
        if delta.succession is None or delta.succession.incarnation.uuid not in lives
    ]

    async def read_log(after: int, limit: int) -> Sequence[Delta]:
        later = [delta for delta in on_disk if delta.commit.revision > after]
        return await follower.log(after, limit) or later[:limit]

    saved = await save_beyond(
        follower.recoveries,
        read_log,
        after=shared,
        host=follower.host,
        pool=follower.pool,
        incarnation=ours,
        known=known,
    )
    if saved:
        log.warning(
            "%d commits of incarnation %d after revision %d are not in the pool; saved as %s",
            saved,
            ours.counter,
            shared,
            recovery_name(ours),
        )


async def _only_on_disk(follower: Follower, incarnation: Incarnation) -> Sequence[Delta]:
    newest = await follower.newest_commit()
    if newest is None or follower.beyond is None:
        return ()
    found = map(decode_delta, (await follower.beyond(newest)).deltas)
    return [delta for delta in found if delta.incarnation == incarnation.uuid]


def _pool_in(frames: Sequence[chain_pb2.SnapshotFrame]) -> Pool:
    messages = (m for frame in frames for m in frame.objects if m.WhichOneof("object") == "pool")
    found = next(messages, None)
    pool = None if found is None else object_from_proto(found)
    if not isinstance(pool, Pool):
        raise MalformedMessage("a snapshot without a pool")
    return pool


async def saved_by(follower: Follower) -> Sequence[Recovery]:
    """What the host has put aside of the pool that it follows."""
    found = await follower.recoveries.all() if follower.recoveries is not None else ()
    return [recovery for recovery in found if recovery.pool == follower.pool]


class _History:
    """What objects were before each commit, as the commits are gone through in order."""

    def __init__(self, keys: set[Key]) -> None:
        self._keys = keys
        self._now: dict[Key, Object | None] = {}
        self._pools: set[Key] = set()
        """Told by the pool that went on, not by the history."""
        self._whole = False

    async def read(self, read_log: ReadLog, until: int) -> None:
        """Take what the commits up to a revision tell."""
        first = await read_log(0, 1)
        self._whole = bool(first) and first[0].predecessor.revision == 0
        async for delta in _deltas(read_log, 0, until=until):
            for change in delta.changes:
                if _key(change) in self._keys:
                    self.take(change)

    def complete(self, known: Callable[[set[Key]], Known]) -> None:
        """Ask the pool for what the history does not tell."""
        missing = set() if self._whole else self._keys - self._now.keys()
        if missing:
            found = known(missing)
            self._now |= found
            self._pools |= found.keys()

    def before(self, key: Key) -> tuple[Object | None, str | None]:
        """What an object was, and who says so: the log, the pool, or nobody."""
        if key in self._now:
            return self._now[key], "pool" if key in self._pools else "log"
        return None, "log" if self._whole else None

    def take(self, change: Any) -> None:
        """A commit has made this change."""
        key = _key(change)
        self._now[key] = change.object if isinstance(change, Put) else None
        self._pools.discard(key)


def _lines(delta: Delta, history: _History, of: Mapping[str, Any]) -> list[str]:
    lines = []
    for change in delta.changes:
        kind, uuid = _key(change)
        before, before_from = history.before((kind, uuid))
        history.take(change)
        after = change.object if isinstance(change, Put) else None
        name = getattr(after, "name_label", "") or getattr(before, "name_label", "")
        line = {
            "revision": delta.commit.revision,
            "term": delta.commit.term,
            "request_id": None if delta.request is None else delta.request.id,
            "object": {"kind": kind.value, "uuid": uuid, "name_label": name},
            "before": plain(before),
            "before_from": before_from,
            "after": plain(after),
            **of,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    return lines


def _key(change: Any) -> Key:
    if isinstance(change, Put):
        return change.object.KIND, change.object.uuid
    return change.kind, change.uuid


async def _deltas(read_log: ReadLog, after: int, *, until: int | None = None) -> Any:
    """Every delta after a revision, page by page."""
    while page := await read_log(after, PAGE):
        for delta in page:
            if until is not None and delta.commit.revision > until:
                return
            yield delta
        after = page[-1].commit.revision
