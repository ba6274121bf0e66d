"""The newest commits in memory, for everybody who follows the chain: members and event watchers.

A follower is nothing but a revision. As long as it is close behind it is served from a bounded
ring; one that lags is served from the store's log, and one from before the history gets
`HISTORY_GONE`. So no follower, however slow, costs memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from poolcore.errors import PoolError, Reason
from poolcore.model import Kind
from poolcore.replica import Delta, Remove
from poolmaster.layout import read_log
from poolmaster.store.contract import Store, StoreError

RING = 2_048
RING_BYTES = 32 * 1024 * 1024
CHUNK = 256
CHUNK_BYTES = 4 * 1024 * 1024
"""At most this many commits, and not more after so many bytes, are handed out at once: a message
to a member has a limit, and one commit may have a megabyte."""
LOG_PAGE = 64
"""How many commits are read from the store at once, whatever their size."""
REST = 0.5
"""After each round of serving its followers the feed rests for so much of the time that took. With
many of them, commits that come fast go out together then, and their callers get their answers
sooner: at 100 a second and 64 members after 8 ms instead of 20."""
REST_SECONDS = 0.02
"""It never rests longer."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit and the bytes it was committed as."""

    delta: Delta
    data: bytes
    removed_hosts: frozenset[str] = field(init=False)
    """Looked up for every member, and nearly always empty."""

    def __post_init__(self) -> None:
        """Find out what is asked of each commit once per member."""
        removes = (c for c in self.delta.changes if isinstance(c, Remove))
        removed = frozenset(c.uuid for c in removes if c.kind is Kind.HOST)
        object.__setattr__(self, "removed_hosts", removed)

    @property
    def revision(self) -> int:
        """Which commit it is."""
        return self.delta.commit.revision


Ahead = Callable[[], bool]


def _not_ahead() -> bool:
    return False


