"""The members' sessions: feeding replicas, taking reports, knowing who is there.

A session is served over any transport: it reads requests from an iterator and writes with `send`.
A member is fed from the revision it has; from before the history it gets a snapshot. What the
session is never fed is the commit that removes its own host: instead it is told that it was
ejected, or forgotten, so that its replica still holds what it takes along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory, Recovery
from poolcore.model import Host, HostId, HostMetrics, Incarnation
from poolcore.replica import Change, CommitId, Put, State
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import from_proto, to_proto
from poolcore.wire.inventories import inventory_from_proto
from poolmanager.v1 import agent_service_pb2
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.decide.gone import ejected_by, heard, recovered
from poolmaster.feed import Commit
from poolmaster.ledger import Decision, Ledger
from poolmaster.reports import Reports
from poolmaster.succession import shared_revision

log = logging.getLogger(__name__)

Requests = AsyncIterator[pb.SessionRequest]
Send = Callable[[pb.SessionResponse], Awaitable[None]]

Report = Inventory | agent_service_pb2.Inventory
"""What is on a host, as it is told: by the master's own host as it is, by others as a message."""

HELLO_SECONDS = 5.0
RECONNECT_SECONDS = 2.0
"""After a mastership began, members have this long to come before they count as not live."""


@dataclass(slots=True, eq=False)
class Session:
    """A member that is attached to this master."""

    host: HostId
    applied: int
    """The last revision the member has durably applied."""
    behind_since: float | None = None
    """On the monotonic clock: since when it has not had everything; none when it has."""
    progressed: asyncio.Event = field(default_factory=asyncio.Event)
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the same host has opened another session."""
    over: bool = False
    reports: asyncio.Queue[Report] = field(default_factory=lambda: asyncio.Queue(maxsize=1))
    """The newest report that nobody has looked at yet."""
    inventory: Inventory | None = None
    """The newest report that was looked at."""
    recoveries: asyncio.Queue[Recovery] = field(default_factory=asyncio.Queue)
    """What the host has saved of commits that the pool has not, to be noted."""

    async def comes_to(self, revision: int) -> None:
        """Until the member has durably applied `revision`, or the session has ended."""
        while self.applied < revision and not self.over:
            await self.progressed.wait()

    def report(self, report: Report) -> None:
        """Have a report looked at; only the newest matters."""
        if self.reports.full():
            self.reports.get_nowait()
        self.reports.put_nowait(report)


class Sessions:
    """All sessions of one mastership."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        may_speak: Callable[[], bool] = lambda: True,
        is_ahead: Callable[[HostId], bool] = lambda host: False,
    ) -> None:
        self._ledger = ledger
        self._may_speak = may_speak
        self._is_ahead = is_ahead
        """Whether a host is fed what is committed before that is acknowledged."""
        self._clock = clock
        self._reports = Reports(ledger, self._inventories, clock=clock)
        self._attached: dict[HostId, Session] = {}
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._all_had_time = False
        self._sent: tuple[Sequence[Commit], pb.SessionResponse] = ((), pb.SessionResponse())
        """The last deltas and the message they went out in."""

    def all(self) -> Collection[Session]:
        """Those of all hosts that are attached."""
        return self._attached.values()

    async def news(self) -> None:
        """Until a host has come, gone or got further, or somebody stirs."""
        await self._news.wait()

    def stir(self) -> None:
        """Let everybody look again who waits for news."""
        self._news.set()
        self._news = asyncio.Event()

    def get(self, host: HostId) -> Session | None:
        """The session of a host, if it is attached."""
        return self._attached.get(host)

    def lag_seconds(self, session: Session) -> float:
        """How long the member has been behind."""
        if session.applied >= self._ledger.feed.revision or session.behind_since is None:
            return 0.0
        return self._clock.monotonic() - session.behind_since

    async def attached_at(self, host: HostId, revision: int) -> None:
        """Until the host is attached and has durably applied `revision`."""
        while (session := self._attached.get(host)) is None or session.applied < revision:
            changed = session.progressed if session is not None else self._changed
            await changed.wait()

    async def had_time(self, host: HostId) -> None:
        """Until the host is attached, or has had the time to come since this mastership began."""
        while host not in self._attached and not self._all_had_time:
            await self._changed.wait()

    async def run(self) -> None:
        """Keep `HostMetrics.live` true to who is attached."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._give_time_to_come())
                tasks.create_task(self._keep_liveness())
        finally:
            # Nobody comes to a mastership that is over.
            self._all_had_time = True
            self._notify()

    async def _give_time_to_come(self) -> None:
        await self._clock.sleep(RECONNECT_SECONDS)
        self._all_had_time = True
        self._notify()

    async def _keep_liveness(self) -> None:
        while True:
            changed = self._changed
            await self._ledger.insist(self._liveness)
            await changed.wait()

    def _liveness(self, state: State) -> Decision:
        changes: list[Change] = []
        for metrics in state.all(HostMetrics):
            live = metrics.host in self._attached
            if metrics.live != live and (live or self._all_had_time):
                now = self._clock.now()
                changes += heard(state, metrics, live=live, now=now)
        return Decision(tuple(changes))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self.stir()

    # -- one session ------------------------------------------------------------------------------

    async def serve(self, requests: Requests, send: Send) -> None:
        """Serve one session until the member ends it, leaves the pool or opens another.

        Raises `PoolError` when the member may not have one.
        """
        hello = await self._hello(requests)
        head = await self._ledger.ours()
        host = HostId(hello.host)
        cursor = self.cursor(hello)
        if self._ledger.state.get(Host, host) is None:
            await send(self._farewell(host))
            return
        async with self.attached(host, cursor) as session:
            await send(pb.SessionResponse(welcome=pb.Welcome(head=to_proto(head))))
            await self._until_first_ends(
                self._read(requests, session),
                self.take_reports(session, hello),
                self._note_recoveries(session),
                self._feed(send, session, cursor),
                session.replaced.wait(),
            )

    @asynccontextmanager
    async def attached(self, host: HostId, cursor: int | None) -> AsyncIterator[Session]:
        """The session of a member of this pool, known to everybody as long as the block runs."""
        session = Session(host, applied=cursor or 0)
        if (older := self._attached.get(host)) is not None:
            older.replaced.set()
        self._attached[host] = session
        self._notify()
        try:
            yield session
        finally:
            if self._attached.get(host) is session:
                del self._attached[host]
                self._notify()
            session.over = True
            session.progressed.set()

    async def _hello(self, requests: Requests) -> pb.Hello:
        hello = await first_hello(requests)
        pool = self._ledger.state.pool
        if hello.pool != pool.uuid:
            raise PoolError(Reason.HOST_NOT_IN_POOL, host=hello.host, pool=pool.name_label)
        return hello

    async def _introduce(self, hello: pb.Hello) -> None:
        try:
            await self._ledger.write(lambda state: _introduced(state, hello))
        except PoolError as error:
            # While the store refuses, being fed matters more; the next session tells it again.
            if error.reason is not Reason.STORE_UNAVAILABLE:
                raise

    def _farewell(self, host: HostId) -> pb.SessionResponse:
        """What a host of this pool's past is told: that a task ejected it, or an error."""
        state = self._ledger.state
        task = ejected_by(state, host)
        if task is None:
            raise PoolError(
                Reason.HOST_FORGOTTEN,
                host=host,
                pool=state.pool.name_label,
                incarnation=str(state.incarnation.counter),
            )
        return pb.SessionResponse(eject=pb.Eject(task=task.uuid))

    def cursor(self, hello: pb.Hello) -> int | None:
        """The revision a member has and goes on from; none when it needs a snapshot.

        Raises `PoolError` when it knows more than this mastership, and so may not have a session.
        """
        head = self._ledger.head
        known = hello.HasField("incarnation")
        incarnation: Incarnation = from_proto(hello.incarnation) if known else head.incarnation
        if incarnation.uuid != head.incarnation.uuid:
            if incarnation.counter >= head.incarnation.counter:
                raise PoolError(
                    Reason.INCARNATION_MISMATCH,
                    expected=f"{incarnation.counter} ({incarnation.uuid})",
                    actual=f"{head.incarnation.counter} ({head.incarnation.uuid})",
                )
        # Terms are counted within an incarnation.
        elif hello.term > head.term:
            raise PoolError(Reason.HOST_IS_SLAVE, master="another host, of a newer term")
        if not hello.HasField("last") or not known:
            return None
        last: CommitId = from_proto(hello.last)
        shared = shared_revision(self._ledger.state.pool, head.incarnation, incarnation)
        if shared is not None:
            # It goes on from what both have, or takes this chain instead of what it has beyond.
            return last.revision if last.revision <= shared else None
        # A host in step whose session ended in the middle of a commit comes back with it.
        committed = max(head.revision, self._ledger.feed.offered)
        if last.revision > committed:
            raise PoolError(Reason.REPLICA_AHEAD, replica=str(last.revision), store=str(committed))
        return last.revision

    async def _until_first_ends(self, *parts: Awaitable[object]) -> None:
        """Run the parts of a session until one ends, then end the others."""
        tasks = [asyncio.ensure_future(part) for part in parts]  # noqa: TID251 - awaited below
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- feeding ----------------------------------------------------------------------------------

    async def _feed(self, send: Send, session: Session, cursor: int | None) -> None:
        ahead = partial(self._is_ahead, session.host)
        if cursor is None:
            cursor = await self._send_snapshot(send, session.host)
        while cursor is not None:
            seconds = self._ledger.state.pool.failover.heartbeat_seconds
            if not await self._ledger.feed.wait(cursor, seconds=seconds, ahead=ahead):
                if not self._may_speak():
                    continue
                heartbeat = pb.Heartbeat(head=to_proto(self._ledger.head))
                await send(pb.SessionResponse(heartbeat=heartbeat))
                continue
            try:
                commits = await self._ledger.feed.after(cursor, ahead=ahead)
            except PoolError as error:
                if error.reason is not Reason.HISTORY_GONE:
                    raise
                cursor = await self._send_snapshot(send, session.host)
                continue
            self.fell_behind(session)
            end = _removal_of(session.host, commits)
            if end is None:
                await send(self._deltas(commits))
                cursor = commits[-1].revision
                continue
            if end > 0:
                await send(_deltas(commits[:end]))
            await send(self._farewell(session.host))
            return

    def _deltas(self, commits: Sequence[Commit]) -> pb.SessionResponse:
        """The message that carries these commits, made once for all members that are sent it."""
        if self._sent[0] is not commits:
            self._sent = (commits, _deltas(commits))
        return self._sent[1]

    async def _send_snapshot(self, send: Send, host: HostId) -> int | None:
        """The revision sent; none when the host has left and was told so instead."""
        state = self._ledger.state
        if state.get(Host, host) is None:
            await send(self._farewell(host))
            return None
        for frame in snapshot_frames(state):
            await send(pb.SessionResponse(snapshot=frame))
            # Making the next frame takes a moment; let others run in between.
            await asyncio.sleep(0)
        return state.revision

    # -- reports ----------------------------------------------------------------------------------

    async def _read(self, requests: Requests, session: Session) -> None:
        async for request in requests:
            match request.WhichOneof("item"):
                case "applied":
                    self.progressed(session, request.applied.revision)
                case "inventory":
                    session.report(request.inventory.inventory)
                case "recovery":
                    session.recoveries.put_nowait(from_proto(request.recovery))
                case _:
                    pass

    def fell_behind(self, session: Session) -> None:
        """There are commits that the member does not have yet."""
        if session.behind_since is None:
            session.behind_since = self._clock.monotonic()

    def progressed(self, session: Session, revision: int) -> None:
        """The member has durably applied everything up to `revision`."""
        session.applied = revision
        session.behind_since = (
            None if revision >= self._ledger.feed.revision else self._clock.monotonic()
        )
        session.progressed.set()
        session.progressed = asyncio.Event()
        self.stir()

    async def take_reports(self, session: Session, hello: pb.Hello) -> None:
        """Commit what a member says of itself and then what its reports change, until cancelled.

        Beside the feeding, not before it: a commit may have to wait for this very member to have
        it.
        """
        await self._introduce(hello)
        while True:
            inventory = session.inventory = await _converted(await session.reports.get())
            while (reserved_at := await self._reports.take(session.host, inventory)) is not None:
                # The report waits until the reservation ends, or for a newer one.
                await self._ledger.feed.wait(reserved_at)
                if not session.reports.empty():
                    newer = session.reports.get_nowait()
                    inventory = session.inventory = await _converted(newer)

    async def _note_recoveries(self, session: Session) -> None:
        while True:
            found = await session.recoveries.get()
            await self._ledger.insist(partial(self._noted_recovery, session.host, found))

    def _noted_recovery(self, host: HostId, found: Recovery, state: State) -> Decision:
        return Decision(recovered(state, host, found, now=self._clock.now()))

    def _inventories(self) -> dict[HostId, Inventory]:
        """The last inventory of each attached host that has reported one."""
        attached = self._attached.values()
        return {s.host: s.inventory for s in attached if s.inventory is not None}


