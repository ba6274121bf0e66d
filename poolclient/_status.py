"""What `status` and preflight answer, and what a host says of itself, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from poolclient._freshness import Freshness
from poolcore.facts import HostFacts
from poolcore.model import Finding, HostId, PoolId
from poolcore.replica import Head
from poolcore.wire.codec import from_proto
from poolmanager.v1 import pool_service_pb2


class Role(StrEnum):
    """What a host is in the pool."""

    MASTER = "master"
    MEMBER = "member"
    WITNESS = "witness"


_ROLES = {
    pool_service_pb2.ROLE_MASTER: Role.MASTER,
    pool_service_pb2.ROLE_MEMBER: Role.MEMBER,
    pool_service_pb2.ROLE_WITNESS: Role.WITNESS,
}


@dataclass(frozen=True, slots=True)
class HostStatus:
    """How a host is doing."""

    uuid: HostId
    name: str
    address: str
    role: Role
    live: bool
    """Its session to the master is up."""
    in_step: bool
    """It has applied everything that is committed."""
    applied_revision: int
    lag_seconds: float
    """How long it has been behind; 0 when in step."""
    declared_dead: bool = False
    """A person has vouched that it is off; until it comes back."""
    enabled: bool = True
    """It is not in maintenance."""


@dataclass(frozen=True, slots=True)
class Quorum:
    """Hosts that vote, how many must be up, and how many may be lost with the pool still writing.

    Whichever they are: witnesses and hosts of `failover_priority` 0 vote and do not lead.
    """

    voters: int
    needed: int
    survives: int


@dataclass(frozen=True, slots=True)
class StatusWarning:
    """Something that is not as it should be."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Master, chain, quorum, hosts and warnings."""

    pool_uuid: PoolId
    pool_name: str
    head: Head | None
    """The newest commit that the answering host knows."""
    engine: str
    quorum: Quorum
    hosts: tuple[HostStatus, ...]
    warnings: tuple[StatusWarning, ...]
    freshness: Freshness
    durable_on: tuple[HostId, ...] = ()
    """The hosts that have every acknowledged change on their disks, the master first; empty where
    they share a store, and without a master."""

    @property
    def master(self) -> HostStatus | None:
        """The master; none when the answering host has none."""
        if self.freshness.stale or self.head is None:
            return None
        return next((h for h in self.hosts if h.uuid == self.head.master), None)


def status_from_proto(
    message: pool_service_pb2.GetStatusResponse, freshness: Freshness
) -> PoolStatus:
    """The value of a `GetStatus` answer."""
    quorum = message.quorum
    return PoolStatus(
        pool_uuid=PoolId(message.pool_uuid),
        pool_name=message.pool_name,
        head=from_proto(message.head) if message.HasField("head") else None,
        engine=message.engine,
        quorum=Quorum(quorum.voters, quorum.needed, quorum.survives),
        hosts=tuple(
            HostStatus(
                uuid=HostId(h.uuid),
                name=h.name,
                address=h.address,
                role=_ROLES.get(h.role, Role.MEMBER),
                live=h.live,
                in_step=h.in_step,
                applied_revision=h.applied_revision,
                lag_seconds=h.lag_seconds,
                declared_dead=h.declared_dead,
                enabled=h.enabled or not h.HasField("enabled"),
            )
            for h in message.hosts
        ),
        warnings=tuple(StatusWarning(w.code, w.message, w.remedy) for w in message.warnings),
        freshness=freshness,
        durable_on=tuple(map(HostId, message.durable_on)),
    )


@dataclass(frozen=True, slots=True)
class HostCheck:
    """What preflight found about a host that might join."""

    host_uuid: HostId
    host_name: str
    findings: tuple[Finding, ...]
    may_join: bool


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host says of itself, at which address, and how its clock stands to ours."""

    address: str
    facts: HostFacts
    clock: datetime
    """The host's clock when it answered."""
    clock_offset_seconds: float
    """The host's clock minus this machine's, to about the time that the call took."""
