"""The member's side of the session with its master: keeping the replica, reporting the host.

Rules (design §4.7): the member obeys only frames of its own incarnation and of no older term, each
delta must follow the replica's last commit, and nothing is acknowledged before it is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory, KnownCommit, Recovery, Tail
from poolcore.model import Address, HostId, PoolId, SoftwareVersion
from poolcore.replica import (
    Delta,
    DeltaDoesNotFollow,
    Head,
    State,
    Succession,
    apply,
    moves_to_voters,
)
from poolcore.side_by_side import side_by_side
from poolcore.wire.chain import decode_delta
from poolcore.wire.codec import from_proto, to_proto
from poolcore.wire.inventories import inventory_to_proto
from poolmanager.v1 import agent_service_pb2, chain_pb2
from poolmanager.v1 import member_service_pb2 as pb
from poolmember.drivers.contract import Driver, DriverError
from poolmember.inbox import Inbox
from poolmember.recovery import Recoveries, put_aside, put_aside_beyond, saved_by
from poolmember.replica_schema import ReplicaHead

T = TypeVar("T")

log = logging.getLogger(__name__)

SILENCE_SECONDS = 3.0
"""A master that says nothing for so long, not even a heartbeat, counts as gone."""
ACKNOWLEDGE_SECONDS = 0.1
"""An acknowledgement names the last revision, so those of this time go together: a pool of 64 hosts
would otherwise keep its master busy with them. From a replica that is in step each goes at once."""
APPLIED_TOGETHER = 1_024
APPLIED_TOGETHER_BYTES = 256 * 1024
"""Deltas that came while the last ones were made durable become durable together; not more than the
event loop can do without everybody else waiting for it, about 20 ms."""

SOFTWARE = SoftwareVersion(
    product_version=PRODUCT_VERSION, api_version=API_VERSION, schema_version=SCHEMA_VERSION
)

Send = Callable[[pb.SessionResponse], Awaitable[None]]
Link = Callable[[AsyncIterator[pb.SessionRequest], Send], Awaitable[None]]
"""Carries a session: takes the member's requests, sends the master's responses, until it ends."""


class Replica(Protocol):
    """What a follower needs of the durable replica; see `poolmember.replica_store`."""

    @property
    def head(self) -> ReplicaHead:
        """How far it is, durably."""
        ...

    async def load(self) -> tuple[State | None, int]:
        """The state, none before the first snapshot, and the highest term that was obeyed."""
        ...

    async def append(self, deltas: Sequence[tuple[Delta, bytes]]) -> None:
        """Apply consecutive deltas, each with the bytes it came as, durably: all or none."""
        ...

    async def replace(self, frames: Sequence[chain_pb2.SnapshotFrame]) -> State:
        """Become what a complete snapshot says, durably, and return that state."""
        ...

    async def obey(self, term: int) -> None:
        """Record durably that no term below `term` is obeyed any more."""
        ...

    async def read_log(self, after: int, limit: int) -> list[bytes]:
        """Up to `limit` serialized deltas that follow revision `after`, as far as they are kept."""
        ...

    async def close(self) -> None:
        """Give it back after everything that was begun has ended."""
        ...


class Inherited(Exception):
    """The chain goes on in a store that this host has to found."""


class Ejected(Exception):
    """The master says that this host is no longer of its pool."""


@dataclass(slots=True)
class Follower:
    """This host's replica, and how it follows the chain; outlives sessions."""

    host: HostId
    pool: PoolId
    addresses: tuple[Address, ...]
    store: Replica
    clock: Clock
    remembered: State | None = None
    """What the host's last role had in memory. To read a large replica takes a second."""
    loaded: bool = False
    """Whether `state` and `term` are what the durable replica holds."""
    state: State | None = None
    term: int = 0
    """The highest term that was obeyed."""
    heard: float = 0.0
    """On the monotonic clock: when the master was last heard."""
    kept_up: float = 0.0
    """On the monotonic clock: `state` is all that the master had told then."""
    following: Head | None = None
    """The head of the master this host has a session with."""
    last_master: HostId | None = None
    """The last master this host had a session with, since the daemon started."""
    welcomes: int = 0
    """How many sessions a master has welcomed."""
    succession: Succession | None = None
    """What the last commit that came from a master says of the next incarnation, if it does."""
    recoveries: Recoveries | None = None
    """Where commits go that the pool has not."""
    beyond: Callable[[KnownCommit], Awaitable[Tail]] | None = None
    """What the disk of this host's etcd has beyond a commit."""
    in_doubt: bool = False
    """Whether the last write of the durable replica has failed: it may have got there."""
    from_snapshot: bool = False
    """The replica does not fit the chain: ask for a snapshot to replace it."""
    leaving: bool = False
    """Whether the host is about to become something else than a follower."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a commit has come by which the chain goes on in the pool's own etcd."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a session with a master has ended, until the next one is welcomed."""

    @property
    def in_step(self) -> bool:
        """Whether the master's callers wait for this replica."""
        return self.state is not None and self.state.pool.in_step == self.host

    def recalled(self) -> State | None:
        """What the host's last role had in memory, if the durable replica is still at that."""
        head, state = self.store.head, self.remembered
        if state is None or (head.incarnation, head.last) != (state.incarnation, state.last):
            return None
        return state

    async def load(self) -> None:
        """Begin with what the durable replica holds, unless that has been done."""
        if not self.loaded:
            remembered = self.recalled()
            if remembered is not None:
                self.state, self.term = remembered, self.store.head.highest_term
            else:
                self.state, self.term = await self.store.load()
            self.heard = self.kept_up = self.clock.monotonic()
            self.loaded = True

    async def settle(self) -> bool:
        """Be what the durable replica holds after a write that failed; whether there was one.

        What this host says it has decides whether a master may take back its store's last commit
        (`poolmaster.succession`). `STATE_UNWRITABLE` as long as that is not known.
        """
        if not self.in_doubt:
            return False
        self.state = await self.durable()
        self.in_doubt = False
        return True

    async def durable(self) -> State | None:
        """What the durable replica holds; also while that is in doubt, but for a disk that fails.

        Raises `STATE_UNWRITABLE` then.
        """
        return (await self.store.load())[0] if self.in_doubt else self.state

    async def ends_with(self) -> Succession | None:
        """The succession that this host's replica ends with; none if it ends like any other."""
        last = await self._last()
        return None if last is None else last.succession

    async def inherits(self) -> Succession | None:
        """That succession, if this host is to found the next store on its own disk."""
        last = await self._last()
        if last is None or last.succession is None or last.succession.heir != self.host:
            return None
        # The pool's own etcd is founded elsewhere (`poolmember.moving`).
        return None if moves_to_voters(last) else last.succession

    async def newest_commit(self) -> KnownCommit | None:
        """The last commit of the durable replica; none if that has no delta, or nothing at all."""
        last, newest = self.store.head.last, await self._newest()
        return None if last is None or newest is None else KnownCommit.of(last.revision, newest)

    async def _last(self) -> Delta | None:
        newest = await self._newest()
        return None if newest is None else decode_delta(newest)

    async def _newest(self) -> bytes | None:
        last = self.store.head.last
        if last is None or not last.revision:
            return None
        newest = await self.store.read_log(last.revision - 1, 1)
        return newest[0] if newest else None

    def hello(self) -> pb.SessionRequest:
        """Who this host is and what it already has."""
        hello = pb.Hello(
            host=self.host,
            pool=self.pool,
            term=self.term,
            software_version=to_proto(SOFTWARE),
            addresses=[to_proto(a) for a in self.addresses],
        )
        if self.state is not None and not self.from_snapshot:
            hello.incarnation.CopyFrom(to_proto(self.state.incarnation))
            hello.last.CopyFrom(to_proto(self.state.last))
        return pb.SessionRequest(hello=hello)

    async def log(self, after: int, limit: int) -> list[Delta]:
        """Up to `limit` deltas that follow revision `after`, as far as the replica keeps them."""
        return [decode_delta(data) for data in await self.store.read_log(after, limit)]

    def start_over(self) -> None:
        """Take a snapshot with the next session; until then the old replica is better than none."""
        self.from_snapshot = True

    async def welcome(self, head: Head) -> None:
        """Obey a master from now on, if it may be obeyed."""
        ours = self.state.incarnation if self.state is not None else head.incarnation
        if head.incarnation.uuid != ours.uuid:
            if head.incarnation.counter <= ours.counter:
                raise PoolError(
                    Reason.INCARNATION_MISMATCH,
                    expected=f"{ours.counter} ({ours.uuid})",
                    actual=f"{head.incarnation.counter} ({head.incarnation.uuid})",
                )
        elif head.term < self.term:
            # Terms are counted within an incarnation.
            raise PoolError(Reason.HOST_IS_SLAVE, master="another host, of a newer term")
        await self.store.obey(head.term)
        self.term = head.term
        self.following = head
        self.last_master = head.master
        self.welcomes += 1
        self.heard = self.clock.monotonic()
        self.lost.clear()

    def agrees_up_to(self) -> int | None:
        """The revision of the replica, if it is certainly of the master's chain and durable."""
        state, head = self.state, self.following
        if state is None or head is None or self.from_snapshot or self.in_doubt:
            return None
        return state.revision if state.incarnation == head.incarnation else None

    def unfollow(self) -> None:
        """The session has ended."""
        if self.following is not None:
            self.following = None
            self.lost.set()

    def looks_for_a_master(self) -> None:
        """From now on: one that is not found in time is suspected then, not before."""
        self.heard = self.clock.monotonic()
        self.lost.clear()

    async def apply(self, data: list[bytes]) -> int:
        """Make consecutive deltas durable; the last one's revision."""
        state = self.state
        if state is None:
            raise DeltaDoesNotFollow("deltas before any snapshot")
        deltas: list[tuple[Delta, bytes]] = []
        incarnation = state.incarnation
        for item in data:
            delta = decode_delta(item)
            if delta.commit.term > self.term:
                raise DeltaDoesNotFollow(f"{delta.commit} is of a newer term than {self.term}")
            state = apply(state, delta)
            deltas.append((delta, item))
        after = state
        if after.incarnation != incarnation:
            await put_aside_beyond(self, after.pool, after.incarnation)

        async def write() -> None:
            self.in_doubt = True
            await self.store.append(deltas)
            self.state, self.succession = after, deltas[-1][0].succession
            self.in_doubt = False
            if any(moves_to_voters(delta) for delta, _ in deltas):
                self.moved.set()
            if after.incarnation != incarnation:
                # The replica of another incarnation has forgotten the terms of the one before.
                await self.store.obey(self.term)

        await _to_the_end(write())
        return after.revision

    async def keep_up(self, deltas: Sequence[tuple[Delta, bytes]], state: State) -> int:
        """Make deltas durable that lead to `state`, which somebody has; its revision.

        `DeltaDoesNotFollow` also when `state` is not what the replica is then at.
        """

        async def write() -> None:
            self.in_doubt = True
            await self.store.append(deltas)
            self.in_doubt = False
            if self.store.head.last != state.last:
                raise DeltaDoesNotFollow(f"the replica is at {self.store.head.last}")
            self.state, self.loaded = state, True

        await _to_the_end(write())
        return state.revision

    async def replace(self, frames: list[chain_pb2.SnapshotFrame]) -> int:
        """Take a snapshot instead of what was there; its revision.

        `REPLICA_AHEAD` for one that is older: then this replica holds what the store has lost.
        """
        header, ours = frames[0].header, self.store.head
        same_life = (
            ours.incarnation is not None and header.incarnation.uuid == ours.incarnation.uuid
        )
        if ours.last is not None and same_life and header.last.revision < ours.last.revision:
            offered = str(header.last.revision)
            raise PoolError(Reason.REPLICA_AHEAD, replica=str(ours.last.revision), store=offered)
        if not same_life:
            await put_aside(self, frames)

        async def write() -> int:
            self.in_doubt = True
            self.state = await self.store.replace(frames)
            self.from_snapshot = self.in_doubt = False
            # The replica of another incarnation has forgotten the terms of the one before.
            await self.store.obey(self.term)
            return self.state.revision

        return await _to_the_end(write())


