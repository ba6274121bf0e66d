"""What administrators ask before and after a change: what a loss would come to, what differs.

Both are answered from whatever state and history there is to read, as every other read is: by the
master from its store, by a host without a master from its replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from poolcore.difference import Gathering, ObjectDifference, Outcome
from poolcore.errors import PoolError, Reason
from poolcore.model import Host
from poolcore.replica import Delta, State
from poolcore.wire.codec import to_proto
from poolcore.wire.serving import Send
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.decide.if_lost import LiveFacts, if_lost
from poolmaster.decide.selection import select
from poolmaster.decide.update import invalid
from poolmaster.layout import read_log
from poolmaster.mastership import Mastership
from poolmaster.service.reads import Functions, Read
from poolmaster.store.contract import StoreError

LOG_PAGE = 64

ReadLog = Callable[[int, int], Awaitable[Sequence[Delta]]]
"""`(after, limit)` to the deltas that follow a revision, as far as they are kept."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from, besides the state."""

    facts: Callable[[State], LiveFacts]
    log: ReadLog


def sources_of_master(master: Mastership) -> Sources:
    """The facts as the master knows them, and the log of its store."""

    async def log(after: int, limit: int) -> Sequence[Delta]:
        try:
            return [delta for delta, _ in await read_log(master.store, after=after, limit=limit)]
        except StoreError as error:
            raise PoolError(Reason.NO_MASTER, host="the master", problem=str(error)) from error

    return Sources(master.live_facts, log)


def foresight_functions(read: Read, sources: Sources) -> Functions:
    """`CheckLoss` and `GetDifference`."""
    return {
        "CheckLoss": partial(check_loss, read, sources),
        "GetDifference": partial(get_difference, read, sources),
    }


async def check_loss(
    read: Read, sources: Sources, request: pb.CheckLossRequest
) -> pb.CheckLossResponse:
    """What the loss of some hosts would come to."""
    view = await read()
    lost = frozenset(select(view.state, Host, name).uuid for name in request.hosts)
    outlook = if_lost(view.state, lost, sources.facts(view.state))
    return pb.CheckLossResponse(outlook=to_proto(outlook), freshness=view.freshness())


async def get_difference(
    read: Read, sources: Sources, request: pb.GetDifferenceRequest, send: Send
) -> None:
    """What differs between two revisions, object by object."""
    view = await read()
    since, until = _range(request, view.state.revision)
    found = await difference(sources.log, since, until)
    span = pb.DifferenceSpan(since_revision=since, until_revision=until, freshness=view.freshness())
    await send(pb.GetDifferenceResponse(span=span))
    for item in found:
        if item.outcome is not Outcome.UNCHANGED:
            await send(pb.GetDifferenceResponse(object=to_proto(item)))


def _range(request: pb.GetDifferenceRequest, newest: int) -> tuple[int, int]:
    if not request.HasField("since_revision"):
        raise invalid("since_revision", "is missing")
    since = request.since_revision
    until = request.until_revision if request.HasField("until_revision") else newest
    for field, revision in (("until_revision", until), ("since_revision", since)):
        if revision > newest:
            raise invalid(field, f"{revision} is beyond the newest revision, {newest}")
    if since > until:
        raise invalid("since_revision", f"{since} is after until_revision, {until}")
    return since, until


async def difference(log: ReadLog, since: int, until: int) -> Sequence[ObjectDifference]:
    """What differs, gathered page by page; `HISTORY_GONE` when `since` is before the history."""
    first = await log(0, 1)
    # The oldest revision to start from is the one that the first delta follows.
    oldest = first[0].predecessor.revision if first else until
    if since < oldest:
        raise _gone(since, oldest)
    gathering, at = Gathering(), since
    while at < until:
        page = [d for d in await log(at, LOG_PAGE) if d.commit.revision <= until]
        if not page or page[0].commit.revision != at + 1:
            # It was dropped while this was reading.
            raise _gone(since, page[0].predecessor.revision if page else until)
        for delta in page:
            gathering.add(delta)
        at = page[-1].commit.revision
        await asyncio.sleep(0)
    at = oldest
    while at < since:
        page = [d for d in await log(at, LOG_PAGE) if d.commit.revision <= since]
        if not page:
            break
        for delta in page:
            gathering.look_back(delta)
        at = page[-1].commit.revision
        await asyncio.sleep(0)
    return gathering.result(whole=oldest == 0)


def _gone(since: int, oldest: int) -> PoolError:
    return PoolError(Reason.HISTORY_GONE, since=str(since), oldest=str(oldest))
