"""The host agents over gRPC, and what is made of the ways in which a call to one can fail."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.facts import KnownCommit, Recovery, Standing, Tail, Unreachable, VoterFacts
from poolcore.model import Accession, Reservation
from poolcore.replica import Head
from poolcore.wire.channels import open_channel
from poolcore.wire.codec import MalformedMessage, enum_to_proto, from_proto, to_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import agent_service_pb2 as pb
from poolmanager.v1 import agent_service_pb2_grpc
from poolmaster.agents import Answer

T = TypeVar("T")

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 3.0
CALL_SECONDS = 10.0


class GrpcAgents:
    """Asks each agent over a channel of its own, closed after the call.

    `master` is this host's name, for messages.
    """

    def __init__(self, *, master: str) -> None:
        self._master = master

    async def facts(self, endpoint: str) -> Answer:
        """See `Agents`."""
        return _answer(await self._call(endpoint, lambda s: s.GetFacts, pb.GetFactsRequest()))

    async def reserve(self, endpoint: str, reservation: Reservation) -> Answer:
        """See `Agents`."""
        request = pb.ReserveRequest(reservation=to_proto(reservation))
        return _answer(await self._call(endpoint, lambda s: s.Reserve, request))

    async def release(self, endpoint: str, task: str) -> None:
        """See `Agents`."""
        await self._call(endpoint, lambda s: s.Release, pb.ReleaseRequest(task=task))

    async def adopt(self, endpoint: str, task: str, pool: str, store: str | None) -> None:
        """See `Agents`."""
        request = pb.AdoptRequest(task=task, pool=pool, store=store)
        await self._call(endpoint, lambda s: s.Adopt, request)

    async def probe(
        self, endpoint: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        """See `Agents`."""
        request = pb.ProbeRequest(
            targets=[pb.ProbeTarget(host=host, endpoint=target) for host, target in targets]
        )
        response = await self._call(endpoint, lambda s: s.Probe, request)
        return tuple(from_proto(u) for u in response.unreachable)

    async def read_nonce(self, endpoint: str, store: str, pool: str) -> str | None:
        """See `Agents`."""
        request = pb.ReadNonceRequest(store=store, pool=pool)
        response = await self._call(endpoint, lambda s: s.ReadNonce, request)
        return response.nonce if response.HasField("nonce") else None

    async def recoveries(self, endpoint: str) -> tuple[Recovery, ...]:
        """See `Agents`."""
        response = await self._call(endpoint, lambda s: s.GetRecoveries, pb.GetRecoveriesRequest())
        return tuple(from_proto(r) for r in response.recoveries)

    async def read_recovery(
        self, endpoint: str, name: str, token: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        """See `Agents`."""
        request = pb.ReadRecoveryRequest(name=name, page_token=token)
        response = await self._call(endpoint, lambda s: s.ReadRecovery, request)
        more = response.next_page_token if response.HasField("next_page_token") else None
        return tuple(response.lines), more

    async def standing(self, endpoint: str, pool: str, term: int, *, seconds: float) -> Standing:
        """See `Agents`."""
        async with open_channel(endpoint) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            request = pb.GetStandingRequest(pool=pool, term=term)
            try:
                response = await stub.GetStanding(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                raise _refined(error, endpoint) from error
        found: Standing = from_proto(response.standing)
        return found

    async def take_over(self, endpoint: str, head: Head, why: Accession, *, seconds: float) -> None:
        """See `Agents`."""
        async with open_channel(endpoint) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            request = pb.TakeOverRequest(head=to_proto(head), why=enum_to_proto(why))
            try:
                await stub.TakeOver(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                raise _refined(error, endpoint) from error

    async def voter(self, endpoint: str) -> VoterFacts:
        """See `Agents`."""
        found = await self._call(endpoint, lambda s: s.GetVoter, pb.GetVoterRequest())
        return VoterFacts(
            version=found.version or None,
            problem=found.problem or None,
            token=found.token or None,
        )

    async def start_voter(
        self,
        endpoint: str,
        pool: str,
        token: str,
        members: tuple[tuple[str, str], ...],
        *,
        joins: bool = False,
        since: tuple[int, int],
    ) -> None:
        """See `Agents`."""
        request = pb.StartVoterRequest(
            pool=pool,
            token=token,
            members=[pb.VoterAddress(host=host, peer=peer) for host, peer in members],
            joins=joins,
            incarnation_counter=since[0],
            revision=since[1],
        )
        await self._call(endpoint, lambda s: s.StartVoter, request)

    async def stop_voter(self, endpoint: str, pool: str, token: str) -> None:
        """See `Agents`."""
        request = pb.StopVoterRequest(pool=pool, token=token)
        await self._call(endpoint, lambda s: s.StopVoter, request)

    async def prepare_succession(
        self,
        endpoint: str,
        pool: str,
        incarnation: str,
        *,
        store: str | None = None,
        seconds: float,
    ) -> None:
        """See `Agents`."""
        async with open_channel(endpoint) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            request = pb.PrepareSuccessionRequest(pool=pool, incarnation=incarnation, store=store)
            try:
                await stub.PrepareSuccession(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                raise _refined(error, endpoint) from error

    async def voter_tail(self, endpoint: str, pool: str, last: KnownCommit) -> Tail:
        """See `Agents`."""
        deltas: list[bytes] = []
        while True:
            request = pb.GetVoterTailRequest(pool=pool, revision=last.revision, digest=last.digest)
            response = await self._call(endpoint, lambda s: s.GetVoterTail, request)
            deltas += response.deltas
            if not response.more or not response.deltas:
                position = (response.incarnation, response.raft_term, response.raft_index)
                return Tail(position, tuple(deltas), whole=response.whole)
            last = last.followed_by(response.deltas)

    async def reset_master(self, endpoint: str, master: str, *, seconds: float) -> None:
        """See `Agents`."""
        async with open_channel(endpoint) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            try:
                await stub.ResetMaster(pb.ResetMasterRequest(address=master), timeout=seconds)
            except grpc.aio.AioRpcError as error:
                raise _refined(error, endpoint) from error

    async def _call(
        self, endpoint: str, method: Callable[[Any], Callable[..., Awaitable[Any]]], request: Any
    ) -> Any:
        await self._resolve(endpoint)
        async with open_channel(endpoint) as channel:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await _connected(channel)
            except (TimeoutError, ConnectionError) as failure:
                raise await _not_connected(endpoint, failure) from None
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            try:
                return await method(stub)(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise _refined(error, endpoint) from error

    async def _resolve(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                await asyncio.get_running_loop().getaddrinfo(
                    host.strip("[]"), int(port), type=socket.SOCK_STREAM
                )
        except (OSError, UnicodeError, TimeoutError) as error:
            raise PoolError(
                Reason.HOST_NAME_UNRESOLVABLE, name=host, master=self._master
            ) from error


async def _connected(channel: grpc.aio.Channel) -> None:
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            raise ConnectionError
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


async def _not_connected(endpoint: str, failure: Exception) -> PoolError:
    """Why no gRPC connection came about: nothing listens there, or something else does."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except (OSError, TimeoutError) as error:
        problem = "no answer" if isinstance(error, TimeoutError) else _words(error)
        return PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)
    problem = "it does not speak the pool's protocol"
    if isinstance(failure, TimeoutError):
        problem = f"it takes the connection and says nothing for {CONNECT_SECONDS:g} s"
    return PoolError(Reason.NOT_A_POOL_HOST, address=endpoint, problem=problem)


