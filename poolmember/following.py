"""The role of a host that follows another, the master of its pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.model import Host
from poolcore.replica import DeltaDoesNotFollow
from poolcore.side_by_side import accompanied, side_by_side
from poolcore.wire.channels import OpenChannel, open_channel
from poolcore.wire.codec import MalformedMessage
from poolcore.wire.serving import Handlers
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import member_service_pb2_grpc
from poolmember.founding import found_insistently
from poolmember.gateway import Upstream
from poolmember.identity import Member
from poolmember.inheriting import inherit, is_heir
from poolmember.parts import HOLD_SECONDS, LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Change, Parts
from poolmember.returning import LeftBehind, before_inheriting
from poolmember.search import Search
from poolmember.session import Ejected, Follower, Inherited, Link, Session, gone
from poolmember.state_dir import STORE_FILE
from poolmember.voting import keep_to_the_voters, store_in_etcd

log = logging.getLogger(__name__)

ANSWER_SECONDS = 0.5
"""A master whose session has ended may still answer what was passed on to it."""


class Forgotten(Exception):
    """The master says that the pool has forgotten this host; with the pool's name."""


class Directions:
    """Where the master is, when this host has been told."""

    def __init__(self) -> None:
        self._endpoint: str | None = None
        self._told = asyncio.Event()

    def point_to(self, endpoint: str) -> None:
        """The master is there: a session with another host, or the search for one, ends."""
        self._endpoint = endpoint
        self._told.set()

    def taken(self) -> str | None:
        """Where it is, if that was told since this was asked the last time."""
        endpoint, self._endpoint = self._endpoint, None
        self._told.clear()
        return endpoint

    async def within(self, seconds: float) -> None:
        """Return when the master's place is told, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()

    async def changed(self, *, but: str) -> None:
        """Return when the master is known to be somewhere else than `but`."""
        while self._endpoint in {None, but}:
            self._told.clear()
            await self._told.wait()


async def follow(parts: Parts, member: Member) -> Change:
    """Follow whoever is master, until the host is ejected."""
    parts.gateway.hold_seconds = HOLD_SECONDS
    async with parts.following(member.pool) as follower:
        await follower.load()
        if await is_heir(follower, member):
            try:
                await before_inheriting(parts, follower, member.addresses)
                return await inherit(parts, follower)
            except LeftBehind as left:
                log.warning("%s: this host does not take over", left)
                # What an attempt that was cut short has left.
                parts.files.retire(STORE_FILE)
        return await _until_the_store_is_shared(parts, member, follower)


class _Shared(Exception):
    """The pool's store is where this host reaches it; with its URL."""


async def _until_the_store_is_shared(parts: Parts, member: Member, follower: Follower) -> Change:
    """Follow; once the pool has its own etcd, become one of those that share that store."""

    async def look() -> NoReturn:
        raise _Shared(await store_in_etcd(parts, follower))

    try:
        return await accompanied(
            sessions(parts, follower, member.addresses, Directions()),
            look(),
            keep_to_the_voters(parts, follower),
        )
    except _Shared as found:
        return Change(replace(member, store=str(found)))


