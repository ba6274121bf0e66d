"""What a host answers to "the join was committed" when it is not simply waiting for that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from poolcore.clock import SystemClock
from poolcore.errors import PoolError, Reason
from poolcore.facts import Standing
from poolcore.model import Accession, PoolId
from poolcore.replica import Head
from poolcore.wire.serving import handlers
from poolmanager.v1 import agent_service_pb2 as pb
from poolmaster.grpc_agents import GrpcAgents
from poolmaster.mastership import Mastership
from poolmember.agent import Agent
from poolmember.daemon import AGENT_SERVICE, OwnHandlers
from poolmember.drivers.sim import SimDriver
from poolmember.emergency import Emergency
from poolmember.etcd.voter import NoVoter, Voter
from poolmember.identity import Identity, Member, Membership, Own
from poolmember.measurements import DiskGauge
from poolmember.session import Follower
from support.daemons import Loopback
from support.small_pool import IGNITE, POOL

ANOTHER_POOL = PoolId("10000000-0000-4000-8000-000000000009")
ADOPT = pb.AdoptRequest(task="80000000-0000-4000-8000-000000000001", pool=POOL)


@dataclass
class WithoutMastership:
    """A daemon that starts, or is just turning into something else."""

    membership: Membership
    mastership: Mastership | None = None
    follower: Follower | None = None

    @property
    def identity(self) -> Identity:
        return Identity(host=IGNITE, name="ignite", membership=self.membership)

    @property
    def emergency(self) -> Emergency:
        raise AssertionError("nobody is made master here")

    async def standing(self, pool: str, term: int) -> Standing:
        raise AssertionError("nobody is elected here")

    async def take_over(self, head: Head, why: Accession) -> None:
        raise AssertionError("nobody is elected here")

    async def prepare_succession(self, pool: str, incarnation: str, store: str | None) -> None:
        raise AssertionError("nothing is handed over here")

    @property
    def voter(self) -> Voter:
        return NoVoter("ignite")

    async def become(self, membership: Member) -> None:
        raise AssertionError("nothing is decided here")

    def reached(self, point: str) -> None:
        pass


def agent_of(membership: Membership, gauge: DiskGauge) -> Agent:
    endpoint = "127.0.0.1:7443"
    driver = SimDriver(None, host_name="ignite", management_endpoint=endpoint)
    home = WithoutMastership(membership)
    return Agent(home, driver, gauge, endpoint=endpoint, listen="127.0.0.1", clock=SystemClock())


def member_of(pool: PoolId) -> Member:
    return Member(pool=pool, pool_name="phantom", addresses=())


STARTING = Own(pool=ANOTHER_POOL, incarnation="70000000-0000-4000-8000-000000000001")


@pytest.fixture
def gauge(tmp_path_factory: pytest.TempPathFactory) -> DiskGauge:
    return DiskGauge(tmp_path_factory.getbasetemp())


async def test_a_host_that_is_in_the_pool_already_says_yes(gauge: DiskGauge) -> None:
    agent = agent_of(member_of(PoolId(POOL)), gauge)
    assert await agent.functions()["Adopt"](ADOPT) == pb.AdoptResponse()


@pytest.mark.parametrize(
    ("membership", "reason"),
    [(STARTING, Reason.NO_MASTER), (member_of(ANOTHER_POOL), Reason.RESERVATION_GONE)],
)
async def test_only_a_host_that_knows_says_that_its_reservation_is_gone(
    membership: Membership, reason: Reason, gauge: DiskGauge
) -> None:
    with pytest.raises(PoolError) as refused:
        await agent_of(membership, gauge).functions()["Adopt"](ADOPT)
    assert refused.value.reason is reason


@asynccontextmanager
async def serving(agent: Agent, endpoint: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    found = handlers(AGENT_SERVICE, agent.functions(), host="ignite")
    server.add_generic_rpc_handlers((OwnHandlers(found),))
    server.add_insecure_port(endpoint)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def test_the_host_that_has_no_master_does_not_speak_of_the_master_that_asks(
    gauge: DiskGauge,
) -> None:
    endpoint = Loopback(net=9).endpoint()
    async with serving(agent_of(STARTING, gauge), endpoint):
        with pytest.raises(PoolError) as refused:
            await GrpcAgents(master="phantom").adopt(endpoint, ADOPT.task, ADOPT.pool, None)
    assert refused.value.reason is Reason.HOST_UNREACHABLE
    assert "it still starts" in refused.value.params["problem"]
