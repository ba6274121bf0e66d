"""The two roles of a host: leading its pool, or following another host that does.

A role runs until the host's membership changes; then it gives everything back and says what the
host becomes. Which role a host has is decided by its membership (`poolmember.identity`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import Host, Pool, PoolId
from poolcore.replica import DEFAULT_HISTORY_REVISIONS, DeltaDoesNotFollow, Incarnation
from poolcore.side_by_side import side_by_side
from poolcore.wire.codec import MalformedMessage
from poolcore.wire.serving import Handlers
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import member_service_pb2_grpc
from poolmaster.agents import Agents
from poolmaster.decide.inventory import departed
from poolmaster.layout import read_head
from poolmaster.ledger import SteppedDown
from poolmaster.mastership import Mastership, claim, found, founding_objects
from poolmaster.service.api import master_handlers, replica_handlers
from poolmaster.service.reads import View
from poolmaster.service.status import status_of_replica
from poolmaster.store.contract import Store, StoreError
from poolmember.agent import Agent
from poolmember.drivers.contract import Driver
from poolmember.files import Files
from poolmember.gateway import Gateway, Upstream, upstream_to
from poolmember.identity import Identity, Member, Own
from poolmember.own_session import OwnSession
from poolmember.search import Search
from poolmember.session import Ejected, Follower, Link, Session
from poolmember.state_dir import REPLICA_FILE, STORE_FILE

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


Connect = Callable[[str], AbstractAsyncContextManager[tuple[Upstream, Link]]]
"""Opens the way to the host at an endpoint."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the host becomes, and which databases that leaves behind."""

    membership: Own | Member
    retire: tuple[str, ...] = ()


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
    history_revisions: int = DEFAULT_HISTORY_REVISIONS
    """How many commits a pool that this host founds remembers."""
    mastership: Mastership | None = None
    follower: Follower | None = None

    @property
    def identity(self) -> Identity:
        """Who this host is."""
        identity = self.files.identity
        if identity is None:
            raise RuntimeError("the host has no identity yet")
        return identity

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
                self.identity.host, pool, self.agent.addresses, store, self.clock
            )
            yield self.follower
        finally:
            self.follower = None
            await store.close()

    def answer_from_replica(self, follower: Follower, problem: Callable[[], str]) -> Handlers:
        """Handlers for a host without a master; `problem` says why it has none."""

        def no_master() -> PoolError:
            # It may be the message of another error, a sentence of its own.
            said = problem().rstrip(".")
            return PoolError(Reason.NO_MASTER, host=self.identity.name, problem=said)

        def view() -> View:
            if follower.state is None:
                raise no_master()
            age = self.clock.monotonic() - follower.heard
            return View(follower.state, stale=True, age_seconds=age)

        async def read() -> View:
            return view()

        def status() -> Any:
            return status_of_replica(view(), follower.last_master, follower.term, "sqlite")

        return replica_handlers(read, status, no_master, host=self.identity.name)


def handlers_while_starting(host: str) -> Handlers:
    """Handlers for a host that has no replica open yet; `host` is its name."""

    def no_master() -> PoolError:
        return PoolError(Reason.NO_MASTER, host=host, problem="it is still starting")

    async def read() -> View:
        raise no_master()

    def status() -> Any:
        raise no_master()

    return replica_handlers(read, status, no_master, host=host)


# -- founding -------------------------------------------------------------------------------------


async def found_pool(parts: Parts, shared: str | None) -> Change:
    """Make this host a pool of one, from what its driver finds on it."""
    facts = await parts.agent.facts()
    # Of a shared file the pool is derived, so that a founding that was cut short is known again.
    identity = parts.identity
    chosen = uuid.uuid4() if shared is None else uuid.uuid5(uuid.UUID(identity.host), shared)
    pool = parts.new_pool(str(chosen))
    objects = founding_objects(facts, pool, now=parts.clock.now())
    return Change(await _found_store(parts, pool.uuid, objects, shared))


async def found_after_eject(parts: Parts, follower: Follower) -> Change:
    """Make this host a pool of one again, with what it takes along from its former pool."""
    host = parts.identity.host
    # What an attempt that a crash cut short has left.
    parts.files.retire(STORE_FILE)
    if follower.state is None or follower.state.get(Host, host) is None:
        change = await found_pool(parts, None)
        return replace(change, retire=(REPLICA_FILE,))
    _, objects = departed(follower.state, host)
    pool = parts.new_pool(str(uuid.uuid4()))
    membership = await _found_store(parts, pool.uuid, (pool, *objects), None)
    parts.reached("host.eject:host-founded")
    return Change(membership, retire=(REPLICA_FILE,))