class Feed:
    """The commits of this mastership, and through the store those before it.

    Only acknowledged commits are published: nobody learns of one whose outcome is not known. One
    that is committed and waits for a replica to have it is *offered*: to those who ask `ahead`.
    """

    def __init__(self, store: Store, revision: int, *, ring: int = RING) -> None:
        self._store = store
        self._ring: deque[Commit] = deque()
        self._ring_length = ring
        self._ring_bytes = 0
        self._revision = revision
        self._offered = revision
        self._turns: dict[asyncio.Future[bool], Ahead] = {}
        """Followers that have everything they are given, and whether they are given more."""
        self._waiting: dict[asyncio.Future[bool], None] = {}
        """Those that are in no round yet, in the order they came."""
        self._round: deque[asyncio.Future[bool]] = deque()
        """Followers whose turn comes in this round."""
        self._in_round = False
        """Whether a round is under way, or about to begin."""
        self._news = False
        """Whether something has happened since the last round began."""
        self._round_began = 0.0
        self._rest_until = 0.0
        self._handed_out: tuple[tuple[int, int], Sequence[Commit]] = ((-1, -1), ())
        """The last chunk, and what it answered: after which revision, up to which at most."""
        self._over: PoolError | None = None

    @property
    def revision(self) -> int:
        """The last published revision."""
        return self._revision

    @property
    def offered(self) -> int:
        """The last revision that is committed, published or not."""
        return self._offered

    def offer(self, commits: Sequence[Commit]) -> None:
        """Make consecutive commits known to those who ask ahead; they follow the last offered."""
        self._keep(commits)
        # At once, past the round: the writes' callers wait for them. Who is ahead is asked now,
        # because it may have changed while they waited.
        for turn, ahead in self._turns.items():
            if ahead():
                _give(turn, True)

    def publish(self, commits: Sequence[Commit]) -> None:
        """Make consecutive commits known; they follow the last published one."""
        if commits[-1].revision > self._offered:
            self._keep(commits)
        self._revision = commits[-1].revision
        self._wake()

    def _keep(self, commits: Sequence[Commit]) -> None:
        self._ring.extend(commits)
        self._ring_bytes += sum(len(commit.data) for commit in commits)
        while len(self._ring) > self._ring_length or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().data)
        self._offered = commits[-1].revision

    def close(self, reason: PoolError) -> None:
        """The mastership is over: everybody who follows gets `reason`, at once."""
        self._over = reason
        for turn in self._turns:
            _give(turn, True)

    def _known(self, ahead: Ahead) -> int:
        return self._offered if ahead() else self._revision

    async def wait(
        self, revision: int, *, seconds: float | None = None, ahead: Ahead = _not_ahead
    ) -> bool:
        """Until a commit after `revision` has been published, or only for so long.

        Whether there is one; raises when the mastership ends. `ahead`: whether the follower is
        given what is offered already; it may come to be while it waits.
        """
        while self._known(ahead) <= revision:
            if self._over is not None:
                raise self._over
            if not await self._turn(seconds, ahead):
                return False
        return True

    async def _turn(self, seconds: float | None, ahead: Ahead) -> bool:
        """Until something has happened, or for so long; whether something has."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._turns[turn] = ahead
        self._waiting[turn] = None
        # A timer of our own costs half of `asyncio.timeout`, and each member needs one per commit.
        bound = None if seconds is None else loop.call_later(seconds, _give, turn, False)
        try:
            return await turn
        finally:
            del self._turns[turn]
            self._waiting.pop(turn, None)
            if bound is not None:
                bound.cancel()

    def _wake(self) -> None:
        """Let everybody who waits go on, in a round that begins as soon as the feed has rested."""
        self._news = True
        if not self._in_round:
            self._in_round = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._rest_until), self._begin_round)

    def _begin_round(self) -> None:
        self._news = False
        self._round_began = asyncio.get_running_loop().time()
        self._round.extend(self._waiting)
        self._waiting.clear()
        self._next_turn()

    def _next_turn(self) -> None:
        """One follower in each turn of the event loop: commits need not wait behind all of them."""
        loop = asyncio.get_running_loop()
        if self._round:
            _give(self._round.popleft(), True)
            loop.call_soon(self._next_turn)
            return
        now = loop.time()
        self._rest_until = now + min(REST * (now - self._round_began), REST_SECONDS)
        self._in_round = False
        if self._news:
            self._wake()

    async def after(self, revision: int, *, ahead: Ahead = _not_ahead) -> Sequence[Commit]:
        """The commits that follow `revision`, as many as go together; waits until there is one.

        Followers at the same revision are handed the same object.

        `HISTORY_GONE` when the next one is no longer kept, `NO_MASTER` when the store, which a
        follower that lags is served from, does not answer.
        """
        await self.wait(revision, ahead=ahead)
        known = self._known(ahead)
        if self._ring and self._ring[0].revision <= revision + 1:
            return self._from_ring(revision, known)
        try:
            found = await read_log(self._store, after=revision, limit=LOG_PAGE)
        except StoreError as error:
            raise PoolError(Reason.NO_MASTER, host="the master", problem=str(error)) from error
        # What the store has beyond the published revision is not acknowledged yet.
        commits = [Commit(d, b) for d, b in found if d.commit.revision <= known]
        if not commits or commits[0].revision != revision + 1:
            oldest = commits[0].revision - 1 if commits else known
            raise PoolError(Reason.HISTORY_GONE, since=str(revision), oldest=str(oldest))
        return _chunk(commits)

    def _from_ring(self, revision: int, known: int) -> Sequence[Commit]:
        asked = (revision, known)
        if self._handed_out[0] != asked:
            oldest = self._ring[0].revision
            start = revision + 1 - oldest
            end = min(start + CHUNK, known + 1 - oldest)
            # By index: to iterate up to the newest would pass everything in the ring.
            chunk = _chunk(self._ring[index] for index in range(start, end))
            self._handed_out = (asked, chunk)
        return self._handed_out[1]


def _give(turn: asyncio.Future[bool], happened: bool) -> None:
    if not turn.done():
        turn.set_result(happened)


def _chunk(commits: Iterable[Commit]) -> Sequence[Commit]:
    """The first commits, at least one, that are not larger than a message may be."""
    chosen: list[Commit] = []
    size = 0
    for commit in commits:
        size += len(commit.data)
        if chosen and size > CHUNK_BYTES:
            break
        chosen.append(commit)
    return chosen
