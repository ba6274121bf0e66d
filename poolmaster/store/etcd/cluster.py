"""A client of one etcd cluster: several endpoints, the nearest first.

gRPC's own balancing is not used. Which member answers matters: the one of this host is nearest,
one that is cut off or stopped has to be left at once, and a call that changes something is sent to
one member, once.
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
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.etcd.versions import refusal
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.etcd.calls import (
    HAS_LEADER,
    LEASE_KEEP_ALIVE,
    STATUS,
    Method,
    Req,
    Res,
    described,
    may_be_answered_by_another,
)

log = logging.getLogger(__name__)

TRY_SECONDS = 0.4
"""How long one member has to answer what another could answer as well."""
CALL_SECONDS = 2.0
"""How long all of them together have."""
AVOID_SECONDS = 1.0
"""How long a member that did not answer is asked only if no other can be."""

_OPTIONS: Sequence[tuple[str, Any]] = (
    # Every handle has connections of its own: one that is closed does not end another's.
    ("grpc.use_local_subchannel_pool", 1),
    # A call is sent once. gRPC would repeat some by itself.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
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
        """What a channel needs; reads the files."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca.read_bytes(),
            private_key=None if self.key is None else self.key.read_bytes(),
            certificate_chain=None if self.certificate is None else self.certificate.read_bytes(),
        )


class Endpoint:
    """One member of the cluster and the connection to it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.avoided_until = 0.0
        """On the monotonic clock."""
        self._channel = (
            grpc.aio.insecure_channel(address, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        )
        self._unary: dict[str, Any] = {}

    def is_ready(self) -> bool:
        """Whether there is a connection; begins to connect if there is none."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def connected(self) -> None:
        """Until there is a connection."""
        while (state := self._channel.get_state(try_to_connect=True)) is not (
            grpc.ChannelConnectivity.READY
        ):
            await self._channel.wait_for_state_change(state)

    async def call(self, method: Method[Req, Res], request: Req, *, seconds: float) -> Res:
        """One call, sent once; raises `grpc.aio.AioRpcError`."""
        sending = self._unary.get(method.path)
        if sending is None:
            sending = self._unary[method.path] = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        answer: Res = await sending(request, timeout=seconds, metadata=HAS_LEADER)
        return answer

    def stream(self, method: Method[Req, Res]) -> Any:
        """A call in both directions."""
        sending = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return sending(metadata=HAS_LEADER)

    async def close(self) -> None:
        """End the connection and everything that goes over it."""
        await self._channel.close()


class Cluster:
    """The members of one cluster, in the order in which they are to be asked."""

    def __init__(self, addresses: Sequence[str], *, clock: Clock, tls: Tls | None = None) -> None:
        credentials = None if tls is None else tls.credentials()
        self._endpoints = [Endpoint(address, credentials) for address in addresses]
        self._clock = clock

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    async def endpoint(self, seconds: float = CALL_SECONDS) -> Endpoint:
        """The nearest member that there is a connection to, if possible one that has answered.

        `StoreUnavailable` when there is no connection to any in so many seconds.
        """
        now = self._clock.monotonic()
        ready = [endpoint for endpoint in self._endpoints if endpoint.is_ready()]
        for endpoint in ready:
            if endpoint.avoided_until <= now:
                return endpoint
        if ready:
            return min(ready, key=lambda endpoint: endpoint.avoided_until)
        connecting = [
            asyncio.ensure_future(endpoint.connected())  # noqa: TID251 - awaited below
            for endpoint in self._endpoints
        ]
        try:
            await asyncio.wait(connecting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in connecting:
                waiting.cancel()
            await asyncio.gather(*connecting, return_exceptions=True)
        for endpoint in self._endpoints:
            if endpoint.is_ready():
                return endpoint
        tried = ", ".join(endpoint.address for endpoint in self._endpoints)
        raise StoreUnavailable(f"no connection to etcd at {tried}")

    def avoid(self, endpoint: Endpoint) -> None:
        """Ask others first for a while."""
        endpoint.avoided_until = self._clock.monotonic() + AVOID_SECONDS

    async def ask(self, method: Method[Req, Res], request: Req) -> Res:
        """What any member answers to a call that changes nothing, or nothing a second time.

        Raises `StoreUnavailable` when none does in time, `grpc.aio.AioRpcError` when one refuses.
        """
        until = self._clock.monotonic() + CALL_SECONDS
        problem = "it does not answer"
        while (left := until - self._clock.monotonic()) > 0:
            endpoint = await self.endpoint(left)
            try:
                return await endpoint.call(method, request, seconds=min(TRY_SECONDS, left))
            except grpc.aio.AioRpcError as error:
                if not may_be_answered_by_another(error):
                    raise
                problem = f"{endpoint.address}: {described(error)}"
                self.avoid(endpoint)
            # All of them may be waiting for a leader to be elected.
            await self._clock.sleep(0.01)
        raise StoreUnavailable(f"etcd: {problem}")

    async def keep_alive(self, lease: int) -> int:
        """How many seconds a lease has now; 0 when it has ended."""
        until = self._clock.monotonic() + CALL_SECONDS
        problem = "it does not answer"
        while (left := until - self._clock.monotonic()) > 0:
            endpoint = await self.endpoint(left)
            try:
                async with (
                    asyncio.timeout(min(TRY_SECONDS, left)),
                    _stream(endpoint, LEASE_KEEP_ALIVE) as stream,
                ):
                    await stream.write(pb.LeaseKeepAliveRequest(id=lease))
                    answer = await stream.read()
            except TimeoutError:
                problem = f"{endpoint.address} does not answer"
            except grpc.aio.AioRpcError as error:
                problem = f"{endpoint.address}: {described(error)}"
            else:
                if isinstance(answer, pb.LeaseKeepAliveResponse):
                    return answer.ttl
                problem = f"{endpoint.address} has ended the call"
            self.avoid(endpoint)
            await self._clock.sleep(0.01)
        raise StoreUnavailable(f"etcd: {problem}")

    @asynccontextmanager
    async def stream(self, method: Method[Req, Res]) -> AsyncIterator[tuple[Endpoint, Any]]:
        """A call in both directions with one of the members, cancelled at the end of the block."""
        endpoint = await self.endpoint()
        async with _stream(endpoint, method) as stream:
            yield endpoint, stream

    async def status(self, endpoint: Endpoint) -> pb.StatusResponse:
        """How one member is; raises `grpc.aio.AioRpcError`."""
        return await endpoint.call(STATUS, pb.StatusRequest(), seconds=TRY_SECONDS)

    async def check_versions(self) -> None:
        """Raise `ETCD_VERSION_REFUSED` if a member that answers is of a release that is."""
        for endpoint in self._endpoints:
            if not endpoint.is_ready():
                continue
            try:
                version = (await self.status(endpoint)).version
            except grpc.aio.AioRpcError as error:
                log.info("%s does not tell its version: %s", endpoint.address, described(error))
                continue
            if (problem := refusal(version)) is not None:
                raise PoolError(
                    Reason.ETCD_VERSION_REFUSED, address=endpoint.address, problem=problem
                )

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """All of them, the nearest first."""
        return self._endpoints


@asynccontextmanager
async def _stream(endpoint: Endpoint, method: Method[Req, Res]) -> AsyncIterator[Any]:
    stream = endpoint.stream(method)
    try:
        yield stream
    finally:
        stream.cancel()
