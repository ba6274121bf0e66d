"""What the roles of a host work with, and what a role comes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import Pool, PoolId
from poolcore.replica import DEFAULT_HISTORY_REVISIONS, State
from poolcore.wire.serving import Handlers
from poolmaster.agents import Agents
from poolmaster.decide.if_lost import last_known
from poolmaster.mastership import Mastership
from poolmaster.service.api import replica_handlers
from poolmaster.service.foresight import Sources
from poolmaster.service.reads import View
from poolmaster.service.status import status_of_replica
from poolmaster.store.contract import Store
from poolmaster.succession import Begun
from poolmember.agent import Agent
from poolmember.drivers.contract import Driver
from poolmember.etcd.voter import Voter
from poolmember.files import Files
from poolmember.gateway import Gateway, Upstream
from poolmember.identity import Identity, Member, Own
from poolmember.recovery import Recoveries
from poolmember.session import Follower, Link

if TYPE_CHECKING:
    from poolmember.contending import Contender

PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between two attempts at the same: the first pause, and what it grows to."""

HOLD_SECONDS = 2.0
"""How long a write waits for the next master: twice what a change of master takes."""

Connect = Callable[[str], AbstractAsyncContextManager[tuple[Upstream, Link]]]
"""Opens the way to the host at an endpoint."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the host becomes, and which databases that leaves behind."""

    membership: Own | Member
    retire: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that has no register yet, for the case that this host becomes the heir."""

    incarnation: str
    """Uuid of the incarnation it would be of."""
    store: Store
    begun: Begun
    """What is in it."""


@dataclass(slots=True)
class Parts:
    """What both roles work with."""

    files: Files
    driver: Driver
    agent: Agent
    agents: Agents
    gateway: Gateway
    connect: Connect
    clock: Clock
    reached: Callable[[str], None]
    on_role: Callable[[str], None]
    """Told, in a few words, whenever the host's role becomes another."""
    voter: Voter
    """This host's member of the pool's own etcd."""
    history_revisions: int = DEFAULT_HISTORY_REVISIONS
    """How many commits a pool that this host founds remembers."""
    recoveries: Recoveries | None = None
    """Where this host puts aside what it has and its pool has not."""
    forgotten: PoolError | None = None
    """What this host answers while it is forgotten by its pool (`poolmember.forgotten`)."""
    mastership: Mastership | None = None
    remembered: State | None = None
    """The state of the replica when the last role ended."""
    follower: Follower | None = None
    just_inherited: str | None = None
    """Uuid of the incarnation that this daemon has become the heir of and not led yet, and knew
    that nobody else does."""
    prepared: Prepared | None = None
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever founds a store here: there is one file for it."""
    contender: Contender | None = None
    """What this host is in an election, if it shares its pool's store with others."""

    @property
    def identity(self) -> Identity:
        """Who this host is."""
        identity = self.files.identity
        if identity is None:
            raise RuntimeError("the host has no identity yet")
        return identity

    @property
    def role(self) -> str:
        """What this host is while it follows a master, in a word."""
        return "witness" if self.identity.witness else "member"

    def new_pool(self, uuid_: str) -> Pool:
        """The pool object of a pool that this host founds."""
        return Pool(
            uuid=PoolId(uuid_),
            name_label=self.identity.name,
            history_revisions=self.history_revisions,
        )

    @asynccontextmanager
    async def following(self, pool: PoolId) -> AsyncIterator[Follower]:
        """This host's replica of a pool while it is open; to be loaded before it is used."""
        store = await self.files.open_replica(pool)
        try:
            self.follower = Follower(
                self.identity.host,
                pool,
                self.agent.addresses,
                store,
                self.clock,
                recoveries=self.recoveries,
                beyond=partial(self.voter.tail, pool),
                remembered=self.remembered,
            )
            yield self.follower
        finally:
            if self.follower is not None:
                self.remembered, self.follower = self.follower.state, None
            await store.close()

    def answer_from_replica(
        self,
        follower: Follower,
        problem: Callable[[], str],
        *,
        refusal: PoolError | None = None,
    ) -> Handlers:
        """Handlers for a host without a master; `problem` says why it has none.

        With a `refusal` it looks for none, and that is what callers are told.
        """

        def why() -> str:
            # It may be the message of another error, a sentence of its own.
            said = problem().rstrip(".")
            if self.identity.witness and isinstance(self.identity.membership, Member):
                said += "; it is a witness and does not become master itself"
            return said

        def no_master() -> PoolError:
            if refusal is not None:
                return refusal
            return PoolError(Reason.NO_MASTER, host=self.identity.name, problem=why())

        def view() -> View:
            if follower.state is None:
                raise no_master()
            age = self.clock.monotonic() - follower.kept_up
            return View(follower.state, stale=True, age_seconds=age)

        async def read() -> View:
            return view()

        def status() -> Any:
            return status_of_replica(
                view(),
                follower.last_master,
                follower.term,
                store=None if membership is None else membership.store,
                host=self.identity.host,
                problem=why(),
                refusal=refusal,
            )

        membership = self.identity.membership
        shared = membership is not None and membership.store is not None
        sources = Sources(partial(last_known, shared_store=shared), follower.log)
        return replica_handlers(read, status, no_master, sources, host=self.identity.name)


def handlers_while_starting(host: str) -> Handlers:
    """Handlers for a host that has no replica open yet; `host` is its name."""

    def no_master() -> PoolError:
        return PoolError(Reason.NO_MASTER, host=host, problem="it is still starting")

    async def read() -> View:
        raise no_master()

    def status() -> Any:
        raise no_master()

    async def log(_after: int, _limit: int) -> Any:
        raise no_master()

    sources = Sources(partial(last_known, shared_store=False), log)
    return replica_handlers(read, status, no_master, sources, host=host)
