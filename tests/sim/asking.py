"""The agents of simulated hosts, as other hosts ask them over the simulated network.

As `poolmaster.grpc_agents` but for what that does with sockets and names of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import TYPE_CHECKING, Any

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, KnownCommit, Recovery, Standing, Tail, Unreachable, VoterFacts
from poolcore.model import Accession, PoolId, Reservation
from poolcore.replica import Head
from poolcore.wire.channels import OpenChannel
from poolcore.wire.codec import enum_to_proto, from_proto, to_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import agent_service_pb2 as pb
from poolmanager.v1 import agent_service_pb2_grpc
from poolmaster.agents import Answer
from poolmaster.layout import NONCE

if TYPE_CHECKING:
    from sim.world import World

CALL_SECONDS = 10.0
NOT_OURS = frozenset({Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN, Reason.NO_HOST_ANSWERS})
"""What an agent says of its own mastership, or nobody says at all."""


class Asking:
    """Implements `Agents` over channels of the simulated network, one for each call."""

    def __init__(self, world: World, open_channel: OpenChannel) -> None:
        self._world = world
        self._open_channel = open_channel

    async def _ask(
        self,
        endpoint: str,
        method: Callable[[Any], Callable[..., Awaitable[Any]]],
        request: Any,
        *,
        seconds: float = CALL_SECONDS,
    ) -> Any:
        async with self._open_channel(endpoint) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            try:
                return await method(stub)(request, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                told = error_from_rpc(error, endpoint=endpoint, seconds=seconds)
        if told.reason in NOT_OURS:
            problem = told.params.get("problem", "no answer")
            raise PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)
        raise told

    async def facts(self, endpoint: str) -> Answer:
        return _answer(await self._ask(endpoint, lambda s: s.GetFacts, pb.GetFactsRequest()))

    async def reserve(self, endpoint: str, reservation: Reservation) -> Answer:
        request = pb.ReserveRequest(reservation=to_proto(reservation))
        return _answer(await self._ask(endpoint, lambda s: s.Reserve, request))

    async def release(self, endpoint: str, task: str) -> None:
        await self._ask(endpoint, lambda s: s.Release, pb.ReleaseRequest(task=task))

    async def adopt(self, endpoint: str, task: str, pool: str, store: str | None) -> None:
        request = pb.AdoptRequest(task=task, pool=pool, store=store)
        await self._ask(endpoint, lambda s: s.Adopt, request)

    async def probe(
        self, endpoint: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        request = pb.ProbeRequest(
            targets=[pb.ProbeTarget(host=host, endpoint=target) for host, target in targets]
        )
        response = await self._ask(endpoint, lambda s: s.Probe, request)
        return tuple(from_proto(u) for u in response.unreachable)

    async def recoveries(self, endpoint: str) -> tuple[Recovery, ...]:
        response = await self._ask(endpoint, lambda s: s.GetRecoveries, pb.GetRecoveriesRequest())
        return tuple(from_proto(r) for r in response.recoveries)

    async def read_recovery(
        self, endpoint: str, name: str, token: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        request = pb.ReadRecoveryRequest(name=name, page_token=token)
        response = await self._ask(endpoint, lambda s: s.ReadRecovery, request)
        more = response.next_page_token if response.HasField("next_page_token") else None
        return tuple(response.lines), more

    async def standing(self, endpoint: str, pool: str, term: int, *, seconds: float) -> Standing:
        request = pb.GetStandingRequest(pool=pool, term=term)
        response = await self._ask(endpoint, lambda s: s.GetStanding, request, seconds=seconds)
        found: Standing = from_proto(response.standing)
        return found

    async def take_over(self, endpoint: str, head: Head, why: Accession, *, seconds: float) -> None:
        request = pb.TakeOverRequest(head=to_proto(head), why=enum_to_proto(why))
        await self._ask(endpoint, lambda s: s.TakeOver, request, seconds=seconds)

    async def prepare_succession(
        self,
        endpoint: str,
        pool: str,
        incarnation: str,
        *,
        store: str | None = None,
        seconds: float,
    ) -> None:
        request = pb.PrepareSuccessionRequest(pool=pool, incarnation=incarnation, store=store)
        await self._ask(endpoint, lambda s: s.PrepareSuccession, request, seconds=seconds)

    async def voter(self, endpoint: str) -> VoterFacts:
        found = await self._ask(endpoint, lambda s: s.GetVoter, pb.GetVoterRequest())
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
        request = pb.StartVoterRequest(
            pool=pool,
            token=token,
            members=[pb.VoterAddress(host=host, peer=peer) for host, peer in members],
            joins=joins,
            incarnation_counter=since[0],
            revision=since[1],
        )
        await self._ask(endpoint, lambda s: s.StartVoter, request)

    async def stop_voter(self, endpoint: str, pool: str, token: str) -> None:
        request = pb.StopVoterRequest(pool=pool, token=token)
        await self._ask(endpoint, lambda s: s.StopVoter, request)

    async def voter_tail(self, endpoint: str, pool: str, last: KnownCommit) -> Tail:
        request = pb.GetVoterTailRequest(pool=pool, revision=last.revision, digest=last.digest)
        found = await self._ask(endpoint, lambda s: s.GetVoterTail, request)
        position = (found.incarnation, found.raft_term, found.raft_index)
        return Tail(position, tuple(found.deltas), whole=found.whole)

    async def reset_master(self, endpoint: str, master: str, *, seconds: float) -> None:
        request = pb.ResetMasterRequest(address=master)
        await self._ask(endpoint, lambda s: s.ResetMaster, request, seconds=seconds)

    async def read_nonce(self, endpoint: str, store: str, pool: str) -> str | None:
        # The agent itself would look for a file.
        async with self._open_channel(endpoint) as channel:
            await channel.channel_ready()
        known = self._world.shared.get(store) or self._world.rules.registers[PoolId(pool)]
        found = known.data.read(NONCE, None, None).items
        return found[0].value.decode() if found else None


def _answer(response: Any) -> Answer:
    facts: HostFacts = from_proto(response.facts)
    return Answer(facts, response.clock.ToDatetime(tzinfo=UTC))
