"""The objects of a pool, after XAPI's data model.

Every object is a frozen, slotted dataclass with a `uuid`; references are the uuid of the object
they point at, typed per kind. Field names are XAPI's in snake case; sizes are bytes, times are
aware UTC datetimes. Nothing here does I/O.

Fields come in two sorts, and the difference decides who may change them:

* *administrative*: `name_label`, `name_description`, `tags`, `other_config` and the pool's
  settings. Only API writes change them.
* *observed*: what a host's driver reported last. Only that host's inventory reports change them
  (`poolmaster.decide.inventory`).
"""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, NewType

from immutables import Map

PoolId = NewType("PoolId", str)
HostId = NewType("HostId", str)
HostMetricsId = NewType("HostMetricsId", str)
SrId = NewType("SrId", str)
PbdId = NewType("PbdId", str)
VdiId = NewType("VdiId", str)
NetworkId = NewType("NetworkId", str)
PifId = NewType("PifId", str)
BondId = NewType("BondId", str)
VlanId = NewType("VlanId", str)
TunnelId = NewType("TunnelId", str)
VmId = NewType("VmId", str)
VbdId = NewType("VbdId", str)
VifId = NewType("VifId", str)
TaskId = NewType("TaskId", str)
MessageId = NewType("MessageId", str)
LockId = NewType("LockId", str)
MasterRecordId = NewType("MasterRecordId", str)


class Kind(StrEnum):
    """The classes of object a pool holds; the value is the name used on the wire and in scripts."""

    POOL = "pool"
    HOST = "host"
    HOST_METRICS = "host_metrics"
    SR = "sr"
    PBD = "pbd"
    VDI = "vdi"
    NETWORK = "network"
    PIF = "pif"
    BOND = "bond"
    VLAN = "vlan"
    TUNNEL = "tunnel"
    VM = "vm"
    VBD = "vbd"
    VIF = "vif"
    TASK = "task"
    MESSAGE = "message"
    LOCK = "lock"
    MASTER_RECORD = "master_record"


def derived_uuid(parent: str, kind: Kind, name: str) -> str:
    """The stable uuid of a thing that has none of its own, such as a NIC or a volume.

    The same `name` below the same `parent` uuid always gets the same uuid, so that a host reports
    the same object after a restart.
    """
    return str(uuidlib.uuid5(uuidlib.UUID(parent), f"{kind}:{name}"))


DEFAULT_FAILOVER_PRIORITY = 100

EMPTY_MAP: Map[str, str] = Map()
NO_NAMES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What every object of a pool has."""

    KIND: ClassVar[Kind]
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Described(Object):
    """An object that administrators name, describe and tag."""

    name_label: str
    name_description: str = ""
    tags: frozenset[str] = NO_NAMES
    other_config: Mapping[str, str] = EMPTY_MAP
    """Free key/value pairs of the pool's users; the pool manager gives none of them a meaning."""


# -- pool and hosts -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """This pool of one has promised itself to another pool and takes no writes until that ends.

    The promise is a commit in the host's own store, so two pools cannot hold it at once and a
    restart does not forget it (design §9).
    """

    pool: PoolId
    pool_name: str
    task: TaskId
    addresses: tuple[str, ...]
    """Where the reserving pool can be asked how the join ended, `host:port` each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverTimings:
    """How soon a silent master is replaced. Seconds; safety rests on none of them (design §5)."""

    heartbeat_seconds: float = 0.1
    """How often the master is heard when it has nothing else to say."""
    suspect_seconds: float = 0.5
    """A master that was silent for so long is asked about; rounds of asking are so far apart."""
    vote_seconds: float = 0.2
    """How long the other hosts have to answer."""
    confirm_seconds: float = 1.0
    """A master that could not confirm its `head` for so long ends its mastership."""
    alive_seconds: float = 5.0
    """When a master's `alive` key expires: a host without a majority may take over then."""
    in_step_seconds: float = 1.0
    """How long writes wait for the replica that is kept in step; then the master goes on alone."""
    replace_voter_seconds: float = 600.0
    """A voter of the pool's own etcd that was silent for so long is replaced by another host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSchedule:
    """When each host writes a backup of the metadata from its replica, and how many it keeps."""

    interval_minutes: int = 60
    """How far apart they are at least; none is written where nothing has changed. 0: never."""
    keep: int = 24
    """How many of the newest are kept."""
    keep_daily: int = 14
    """For how many of the newest days, besides, the last one of the day is kept."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """An incarnation of the pool before the present one; its fields are those of `Incarnation`."""

    counter: int
    uuid: str
    forked_at: int = 0


@dataclass(frozen=True, slots=True)
class Incarnation:
    """Which life of the pool's store: `counter` grows, `uuid` tells two of the same count apart."""

    counter: int
    uuid: str
    forked_at: int = 0
    """The revision at which it forked from its parent; 0 for the first."""


