"""The session of the host that is master itself: a member like any other, only nearer.

It is attached to the mastership in the same process. So nothing is encoded, sent and decoded on the
way, the host's replica need not even be loaded, and what it holds in memory is the master's own
state. It is made durable every `PACE_SECONDS` at most, with all that was committed meanwhile:
nobody waits for it, as the store is on this very host, but writers would wait for the disk behind
it.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from poolcore.errors import PoolError, Reason
from poolcore.replica import Delta, State
from poolcore.side_by_side import side_by_side
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.ledger import Ledger
from poolmaster.sessions import Session, Sessions
from poolmember.drivers.contract import Driver
from poolmember.session import Follower, gone, observations

PACE_SECONDS = 0.02


class OwnSession:
    """One session of a host with its own mastership."""

    def __init__(
        self, ledger: Ledger, sessions: Sessions, follower: Follower, driver: Driver
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._follower = follower
        self._driver = driver

    async def run(self) -> None:
        """Until the session ends; says why by raising, as `poolmember.session.Session` does."""
        sessions, follower = self._sessions, self._follower
        hello = self._hello()
        cursor = sessions.cursor(hello)
        try:
            async with sessions.attached(follower.host, cursor) as session:
                await follower.welcome(self._ledger.head)
                await side_by_side(
                    self._follow(session, cursor),
                    self._report(session),
                    sessions.take_reports(session, hello),
                    _end_when_replaced(session),
                )
        finally:
            follower.following = None
            follower.heard = follower.kept_up = follower.clock.monotonic()

    async def _report(self, session: Session) -> None:
        async for inventory in observations(self._driver):
            session.report(inventory)

    def _hello(self) -> pb.Hello:
        """Who this host is and how far its replica is on the disk."""
        hello, durable = self._follower.hello().hello, self._follower.store.head
        hello.term = durable.highest_term
        if durable.incarnation and durable.last and not self._follower.from_snapshot:
            hello.incarnation.CopyFrom(to_proto(durable.incarnation))
            hello.last.CopyFrom(to_proto(durable.last))
        return hello

    async def _follow(self, session: Session, cursor: int | None) -> None:
        while True:
            state = self._ledger.state
            try:
                if cursor is None:
                    cursor = await self._replace(state)
                else:
                    cursor = await self._catch_up(cursor, state)
            except PoolError as error:
                if error.reason is not Reason.HISTORY_GONE:
                    raise
                cursor = None
                continue
            self._sessions.progressed(session, cursor)
            await self._follower.clock.sleep(PACE_SECONDS)
            await self._ledger.feed.wait(cursor)
            self._sessions.fell_behind(session)

    async def _catch_up(self, cursor: int, state: State) -> int:
        """Take every commit that leads to `state`; its revision."""
        deltas: list[tuple[Delta, bytes]] = []
        while cursor < state.revision:
            # The one that removes this host is never among them: a master is not ejected.
            commits = await self._ledger.feed.after(cursor)
            deltas += ((c.delta, c.data) for c in commits if c.revision <= state.revision)
            cursor = commits[-1].revision
        return await self._follower.keep_up(deltas, state)

    async def _replace(self, state: State) -> int:
        """Become `state` instead of what was there; its revision."""
        frames = []
        for frame in snapshot_frames(state):
            frames.append(frame)
            # Making the next frame takes a moment; let others run in between.
            await asyncio.sleep(0)
        await self._follower.replace(frames)
        return await self._follower.keep_up((), state)


async def _end_when_replaced(session: Session) -> NoReturn:
    await session.replaced.wait()
    raise gone("another session of this host has taken its place")
