"""The event stream: every commit after a revision, each exactly once and in order."""

from __future__ import annotations

import asyncio
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.model import Incarnation, Kind
from poolcore.replica import Put, State
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import enum_from_proto, enum_to_proto, object_to_proto, to_proto
from poolcore.wire.serving import Send
from poolmanager.v1 import event_service_pb2 as pb
from poolmaster.feed import Commit
from poolmaster.mastership import Mastership
from poolmaster.succession import shared_revision

HEAD_SECONDS = 1.0


async def watch(master: Mastership, request: pb.WatchRequest, send: Send) -> None:
    """Serve one watcher until it goes away."""
    state = await master.fresh()
    kinds = frozenset(enum_from_proto(Kind, number) for number in request.kinds)
    if request.HasField("incarnation") and not _is_of_this_chain(request, state):
        raise PoolError(
            Reason.INCARNATION_MISMATCH,
            expected=request.incarnation,
            actual=state.incarnation.uuid,
        )
    if request.HasField("since_revision"):
        cursor = request.since_revision
        if cursor > state.revision:
            problem = f"is beyond the newest revision, {state.revision}"
            raise PoolError(Reason.INVALID_VALUE, field="since_revision", problem=problem)
    else:
        cursor = state.revision
        for frame in snapshot_frames(state):
            await send(pb.WatchResponse(snapshot=frame))
            await asyncio.sleep(0)
    await send(pb.WatchResponse(head=to_proto(master.ledger.head)))
    while True:
        if not await master.ledger.feed.wait(cursor, seconds=HEAD_SECONDS):
            await send(pb.WatchResponse(head=to_proto(master.ledger.head)))
            continue
        for commit in await master.ledger.feed.after(cursor):
            await send(pb.WatchResponse(commit=_events(commit, kinds)))
            cursor = commit.revision


def _is_of_this_chain(request: pb.WatchRequest, state: State) -> bool:
    """Whether a cursor is of this incarnation, or from where an earlier one went on as this one."""
    earlier = Incarnation(0, request.incarnation)
    shared = shared_revision(state.pool, state.incarnation, earlier)
    return shared is None or 0 < request.since_revision <= shared


def _events(commit: Commit, kinds: frozenset[Kind]) -> pb.CommitEvents:
    events = []
    for change in commit.delta.changes:
        if isinstance(change, Put):
            kind, uuid = change.object.KIND, change.object.uuid
        else:
            kind, uuid = change.kind, change.uuid
        if kinds and kind not in kinds:
            continue
        event: dict[str, Any] = {"kind": enum_to_proto(kind), "uuid": uuid}
        if isinstance(change, Put):
            event |= {"type": pb.EVENT_TYPE_PUT, "object": object_to_proto(change.object)}
        else:
            event["type"] = pb.EVENT_TYPE_REMOVE
        events.append(pb.Event(**event))
    return pb.CommitEvents(commit=to_proto(commit.delta.commit), events=events)
