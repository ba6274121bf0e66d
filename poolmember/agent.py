"""The host's agent: what a pool that takes this host in asks of it, answered by the host itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, Inventory, Standing, Unreachable
from poolcore.model import (
    CLASSES,
    Accession,
    Address,
    AddressPurpose,
    Described,
    Host,
    Object,
    PoolId,
    Reservation,
    SoftwareVersion,
    Task,
)
from poolcore.replica import Head, Put, State
from poolcore.wire.channels import open_channel
from poolcore.wire.codec import enum_from_proto, from_proto, to_proto
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import agent_service_pb2 as pb
from poolmanager.v1 import pool_service_pb2, pool_service_pb2_grpc
from poolmaster.grpc_agents import unreachable
from poolmaster.layout import NONCE
from poolmaster.ledger import Decision
from poolmaster.mastership import Mastership
from poolmaster.store.contract import StoreError
from poolmaster.store.sqlite import SqliteStore
from poolmember.drivers.contract import Driver, DriverError
from poolmember.identity import Identity, Member, Membership, leads_always
from poolmember.measurements import DiskGauge
from poolmember.recovery import Recoveries
from poolmember.recovery_service import recovery_functions
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


class Agent:
    """Answers `AgentService`, and sees to it that a promise to a pool ends."""

    def __init__(
        self,
        home: Home,
        driver: Driver,
        disk: DiskGauge,
        *,
        endpoint: str,
        clock: Clock,
        network: Network | None = None,
        recoveries: Recoveries | None = None,
    ) -> None:
        self._home = home
        self._driver = driver
        self._disk = disk
        self._clock = clock
        self._network = network or GrpcNetwork()
        self._recoveries = recoveries
        self.addresses = (Address(purpose=AddressPurpose.MANAGEMENT, endpoint=endpoint),)

    def functions(self) -> Mapping[str, Callable[[Any], Any]]:
        """The service's methods."""
        return {
            "GetFacts": self._get_facts,
            "Reserve": self._reserve,
            "Release": self._release,
            "Adopt": self._adopt,
            "Probe": self._probe,
            "ReadNonce": self._read_nonce,
            "GetStanding": self._get_standing,
            "TakeOver": self._take_over,
            "EmergencyTransition": self._emergency_transition,
            "ResetMaster": self._reset_master,
            "RecoverMembers": self._recover_members,
            **recovery_functions(self._recoveries, lambda: self._home.identity.name),
        }

    # -- facts ------------------------------------------------------------------------------------

    async def facts(self) -> HostFacts:
        """Everything preflight wants to know of this host. `HOST_STILL_BOOTING` is one of them."""
        identity, pretended = self._home.identity, self._driver.overrides()
        try:
            inventory = await self._driver.inventory()
        except DriverError as error:
            raise PoolError(Reason.NO_HYPERVISOR, uri="this host", problem=str(error)) from error
        disk = await asyncio.to_thread(self._disk.read)
        master, membership = self._home.mastership, identity.membership
        state = master.state if master is not None else self._replica_state()
        running = [] if master is None else [t.operation for t in _running(master.state)]
        reservation = master.state.pool.reservation if master is not None else None
        return HostFacts(
            host=identity.host,
            name_label=identity.name,
            addresses=self.addresses,
            pool=membership.pool if membership is not None else PoolId(""),
            pool_name=_pool_name(state, membership),
            pool_hosts=sum(1 for _ in state.all(Host)) if state is not None else 1,
            is_master=master is not None or (membership is not None and leads_always(membership)),
            reservation=reservation,
            software_version=SoftwareVersion(
                product_version=pretended.product_version or PRODUCT_VERSION,
                api_version=pretended.api_version or API_VERSION,
                schema_version=pretended.schema_version or SCHEMA_VERSION,
            ),
            inventory=_with_names(inventory, state),
            operations=(*running, *pretended.operations),
            booting=bool(pretended.booting)
            or (master is None and membership is not None and leads_always(membership)),
            updating=bool(pretended.updating),
            free_disk_bytes=_or(pretended.free_disk_bytes, disk.free_bytes),
            fsync_seconds=_or(pretended.fsync_seconds, disk.fsync_seconds),
            witness=identity.witness,
        )

    def _replica_state(self) -> State | None:
        follower = self._home.follower
        return follower.state if follower is not None else None

    async def _get_facts(self, _: pb.GetFactsRequest) -> pb.GetFactsResponse:
        response = pb.GetFactsResponse(facts=to_proto(await self.facts()))
        response.clock.FromDatetime(self._time())
        return response

    def _time(self) -> Any:
        skew = self._driver.overrides().clock_skew_seconds or 0.0
        return self._clock.now() + timedelta(seconds=skew)

    # -- joining another pool ---------------------------------------------------------------------

    async def _reserve(self, request: pb.ReserveRequest) -> pb.ReserveResponse:
        reservation: Reservation = from_proto(request.reservation)
        master = self._master_of_one()

        def decide(state: State) -> Decision:
            present = state.pool.reservation
            if present is not None:
                if present.task == reservation.task:
                    return Decision(())
                name = self._home.identity.name
                raise PoolError(Reason.HOST_RESERVED, host=name, pool_name=present.pool_name)
            if sum(1 for _ in state.all(Host)) > 1:
                raise PoolError(Reason.HOST_IS_MASTER, host=self._home.identity.name)
            for task in _running(state):
                raise PoolError(Reason.JOIN_IN_PROGRESS, task=task.uuid, host=task.name_label)
            return Decision((Put(replace(state.pool, reservation=reservation)),))

        await master.write(decide, while_reserved=True)
        self._home.reached("host.join:host-reserved")
        response = pb.ReserveResponse(facts=to_proto(await self.facts()))
        response.clock.FromDatetime(self._time())
        return response

    def _master_of_one(self) -> Mastership:
        master = self._home.mastership
        if master is not None:
            return master
        membership = self._home.identity.membership
        if isinstance(membership, Member):
            raise PoolError(Reason.HOST_IS_SLAVE, master=", ".join(membership.addresses))
        raise PoolError(Reason.NO_MASTER, host=self._home.identity.name, problem="it still starts")

    async def _release(self, request: pb.ReleaseRequest) -> pb.ReleaseResponse:
        if self._home.mastership is not None:
            await self._end_reservation(self._home.mastership, request.task)
        return pb.ReleaseResponse()

    async def _end_reservation(self, master: Mastership, task: str) -> None:
        def decide(state: State) -> Decision:
            present = state.pool.reservation
            if present is None or present.task != task:
                return Decision(())
            return Decision((Put(replace(state.pool, reservation=None)),))

        await master.write(decide, while_reserved=True)

    async def _adopt(self, request: pb.AdoptRequest) -> pb.AdoptResponse:
        membership = self._home.identity.membership
        if isinstance(membership, Member):
            if membership.pool == request.pool:
                return pb.AdoptResponse()
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        # While the host starts, or is just turning, nobody may conclude that it will not turn.
        reservation = self._master_of_one().state.pool.reservation
        if reservation is None or reservation.task != request.task:
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        store = request.store if request.HasField("store") else None
        # Whoever says that the join was committed, the pool itself is asked.
        if await self._join_outcome(reservation) != pool_service_pb2.JOIN_OUTCOME_COMMITTED:
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        await self._turn(reservation, store)
        return pb.AdoptResponse()

    async def _turn(self, reservation: Reservation, store: str | None) -> None:
        self._home.reached("host.join:host-committed")
        await self._home.become(
            Member(
                pool=reservation.pool,
                pool_name=reservation.pool_name,
                addresses=reservation.addresses,
                store=store,
            )
        )
        self._home.reached("host.join:host-member")

    async def settle_reservations(self, master: Mastership, *, ask_after: float = 2.0) -> None:
        """See to it that a promise ends even if nobody ends it: ask the pool how the join ended.

        Runs as long as the mastership. One that an earlier mastership left is asked about at once.
        """
        left_over = master.state.pool.reservation
        while True:
            reservation = master.state.pool.reservation
            if reservation is None:
                await master.ledger.feed.wait(master.state.revision)
                continue
            if reservation is not left_over:
                await self._clock.sleep(ask_after)
            left_over = None
            if master.state.pool.reservation != reservation:
                continue
            try:
                outcome = await self._join_outcome(reservation)
                # A committed one needs nothing here: the pool repeats Adopt, which names the store.
                if outcome == pool_service_pb2.JOIN_OUTCOME_ABORTED:
                    await self._end_reservation(master, reservation.task)
            except PoolError:
                # As long as nobody can tell, or the store refuses to note it, the promise holds.
                continue

    async def _join_outcome(self, reservation: Reservation) -> Any:
        request = pool_service_pb2.GetJoinRequest(
            task=reservation.task, host=self._home.identity.host
        )
        problem = PoolError(Reason.NO_HOST_ANSWERS, addresses=", ".join(reservation.addresses))
        for endpoint in reservation.addresses:
            try:
                response = await self._network.get_join(endpoint, request)
            except PoolError as error:
                problem = error
                continue
            if response.pool == reservation.pool:
                return response.outcome
        raise problem

    # -- probing ----------------------------------------------------------------------------------

    async def _probe(self, request: pb.ProbeRequest) -> pb.ProbeResponse:
        targets = tuple((t.host, t.endpoint) for t in request.targets)
        found = await self._network.unreachable(self._home.identity.name, targets)
        return pb.ProbeResponse(unreachable=[to_proto(u) for u in found])

    async def _get_standing(self, request: pb.GetStandingRequest) -> pb.GetStandingResponse:
        found = await self._home.standing(request.pool, request.term)
        return pb.GetStandingResponse(standing=to_proto(found))

    async def _take_over(self, request: pb.TakeOverRequest) -> pb.TakeOverResponse:
        why = enum_from_proto(Accession, request.why)
        await self._home.take_over(from_proto(request.head), why)
        return pb.TakeOverResponse()

    # -- emergencies ------------------------------------------------------------------------------

    async def _emergency_transition(
        self, request: pb.EmergencyTransitionRequest
    ) -> pb.EmergencyTransitionResponse:
        found, head = await self._home.emergency.transition(
            confirmed=request.confirmed, accept_loss=request.accept_loss
        )
        response = pb.EmergencyTransitionResponse(outlook=to_proto(found))
        if head is not None:
            response.head.CopyFrom(to_proto(head))
        return response

    async def _reset_master(self, request: pb.ResetMasterRequest) -> pb.ResetMasterResponse:
        return pb.ResetMasterResponse(
            master=await self._home.emergency.reset_master(request.address)
        )

    async def _recover_members(self, _: pb.RecoverMembersRequest) -> pb.RecoverMembersResponse:
        found = await self._home.emergency.recover_members()
        return pb.RecoverMembersResponse(members=[to_proto(member) for member in found])

    async def _read_nonce(self, request: pb.ReadNonceRequest) -> pb.ReadNonceResponse:
        path = shared_path(request.store)
        try:
            store = await SqliteStore.open(path, pool=None, incarnation=None, shared=True)
        except (PoolError, StoreError):
            return pb.ReadNonceResponse()
        try:
            found = await store.read(NONCE)
        finally:
            await store.close()
        return pb.ReadNonceResponse(nonce=found.items[0].value.decode() if found.items else None)