async def _found_insistently(parts: Parts, follower: Follower) -> Change:
    """Found the host's own pool, however long its disk refuses: nobody else can, or will ask."""
    while True:
        try:
            return await found_after_eject(parts, follower)
        except PoolError as error:
            log.error("this host's own pool is not founded yet: %s", error.message)
        await parts.clock.sleep(LONGEST_PAUSE_SECONDS)


async def _found_store(
    parts: Parts, pool: PoolId, objects: tuple[Any, ...], shared: str | None
) -> Own:
    store, incarnation = await parts.files.found_store(pool, shared)
    try:
        if await read_head(store) is None:
            await found(store, Incarnation(1, incarnation), parts.identity.host, objects)
    except StoreError as error:
        raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
    finally:
        await store.close()
    return Own(pool=pool, incarnation=incarnation, store=shared)


# -- leading --------------------------------------------------------------------------------------


async def lead(parts: Parts, own: Own) -> None:
    """Be the master of the host's own pool, over and over: each mastership begins from the store.

    Ends only by being cancelled.
    """
    async with parts.following(own.pool) as follower:
        pause = PAUSE_SECONDS
        while True:
            store: Store | None = None
            began = parts.clock.monotonic()
            try:
                store = await parts.files.open_store(own)
                await _one_mastership(parts, own, store, follower)
            except (SteppedDown, StoreError) as error:
                log.error("the mastership has ended: %s", error)
            finally:
                parts.mastership = None
                problem = "its mastership has just ended"
                fallback = parts.answer_from_replica(follower, lambda: problem)  # noqa: B023
                parts.gateway.serve_locally(fallback)
                if store is not None:
                    await store.close()
            # All that it had is garbage now, and the next one begins with its own.
            gc.unfreeze()
            gc.collect()
            if parts.clock.monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause = PAUSE_SECONDS
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _one_mastership(parts: Parts, own: Own, store: Store, follower: Follower) -> None:
    host = parts.identity.host
    head, state = await claim(store, host)
    # Most of it stays as long as the daemon runs: the garbage collector need not search it.
    gc.freeze()
    master = Mastership(
        host=host,
        store=store,
        shared_store=own.store,
        head=head,
        state=state,
        agents=parts.agents,
        clock=parts.clock,
        reached=parts.reached,
    )
    parts.mastership = master
    parts.gateway.serve_locally(master_handlers(master, host=parts.identity.name))
    parts.on_role(f"master of pool {state.pool.name_label}, term {head.term}")
    await side_by_side(
        master.run(), _follow_own(parts, master, follower), parts.agent.settle_reservations(master)
    )


async def _follow_own(parts: Parts, master: Mastership, follower: Follower) -> None:
    while True:
        try:
            await OwnSession(master.ledger, master.sessions, follower, parts.driver).run()
        except (DeltaDoesNotFollow, MalformedMessage) as error:
            log.warning("the replica starts over: %s", error)
            follower.start_over()
        except PoolError as error:
            log.info("the session with the own mastership ended: %s", error.message)
        await parts.clock.sleep(PAUSE_SECONDS)


# -- following ------------------------------------------------------------------------------------


async def follow(parts: Parts, member: Member) -> Change:
    """Follow whoever is master, until the host is ejected."""
    async with parts.following(member.pool) as follower:
        await follower.load()
        search = Search()
        handlers = parts.answer_from_replica(follower, search.summary)
        parts.gateway.serve_locally(handlers)
        alone = f"member of pool {member.pool_name}, looking for its master"
        parts.on_role(alone)
        hint: str | None = None
        pause = PAUSE_SECONDS
        while True:
            for endpoint in _candidates(follower, member, hint):
                welcomes = follower.welcomes
                try:
                    await _one_session(parts, follower, endpoint, handlers)
                except Ejected:
                    log.warning("this host was ejected from pool %s", member.pool_name)
                    parts.reached("host.eject:host-told")
                    return await _found_insistently(parts, follower)
                except (DeltaDoesNotFollow, MalformedMessage) as error:
                    log.warning("the replica starts over: %s", error)
                    follower.start_over()
                except PoolError as error:
                    search.in_vain(endpoint, error)
                    hint = error.params.get("master") if _redirects(error) else None
                if follower.welcomes > welcomes:
                    hint, pause = endpoint, PAUSE_SECONDS
                    parts.on_role(alone)
            await parts.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _redirects(error: PoolError) -> bool:
    return error.reason is Reason.HOST_IS_SLAVE and ":" in error.params.get("master", "")


