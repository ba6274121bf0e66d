"""A client of one etcd cluster: several endpoints, the nearest first.

gRPC's own balancing is not used. Which member answers matters: the one of this host is nearest,
one that is cut off or stopped has to be left at once, and a call that changes something is sent to
one member, once.

Whatever fails here is told as `grpc.aio.AioRpcError` or `StoreUnavailable`; what that means for a
transaction is up to `poolmaster.store.etcd.store`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.wire.channels import OpenChannel
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.etcd.calls import (
    LEASE_KEEP_ALIVE,
    RANGE,
    STATUS,
    Method,
    Req,
    Res,
    described,
    has_no_leader,
    may_be_answered_by_another,
    never_proposed,
)
from poolmaster.store.etcd.versions import refusal

log = logging.getLogger(__name__)

HEDGE_SECONDS = 0.2
"""When one member has not answered for so long what another could answer as well, that is asked
too. A master gives up after a second without an answer."""
CALL_SECONDS = 5.0
"""How long all of them together have."""
SEND_SECONDS = 2.0
"""How long a call that changes something may take; its outcome is unknown then."""
CONNECT_SECONDS = 1.0
LOOK_SECONDS = 0.02
"""How often is looked whether there is a connection, or a leader, again."""
PROBE_SECONDS = 0.2
"""How often a member that did not answer is asked whether it does again."""

_HAS_LEADER = (("hasleader", "true"),)
"""A member that knows no leader refuses at once then instead of letting the call hang."""

_OPTIONS: Sequence[tuple[str, Any]] = (
    # Every handle has connections of its own: one that is closed does not end another's.
    ("grpc.use_local_subchannel_pool", 1),
    # A call is sent once. gRPC would repeat some by itself.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # In spite of its name: how long an attempt to connect may take, TLS included.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A host that lost its power resets no connection. etcd allows a ping every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: whom to believe, and who we are, if the cluster wants to know."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel needs; raises `StoreUnavailable` when a file cannot be read."""
        try:
            return grpc.ssl_channel_credentials(
                root_certificates=self.ca.read_bytes(),
                private_key=None if self.key is None else self.key.read_bytes(),
                certificate_chain=(
                    None if self.certificate is None else self.certificate.read_bytes()
                ),
            )
        except OSError as error:
            raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error