def shared_path(url: str) -> Path:
    """The file of a `sqlite:///PATH` URL."""
    if not url.startswith("sqlite:///"):
        raise PoolError(Reason.INVALID_VALUE, field="store", problem=f"{url!r} is no sqlite URL")
    return Path(url.removeprefix("sqlite://"))


def _running(state: State) -> list[Task]:
    return [task for task in state.all(Task) if not task.status.is_final]


def _pool_name(state: State | None, membership: Membership | None) -> str:
    if isinstance(membership, Member):
        return membership.pool_name
    return state.pool.name_label if state is not None else ""


def _or(pretended: Any, measured: Any) -> Any:
    return measured if pretended is None else pretended


def _with_names(inventory: Inventory, state: State | None) -> Inventory:
    """The inventory with the names, descriptions and tags that administrators gave here.

    The driver knows only its own names; what was said in the host's own pool comes along.
    """
    if state is None:
        return inventory

    def named(obj: Object) -> Object:
        known = state.get(CLASSES[obj.KIND], obj.uuid)
        if not isinstance(obj, Described) or not isinstance(known, Described):
            return obj
        return replace(
            obj,
            name_label=known.name_label,
            name_description=known.name_description,
            tags=known.tags,
            other_config=known.other_config,
        )

    return replace(inventory, objects=tuple(named(obj) for obj in inventory.objects))