async def sessions(
    parts: Parts, follower: Follower, addresses: Sequence[str], directions: Directions
) -> Change:
    """One session with a master after the other, until the host is ejected; `Forgotten` if it is.

    `addresses`, `host:port` each, are where to look besides what the replica knows.
    """
    search = Search()
    handlers = parts.answer_from_replica(follower, search.summary)
    parts.gateway.serve_locally(handlers)
    alone = f"{parts.role} of pool {_name(follower)}, looking for its master"
    parts.on_role(alone)
    hint: str | None = None
    pause = PAUSE_SECONDS
    while True:
        for candidate in _candidates(follower, addresses, directions.taken() or hint):
            endpoint = directions.taken() or candidate
            welcomes = follower.welcomes
            try:
                if await follower.settle() and await is_heir(follower, parts.identity.membership):
                    # Since when is not known: there was no answer from the disk.
                    await before_inheriting(parts, follower, addresses)
                    raise Inherited
                await _unless_directed(
                    _one_session(parts, follower, endpoint, handlers), directions, endpoint
                )
            except Ejected:
                log.warning("this host was ejected from pool %s", follower.pool)
                parts.reached("host.eject:host-told")
                follower.leaving = True
                async with parts.preparing:
                    return await found_insistently(parts, follower)
            except Inherited:
                log.warning("this host takes over the store of pool %s", follower.pool)
                follower.leaving = True
                if follower.state is not None:
                    parts.just_inherited = follower.state.incarnation.uuid
                async with parts.preparing:
                    return await inherit(parts, follower)
            except LeftBehind as left:
                log.warning("%s: this host does not take over", left)
                parts.gateway.serve_locally(handlers)
                parts.on_role(alone)
            except (DeltaDoesNotFollow, MalformedMessage) as error:
                log.warning("the replica starts over: %s", error)
                follower.start_over()
            except PoolError as error:
                if _is_forgotten(follower, error):
                    raise Forgotten(error.params.get("pool", follower.pool)) from error
                search.in_vain(endpoint, error)
                hint = error.params.get("master") if _redirects(error) else None
            if follower.welcomes > welcomes:
                hint, pause = endpoint, PAUSE_SECONDS
                parts.on_role(alone)
        await directions.within(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _unless_directed(
    session: Coroutine[Any, Any, None], directions: Directions, endpoint: str
) -> None:
    """Run a session until it ends, or until the master is known to be somewhere else."""

    async def elsewhere() -> None:
        await directions.changed(but=endpoint)
        raise gone("another host is the master now")

    await side_by_side(session, elsewhere())


def _name(follower: Follower) -> str:
    """The pool's name; before the first snapshot its uuid."""
    return follower.pool if follower.state is None else follower.state.pool.name_label


def _redirects(error: PoolError) -> bool:
    return error.reason is Reason.HOST_IS_SLAVE and ":" in error.params.get("master", "")


def _is_forgotten(follower: Follower, error: PoolError) -> bool:
    """Whether it is the pool that says so, not a master that the pool has gone on without.

    A host without a replica cannot tell these apart, and looks for another master.
    """
    if error.reason is not Reason.HOST_FORGOTTEN or follower.state is None:
        return False
    counter = error.params.get("incarnation", "")
    return counter.isdecimal() and int(counter) >= follower.state.incarnation.counter


def _candidates(follower: Follower, addresses: Sequence[str], hint: str | None) -> list[str]:
    """Where the master may be, the likeliest first, each once."""
    known = sorted(h.address for h in follower.state.all(Host)) if follower.state else []
    own = {a.endpoint for a in follower.addresses}
    found = [hint] if hint else []
    return [e for e in dict.fromkeys([*found, *addresses, *known]) if e not in own]


async def _one_session(parts: Parts, follower: Follower, endpoint: str, handlers: Handlers) -> None:
    async with parts.connect(endpoint) as (upstream, link):

        def welcomed() -> None:
            parts.gateway.pass_on(upstream, handlers)
            parts.on_role(f"{parts.role}, following {endpoint}")

        try:
            await Session(follower, parts.driver, on_welcome=welcomed).run(link)
        finally:
            parts.gateway.serve_locally(handlers)


class Uplinks:
    """The ways to other hosts over gRPC. To be closed when no more are used."""

    def __init__(self, open_channel: OpenChannel = open_channel) -> None:
        self._open_channel = open_channel
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connected(self, endpoint: str) -> AsyncIterator[tuple[Upstream, Link]]:
        """The way to a host: for the calls that are passed on, and for a session."""
        upstream = Upstream(endpoint, self._open_channel(endpoint))
        try:
            yield upstream, link_over(upstream.channel, endpoint)
        finally:
            # Not waited for: this host may have to be master before the other one answers.
            closing = asyncio.ensure_future(  # noqa: TID251 - kept, and awaited by `close`
                _close(upstream.channel)
            )
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Return when no way is open any more."""
        await asyncio.gather(*self._closing)


async def _close(channel: grpc.aio.Channel) -> None:
    with suppress(asyncio.CancelledError):
        await channel.close(ANSWER_SECONDS)


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