def insecure_channel(address: str) -> grpc.aio.Channel:
    """The way to a member, in the clear."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def secure_channels(tls: Tls) -> OpenChannel:
    """How members are reached with TLS; raises `StoreUnavailable` when a file is of no use."""
    credentials = tls.credentials()
    return lambda address: grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


class Endpoint:
    """One member of the cluster and the connection to it."""

    def __init__(self, address: str, open_channel: OpenChannel) -> None:
        self.address = address
        self.avoided = False
        """Whether it failed to answer, and has not answered since."""
        self._channel = open_channel(address)
        self._unary: dict[str, Any] = {}

    def is_ready(self) -> bool:
        """Whether there is a connection; begins to connect if there is none."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def call(
        self,
        method: Method[Req, Res],
        request: Req,
        *,
        seconds: float,
        without_leader: bool = False,
    ) -> Res:
        """One call, sent once; raises `grpc.aio.AioRpcError`.

        `without_leader`: it can be answered by a member that knows no leader.
        """
        sending = self._unary.get(method.path)
        if sending is None:
            sending = self._unary[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        metadata = () if without_leader else _HAS_LEADER
        answer: Res = await sending(request, timeout=seconds, metadata=metadata)
        return answer

    @asynccontextmanager
    async def stream(self, method: Method[Req, Res]) -> AsyncIterator[Any]:
        """A call in both directions, cancelled at the end of the block."""
        sending = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        stream = sending(metadata=_HAS_LEADER)
        try:
            yield stream
        finally:
            stream.cancel()

    async def close(self) -> None:
        """End the connection and everything that goes over it."""
        await self._channel.close()


class Cluster:
    """The members of one cluster, in the order in which they are to be asked."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        clock: Clock,
        open_channel: OpenChannel = insecure_channel,
    ) -> None:
        self._open_channel = open_channel
        self.endpoints = [Endpoint(address, open_channel) for address in addresses]
        self._former: list[Endpoint] = []
        self.id: int | None = None
        """Which cluster it is; one that says another is not believed."""
        self._clock = clock
        self._probes: dict[Endpoint, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End all connections."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        all_of_them = (*self.endpoints, *self._former)
        await asyncio.gather(*(endpoint.close() for endpoint in all_of_them))

    @asynccontextmanager
    async def at(self, address: str) -> AsyncIterator[Endpoint]:
        """The member at `host:port`, whether it is one of those that are asked or not."""
        known = next((e for e in self.endpoints if e.address == address), None)
        endpoint = known or Endpoint(address, self._open_channel)
        try:
            yield endpoint
        finally:
            if known is None:
                await endpoint.close()

    def readdress(self, addresses: Sequence[str]) -> None:
        """The cluster has these members from now on; calls under way go on."""
        known = {endpoint.address: endpoint for endpoint in (*self.endpoints, *self._former)}
        self.endpoints = [
            known.pop(address) if address in known else Endpoint(address, self._open_channel)
            for address in addresses
        ]
        self._former = list(known.values())

    # -- which member -----------------------------------------------------------------------------

    async def endpoint(
        self, seconds: float = CALL_SECONDS, *, but: Sequence[Endpoint] = ()
    ) -> Endpoint:
        """The nearest member that there is a connection to, if possible one that has answered.

        `StoreUnavailable` when there is no connection to any in so many seconds.
        """
        until = self._clock.monotonic() + seconds
        while True:
            ready = [e for e in self.endpoints if e.is_ready() and e not in but]
            if ready:
                return min(ready, key=lambda endpoint: endpoint.avoided)
            if self._clock.monotonic() >= until:
                break
            # gRPC keeps a watcher for every wait that is given up, so nobody waits there.
            await self._clock.sleep(LOOK_SECONDS)
        tried = ", ".join(endpoint.address for endpoint in self.endpoints)
        raise StoreUnavailable(f"no connection to etcd at {tried}")

    def avoid(self, endpoint: Endpoint) -> None:
        """Ask others first until it answers again."""
        endpoint.avoided = True
        if endpoint not in self._probes:
            probe = asyncio.ensure_future(  # noqa: TID251 - `close` waits for it
                self._until_it_answers(endpoint)
            )
            self._probes[endpoint] = probe
            probe.add_done_callback(lambda _: self._probes.pop(endpoint, None))

    async def _until_it_answers(self, endpoint: Endpoint) -> None:
        while True:
            await self._clock.sleep(PROBE_SECONDS)
            if not endpoint.is_ready():
                continue
            try:
                request = pb.RangeRequest(key=b"\0")
                answer = await endpoint.call(RANGE, request, seconds=SEND_SECONDS)
            except grpc.aio.AioRpcError:
                continue
            if self.is_ours(answer.header):
                endpoint.avoided = False
                return

    def is_ours(self, header: pb.ResponseHeader) -> bool:
        """Whether an answer is of this cluster, and not of one that was made anew in its place."""
        return self.id is None or header.cluster_id == self.id

    # -- calls that any member may answer ---------------------------------------------------------

    async def ask(
        self, method: Method[Req, Res], request: Req, *, without_leader: bool = False
    ) -> Res:
        """What any member answers to a call that changes nothing, or nothing a second time.

        The next one is asked as soon as one takes long. Raises `StoreUnavailable` when none
        answers in time, `grpc.aio.AioRpcError` when one refuses.
        """
        _, answer = await self._hedged(method, request, without_leader=without_leader)
        return answer

    async def answering(self, method: Method[Req, Res], request: Req) -> Endpoint:
        """The member that answered such a call; raises as `ask` does."""
        endpoint, _ = await self._hedged(method, request, without_leader=False)
        return endpoint

    async def _hedged(
        self, method: Method[Req, Res], request: Req, *, without_leader: bool
    ) -> tuple[Endpoint, Res]:
        until = self._clock.monotonic() + CALL_SECONDS
        asked: dict[asyncio.Future[Res], Endpoint] = {}
        problem = "it does not answer"
        try:
            while (left := until - self._clock.monotonic()) > 0:
                endpoint = await self._next(left, tuple(asked.values()))
                if endpoint is not None:
                    sent = asyncio.ensure_future(  # noqa: TID251 - awaited below
                        endpoint.call(method, request, seconds=left, without_leader=without_leader)
                    )
                    asked[sent] = endpoint
                done, _ = await asyncio.wait(
                    asked, timeout=min(HEDGE_SECONDS, left), return_when=asyncio.FIRST_COMPLETED
                )
                if not done and endpoint is not None:
                    self.avoid(endpoint)
                for call in done:
                    answering = asked.pop(call)
                    try:
                        answer = call.result()
                    except grpc.aio.AioRpcError as error:
                        problem = f"{answering.address}: {described(error)}"
                        if not may_be_answered_by_another(error):
                            raise
                        if has_no_leader(error):
                            # Perhaps nobody has one just now.
                            await self._clock.sleep(LOOK_SECONDS)
                        else:
                            self.avoid(answering)
                        continue
                    if self.is_ours(answer.header):  # type: ignore[attr-defined]  # all have one
                        return answering, answer
                    problem = f"{answering.address} is of another cluster"
                    self.avoid(answering)
        finally:
            for call in asked:
                call.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise StoreUnavailable(f"etcd: {problem}")

    async def _next(self, seconds: float, asked: Sequence[Endpoint]) -> Endpoint | None:
        """Another member to ask; none if all that could be are being asked."""
        if not asked:
            return await self.endpoint(seconds)
        try:
            return await self.endpoint(0.0, but=asked)
        except StoreUnavailable:
            return None

    async def keep_alive(self, lease: int) -> int:
        """How many seconds a lease has now; 0 when it has ended. `StoreUnavailable`."""
        until = self._clock.monotonic() + CALL_SECONDS
        problem = "it does not answer"
        while (left := until - self._clock.monotonic()) > 0:
            endpoint = await self.endpoint(left)
            try:
                async with asyncio.timeout(min(1.0, left)):
                    async with endpoint.stream(LEASE_KEEP_ALIVE) as stream:
                        await stream.write(pb.LeaseKeepAliveRequest(id=lease))
                        answer = await stream.read()
            except TimeoutError:
                problem = f"{endpoint.address} does not answer"
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                problem = f"{endpoint.address}: {error}"
            else:
                if isinstance(answer, pb.LeaseKeepAliveResponse):
                    return answer.ttl
                problem = f"{endpoint.address} has ended the call"
            self.avoid(endpoint)
            await self._clock.sleep(LOOK_SECONDS)
        raise StoreUnavailable(f"etcd: {problem}")

    # -- calls that change something --------------------------------------------------------------

    async def send(self, method: Method[Req, Res], request: Req) -> Res:
        """Send a call to one member, once.

        To another one only if that refused before anybody else knew of it. Raises
        `StoreUnavailable` when no member could be sent it, else `grpc.aio.AioRpcError`.
        """
        until = self._clock.monotonic() + SEND_SECONDS
        while True:
            endpoint = await self.endpoint(max(until - self._clock.monotonic(), 0.0))
            try:
                answer = await endpoint.call(method, request, seconds=SEND_SECONDS)
            except grpc.aio.AioRpcError as error:
                log.info("etcd at %s: %s", endpoint.address, described(error))
                if may_be_answered_by_another(error):
                    self.avoid(endpoint)
                if not never_proposed(error) or self._clock.monotonic() >= until:
                    raise
            else:
                if not self.is_ours(answer.header):  # type: ignore[attr-defined]  # all have one
                    self.avoid(endpoint)
                    problem = f"{endpoint.address} is of another cluster"
                    raise _error(grpc.StatusCode.UNKNOWN, problem)
                return answer
            await self._clock.sleep(LOOK_SECONDS)

    # -- members ----------------------------------------------------------------------------------

    async def status(self, endpoint: Endpoint) -> pb.StatusResponse:
        """How one member is; raises `grpc.aio.AioRpcError`."""
        return await endpoint.call(
            STATUS, pb.StatusRequest(), seconds=CONNECT_SECONDS, without_leader=True
        )

    async def check_versions(self) -> None:
        """Raise `ETCD_VERSION_REFUSED` if a member that answers is of a release that is."""
        versions = await asyncio.gather(*(self._version(e) for e in self.endpoints))
        for endpoint, version in zip(self.endpoints, versions, strict=True):
            problem = None if version is None else refusal(version)
            if problem is not None:
                raise PoolError(
                    Reason.ETCD_VERSION_REFUSED, address=endpoint.address, problem=problem
                )

    async def _version(self, endpoint: Endpoint) -> str | None:
        try:
            # With no connection yet the call waits for one.
            return (await self.status(endpoint)).version
        except grpc.aio.AioRpcError as error:
            log.info("%s does not tell its version: %s", endpoint.address, described(error))
            return None


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
