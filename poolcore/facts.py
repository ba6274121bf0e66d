"""What a host says of itself: the input of preflight and of the inventory.

A driver reports a `HostProfile` and the host's objects; together with who the host is and what
the master measured on the way they are the `HostFacts` that preflight decides upon. Pure values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from poolcore.model import (
    NO_NAMES,
    PIF,
    SR,
    Address,
    Cpu,
    HostId,
    Hypervisor,
    Incarnation,
    Network,
    Object,
    PoolId,
    Reservation,
    SoftwareVersion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProfile:
    """What the host is: the part of a report that becomes fields of `Host` and `HostMetrics`."""

    hypervisor: Hypervisor
    cpu: Cpu
    memory_total: int
    capabilities: frozenset[str] = NO_NAMES
    storage_types: frozenset[str] = NO_NAMES
    network_backend: str = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What is on the host, as its driver found it.

    `objects` are SR, PBD, VDI, Network, PIF, Bond, VLAN, Tunnel, VM, VBD and VIF objects in no
    particular order; references among them are complete except to unmanaged disks. Their uuids are
    the hypervisor's own or derived (`model.derived_uuid`), so that the same thing keeps its uuid.
    """

    profile: HostProfile
    objects: tuple[Object, ...]

    def networks(self) -> tuple[Network, ...]:
        """The host's networks."""
        return tuple(o for o in self.objects if isinstance(o, Network))

    def srs(self) -> tuple[SR, ...]:
        """The host's storage repositories."""
        return tuple(o for o in self.objects if isinstance(o, SR))

    def pifs(self) -> tuple[PIF, ...]:
        """The host's interfaces."""
        return tuple(o for o in self.objects if isinstance(o, PIF))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """One direction between two hosts in which no connection came about."""

    from_host: str
    to_host: str
    endpoint: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Everything preflight knows of the joining host."""

    host: HostId
    name_label: str
    addresses: tuple[Address, ...]
    pool: PoolId
    pool_name: str
    pool_hosts: int
    """How many hosts the host's present pool has, itself included."""
    is_master: bool
    """Whether it is the master of its present pool; a fresh host is."""
    reservation: Reservation | None = None
    software_version: SoftwareVersion
    inventory: Inventory
    operations: tuple[str, ...] = ()
    """Names of the tasks that run in its present pool."""
    booting: bool = False
    updating: bool = False
    clock_offset_seconds: float = 0.0
    """The host's clock minus the master's, measured by the master."""
    unreachable: tuple[Unreachable, ...] = ()
    """What the master and the host found when they tried each other's and the members' ports."""
    free_disk_bytes: int
    """Free in the host's state directory."""
    fsync_seconds: float
    """Median time of an fsync in the host's state directory."""
    witness: bool = False
    """Its daemon was started as a witness: it brings nothing in and never leads."""
    etcd_version: str | None = None
    """Of the etcd that is installed there; none also if the host is told not to vote."""
    etcd_problem: str | None = None
    """Why it would not vote with that; none if it would, or is told not to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoterFacts:
    """What there is of the pool's own etcd at a host."""

    version: str | None = None
    """Of the etcd that is installed there; none also if the host is told not to vote."""
    problem: str | None = None
    """Why it would not run that, in a clause; none if it would, or is told not to vote."""
    token: str | None = None
    """Which cluster it has a member of that is fit to run: of one whose files are lost, none."""

    @property
    def able(self) -> bool:
        """Whether it can be given a vote."""
        return self.version is not None and self.problem is None and self.token is None


@dataclass(frozen=True, slots=True)
class KnownCommit:
    """A commit of the chain, and what is in it: two of one revision may be of two masters."""

    revision: int
    digest: bytes
    """SHA-256 of its serialized delta."""

    @classmethod
    def of(cls, revision: int, delta: bytes) -> KnownCommit:
        """That of a serialized delta."""
        return cls(revision, hashlib.sha256(delta).digest())

    def followed_by(self, deltas: Sequence[bytes]) -> KnownCommit:
        """The last of the commits that follow it."""
        return KnownCommit.of(self.revision + len(deltas), deltas[-1])