async def _to_the_end(write: Coroutine[Any, Any, T]) -> T:
    """Await a write of the replica, also when the session ends meanwhile.

    The file does not stop halfway because nobody waits any more, and memory must not fall behind
    the file.
    """
    writing = asyncio.ensure_future(write)  # noqa: TID251 - awaited here, whatever happens
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await writing
        raise


class Session:
    """One session, over any link."""

    def __init__(
        self, follower: Follower, driver: Driver, *, on_welcome: Callable[[], None]
    ) -> None:
        self._follower = follower
        self._driver = driver
        self._on_welcome = on_welcome
        self._inbox = Inbox()
        self._applied: int | None = None
        """The last revision that this session has brought; none before the first."""
        self._report_due: agent_service_pb2.Inventory | None = None
        self._saved: list[Recovery] = []
        """What the master has not been told of yet."""
        self._to_tell = asyncio.Event()
        self._over = False

    async def run(self, link: Link) -> None:
        """Until the session ends; says why by raising.

        `Ejected`, `Inherited`, `DeltaDoesNotFollow` (the replica needs a snapshot) or a
        `PoolError`.
        """
        try:
            await side_by_side(self._carry(link), self._follow(), self._report())
        finally:
            self._follower.unfollow()
            # gRPC asks for the next request, and keeps all this alive, until there is none.
            self._over = True
            self._to_tell.set()

    async def _carry(self, link: Link) -> None:
        try:
            await link(self._requests(), self._receive)
            end: Exception = gone("it ended the session")
        except Exception as error:
            end = error
        # Behind what has been received, which still counts: above all that we are ejected.
        self._inbox.close(end)

    async def _receive(self, response: pb.SessionResponse) -> None:
        now = self._follower.clock.monotonic()
        if self._follower.following is not None:
            # Not when its turn comes: to make what came before it durable may take longer than a
            # master may be silent.
            self._follower.heard = now
        await self._inbox.put(response, at=now)

    async def _requests(self) -> AsyncIterator[pb.SessionRequest]:
        yield self._follower.hello()
        told = None
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            if self._over:
                return
            if self._applied is not None and self._applied != told:
                told = self._applied
                yield pb.SessionRequest(applied=pb.Applied(revision=told))
            while self._saved:
                yield pb.SessionRequest(recovery=to_proto(self._saved.pop()))
            if self._report_due is not None:
                report, self._report_due = self._report_due, None
                yield pb.SessionRequest(inventory=pb.InventoryReport(inventory=report))
            if not self._follower.in_step:
                await self._follower.clock.sleep(ACKNOWLEDGE_SECONDS)

    # -- following --------------------------------------------------------------------------------

    async def _follow(self) -> None:
        frames: list[chain_pb2.SnapshotFrame] = []
        while True:
            response = await self._next()
            item = response.WhichOneof("item")
            if self._follower.following is None and item not in {"welcome", "eject"}:
                raise gone("it began without a welcome")
            match item:
                case "welcome":
                    await self._welcomed(response.welcome)
                case "deltas":
                    data = await self._with_waiting(response)
                    life = self._follower.store.head.incarnation
                    self._tell_applied(await self._follower.apply(data))
                    if self._follower.store.head.incarnation != life:
                        self._saved += await saved_by(self._follower)
                    if self._follower.succession and await self._follower.inherits():
                        raise Inherited
                case "snapshot":
                    frames.append(response.snapshot)
                    if response.snapshot.HasField("digest"):
                        revision = await self._follower.replace(frames)
                        frames = []
                        self._saved += await saved_by(self._follower)
                        self._tell_applied(revision)
                case "eject":
                    raise Ejected(response.eject.task)
                case _:
                    pass
            self._follower.kept_up = self._inbox.taken_up_to

    async def _welcomed(self, welcome: pb.Welcome) -> None:
        await self._follower.welcome(from_proto(welcome.head))
        self._on_welcome()
        # Each time, as an earlier session may have ended before the master had noted it.
        self._saved += await saved_by(self._follower)
        if (revision := self._follower.agrees_up_to()) is not None:
            # Said again, in this session: a hello may come late.
            self._applied = revision
        self._to_tell.set()

    async def _next(self) -> pb.SessionResponse:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await self._inbox.take()
        except TimeoutError:
            raise gone(f"silent for {SILENCE_SECONDS:g} s") from None

    async def _with_waiting(self, first: pb.SessionResponse) -> list[bytes]:
        """The deltas of `first` and of those right behind it that have already come."""
        data = list(first.deltas.deltas)
        size = sum(map(len, data))
        while (more := self._inbox.next_deltas()) is not None:
            size += more.ByteSize()
            if len(data) >= APPLIED_TOGETHER or size > APPLIED_TOGETHER_BYTES:
                break
            data += (await self._inbox.take()).deltas.deltas
        return data

    def _tell_applied(self, revision: int) -> None:
        self._applied = revision
        self._to_tell.set()

    # -- reporting --------------------------------------------------------------------------------

    async def _report(self) -> None:
        async for inventory in observations(self._driver):
            # Not in `_requests`: what has been applied is told meanwhile.
            self._report_due = await inventory_to_proto(inventory)
            self._to_tell.set()


async def observations(driver: Driver) -> AsyncIterator[Inventory]:
    """What is on the host, now and whenever that has changed."""
    found = await _inventory(driver)
    if found is not None:
        yield found
    async for _ in driver.changes():
        found = await _inventory(driver)
        if found is not None:
            yield found


async def _inventory(driver: Driver) -> Inventory | None:
    try:
        return await driver.inventory()
    except DriverError as error:
        # Rather nothing than less than the truth; the next change or session asks again.
        log.warning("no inventory: %s", error)
        return None


def gone(problem: str) -> PoolError:
    """What ends a session whose other side is no longer there."""
    return PoolError(Reason.NO_MASTER, host="this host", problem=problem)
