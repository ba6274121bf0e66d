"""The role of a host that follows another, the master of its pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.model import Host
from poolcore.replica import DeltaDoesNotFollow
from poolcore.wire.codec import MalformedMessage
from poolcore.wire.serving import Handlers
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import member_service_pb2_grpc
from poolmember.founding import found_insistently
from poolmember.gateway import Upstream, upstream_to
from poolmember.identity import Member
from poolmember.parts import LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Change, Parts
from poolmember.search import Search
from poolmember.session import Ejected, Follower, Link, Session

log = logging.getLogger(__name__)


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
                    return await found_insistently(parts, follower)
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
