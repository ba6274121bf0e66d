"""The file that describes a simulated host: TOML, documented in `docs/sim-host.md`.

Reading is strict. A key that is not known, or a value that cannot be, is refused with its place
in the file, because a misspelt key would silently simulate another host than the one meant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from poolcore.facts import HostProfile
from poolcore.model import (
    REPORTED_POWER_STATES,
    Cpu,
    Hypervisor,
    IpMode,
    PowerState,
    VbdType,
)
from poolmember.drivers.contract import FactOverrides
from poolmember.drivers.sim_host import (
    DEFAULT_PROFILE,
    DEFAULT_SRS,
    SimDisk,
    SimHost,
    SimImage,
    SimInterface,
    SimManagement,
    SimNetwork,
    SimSr,
    SimVif,
    SimVm,
)
from poolmember.drivers.sim_table import MIB, StrictTable, either, invalid

DEFAULT_MTU = 1500


def parse(text: str, *, source: str) -> SimHost:
    """The host that `text` describes; `PoolError(INVALID_CONFIGURATION)` for anything unclear.

    `source` is the file's name in errors.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid(source, f"is no TOML: {error}") from error
    top = StrictTable(data, source)
    faults = top.table("faults")
    # First the keys at the top, then the tables: these can tell a key that belongs to the top.
    host = SimHost(
        overrides=_overrides(top, faults),
        profile=_profile(top),
        management=_management(top.table("management")),
        networks=tuple(_network(table) for table in top.tables("network")),
        interfaces=tuple(_interfaces(top)),
        srs=_srs(top.tables("sr")),
        vms=tuple(_vm(table) for table in top.tables("vm")),
        driver_delay_seconds=either(faults.number("driver_delay_seconds", low=0), 0.0),
        driver_error=faults.text("driver_error"),
    )
    faults.finish()
    top.finish()
    _check_fit(host, source)
    return host


# -- the parts of the file -------------------------------------------------------------------------


def _overrides(top: StrictTable, faults: StrictTable) -> FactOverrides:
    return FactOverrides(
        product_version=top.text("product_version"),
        api_version=top.integer("api_version", low=0),
        schema_version=top.integer("schema_version", low=0),
        booting=top.flag("booting"),
        updating=top.flag("updating"),
        operations=either(top.texts("operations"), ()),
        clock_skew_seconds=top.number("clock_skew_seconds"),
        free_disk_bytes=top.integer("free_disk_bytes", low=0),
        fsync_seconds=top.number("fsync_seconds", low=0),
        etcd_version=top.text("etcd_version"),
        unreachable=either(top.texts("unreachable"), ()),
        kill_at=either(faults.texts("kill_at"), ()),
        stop_at=either(faults.texts("stop_at"), ()),
    )


def _profile(top: StrictTable) -> HostProfile:
    default = DEFAULT_PROFILE
    capabilities, storage_types = top.texts("capabilities"), top.texts("storage_types")
    backend = either(top.text("network_backend"), default.network_backend)
    hypervisor, cpu = top.table("hypervisor"), top.table("cpu")
    features = cpu.texts("features")
    profile = HostProfile(
        hypervisor=Hypervisor(
            kind=either(hypervisor.text("kind"), default.hypervisor.kind),
            version=either(hypervisor.text("version"), default.hypervisor.version),
        ),
        cpu=Cpu(
            arch=either(cpu.text("arch"), default.cpu.arch),
            vendor=either(cpu.text("vendor"), default.cpu.vendor),
            model=either(cpu.text("model"), default.cpu.model),
            count=either(cpu.integer("count", low=1), default.cpu.count),
            features=default.cpu.features if features is None else frozenset(features),
        ),
        memory_total=either(cpu.mib("memory_mib"), default.memory_total),
        capabilities=default.capabilities if capabilities is None else frozenset(capabilities),
        storage_types=default.storage_types if storage_types is None else frozenset(storage_types),
        network_backend=backend,
    )
    hypervisor.finish()
    cpu.finish()
    return profile


def _management(table: StrictTable) -> SimManagement:
    default = SimManagement()
    management = SimManagement(
        device=either(table.text("device"), default.device),
        addresses=table.addresses("addresses"),
        mode=either(table.choice("mode", IpMode), default.mode),
        mtu=_mtu(table),
        vlan=table.integer("vlan", low=1, high=4094),
        bond=either(table.texts("bond"), ()),
        bridge=either(table.text("bridge"), default.bridge),
    )
    table.finish()
    return management


def _mtu(table: StrictTable) -> int:
    return either(table.integer("mtu", low=68, high=65535), DEFAULT_MTU)


def _network(table: StrictTable) -> SimNetwork:
    network = SimNetwork(
        name=table.required("name", table.text("name")),
        bridge=table.required("bridge", table.text("bridge")),
        mtu=_mtu(table),
        uuid=table.uuid(),
    )
    table.finish()
    return network


def _interfaces(top: StrictTable) -> Iterator[SimInterface]:
    """In the order of the sorts, so that bonds, VLANs and tunnels can build on those before."""
    for table in top.tables("nic"):
        device = table.required("device", table.text("device"))
        yield _interface(table, SimInterface(device=device, mac=table.mac()))
    for table in top.tables("bond"):
        bond = SimInterface(
            device=table.required("device", table.text("device")),
            slaves=table.required("interfaces", table.texts("interfaces") or None),
            mode=either(table.text("mode"), "active-backup"),
        )
        yield _interface(table, bond)
    for table in top.tables("vlan"):
        parent = either(table.text("on"), "eth0")
        tag = table.required("tag", table.integer("tag", low=1, high=4094))
        vlan = SimInterface(device=f"{parent}.{tag}", parent=parent, tag=tag)
        yield _interface(table, vlan)
    for table in top.tables("tunnel"):
        tunnel = SimInterface(
            device=table.required("device", table.text("device")),
            parent=either(table.text("on"), "eth0"),
            tunnel=either(table.text("protocol"), "vxlan"),
        )
        yield _interface(table, tunnel)