@dataclass(frozen=True, slots=True)
class Voters:
    """The hosts that run the pool's own etcd."""

    token: str
    """Members of another token are not of this cluster."""
    hosts: tuple[HostId, ...]
    """In sorted order."""
    learners: tuple[HostId, ...] = ()
    """Hosts that are about to vote: their etcd takes what there is. In sorted order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Described):
    """The pool itself: exactly one per pool."""

    KIND = Kind.POOL
    uuid: PoolId
    default_sr: SrId | None = None
    ha_enabled: bool = False
    host_limit: int = 64
    """How many hosts the pool may have (preflight row 9)."""
    history_revisions: int = 10_000
    """How many deltas, and with them request ids, are kept. Set when the pool is founded."""
    reservation: Reservation | None = None
    failover: FailoverTimings = FailoverTimings()
    in_step: HostId | None = None
    """The host whose replica has every commit before it is acknowledged (design §4.3), so that
    nothing is lost with the host that has the store. None: there is no such host just now."""
    lineage: tuple[Ancestor, ...] = ()
    """The incarnations before the present one, the newest last; the oldest are dropped."""
    was_in_step: HostId | None = None
    """The host that was in step before the last handover, until it is known that it has heard of
    that: its own replica may say that it is in step still."""
    backup: BackupSchedule = BackupSchedule()
    voters: Voters | None = None
    """Where the pool's own etcd is. None: the store is the master's alone, or elsewhere."""


class AddressPurpose(StrEnum):
    """What an address of a host is for."""

    MANAGEMENT = "management"
    POOL = "pool"
    MIGRATION = "migration"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One way to reach a host: `endpoint` is `host:port`."""

    purpose: AddressPurpose
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftwareVersion:
    """Which release a host runs."""

    product_version: str
    api_version: int
    schema_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervisor:
    """What the driver drives: `kind` is for example `qemu` or `sim`."""

    kind: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The host's processors; `features` are the flags the hypervisor offers to guests."""

    arch: str
    vendor: str
    model: str = ""
    count: int
    features: frozenset[str] = NO_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Described):
    """A hypervisor host of the pool."""

    KIND = Kind.HOST
    uuid: HostId
    addresses: tuple[Address, ...]
    software_version: SoftwareVersion
    hypervisor: Hypervisor
    cpu: Cpu
    capabilities: frozenset[str] = NO_NAMES
    """What the host's driver can do, for example `migrate` or `snapshot`."""
    storage_types: frozenset[str] = NO_NAMES
    """SR types the host can attach."""
    network_backend: str = "bridge"
    enabled: bool = True
    """Not in maintenance. Administrative."""
    failover_priority: int = DEFAULT_FAILOVER_PRIORITY
    """Which of several hosts with the same revision becomes master: the larger number; 0 never.
    Administrative, from 0 to 1,000."""
    witness: bool = False
    """It votes and keeps a replica, runs no VMs and never becomes master. As its daemon was started
    when it joined; its `failover_priority` is 0."""

    @property
    def may_lead(self) -> bool:
        """Whether it may ever be made the master of several hosts."""
        return not self.witness and self.failover_priority > 0

    @property
    def address(self) -> str:
        """The `host:port` that other hosts and clients use: the first management address."""
        return next(a.endpoint for a in self.addresses if a.purpose is AddressPurpose.MANAGEMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMetrics(Object):
    """What changes about a host while it runs."""

    KIND = Kind.HOST_METRICS
    uuid: HostMetricsId
    host: HostId
    live: bool
    """Whether the host's session to the master is up."""
    memory_total: int
    last_updated: datetime
    """When one of the others last changed."""
    declared_dead: bool = False
    """A person has vouched that the host is off; so it is until its session is up again."""


# -- storage --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SR(Described):
    """A storage repository."""

    KIND = Kind.SR
    uuid: SrId
    type: str
    content_type: str = "user"
    shared: bool = False
    builtin: bool = False
    """One of the SRs every fresh host has (design §8); no finding at join."""
    physical_size: int = 0
    physical_utilisation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PBD(Object):
    """The connection of one host to one SR."""

    KIND = Kind.PBD
    uuid: PbdId
    host: HostId
    sr: SrId
    device_config: Mapping[str, str] = EMPTY_MAP
    currently_attached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VDI(Described):
    """A virtual disk image in an SR."""

    KIND = Kind.VDI
    uuid: VdiId
    sr: SrId
    location: str
    """The driver's own name of the volume, a path or a key."""
    type: str = "user"
    virtual_size: int = 0
    physical_utilisation: int = 0
    read_only: bool = False


# -- network --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Described):
    """A network that spans the pool: hosts take part with a PIF."""

    KIND = Kind.NETWORK
    uuid: NetworkId
    bridge: str
    mtu: int = 1500
    default: bool = False
    """Part of what every fresh host has (design §8); merged with the pool's own at join."""


class IpMode(StrEnum):
    """How an interface gets its address."""

    NONE = "none"
    STATIC = "static"
    DHCP = "dhcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class PIF(Object):
    """A physical interface, bond or VLAN interface of a host, and the network it carries."""

    KIND = Kind.PIF
    uuid: PifId
    host: HostId
    network: NetworkId
    device: str
    mac: str = ""
    mtu: int = 1500
    vlan: int | None = None
    """The 802.1Q tag, or none for an untagged interface."""
    management: bool = False
    """This interface carries the host's management address, itself or as part of what does."""
    ip_configuration_mode: IpMode = IpMode.NONE
    addresses: tuple[str, ...] = ()
    """In CIDR form, IPv4 and IPv6."""
    currently_attached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond(Object):
    """Several interfaces of a host used as one."""

    KIND = Kind.BOND
    uuid: BondId
    master: PifId
    """The PIF that stands for the bond."""
    slaves: tuple[PifId, ...]
    mode: str = "active-backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class VLAN(Object):
    """A tagged interface on top of an untagged one."""

    KIND = Kind.VLAN
    uuid: VlanId
    tagged_pif: PifId
    untagged_pif: PifId
    tag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel(Object):
    """A tunnel to other hosts, such as VXLAN or GRE, on top of an interface."""

    KIND = Kind.TUNNEL
    uuid: TunnelId
    access_pif: PifId
    transport_pif: PifId
    protocol: str = "vxlan"


# -- virtual machines -----------------------------------------------------------------------------


class PowerState(StrEnum):
    """XAPI's four power states, and that none of them is known.

    No driver reports `UNKNOWN`: the pool says it of a VM that may run on a host which nobody hears
    since an emergency transition (`poolmaster.decide.gone`).
    """

    HALTED = "halted"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


REPORTED_POWER_STATES = tuple(state for state in PowerState if state is not PowerState.UNKNOWN)
"""Those that a driver reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VM(Described):
    """A virtual machine."""

    KIND = Kind.VM
    uuid: VmId
    power_state: PowerState
    resident_on: HostId | None = None
    """The host that runs it or, for a VM that does not run, the host that holds its definition."""
    memory_static_max: int = 0
    vcpus_max: int = 1
    current_operations: frozenset[str] = NO_NAMES


class VbdType(StrEnum):
    """What the guest sees the disk as."""

    DISK = "disk"
    CD = "cd"
    FLOPPY = "floppy"


@dataclass(frozen=True, slots=True, kw_only=True)
class VBD(Object):
    """The connection of a VM to a disk; `vdi` is none for an empty drive or an unmanaged disk."""

    KIND = Kind.VBD
    uuid: VbdId
    vm: VmId
    vdi: VdiId | None = None
    device: str
    type: VbdType = VbdType.DISK
    read_only: bool = False
    bootable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VIF(Object):
    """The connection of a VM to a network."""

    KIND = Kind.VIF
    uuid: VifId
    vm: VmId
    network: NetworkId | None = None
    device: str
    mac: str = ""
    mtu: int = 1500


# -- work and messages ----------------------------------------------------------------------------


class Severity(StrEnum):
    """Whether a finding stops the join."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason why a host may not join, or a thing the administrator should know before it does.

    Compared by preflight only; `overridden` says that `--force` let it pass.
    """

    code: str
    severity: Severity
    subject: str
    expected: str
    actual: str
    explanation: str
    remedy: str
    forceable: bool = False
    overridden: bool = False

    @property
    def blocks(self) -> bool:
        """Whether the join stops here."""
        return self.severity is Severity.ERROR and not self.overridden


class TaskStatus(StrEnum):
    """XAPI's task states."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self in {TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why a task failed: a reason of the error catalog and its parameters."""

    reason: str
    params: Mapping[str, str] = EMPTY_MAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Object):
    """An operation that takes longer than one commit, with its recorded steps (design §4.6)."""

    KIND = Kind.TASK
    uuid: TaskId
    name_label: str
    operation: str
    """Which step table it follows, for example `host.join`."""
    step: str
    """The last step that was recorded; a restarted master goes on from here."""
    params: Mapping[str, str] = EMPTY_MAP
    status: TaskStatus = TaskStatus.PENDING
    progress: float = 0.0
    """From 0 to 1."""
    created: datetime
    finished: datetime | None = None
    subject: HostId | None = None
    """The host it is about, once that is known."""
    findings: tuple[Finding, ...] = ()
    error: TaskError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Object):
    """Something that happened and that an administrator should learn of."""

    KIND = Kind.MESSAGE
    uuid: MessageId
    name: str
    priority: int = 3
    """XAPI's scale: 1 data loss, 2 service loss, 3 degraded, 4 scheduled, 5 informational."""
    cls: Kind
    obj_uuid: str
    timestamp: datetime
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock(Object):
    """A lock that spans the pool, while somebody holds it; no two have the same name.

    What guards is the token: each taking of a lock is a commit of its own, so a later holder's
    token is higher, and whatever the lock protects can refuse one lower than it has seen. No clock
    takes part in that. The time to live only decides when a holder that is no longer heard of is
    given up: it runs on the master's monotonic clock and begins anew with each renewal and each
    mastership, so a lock may live longer than its time to live after the last renewal, never
    shorter.

    Tokens are revisions of one incarnation. One that was founded without the newest commits of its
    parent may give out again the tokens that were given out in these.
    """

    KIND = Kind.LOCK
    uuid: LockId
    """Another one each time the lock is taken."""
    name_label: str
    holder: str
    """Who holds it, in the holder's own words."""
    acquired: datetime
    """By the master's time of day: for people to read."""
    ttl_seconds: int
    token: int
    """The revision at which it was taken."""


# -- masterships ----------------------------------------------------------------------------------


class Accession(StrEnum):
    """How a host became master."""

    FOUNDED = "founded"
    RESTARTED = "restarted"
    ELECTED = "elected"
    DESIGNATED = "designated"
    HANDED_OVER = "handed_over"
    EMERGENCY = "emergency"
    SUCCESSION = "succession"


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterRecord(Object):
    """That a host became master; it was until the next one did (`poolmaster.decide.masters`)."""

    KIND = Kind.MASTER_RECORD
    uuid: MasterRecordId
    incarnation: int = 1
    """Counter of the incarnation that `term` is counted in."""
    term: int
    host: HostId
    """It may have left the pool since."""
    since: datetime
    why: Accession


CLASSES: Mapping[Kind, type[Object]] = {
    c.KIND: c
    for c in (
        Pool, Host, HostMetrics, SR, PBD, VDI, Network, PIF, Bond, VLAN, Tunnel,
        VM, VBD, VIF, Task, Message, Lock, MasterRecord,
    )
}  # fmt: skip
"""The dataclass of each kind."""
