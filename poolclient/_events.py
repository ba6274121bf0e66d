"""The pool's history as it happens: every commit exactly once and in order.

`watch` is one stream, as long as it lasts. `events` lasts: it opens the next stream where the
last one broke, at another address if need be. A revision that was told is never told again and
none is left out; when the pool no longer keeps what comes next, that is an error
(`HistoryGone`), not a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import grpc

from poolclient._connection import failure
from poolclient._deadline import Deadline
from poolclient._errors import NoMaster
from poolclient._freshness import Cursor
from poolclient._transport import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    NOT_AT_THIS_HOST,
    Transport,
)
from poolcore.errors import Reason
from poolcore.model import Kind
from poolcore.replica import Change, CommitId, Head, Put, Remove, State
from poolcore.wire.chain import SnapshotAssembler
from poolcore.wire.codec import enum_from_proto, enum_to_proto, from_proto, object_from_proto
from poolmanager.v1 import event_service_pb2

SILENCE_SECONDS = 4.0
"""A stream tells the head every second; one that is silent for longer than this has broken."""


@dataclass(frozen=True, slots=True)
class Event:
    """One commit of the pool: what became of which objects, in order."""

    incarnation: str
    commit: CommitId
    changes: tuple[Change, ...]

    @property
    def revision(self) -> int:
        """Which commit it is; dense, from 1."""
        return self.commit.revision

    @property
    def term(self) -> int:
        """Under which mastership it was made."""
        return self.commit.term

    @property
    def cursor(self) -> Cursor:
        """Where to go on behind this event: `pool.events(since=event.cursor)`."""
        return Cursor(self.incarnation, self.commit.revision)


Item = State | Head | Event
"""What a stream tells: the state it starts from, if it was asked for, then commits and heads."""


class StreamBroken(Exception):
    """The stream ended; what comes next is to be had from another one."""


def _changes(commit: event_service_pb2.CommitEvents) -> tuple[Change, ...]:
    return tuple(
        Put(object_from_proto(e.object))
        if e.type == event_service_pb2.EVENT_TYPE_PUT
        else Remove(enum_from_proto(Kind, e.kind), e.uuid)
        for e in commit.events
    )


class _Reader:
    """Makes items of a stream's messages: each commit once, in order, none left out."""

    def __init__(self, since: int | None) -> None:
        self._revision = since
        self._incarnation: str | None = None
        """What the stream is of, once it has said so; it may have gone on from an earlier one."""
        self._snapshot = SnapshotAssembler() if since is None else None

    def item(self, response: event_service_pb2.WatchResponse) -> Item | None:
        """The item that a message completes, if it does; `StreamBroken` when one is missing."""
        which = response.WhichOneof("item")
        if which == "snapshot" and self._snapshot is not None:
            state = self._snapshot.add(response.snapshot)
            if state is not None:
                self._incarnation, self._revision = state.incarnation.uuid, state.revision
            return state
        if which == "head":
            head: Head = from_proto(response.head)
            if self._incarnation not in {None, head.incarnation.uuid}:
                raise StreamBroken("the pool's incarnation has changed")
            self._incarnation = head.incarnation.uuid
            return head
        if which == "commit" and self._is_news(response.commit.commit.revision):
            commit: CommitId = from_proto(response.commit.commit)
            return Event(self._incarnation or "", commit, _changes(response.commit))
        return None

    def _is_news(self, revision: int) -> bool:
        if self._revision is not None and revision <= self._revision:
            return False
        if self._revision is not None and revision != self._revision + 1:
            raise StreamBroken(f"revision {revision} after {self._revision}")
        self._revision = revision
        return True


async def watch(
    transport: Transport,
    *,
    since: int | None,
    incarnation: str | None = None,
    kinds: Iterable[Kind] = (),
    connect_seconds: float,
) -> AsyncGenerator[Item, None]:
    """One stream: with `since` None the state first; then every commit, until it breaks.

    Raises `StreamBroken` when it ends for a reason that another stream may not have, and
    `PoolClientError` otherwise.
    """
    connection = await transport.connection(Deadline.after(connect_seconds))
    call = connection.event.Watch(
        event_service_pb2.WatchRequest(
            since_revision=since, incarnation=incarnation, kinds=[enum_to_proto(k) for k in kinds]
        )
    )
    reader = _Reader(since)
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                response = await call.read()
            if not isinstance(response, event_service_pb2.WatchResponse):
                raise StreamBroken("the host ended the stream")
            item = reader.item(response)
            if item is not None:
                yield item
    except TimeoutError:
        transport.lost(connection)
        raise StreamBroken("silence") from None
    except grpc.aio.AioRpcError as error:
        problem, lost = failure(error, connection)
        if lost:
            transport.lost(connection)
        if lost or problem.reason in NOT_AT_THIS_HOST | {Reason.DEADLINE_PASSED}:
            raise StreamBroken(problem.message) from None
        raise problem from None
    finally:
        call.cancel()


class Pause:
    """The time between two attempts: doubles up to a second, and starts anew after a success."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """The last attempt got somewhere."""
        self._seconds = FIRST_PAUSE_SECONDS

    async def wait(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, LONGEST_PAUSE_SECONDS)


async def events(
    transport: Transport,
    *,
    since: Cursor,
    kinds: Iterable[Kind] = (),
    connect_seconds: float,
    on_break: Callable[[str], None] | None = None,
) -> AsyncGenerator[Event, None]:
    """Every commit after `since`, for as long as the caller listens.

    A cursor with an empty incarnation is of the present one. With `kinds`, only changes of those,
    and no commits without any.
    """
    kinds = tuple(kinds)
    revision, incarnation = since.revision, since.incarnation or None
    pause = Pause()
    while True:
        stream = watch(
            transport,
            since=revision,
            incarnation=incarnation,
            kinds=kinds,
            connect_seconds=connect_seconds,
        )
        try:
            async with aclosing(stream):
                async for item in stream:
                    pause.reset()
                    if isinstance(item, Event):
                        revision, incarnation = item.revision, item.incarnation
                        transport.horizon.advance(incarnation, revision)
                        if item.changes or not kinds:
                            yield item
                    elif isinstance(item, Head):
                        incarnation = item.incarnation.uuid
        except (StreamBroken, NoMaster) as error:
            if on_break is not None:
                on_break(str(error))
        await pause.wait()