def _candidates(follower: Follower, member: Member, hint: str | None) -> list[str]:
    """Where the master may be, the likeliest first, each once."""
    known = sorted(h.address for h in follower.state.all(Host)) if follower.state else []
    own = {a.endpoint for a in follower.addresses}
    found = [hint] if hint else []
    return [e for e in dict.fromkeys([*found, *member.addresses, *known]) if e not in own]


async def _one_session(parts: Parts, follower: Follower, endpoint: str, handlers: Handlers) -> None:
    async with parts.connect(endpoint) as (upstream, link):

        def welcomed() -> None:
            parts.gateway.pass_on(upstream, handlers)
            parts.on_role(f"member, following {endpoint}")

        try:
            await Session(follower, parts.driver, on_welcome=welcomed).run(link)
        finally:
            parts.gateway.serve_locally(handlers)


@asynccontextmanager
async def connected(endpoint: str) -> AsyncIterator[tuple[Upstream, Link]]:
    """The way to a host over gRPC: for the calls that are passed on, and for a session."""
    upstream = upstream_to(endpoint)
    try:
        yield upstream, link_over(upstream.channel, endpoint)
    finally:
        with suppress(asyncio.CancelledError):
            await upstream.channel.close()


def link_over(channel: grpc.aio.Channel, endpoint: str) -> Link:
    """A session's link over gRPC."""
    stub = member_service_pb2_grpc.MemberServiceStub(channel)

    async def link(requests: Any, send: Any) -> None:
        try:
            async for response in stub.Session(requests):
                await send(response)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL and not error.trailing_metadata():
                # What grpc.aio makes of a stream that the other side ends while we send.
                raise PoolError(Reason.NO_HOST_ANSWERS, addresses=endpoint) from error
            raise error_from_rpc(error, endpoint=endpoint) from error

    return link


# -- one role after the other ---------------------------------------------------------------------


class Roles:
    """Runs the host's roles: what its membership says, and what becomes of that."""

    def __init__(self, parts: Parts, *, shared_store: str | None) -> None:
        self._parts = parts
        self._shared_store = shared_store
        self._changes: asyncio.Queue[tuple[Change, asyncio.Future[None]]] = asyncio.Queue()

    async def become(self, membership: Member) -> None:
        """Turn into a member of a pool; returns when that is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.put_nowait((Change(membership, (STORE_FILE, REPLICA_FILE)), done))
        await done

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            membership = self._parts.identity.membership
            if membership is None:
                self._take_on(await found_pool(self._parts, self._shared_store))
            else:
                await self._until_changed(membership)

    async def _until_changed(self, membership: Own | Member) -> None:
        role = asyncio.ensure_future(self._role(membership))  # noqa: TID251 - awaited below
        asked = asyncio.ensure_future(self._changes.get())  # noqa: TID251 - awaited below
        done: asyncio.Future[None] | None = None
        try:
            await asyncio.wait([role, asked], return_when=asyncio.FIRST_COMPLETED)
            if role.done():
                change = role.result()
            else:
                change, done = asked.result()
        finally:
            for task in (role, asked):
                task.cancel()
            await asyncio.gather(role, asked, return_exceptions=True)
        # Asked for twice, the second time there is nothing to do, and nothing to retire.
        if change.membership != membership:
            self._take_on(change)
        if done is not None and not done.done():
            done.set_result(None)

    async def _role(self, membership: Own | Member) -> Change:
        if isinstance(membership, Member):
            return await follow(self._parts, membership)
        await lead(self._parts, membership)
        raise AssertionError("leading ends only by being cancelled")

    def _take_on(self, change: Change) -> None:
        identity = replace(self._parts.identity, membership=change.membership)
        self._parts.files.write_identity(identity, retire=change.retire)
