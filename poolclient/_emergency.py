"""One host, asked for itself: for when the pool has no master, or no quorum (design §5).

What is asked here is answered by the host at the address and by no other: it is never passed on,
and never repeated at another address. So it is certain which host becomes master.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from poolclient._address import normal_address
from poolclient._connection import Connection, failure
from poolclient._deadline import Deadline
from poolclient._errors import Conflict, NoHostAnswers, OutcomeUnknown, PoolClientError
from poolcore.errors import Reason
from poolcore.facts import EmergencyOutlook, RecoveredMember
from poolcore.model import HostId, PoolId
from poolcore.replica import Head
from poolcore.wire.channels import open_channel
from poolcore.wire.codec import from_proto
from poolmanager.v1 import agent_service_pb2 as pb
from poolmanager.v1 import pool_service_pb2

A = TypeVar("A")

WHO_SECONDS = 5.0
"""To connect and learn the host's name, without which everything else works as well."""
LOOK_SECONDS = 10.0
TRANSITION_SECONDS = 30.0
"""The host asks the others, then founds a store."""
FOLLOW_SECONDS = 20.0
"""A host that is told where its master is has to reach it."""


@dataclass(frozen=True, slots=True)
class AskedHost:
    """Which host answers, as far as it says so; empty where it does not."""

    uuid: HostId
    name: str
    address: str
    """As the pool knows it, `host:port`; otherwise where it was asked."""
    pool: PoolId
    pool_name: str


@dataclass(frozen=True, slots=True)
class Transition:
    """What a host went on from that was made master, and the register of the new incarnation."""

    outlook: EmergencyOutlook
    head: Head


