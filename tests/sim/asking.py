"""The agents of simulated hosts, as other hosts ask them over the simulated network."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, Recovery, Standing, Unreachable
from poolcore.model import Accession, Reservation
from poolcore.replica import Head
from poolcore.wire.codec import enum_to_proto, from_proto, to_proto
from poolmanager.v1 import agent_service_pb2 as pb
from poolmaster.agents import Answer
from poolmaster.layout import NONCE
from sim.network import unreachable

if TYPE_CHECKING:
    from sim.host import Life
    from sim.world import World

CALL_SECONDS = 10.0


class Asking:
    """Implements `Agents` for the host at `source`."""

    def __init__(self, world: World, source: str) -> None:
        self._world = world
        self._source = source

    async def _ask(
        self, endpoint: str, name: str, request: Any, *, seconds: float = CALL_SECONDS
    ) -> Any:
        async def work(life: Life) -> Any:
            return await life.agent.functions()[name](request)

        try:
            return await self._world.network.call(self._source, endpoint, work, seconds=seconds)
        except PoolError as error:
            if error.reason in {Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN}:
                raise unreachable(endpoint, error.message) from None
            raise

    async def facts(self, endpoint: str) -> Answer:
        return _answer(await self._ask(endpoint, "GetFacts", pb.GetFactsRequest()))

    async def reserve(self, endpoint: str, reservation: Reservation) -> Answer:
        request = pb.ReserveRequest(reservation=to_proto(reservation))
        return _answer(await self._ask(endpoint, "Reserve", request))

    async def release(self, endpoint: str, task: str) -> None:
        await self._ask(endpoint, "Release", pb.ReleaseRequest(task=task))

    async def adopt(self, endpoint: str, task: str, pool: str, store: str | None) -> None:
        await self._ask(endpoint, "Adopt", pb.AdoptRequest(task=task, pool=pool, store=store))

    async def probe(
        self, endpoint: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        request = pb.ProbeRequest(
            targets=[pb.ProbeTarget(host=host, endpoint=target) for host, target in targets]
        )
        response = await self._ask(endpoint, "Probe", request)
        return tuple(from_proto(u) for u in response.unreachable)

    async def recoveries(self, endpoint: str) -> tuple[Recovery, ...]:
        response = await self._ask(endpoint, "GetRecoveries", pb.GetRecoveriesRequest())
        return tuple(from_proto(r) for r in response.recoveries)

    async def read_recovery(
        self, endpoint: str, name: str, token: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        request = pb.ReadRecoveryRequest(name=name, page_token=token)
        response = await self._ask(endpoint, "ReadRecovery", request)
        more = response.next_page_token if response.HasField("next_page_token") else None
        return tuple(response.lines), more

    async def standing(self, endpoint: str, pool: str, term: int, *, seconds: float) -> Standing:
        request = pb.GetStandingRequest(pool=pool, term=term)
        response = await self._ask(endpoint, "GetStanding", request, seconds=seconds)
        found: Standing = from_proto(response.standing)
        return found

    async def take_over(self, endpoint: str, head: Head, why: Accession, *, seconds: float) -> None:
        request = pb.TakeOverRequest(head=to_proto(head), why=enum_to_proto(why))
        await self._ask(endpoint, "TakeOver", request, seconds=seconds)

    async def reset_master(self, endpoint: str, master: str, *, seconds: float) -> None:
        request = pb.ResetMasterRequest(address=master)
        await self._ask(endpoint, "ResetMaster", request, seconds=seconds)

    async def read_nonce(self, endpoint: str, store: str) -> str | None:
        await self._world.network.reach(self._source, endpoint)
        found = self._world.shared[store].data.read(NONCE, None, None).items
        return found[0].value.decode() if found else None


def _answer(response: Any) -> Answer:
    facts: HostFacts = from_proto(response.facts)
    return Answer(facts, response.clock.ToDatetime(tzinfo=UTC))
