"""The objects on a simulated host.

The same description, host uuid and endpoint always give the same objects with the same uuids.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    BondId,
    HostId,
    IpMode,
    Kind,
    Network,
    NetworkId,
    Object,
    PbdId,
    PifId,
    SrId,
    Tunnel,
    TunnelId,
    VbdId,
    VdiId,
    VifId,
    VlanId,
    VmId,
    derived_uuid,
)
from poolmember.drivers.sim_host import (
    SimHost,
    SimImage,
    SimInterface,
    SimManagement,
    SimNetwork,
    SimSr,
    SimVm,
)


def objects(sim: SimHost, host: HostId, *, management_endpoint: str) -> Iterator[Object]:
    """What is on the host, one by one: there may be very many.

    `management_endpoint` (`host:port`) gives the management interface its address unless the
    description does.
    """
    return _Builder(host, management_endpoint).objects(sim)


@dataclass
class _Builder:
    host: HostId
    endpoint: str
    networks: dict[str | None, NetworkId] = field(default_factory=dict)
    srs: dict[str, SrId] = field(default_factory=dict)
    pifs: dict[str, PifId] = field(default_factory=dict)

    def objects(self, sim: SimHost) -> Iterator[Object]:
        yield from self._networks(sim)
        yield from self._management(sim.management)
        for interface in sim.interfaces:
            yield from self._interface(interface)
        for sr in sim.srs:
            yield from self._sr(sr, sim)
        for vm in sim.vms:
            for name in vm.names():
                yield from self._vm(vm, name)

    def _networks(self, sim: SimHost) -> Iterator[Object]:
        management = sim.management
        default = SimNetwork(
            name=f"Pool-wide network associated with {management.device}",
            bridge=management.bridge,
            mtu=management.mtu,
        )
        for network in (default, *sim.networks):
            uuid = NetworkId(network.uuid or self._derived(Kind.NETWORK, network.bridge))
            self.networks[None if network is default else network.name] = uuid
            yield Network(
                uuid=uuid,
                name_label=network.name,
                bridge=network.bridge,
                mtu=network.mtu,
                default=network is default,
            )

    def _management(self, management: SimManagement) -> Iterator[Object]:
        addresses = management.addresses
        if addresses is None:
            addresses = (_cidr(self.endpoint, self.host),)
        tagged = management.vlan is not None
        for slave in management.bond:
            yield self._pif(slave, None, mtu=management.mtu, management=True)
        yield self._pif(
            management.device,
            None,
            mtu=management.mtu,
            management=True,
            mode=IpMode.NONE if tagged else management.mode,
            addresses=() if tagged else addresses,
        )
        if management.bond:
            yield self._bond(management.device, management.bond, "active-backup")
        if management.vlan is not None:
            device = f"{management.device}.{management.vlan}"
            yield self._pif(
                device,
                None,
                mtu=management.mtu,
                management=True,
                vlan=management.vlan,
                mode=management.mode,
                addresses=addresses,
            )
            yield self._vlan(device, management.device, management.vlan)

    def _interface(self, interface: SimInterface) -> Iterator[Object]:
        device = interface.device
        yield self._pif(
            device, interface.network, mtu=interface.mtu, vlan=interface.tag, mac=interface.mac
        )
        if interface.slaves:
            yield self._bond(device, interface.slaves, interface.mode)
        if interface.parent is None:
            return
        if interface.tag is not None:
            yield self._vlan(device, interface.parent, interface.tag)
        if interface.tunnel is not None:
            yield Tunnel(
                uuid=TunnelId(self._derived(Kind.TUNNEL, device)),
                access_pif=self.pifs[device],
                transport_pif=self.pifs[interface.parent],
                protocol=interface.tunnel,
            )

    def _pif(
        self,
        device: str,
        network: str | None,
        *,
        mtu: int,
        management: bool = False,
        vlan: int | None = None,
        mac: str | None = None,
        mode: IpMode = IpMode.NONE,
        addresses: tuple[str, ...] = (),
    ) -> PIF:
        self.pifs[device] = PifId(self._derived(Kind.PIF, device))
        return PIF(
            uuid=self.pifs[device],
            host=self.host,
            network=self.networks[network],
            device=device,
            mac=mac or _mac(self.host, device),
            mtu=mtu,
            vlan=vlan,
            management=management,
            ip_configuration_mode=mode,
            addresses=addresses,
        )

    def _bond(self, device: str, slaves: tuple[str, ...], mode: str) -> Bond:
        return Bond(
            uuid=BondId(self._derived(Kind.BOND, device)),
            master=self.pifs[device],
            slaves=tuple(self.pifs[slave] for slave in slaves),
            mode=mode,
        )

    def _vlan(self, device: str, parent: str, tag: int) -> VLAN:
        return VLAN(
            uuid=VlanId(self._derived(Kind.VLAN, device)),
            tagged_pif=self.pifs[device],
            untagged_pif=self.pifs[parent],
            tag=tag,
        )

    def _sr(self, sr: SimSr, sim: SimHost) -> Iterator[Object]:
        uuid = SrId(sr.uuid or self._derived(Kind.SR, sr.name))
        self.srs[sr.name] = uuid
        disks = (d.size_bytes * vm.count for vm in sim.vms for d in vm.disks if d.sr == sr.name)
        yield SR(
            uuid=uuid,
            name_label=sr.name,
            type=sr.type,
            content_type=sr.content_type,
            shared=sr.shared,
            builtin=sr.builtin,
            physical_size=sr.size_bytes,
            physical_utilisation=sr.used_bytes + sum(i.size_bytes for i in sr.images) + sum(disks),
        )
        yield PBD(
            uuid=PbdId(self._derived(Kind.PBD, uuid)),
            host=self.host,
            sr=uuid,
            currently_attached=sr.attached,
        )
        for image in sr.images:
            yield _vdi(
                uuid, image, location=image.name, type_="iso" if sr.type == "iso" else "user"
            )

    def _vm(self, vm: SimVm, name: str) -> Iterator[Object]:
        uuid = VmId(vm.uuid or self._derived(Kind.VM, name))
        yield VM(
            uuid=uuid,
            name_label=name,
            power_state=vm.power_state,
            resident_on=self.host,
            memory_static_max=vm.memory_bytes,
            vcpus_max=vm.vcpus,
            current_operations=vm.operations,
        )
        for disk in vm.disks:
            vdi: VDI | None = None
            if disk.sr is not None:
                image = SimImage(name=f"{name} {disk.device}", size_bytes=disk.size_bytes)
                vdi = _vdi(self.srs[disk.sr], image, location=f"{name}-{disk.device}.img")
                yield vdi
            yield VBD(
                uuid=VbdId(derived_uuid(uuid, Kind.VBD, disk.device)),
                vm=uuid,
                vdi=vdi.uuid if vdi else None,
                device=disk.device,
                type=disk.type,
                read_only=disk.read_only,
                bootable=disk.bootable,
            )
        for position, vif in enumerate(vm.vifs):
            yield VIF(
                uuid=VifId(derived_uuid(uuid, Kind.VIF, str(position))),
                vm=uuid,
                network=self.networks[vif.network],
                device=str(position),
                mac=vif.mac or _mac(uuid, str(position)),
            )

    def _derived(self, kind: Kind, name: str) -> str:
        return derived_uuid(self.host, kind, name)


def _vdi(sr: SrId, image: SimImage, *, location: str, type_: str = "user") -> VDI:
    return VDI(
        uuid=VdiId(image.uuid or derived_uuid(sr, Kind.VDI, location)),
        sr=sr,
        name_label=image.name,
        location=location,
        type=type_,
        virtual_size=image.size_bytes,
        physical_utilisation=image.size_bytes,
        read_only=image.read_only,
    )


def _mac(owner: str, device: str) -> str:
    digest = hashlib.sha256(f"{owner}/{device}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def _cidr(endpoint: str, host: HostId) -> str:
    """The endpoint's own address, as it would be configured on an interface.

    An endpoint that names no address (a host name, or all addresses) gets one of the block that
    is reserved for documentation: a simulated host resolves nothing.
    """
    try:
        address = ipaddress.ip_address(endpoint.rpartition(":")[0].strip("[]"))
    except ValueError:
        address = ipaddress.IPv4Address(0)
    if address.is_unspecified:
        number = 1 + hashlib.sha256(host.encode()).digest()[0] % 254
        return f"192.0.2.{number}/24"
    if address.version == 6:
        return f"{address}/{128 if address.is_loopback else 64}"
    return f"{address}/{8 if address.is_loopback else 24}"