@dataclass(frozen=True, slots=True)
class Tail:
    """What a voter's disk has of the chain beyond a commit that the replicas have."""

    position: tuple[int, int, int] = (0, 0, 0)
    """Count of the incarnation that the store there is of, term and index of the last entry of
    Raft's log; zeros if that commit is not there. Of two logs the one that ends at the greater has
    everything of the other that was committed: so Raft elects."""
    deltas: tuple[bytes, ...] = ()
    """Serialized, in order, the first one follows that commit. Whether they were committed, and so
    acknowledged, the disk of one voter cannot tell."""
    whole: bool = True
    """Whether that is everything: the disk could be read, is not damaged, and has a member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A member of the pool, as the host that is to be master finds it."""

    uuid: HostId
    name_label: str
    address: str
    """`host:port`."""
    answers: bool
    incarnation: Incarnation | None = None
    """Of what it has; none if it has nothing, or does not answer."""
    revision: int = 0

    @property
    def reach(self) -> tuple[int, int]:
        """How far the chain goes that it has, as far as it says: incarnation, revision."""
        return (0 if self.incarnation is None else self.incarnation.counter, self.revision)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyOutlook:
    """What a host would go on from, were it made master in an emergency (design §5)."""

    host: HostId
    name_label: str
    pool_name: str
    incarnation: Incarnation
    revision: int
    in_step: str | None = None
    """Name of the host that was in step when this one last heard of its master."""
    may_lack: bool
    """Whether the hosts that do not answer may have had commits that nobody in reach has."""
    tail_from: str | None = None
    """Name of the host whose etcd has commits on its disk that this host's replica lacks."""
    tail_commits: int = 0
    """How many. They are taken along, though nobody in reach can tell if they were acknowledged."""
    peers: tuple[Peer, ...] = ()
    """The pool's other hosts, by name."""

    @property
    def to_be_off(self) -> tuple[Peer, ...]:
        """The hosts that must be switched off: one of them may still act as the master."""
        return tuple(peer for peer in self.peers if not peer.answers)

    @property
    def may_have_more(self) -> tuple[Peer, ...]:
        """The hosts that may have commits that this one lacks, as they say, or as they do not say.

        Of those that say what they have only a witness can: any other host would be the one to go
        on from.
        """
        own = (self.incarnation.counter, self.revision)
        return tuple(p for p in self.peers if p.incarnation is None or p.reach > own)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredMember:
    """What became of a member that was told where its master is."""

    uuid: HostId
    name_label: str
    follows: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a host stands when its pool looks for a master."""

    host: HostId
    revision: int
    """Up to where its replica goes."""
    priority: int
    """As configured: the larger the better, 0 never leads."""
    hears_master: bool
    """A master of the term it is asked about or of a newer one, or it is one itself."""
    reaches_store: bool
    leads: bool = False
    """Whether it is the master itself."""
    incarnation: Incarnation | None = None
    """Of its mastership, or else of its replica; none: it has neither."""
    in_maintenance: bool = False
    """It leads only if no other host can."""

    @property
    def may_lead(self) -> bool:
        """Whether it is a candidate."""
        return self.reaches_store and self.priority > 0 and not self.hears_master


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Commits that a host had and its pool has not, as the host has saved them."""

    name: str
    """Unique at that host."""
    host: HostId
    pool: PoolId
    """The pool that the commits are of; the host may be in another one by now."""
    incarnation: Incarnation
    first_revision: int
    last_revision: int
    commits: int
    saved: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackup:
    """A backup of its pool's metadata that a host has written by itself."""

    path: str
    """Of the file, on that host."""
    size_bytes: int
    made: datetime
    pool: PoolId
    """The pool that it is of; the host may be in another one by now."""
    pool_name: str
    incarnation: Incarnation
    revision: int
