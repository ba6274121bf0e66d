"""A failover drill as a client sees it: small writes all the time, and what became of each.

The writes change an entry of the pool's `other_config`, one after the other, each with a request id
of its own, and the entry is removed at the end. Then the pool's history is read: it names the
request that each commit answered, and so shows whether an acknowledged write is there, once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from poolclient._core import Core
from poolclient._difference import difference
from poolclient._errors import NoMaster, PoolClientError
from poolclient._owned import OwnedTasks
from poolclient._tasks import TaskHandle
from poolclient._writes import new_request_id
from poolcore.difference import Touch
from poolcore.errors import Reason
from poolcore.model import HostId, Kind
from poolcore.outlook import HostRef
from poolcore.wire.codec import from_proto
from poolmanager.v1 import patch_pb2, pool_service_pb2

KEY = "failover_drill"
"""The entry of the pool's `other_config` that is written."""
PAUSE_SECONDS = 0.02
WRITES_AROUND = 10
"""So many are acknowledged before the drill begins, and by the new master."""
WRITE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """What a failover drill came to. Times are this client's, from answer to answer."""

    old_master: HostRef
    new_master: HostRef
    old_term: int
    new_term: int
    outage_seconds: float
    """From the last write that the old mastership acknowledged to the first of a later one."""
    acknowledged: int
    """How many of the drill's writes were."""
    lost: int
    """How many of these the pool does not have at the revision that was acknowledged."""
    repeated: int
    """How many it has made more than once."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledged write; `at` is in seconds of the event loop's clock."""

    request_id: str
    revision: int
    at: float


async def check_drill(core: Core, timeout_seconds: float | None) -> HostRef:
    """Who is expected to be master next; `Conflict` when a drill would not be safe now."""
    request = pool_service_pb2.DrillFailoverRequest()
    deadline = core.deadline(timeout_seconds)
    answer = await core.transport.ask(lambda c: c.pool.DrillFailover, request, deadline)
    found: HostRef = from_proto(answer.next_master)
    return found


async def drill_failover(core: Core, timeout_seconds: float | None) -> DrillReport:
    """Have the master fall silent while this client writes; what that came to."""
    before, term = await _master(core)
    since = core.transport.horizon.revision
    async with _written_all_the_time(core) as answers:
        await answers.more(WRITES_AROUND)
        await _ended(core, term, timeout_seconds)
        await answers.more(WRITES_AROUND)
        after, _ = await _master(core)
        await answers.end()
        # Before the entry is removed: what is at the end as it was at the beginning is no
        # difference.
        touches = await _touches(core, since)
    return report(answers.found, touches, old_master=before, new_master=after, old_term=term)


def report(
    answers: Sequence[Answer],
    touches: Sequence[Touch],
    *,
    old_master: HostRef,
    new_master: HostRef,
    old_term: int,
) -> DrillReport:
    """What the answers, in order, and the commits that the pool has of them, in order, tell."""
    made = Counter(touch.request_id for touch in touches)
    terms = {touch.revision: touch.term for touch in touches}
    there = {(touch.request_id, touch.revision) for touch in touches}
    lost = [a for a in answers if (a.request_id, a.revision) not in there]
    by_old = [a.at for a in answers if terms.get(a.revision, 0) == old_term]
    by_new = [a.at for a in answers if terms.get(a.revision, 0) > old_term]
    return DrillReport(
        old_master=old_master,
        new_master=new_master,
        old_term=old_term,
        new_term=max(terms.values(), default=old_term),
        outage_seconds=min(by_new) - max(by_old) if by_old and by_new else 0.0,
        acknowledged=len(answers),
        lost=len(lost),
        repeated=sum(1 for a in answers if made[a.request_id] > 1),
    )


async def _master(core: Core) -> tuple[HostRef, int]:
    """Who is master, of which term; `NoMaster` where that is not known for certain."""
    status = await core.status(None)
    if status.master is None or status.head is None or status.freshness.stale:
        problem = "it has no connection to one"
        raise NoMaster(Reason.NO_MASTER, host=core.transport.address, problem=problem)
    master = HostRef(uuid=HostId(status.master.uuid), name_label=status.master.name)
    return master, status.head.term


async def _ended(core: Core, term: int, timeout_seconds: float | None) -> None:
    """Start the drill and wait for its end; raises why it was refused or failed."""
    request = pool_service_pb2.DrillFailoverRequest(
        request_id=new_request_id(core.transport), term=term, consent=True
    )
    answer = await core.transport.write(
        lambda c: c.pool.DrillFailover, request, core.deadline(timeout_seconds), request.request_id
    )
    await TaskHandle(core, from_proto(answer.task)).wait(timeout_seconds=timeout_seconds)


async def _touches(core: Core, since: int) -> tuple[Touch, ...]:
    """The commits that changed the pool object after a revision, in order."""
    found = await difference(core.transport, since, None, core.deadline(WRITE_SECONDS))
    pool = [item for item in found.objects if item.kind is Kind.POOL]
    return pool[0].touches if pool else ()


class _Answers:
    """The answers to writes under way."""

    def __init__(self, core: Core, tasks: OwnedTasks) -> None:
        self._core = core
        self.found: list[Answer] = []
        self._next = asyncio.Event()
        self._over = False
        self._writing = tasks.task(self._write())

    async def more(self, number: int) -> None:
        """Until so many more have come; raises what a write has failed with."""
        end = len(self.found) + number
        while len(self.found) < end:
            if self._writing.done():
                self._writing.result()
            await self._next.wait()

    async def end(self) -> None:
        """Write no more; returns when the last one was answered."""
        self._over = True
        await self._writing

    async def _write(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while not self._over:
                asked = new_request_id(self._core.transport)
                revision = await _write(self._core, str(len(self.found)), asked)
                self.found.append(Answer(asked, revision, clock()))
                self._ring()
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._ring()

    def _ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


@asynccontextmanager
async def _written_all_the_time(core: Core) -> AsyncIterator[_Answers]:
    try:
        async with OwnedTasks() as tasks:
            yield _Answers(core, tasks)
    finally:
        # Without a master now, the entry stays; it means nothing, and the next drill removes it.
        with suppress(PoolClientError):
            await _write(core, None, new_request_id(core.transport))


async def _write(core: Core, value: str | None, request_id: str) -> int:
    """Set the entry, or remove it; which revision that was."""
    patch = (
        patch_pb2.MetadataPatch(remove_other_config=[KEY])
        if value is None
        else patch_pb2.MetadataPatch(set_other_config={KEY: value})
    )
    request = pool_service_pb2.UpdatePoolRequest(request_id=request_id, patch=patch)
    deadline = core.deadline(WRITE_SECONDS)
    answer = await core.transport.write(lambda c: c.pool.UpdatePool, request, deadline, request_id)
    await core.transport.written(answer.incarnation, answer.revision, deadline)
    return answer.revision