async def _converted(report: Report) -> Inventory:
    return report if isinstance(report, Inventory) else await inventory_from_proto(report)


async def first_hello(requests: Requests) -> pb.Hello:
    """What a session begins with; `INVALID_VALUE` for anything else."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            first = await anext(requests)
    except (TimeoutError, StopAsyncIteration) as error:
        problem = "the session did not begin with a hello"
        raise PoolError(Reason.INVALID_VALUE, field="hello", problem=problem) from error
    if first.WhichOneof("item") != "hello":
        problem = "the session must begin with a hello"
        raise PoolError(Reason.INVALID_VALUE, field="hello", problem=problem)
    return first.hello


def _introduced(state: State, hello: pb.Hello) -> Decision:
    """Record what a member says of itself: where it is to be found, and which release it runs."""
    host = state.get(Host, hello.host)
    if host is None or state.pool.reservation is not None:
        return Decision(())
    after = replace(
        host,
        addresses=tuple(from_proto(a) for a in hello.addresses) or host.addresses,
        software_version=from_proto(hello.software_version),
    )
    return Decision((Put(after),) if after != host else ())


def _removal_of(host: HostId, commits: Sequence[Commit]) -> int | None:
    """The index of the commit that removes the host, if there is one."""
    return next((i for i, c in enumerate(commits) if host in c.removed_hosts), None)


def _deltas(commits: Sequence[Commit]) -> pb.SessionResponse:
    return pb.SessionResponse(deltas=pb.Deltas(deltas=[commit.data for commit in commits]))
