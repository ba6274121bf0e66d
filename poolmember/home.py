"""The daemon and the network, as a host's agent sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import grpc

from poolcore.facts import Standing, Unreachable
from poolcore.model import Accession
from poolcore.replica import Head
from poolcore.wire.channels import open_channel
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import pool_service_pb2, pool_service_pb2_grpc
from poolmaster.grpc_agents import unreachable
from poolmaster.mastership import Mastership
from poolmember.etcd.voter import Voter
from poolmember.identity import Identity, Member
from poolmember.session import Follower

if TYPE_CHECKING:
    from poolmember.emergency import Emergency

ASK_SECONDS = 3.0


class Home(Protocol):
    """The daemon, as the agent sees it."""

    @property
    def identity(self) -> Identity:
        """Who this host is and which pool it belongs to."""
        ...

    @property
    def mastership(self) -> Mastership | None:
        """The mastership this host has, if it has one."""
        ...

    @property
    def follower(self) -> Follower | None:
        """This host's replica, once it is open."""
        ...

    @property
    def emergency(self) -> Emergency:
        """What this host can be told when its pool has no master."""
        ...

    async def standing(self, pool: str, term: int) -> Standing:
        """Where this host stands in `pool`, asked about the master of `term`."""
        ...

    async def take_over(self, head: Head, why: Accession) -> None:
        """Become the master in the place of the one that `head` names."""
        ...

    async def prepare_succession(self, pool: str, incarnation: str, store: str | None) -> None:
        """Copy what this host has of `pool` into a store of `incarnation`, at that URL if any."""
        ...

    @property
    def voter(self) -> Voter:
        """This host's member of the pool's own etcd."""
        ...

    async def become(self, membership: Member) -> None:
        """Turn into a member of a pool; returns when that is durable."""
        ...

    def reached(self, point: str) -> None:
        """Told after each step that a crash test may cut."""
        ...


class Network(Protocol):
    """How an agent reaches other hosts."""

    async def get_join(
        self, endpoint: str, request: pool_service_pb2.GetJoinRequest
    ) -> pool_service_pb2.GetJoinResponse:
        """Ask a host of another pool how a join ended; `PoolError` when it does not say."""
        ...

    async def unreachable(
        self, from_host: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        """Which `(host name, host:port)` targets no connection can be opened to."""
        ...


class GrpcNetwork:
    """Implements `Network`."""

    async def get_join(
        self, endpoint: str, request: pool_service_pb2.GetJoinRequest
    ) -> pool_service_pb2.GetJoinResponse:
        """See `Network`."""
        async with open_channel(endpoint) as channel:
            stub = pool_service_pb2_grpc.PoolServiceStub(channel)
            try:
                return await stub.GetJoin(request, timeout=ASK_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error, endpoint=endpoint) from error

    async def unreachable(
        self, from_host: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        """See `Network`."""
        return await unreachable(from_host, targets)
