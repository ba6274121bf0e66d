"""The host's agent: what other hosts and persons ask of this very host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, Inventory, KnownCommit, VoterFacts
from poolcore.model import (
    CLASSES,
    Accession,
    Address,
    AddressPurpose,
    Described,
    Host,
    Object,
    PoolId,
    SoftwareVersion,
)
from poolcore.replica import State
from poolcore.wire.codec import enum_from_proto, from_proto, to_proto
from poolmanager.v1 import agent_service_pb2 as pb
from poolmaster.layout import NONCE
from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside
from poolmaster.store import urls
from poolmaster.store.contract import StoreError
from poolmember.backups import Backups, backup_functions
from poolmember.drivers.contract import Driver, DriverError
from poolmember.etcd.member import EtcdMember, problem_with
from poolmember.home import GrpcNetwork, Home, Network
from poolmember.identity import Member, Membership, leads_always
from poolmember.measurements import DiskGauge
from poolmember.recovery import Recoveries
from poolmember.recovery_service import recovery_functions
from poolmember.reserving import Reserving, running

TAIL_BYTES = 1024 * 1024
"""In one answer; larger ones come one at a time."""


class Agent:
    """Answers `AgentService`."""

    def __init__(
        self,
        home: Home,
        driver: Driver,
        disk: DiskGauge,
        *,
        endpoint: str,
        listen: str,
        clock: Clock,
        network: Network | None = None,
        recoveries: Recoveries | None = None,
        backups: Backups | None = None,
    ) -> None:
        self._home = home
        self._driver = driver
        self._disk = disk
        self._clock = clock
        self._network = network or GrpcNetwork()
        self._recoveries = recoveries
        self._listen = listen
        self._backups = backups
        self.reserving = Reserving(home, self._network, clock)
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
            "PrepareSuccession": self._prepare_succession,
            "GetVoter": self._get_voter,
            "StartVoter": self._start_voter,
            "StopVoter": self._stop_voter,
            "GetVoterTail": self._get_voter_tail,
            "EmergencyTransition": self._emergency_transition,
            "ResetMaster": self._reset_master,
            "RecoverMembers": self._recover_members,
            **recovery_functions(self._recoveries, lambda: self._home.identity.name),
            **backup_functions(self._backups),
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
        etcd = await self._etcd()
        master, membership = self._home.mastership, identity.membership
        state = master.state if master is not None else self._replica_state()
        tasks = [] if master is None else running(master.state)
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
            operations=(*(task.operation for task in tasks), *pretended.operations),
            booting=bool(pretended.booting)
            or (master is None and membership is not None and leads_always(membership)),
            updating=bool(pretended.updating),
            free_disk_bytes=_or(pretended.free_disk_bytes, disk.free_bytes),
            fsync_seconds=_or(pretended.fsync_seconds, disk.fsync_seconds),
            witness=identity.witness,
            etcd_version=etcd.version,
            etcd_problem=etcd.problem,
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
        await self.reserving.reserve(from_proto(request.reservation))
        response = pb.ReserveResponse(facts=to_proto(await self.facts()))
        response.clock.FromDatetime(self._time())
        return response

    async def _release(self, request: pb.ReleaseRequest) -> pb.ReleaseResponse:
        await self.reserving.release(request.task)
        return pb.ReleaseResponse()

    async def _adopt(self, request: pb.AdoptRequest) -> pb.AdoptResponse:
        store = request.store if request.HasField("store") else None
        await self.reserving.adopt(request.task, request.pool, store)
        return pb.AdoptResponse()

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

    async def _prepare_succession(
        self, request: pb.PrepareSuccessionRequest
    ) -> pb.PrepareSuccessionResponse:
        store = request.store if request.HasField("store") else None
        await self._home.prepare_succession(request.pool, request.incarnation, store)
        return pb.PrepareSuccessionResponse()

    # -- the pool's own etcd ----------------------------------------------------------------------

    async def _etcd(self) -> VoterFacts:
        found, pretended = await self._home.voter.facts(), self._driver.overrides().etcd_version
        if pretended is None:
            return found
        version = None if pretended == "none" else pretended
        return replace(found, version=version, problem=problem_with(version))

    async def _get_voter(self, _: pb.GetVoterRequest) -> pb.GetVoterResponse:
        found = await self._etcd()
        return pb.GetVoterResponse(version=found.version, problem=found.problem, token=found.token)

    async def _start_voter(self, request: pb.StartVoterRequest) -> pb.StartVoterResponse:
        self._ensure_of(request.pool)
        host, endpoint = self._home.identity.host, self.addresses[0].endpoint
        member = EtcdMember(
            name=host,
            listen=self._listen,
            client=beside(endpoint, CLIENT_PORT),
            peer=beside(endpoint, PEER_PORT),
            token=request.token,
            cluster=tuple((member.host, member.peer) for member in request.members),
            joins=request.joins,
            since=(request.incarnation_counter, request.revision),
        )
        await self._home.voter.start(member)
        return pb.StartVoterResponse()

    async def _stop_voter(self, request: pb.StopVoterRequest) -> pb.StopVoterResponse:
        self._ensure_of(request.pool)
        await self._home.voter.stop(request.token)
        return pb.StopVoterResponse()

    async def _get_voter_tail(self, request: pb.GetVoterTailRequest) -> pb.GetVoterTailResponse:
        self._ensure_of(request.pool)
        found = await self._home.voter.tail(
            request.pool, KnownCommit(request.revision, request.digest)
        )
        incarnation, term, index = found.position
        response = pb.GetVoterTailResponse(
            incarnation=incarnation, raft_term=term, raft_index=index, whole=found.whole
        )
        size = 0
        for delta in found.deltas:
            size += len(delta)
            if response.deltas and size > TAIL_BYTES:
                response.more = True
                break
            response.deltas.append(delta)
        return response

    def _ensure_of(self, pool: str) -> None:
        identity = self._home.identity
        if identity.membership is None or identity.membership.pool != pool:
            raise PoolError(Reason.HOST_NOT_IN_POOL, host=identity.name, pool=pool)

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
        try:
            store = await urls.open_store(request.store, pool=request.pool)
        except (PoolError, StoreError):
            return pb.ReadNonceResponse()
        try:
            found = await store.read(NONCE)
        except StoreError:
            return pb.ReadNonceResponse()
        finally:
            await store.close()
        return pb.ReadNonceResponse(nonce=found.items[0].value.decode() if found.items else None)


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