def _words(error: OSError) -> str:
    # Not its own text: asyncio puts the address into it as a Python tuple.
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _refined(error: grpc.aio.AioRpcError, endpoint: str) -> PoolError:
    found = error_from_rpc(error, endpoint=endpoint, seconds=CALL_SECONDS)
    if found.reason is Reason.NO_HOST_ANSWERS:
        problem = "the connection broke"
        return PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)
    if found.reason in {Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN}:
        # It speaks of its own mastership, and must not be taken to speak of ours.
        problem = found.message.rstrip(".")
        return PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)
    return found


def _answer(response: Any) -> Answer:
    try:
        return Answer(from_proto(response.facts), _time(response))
    except MalformedMessage as error:
        raise PoolError(Reason.NOT_A_POOL_HOST, address="there", problem=str(error)) from error


def _time(response: Any) -> datetime:
    moment: datetime = response.clock.ToDatetime(tzinfo=UTC)
    return moment


async def unreachable(
    from_host: str, targets: tuple[tuple[str, str], ...], *, seconds: float = CONNECT_SECONDS
) -> tuple[Unreachable, ...]:
    """Which `(host name, host:port)` targets this host cannot open a connection to."""

    async def try_one(name: str, endpoint: str) -> Unreachable | None:
        host, _, port = endpoint.rpartition(":")
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError, TimeoutError) as error:
            problem = _words(error) if isinstance(error, OSError) and str(error) else "no answer"
            return Unreachable(
                from_host=from_host, to_host=name, endpoint=endpoint, problem=problem
            )
        writer.close()
        return None

    found = await asyncio.gather(*(try_one(name, endpoint) for name, endpoint in targets))
    return tuple(u for u in found if u is not None)