def _interface(table: StrictTable, interface: SimInterface) -> SimInterface:
    whole = replace(interface, network=table.text("network"), mtu=_mtu(table))
    table.finish()
    return whole


def _srs(tables: Iterable[StrictTable]) -> tuple[SimSr, ...]:
    """The default SRs, with what the file says of them, and then the file's own."""
    srs = {sr.name: sr for sr in DEFAULT_SRS}
    said: set[str] = set()
    for table in tables:
        name = table.required("name", table.text("name"))
        if name in said:
            table.refuse("name", f"“{name}” is there twice")
        said.add(name)
        default = srs.get(name)
        type_ = table.text("type") or (default.type if default else None)
        base = replace(default or SimSr(name=name, type=""), type=table.required("type", type_))
        srs[name] = replace(
            base,
            content_type=either(table.text("content_type"), base.content_type),
            shared=either(table.flag("shared"), base.shared),
            uuid=table.uuid(),
            size_bytes=either(table.mib("size_mib"), base.size_bytes),
            used_bytes=either(table.mib("used_mib"), base.used_bytes),
            attached=either(table.flag("attached"), True),
            images=tuple(_image(image) for image in table.tables("image")),
        )
        table.finish()
    return tuple(srs.values())


def _image(table: StrictTable) -> SimImage:
    image = SimImage(
        name=table.required("name", table.text("name")),
        size_bytes=either(table.mib("size_mib"), 1024 * MIB),
        uuid=table.uuid(),
        read_only=either(table.flag("read_only"), False),
    )
    table.finish()
    return image


def _vm(table: StrictTable) -> SimVm:
    vm = SimVm(
        name=table.required("name", table.text("name")),
        uuid=table.uuid(),
        power_state=either(table.choice("power_state", REPORTED_POWER_STATES), PowerState.HALTED),
        memory_bytes=either(table.mib("memory_mib"), 512 * MIB),
        vcpus=either(table.integer("vcpus", low=1), 1),
        operations=frozenset(either(table.texts("operations"), ())),
        disks=tuple(_disk(disk, nth) for nth, disk in enumerate(table.tables("disk"))),
        vifs=tuple(_vif(nic) for nic in table.tables("nic")),
        count=either(table.integer("count", low=1, high=100_000), 1),
    )
    if vm.uuid is not None and vm.count > 1:
        table.refuse("uuid", "is for one VM, and “count” asks for several")
    table.finish()
    return vm


def _disk(table: StrictTable, nth: int) -> SimDisk:
    empty = either(table.flag("empty"), False)
    sr = either(table.text("sr"), DEFAULT_SRS[0].name)
    disk = SimDisk(
        device=either(table.text("device"), f"vd{chr(ord('a') + nth % 26)}"),
        sr=None if empty else sr,
        size_bytes=either(table.mib("size_mib"), 1024 * MIB),
        type=either(table.choice("type", VbdType), VbdType.DISK),
        read_only=either(table.flag("read_only"), False),
        bootable=either(table.flag("bootable"), nth == 0),
    )
    table.finish()
    return disk


def _vif(table: StrictTable) -> SimVif:
    vif = SimVif(network=table.text("network"), mac=table.mac())
    table.finish()
    return vif


# -- what must fit together ------------------------------------------------------------------------


def _check_fit(host: SimHost, source: str) -> None:
    bridges = [host.management.bridge, *(network.bridge for network in host.networks)]
    _unique(bridges, f"{source}: network", "bridge")
    _unique([network.name for network in host.networks], f"{source}: network", "name")
    _check_interfaces(host, source)
    _check_vms(host, source)
    uuids = [n.uuid for n in host.networks] + [sr.uuid for sr in host.srs]
    uuids += [image.uuid for sr in host.srs for image in sr.images] + [vm.uuid for vm in host.vms]
    _unique([uuid for uuid in uuids if uuid], source, "uuid")
    for sr in host.srs:
        _unique([image.name for image in sr.images], f"{source}: sr “{sr.name}”", "image")


def _check_interfaces(host: SimHost, source: str) -> None:
    management = host.management
    devices = [*management.bond, management.device]
    if management.vlan is not None:
        devices.append(f"{management.device}.{management.vlan}")
    networks = {network.name for network in host.networks}
    for interface in host.interfaces:
        place = f"{source}: interface {interface.device}"
        below = interface.slaves if interface.parent is None else (interface.parent,)
        for missing in (device for device in below if device not in devices):
            raise invalid(place, f"there is no interface “{missing}” before it")
        if interface.network is not None and interface.network not in networks:
            raise invalid(place, f"there is no network “{interface.network}”")
        devices.append(interface.device)
    _unique(devices, f"{source}: interface", "device")


def _check_vms(host: SimHost, source: str) -> None:
    networks = {None, *(network.name for network in host.networks)}
    srs = {None, *(sr.name for sr in host.srs)}
    for vm in host.vms:
        place = f"{source}: vm “{vm.name}”"
        for name in (disk.sr for disk in vm.disks if disk.sr not in srs):
            raise invalid(place, f"there is no SR “{name}”")
        for name in (vif.network for vif in vm.vifs if vif.network not in networks):
            raise invalid(place, f"there is no network “{name}”")
        _unique([disk.device for disk in vm.disks], place, "device")
    names = (name for vm in host.vms if vm.uuid is None for name in vm.names())
    _unique(names, f"{source}: vm", "name")


def _unique(values: Iterable[str], place: str, what: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise invalid(place, f"the {what} “{value}” is there twice")
        seen.add(value)