class EmergencyHost:
    """A connection to one host of a pool that has no master.

    ::

        async with EmergencyHost.connect("10.0.0.2") as host:
            outlook = await host.outlook()
            if not outlook.may_lack:
                await host.become_master()

    The address is `HOST`, `HOST:PORT` or `unix:///PATH` of a host's own socket. With `pool`, the
    uuid of the pool that is meant, entering raises `Conflict` when the host is of another one.
    """

    def __init__(self, address: str, *, pool: str = "") -> None:
        self._address = normal_address(address)
        self._pool = pool
        self._connection: Connection | None = None
        self._asked: AskedHost | None = None

    @classmethod
    def connect(cls, address: str, *, pool: str = "") -> Self:
        """A host to be entered with `async with`; nothing is connected before that.

        Entering it raises `NoHostAnswers` when the address does not answer.
        """
        return cls(address, pool=pool)

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("a host can be entered only once")
        self._connection = Connection(self._address, open_channel)
        try:
            self._asked = await self._who(self._connection)
            if self._pool and self._asked.pool not in {"", self._pool}:
                raise Conflict(
                    Reason.HOST_OF_ANOTHER_POOL,
                    address=self._address,
                    actual=self._asked.pool,
                    expected=self._pool,
                )
        except BaseException:
            await self._connection.channel.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            await self._connection.channel.close()

    @property
    def host(self) -> AskedHost:
        """Which host this is."""
        if self._asked is None:
            raise RuntimeError("enter it first: `async with EmergencyHost.connect(...)`")
        return self._asked

    async def outlook(self, *, timeout_seconds: float | None = None) -> EmergencyOutlook:
        """What the host would go on from, were it made master now; changes nothing.

        Raises `Conflict` when that is out of the question: `ALREADY_MASTER`, `MASTER_LIVES`,
        `QUORUM_LIVES`, `REPLICA_MISSING`, or `REPLICA_BEHIND` and `ANOTHER_IN_STEP` with the better
        host's `address`.
        """
        request = pb.EmergencyTransitionRequest(confirmed=False)
        answer = await self._call(
            lambda c: c.agent.EmergencyTransition, request, timeout_seconds or LOOK_SECONDS
        )
        outlook: EmergencyOutlook = from_proto(answer.outlook)
        return outlook

    async def become_master(
        self, *, accept_loss: bool = False, timeout_seconds: float | None = None
    ) -> Transition:
        """Make the host the master, going on from its replica in a new incarnation.

        Every host that did not answer for `outlook` must be off. Raises what `outlook` does, and
        `Conflict` with `LOSS_NOT_ACCEPTED` when changes may be missing, unless `accept_loss`. After
        `OutcomeUnknown` ask again: `ALREADY_MASTER` says that it was done.
        """
        request = pb.EmergencyTransitionRequest(confirmed=True, accept_loss=accept_loss)
        try:
            answer = await self._call(
                lambda c: c.agent.EmergencyTransition,
                request,
                timeout_seconds or TRANSITION_SECONDS,
            )
        except PoolClientError as error:
            if error.reason in {Reason.NO_HOST_ANSWERS, Reason.DEADLINE_PASSED}:
                raise OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id="") from error
            raise
        return Transition(from_proto(answer.outlook), from_proto(answer.head))

    async def reset_master(self, address: str, *, timeout_seconds: float | None = None) -> HostId:
        """Have the host follow the master at `address`, `HOST` or `HOST:PORT`; that one's uuid.

        For a host that does not find its master by itself. Raises `HOST_IS_MASTER`,
        `NOT_THE_MASTER` or `INCARNATION_MISMATCH` (`Conflict`), or why `address` does not answer.
        """
        request = pb.ResetMasterRequest(address=normal_address(address))
        answer = await self._call(
            lambda c: c.agent.ResetMaster, request, timeout_seconds or FOLLOW_SECONDS
        )
        return HostId(answer.master)

    async def recover_members(
        self, *, timeout_seconds: float | None = None
    ) -> tuple[RecoveredMember, ...]:
        """Have this master tell every other host where it is; what became of each, by name.

        `Conflict` with `NOT_THE_MASTER` at any other host.
        """
        answer = await self._call(
            lambda c: c.agent.RecoverMembers,
            pb.RecoverMembersRequest(),
            timeout_seconds or FOLLOW_SECONDS,
        )
        return tuple(map(from_proto, answer.members))

    async def _who(self, connection: Connection) -> AskedHost:
        """Which host answers; no hypervisor and no master is needed for that."""
        nobody = AskedHost(HostId(""), "", self._address, PoolId(""), "")
        deadline = Deadline.after(WHO_SECONDS)
        try:
            status = await connection.pool.GetStatus(
                pool_service_pb2.GetStatusRequest(), timeout=deadline.remaining
            )
            answer = await connection.agent.GetStanding(
                pb.GetStandingRequest(pool=status.pool_uuid, term=0), timeout=deadline.remaining
            )
        except grpc.aio.AioRpcError as error:
            problem, lost = failure(error, connection)
            if lost or problem.reason is Reason.NOT_A_POOL_HOST:
                raise problem from None
            if connection.channel.get_state() is not grpc.ChannelConnectivity.READY:
                unreached = NoHostAnswers(Reason.NO_HOST_ANSWERS, addresses=self._address)
                raise unreached from None
            return nobody  # It has no replica yet, or hangs; it will say so itself.
        uuid = HostId(answer.standing.host)
        found = next((host for host in status.hosts if host.uuid == uuid), None)
        return AskedHost(
            uuid=uuid,
            name="" if found is None else found.name,
            address=self._address if found is None else found.address,
            pool=PoolId(status.pool_uuid),
            pool_name=status.pool_name,
        )

    async def _call(
        self,
        rpc: Callable[[Connection], Callable[..., Awaitable[A]]],
        request: Any,
        seconds: float,
    ) -> A:
        if self._connection is None:
            raise RuntimeError("enter it first: `async with EmergencyHost.connect(...)`")
        deadline = Deadline.after(seconds)
        try:
            return await rpc(self._connection)(request, timeout=deadline.remaining)
        except grpc.aio.AioRpcError as error:
            problem, _ = failure(error, self._connection)
            timed_out = problem.reason is Reason.DEADLINE_PASSED
            raise (deadline.error() if timed_out else problem) from None
