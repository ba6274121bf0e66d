"""What a simulated host is and has, as its file describes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from poolcore.facts import HostProfile
from poolcore.model import Cpu, Hypervisor, IpMode, PowerState, VbdType
from poolmember.drivers.contract import FactOverrides

MIB = 1024**2
DEFAULT_BRIDGE = "xenbr0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimImage:
    """A disk image in an SR."""

    name: str
    size_bytes: int
    uuid: str | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSr:
    """A storage repository and what is in it besides the disks of VMs."""

    name: str
    type: str
    content_type: str = "user"
    shared: bool = False
    builtin: bool = False
    uuid: str | None = None
    size_bytes: int = 100 * 1024 * MIB
    used_bytes: int = 0
    attached: bool = True
    images: tuple[SimImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimNetwork:
    """A network beyond the default one."""

    name: str
    bridge: str
    mtu: int = 1500
    uuid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimManagement:
    """The management interface with everything that carries it, on the default network."""

    device: str = "eth0"
    addresses: tuple[str, ...] | None = None
    """In CIDR form; none: the address of the daemon's own endpoint."""
    mode: IpMode = IpMode.STATIC
    mtu: int = 1500
    vlan: int | None = None
    bond: tuple[str, ...] = ()
    """The interfaces of which `device` is a bond."""
    bridge: str = DEFAULT_BRIDGE


@dataclass(frozen=True, slots=True, kw_only=True)
class SimInterface:
    """A further interface: a plain one, a bond, a tagged one or the end of a tunnel.

    `network` is a network's name, or none for the default one.
    """

    device: str
    network: str | None = None
    mtu: int = 1500
    mac: str | None = None
    slaves: tuple[str, ...] = ()
    """Of a bond: the interfaces it is made of."""
    mode: str = "active-backup"
    tag: int | None = None
    """Of a VLAN, on top of the interface `parent`."""
    tunnel: str | None = None
    """Of a tunnel: its protocol, on top of the interface `parent`."""
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDisk:
    """A disk of a VM, as an image in an SR; without one, an empty drive."""

    device: str
    sr: str | None
    size_bytes: int = 1024 * MIB
    type: VbdType = VbdType.DISK
    read_only: bool = False
    bootable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimVif:
    """An interface of a VM; `network` is a network's name, or none for the default one."""

    network: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimVm:
    """A VM, or `count` of them with numbered names."""

    name: str
    uuid: str | None = None
    power_state: PowerState = PowerState.HALTED
    memory_bytes: int = 512 * MIB
    vcpus: int = 1
    operations: frozenset[str] = frozenset()
    disks: tuple[SimDisk, ...] = ()
    vifs: tuple[SimVif, ...] = ()
    count: int = 1

    def names(self) -> Iterator[str]:
        """The name of each."""
        if self.count == 1:
            yield self.name
        else:
            yield from (f"{self.name}-{number}" for number in range(1, self.count + 1))


DEFAULT_SRS = (
    SimSr(name="Local storage", type="ext", builtin=True),
    SimSr(name="DVD drives", type="udev", content_type="iso", builtin=True, size_bytes=0),
    SimSr(name="Removable storage", type="udev", content_type="disk", builtin=True, size_bytes=0),
)
"""What every fresh simulated host has (design §8)."""

DEFAULT_PROFILE = HostProfile(
    hypervisor=Hypervisor(kind="sim", version="1.0"),
    cpu=Cpu(
        arch="x86_64",
        vendor="AuthenticAMD",
        model="Simulated",
        count=8,
        features=frozenset({"aes", "avx", "avx2", "lm", "nx", "sse4_2"}),
    ),
    memory_total=16384 * MIB,
    capabilities=frozenset({"migrate", "snapshot"}),
    storage_types=frozenset({"dir", "ext", "iscsi", "iso", "lvm", "nfs", "udev"}),
    network_backend="bridge",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimHost:
    """Everything a host file says; without any key, a fresh host."""

    profile: HostProfile = DEFAULT_PROFILE
    overrides: FactOverrides = field(default_factory=FactOverrides)
    management: SimManagement = SimManagement()
    networks: tuple[SimNetwork, ...] = ()
    interfaces: tuple[SimInterface, ...] = ()
    srs: tuple[SimSr, ...] = DEFAULT_SRS
    vms: tuple[SimVm, ...] = ()
    driver_delay_seconds: float = 0.0
    """How much longer each call to the driver takes."""
    driver_error: str | None = None
    """With which words each call to the driver fails."""
